"""Renders the report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.report.elements import Bullets, Code, Element, Entries, Footnote, Plot, Text, TextTable, flat
from harness.report.files import PlotKey, plain_table, plot_key
from harness.report.format import escape
from harness.report.sections import Part, Subject, parts_of
from harness.report.table import Report


def render(report: Report, plots: Mapping[PlotKey, str]) -> str:
    """Returns the Markdown text of the report. `plots` maps each chart (`files.plot_key`) to the path of its file,
    relative to the report; charts without a file are left out."""
    lines = [f"# {escape(report.run.suite)}", ""]
    if report.run.question:
        lines += [f"**{escape(report.run.question)}**", ""]
    before: Subject | None = None
    for part in parts_of(report, "markdown"):
        block = part.subject.its_block
        if block and part.subject != before:
            lines += [f"## {escape(block.task)}, {escape(block.model)}", ""]
        before = part.subject
        lines += part_lines(part, plots)
    return "\n".join(lines)


def part_lines(part: Part, plots: Mapping[PlotKey, str]) -> list[str]:
    """Returns the lines of a section: its heading, and its elements with a blank line after each."""
    title = part.section.title
    level = 3 if part.subject.its_block else 2
    lines = [heading(level, title), ""] if title else []
    elements = list(flat(part.elements))
    for element, following in zip(elements, [*elements[1:], None], strict=True):
        if isinstance(element, Plot):
            lines += plot_lines(part, element, plots)
        elif isinstance(element, TextTable):
            if element.title and element.title != title:
                lines += [heading(level + bool(title), element.title), ""]
            lines += [*plain_table(element.headers, element.rows), ""]
        else:
            lines += element_lines(element)
            if not (small(element) and small(following)):
                lines.append("")
    return lines


def heading(level: int, title: str) -> str:
    """Returns a Markdown heading of this level, 1 for the highest."""
    return f"{'#' * level} {escape(title)}"


def small(element: Element | None) -> bool:
    """Whether the element is a line of small print, which follows the line before without a blank line."""
    return isinstance(element, Footnote) or (isinstance(element, Text) and element.style == "footnote")


def element_lines(element: Element) -> Iterator[str]:
    """Yields the lines of an element that is neither a table nor a plot."""
    if isinstance(element, Text | Footnote):
        yield escape(element.text) + "  " * small(element)
    elif isinstance(element, Bullets):
        yield from (f"- {escape(line)}" for line in element.lines)
    elif isinstance(element, Entries):
        for entry in element.entries:
            yield f"- {escape(entry.name)}: {escape(entry.word)}. {escape(entry.details)}".rstrip()
    elif isinstance(element, Code):
        yield f"    {element.text}"


def plot_lines(part: Part, plot: Plot, plots: Mapping[PlotKey, str]) -> Iterator[str]:
    """Yields an image line, followed by a blank line, for each chart of a plot that has a file beside the report."""
    for name in plot.charts:
        file = plots.get(plot_key(part.section.name, part.subject, plot, name))
        if file:
            label = ": ".join(filter(None, (plot.label or plot.title, name, ", ".join(part.subject.names))))
            yield f"![{escape(label)}]({file})"
            yield ""
