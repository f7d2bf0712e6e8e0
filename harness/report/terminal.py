"""Shows the report on a terminal: the same texts, with the least important columns left out where it is narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records import printable
from harness.report.elements import Bullets, Code, Element, Entries, Footnote, LeftOut, Text, TextTable, flat
from harness.report.sections import Part, parts_of
from harness.report.table import Report

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

GAP = 2  # blanks between columns
LEAST = 4  # columns that are always shown: the row's name, its score and gain, and the first retained task
STYLES = {"note": "dim", "footnote": "dim", "warning": "yellow", "bad": "red", "strong": "bold", "soft": "dim", "": ""}


@dataclass(frozen=True)
class TerminalReport:
    """The report as a rich renderable: its width is known only when it is printed."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        shown = Columns()
        for part in parts_of(self.report, "terminal"):
            yield from part_of(part, options.max_width, shown)


@dataclass
class Columns:
    """The headers of the tables shown so far (`shown`), and the headers for which there was no room (`left_out`)."""

    shown: set[str] = field(default_factory=set)
    left_out: dict[str, None] = field(default_factory=dict)


def part_of(part: Part, width: int, columns: Columns) -> Iterator[RenderableType]:
    """Yields a section: its heading, unless a table has it or its first text begins with it, and its elements. `width`
    is in characters; `columns` collects the headers that were shown and left out."""
    from rich.text import Text as RichText

    elements = list(flat(part.elements))
    title, first = part.section.title, elements[0]
    headed = isinstance(first, TextTable) or (isinstance(first, Text) and first.text.startswith(title))
    if title and not headed:
        yield RichText(title, style="bold")
    for element in elements:
        if isinstance(element, TextTable):
            about = [*part.subject.names, element.title]
            if title and not part.subject.its_block and title != element.title:
                about = [f"{title}: {element.title}"]
            yield RichText(", ".join(filter(None, about)), style="italic")
            table, left_out = fitted(element, width)
            columns.shown |= set(element.headers) - set(left_out)
            columns.left_out |= dict.fromkeys(left_out)
            yield table
            yield ""
        else:
            if isinstance(element, Text) and element.style == "strong":
                yield ""
            yield from (RichText(printable(text), style=style) for text, style in styled_lines(element, width, columns))
            if isinstance(element, Entries):
                yield ""


def styled_lines(element: Element, width: int, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yields (text, style of rich) for each line of an element that is not a table; nothing for a plot, nor for a
    footnote on a column that was not shown."""
    if isinstance(element, Text):
        yield element.text, STYLES[element.style]
    elif isinstance(element, LeftOut):
        if columns.left_out:
            names = ", ".join(columns.left_out)
            yield f"Left out for lack of width: {names}. The written report has them.", "dim"
    elif isinstance(element, Footnote):
        if not element.column or any(name.startswith(element.column) for name in columns.shown):
            yield element.text, "dim"
    elif isinstance(element, Bullets):
        lines = element.lines
        wrapped = within(lines, element.closing, width, element.most_lines) if lines else ()
        yield from ((line, "") for line in wrapped)
    elif isinstance(element, Entries):
        for entry in element.entries:
            details = f"  {entry.details}" if entry.details else ""
            yield f"{entry.word}: {entry.name}{details}", "red" if entry.bad else ""
    elif isinstance(element, Code):
        yield f"  {element.text}", ""


def within(lines: Sequence[str], closing: int, width: int, most: int | None) -> Iterator[str]:
    """Yields the sentences, wrapped to `width` between words, that fit into `most` lines of a terminal (None: all), and
    says how many were left out; the last `closing` sentences are always shown."""
    wrapped = [textwrap.wrap(line, max(width, 20), initial_indent="• ", subsequent_indent="  ") for line in lines]
    last = wrapped[len(wrapped) - closing :]
    others = wrapped[: len(wrapped) - closing]
    room = sum(map(len, wrapped)) if most is None else most - sum(map(len, last))
    more = sum(map(len, others)) > room  # True keeps one line for how many were left out
    shown: list[str] = []
    left = 0
    for parts in others:
        if shown and len(shown) + len(parts) > room - more:
            left += 1
        else:
            shown += parts
    if left:
        shown.append(f"  … and {left} more in the report.")
    yield from (*shown, *(part for parts in last for part in parts))


def fitted(element: TextTable, width: int) -> tuple[Table, list[str]]:
    """Returns a rich table no wider than `width` where that is possible, and the headers of the columns left out for
    it."""
    from rich.table import Table
    from rich.text import Text as RichText

    names, rows = element.headers, element.rows
    wide = widths(names, rows)
    kept = fit(names, wide, width, element.spare)
    room = width - sum(wide[place] + GAP for place in kept) + GAP
    wide[0] = min(max(len(text) for text in (names[0], *(line[0] for line in rows))), wide[0] + max(0, room))
    padding = (0, GAP, 0, 0)
    table = Table(box=None, pad_edge=False, padding=padding, collapse_padding=True, header_style="bold")
    for place in kept:
        table.add_column(RichText(printable(names[place])), justify="right" if place else "left", width=wide[place])
    for number, line in enumerate(rows):
        style = element.row_styles[number] if element.row_styles else ""
        color = "red" if style == "bad" else STYLES[style]
        table.add_row(*(RichText(printable(line[place])) for place in kept), style=color)
    return table, [names[place] for place in range(len(names)) if place not in kept]


def widths(names: Sequence[str], lines: Sequence[Sequence[str]]) -> list[int]:
    """Returns the width that each column needs, in characters. Headers and the names of rows may wrap between words;
    values may not."""
    first = [word for line in lines for word in line[0].split()]
    values = [first, *([line[place] for line in lines] for place in range(1, len(names)))]
    return [max(map(len, [*name.split(), *texts]), default=0) for name, texts in zip(names, values, strict=True)]


def fit(names: Sequence[str], wide: Sequence[int], width: int, dispensable: Sequence[str] = ()) -> list[int]:
    """Returns the places of the columns that fit into `width`. Columns that begin with an entry of `dispensable` are
    left out first, in its order, then others from the right, down to `LEAST` columns."""
    kept = list(range(len(names)))

    def too_wide() -> bool:
        return sum(wide[place] + GAP for place in kept) - GAP > width

    for spare in dispensable:
        if not too_wide():
            break
        kept = [place for place in kept if not names[place].startswith(spare)]
    while too_wide() and len(kept) > LEAST:
        kept.pop()  # drops from the right, so the suite's first retained task goes last
    return kept
