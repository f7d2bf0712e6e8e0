"""Writes the files beside the page: its plots as SVG and PNG, its tables as CSV, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.records import digest
from harness.report.chart_style import Spec, png, svg
from harness.report.elements import Plot, TextTable, Value, flat
from harness.report.format import escape, slug, wordy
from harness.report.sections import Subject, parts_of
from harness.report.table import Report
from harness.store import write_atomically

PLOTS, TABLES = "plots", "tables"
LONGEST = 100  # characters of a file's name
TEX = {
    **{sign: f"\\{sign}" for sign in "_%&#${}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "±": r"$\pm$",
    "Δ": r"$\Delta$", "×": r"$\times$", "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "…": r"\ldots{}",
}  # fmt: skip


# What a spreadsheet may take for a formula: also behind blanks and signs that do not show, and in full width.
FORMULA = re.compile(r"[\s\x00-\x20\u00a0\u200b-\u200f\u2060\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20].|[\t\r\n]", re.S)
# Where a semicolon (half of Europe), a tab or a line break divides cells, quotes do not hold a text together.
INNER = re.compile(
    r"((?:;|(?<!\A)[\t\n])[\s\x00-\x20\u00a0\u200b-\u200f\u2060\ufeff\"']*)(?=[=@\uff1d\uff20]|[+\-\uff0b\uff0d][\w(])"
)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?%?")

PlotKey = tuple[str, Subject, tuple[str, ...], str]  # section, its subject, the plot's file, the chart's name


def plot_key(section: str, subject: Subject, plot: Plot, chart: str) -> PlotKey:
    """Returns the key that identifies the chart named `chart` of a plot, the same in every form of the report."""
    return section, subject, plot.file or (plot.title,), chart


def charts(report: Report, names: FileNames) -> Iterator[tuple[str, PlotKey, Spec]]:
    """Yields every chart of a report: the name of its files, which `names` gives, its key, and its Vega-Lite."""
    for part in parts_of(report, "files"):
        for plot in flat(part.elements):
            if not isinstance(plot, Plot):
                continue
            for what, chart in plot.charts.items():
                about = plot.file or (plot.title, what, *reversed(part.subject.names))
                yield names.of(*about), plot_key(part.section.name, part.subject, plot, what), chart


def write_plots(report: Report, folder: Path) -> dict[PlotKey, str]:
    """Writes each chart as SVG and PNG into `folder`/plots, and removes charts of an earlier report that no longer
    exist. Returns the path of each chart's SVG, relative to `folder`, for the Markdown beside it."""
    written: dict[PlotKey, str] = {}
    names = FileNames()
    for name, key, chart in charts(report, names):
        write_plot(folder, name, chart)
        written[key] = f"{PLOTS}/{name}.svg"
    names.tidy(folder / PLOTS)
    return written


def write_plot(folder: Path, name: str, chart: Spec) -> None:
    """Writes a chart into `folder`/plots, as `name`.svg and `name`.png."""
    write_atomically(folder / PLOTS / f"{name}.svg", svg(chart))
    write_atomically(folder / PLOTS / f"{name}.png", png(chart))


def write_tables(report: Report, folder: Path) -> None:
    """Writes each table as CSV, LaTeX and Markdown into `folder`/tables; removes tables of an earlier report that no
    longer exist."""
    names = FileNames()
    for table in tables(report):
        path = folder / TABLES / names.of(*table.file)
        headers, rows = table.numbers or (table.headers, table.rows)
        write_atomically(path.with_name(f"{path.name}.csv"), csv_text(headers, rows))
        write_atomically(path.with_name(f"{path.name}.tex"), latex(table))
        lines = plain_table(table.headers, table.rows)
        write_atomically(path.with_name(f"{path.name}.md"), "\n".join([f"**{escape(table.title)}**", "", *lines, ""]))
    names.tidy(folder / TABLES)


class FileNames:
    """A source of file names: a name that was given before, or is empty or too long, gets a digest of its parts."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def of(self, *parts: str) -> str:
        """Returns a new name, without a suffix, made of these parts, such as a title, a model and a task."""
        name = slug("-".join(filter(None, parts)))
        if name.lower() in self.given or not name or len(name) > LONGEST:
            name = f"{name[:LONGEST]}-{digest(list(parts))[:8]}".lstrip("-")
            times = 2
            while name.lower() in self.given:  # the same parts for the third time
                name = f"{name[:LONGEST]}-{digest([*parts, times])[:8]}"
                times += 1
        self.given.add(name.lower())
        return name

    def tidy(self, folder: Path) -> None:
        """Removes the files of a folder to which this object gave no name."""
        for path in folder.glob("*.*"):
            if path.stem.lower() not in self.given:
                path.unlink()


def tables(report: Report) -> Iterator[TextTable]:
    """Yields every table that can be exported, with a title that says what it is about, and the parts of its file's
    name."""
    for part in parts_of(report, "files"):
        subject = part.subject
        for table in flat(part.elements):
            if isinstance(table, TextTable):
                about = ", ".join(filter(None, (*subject.names, table.title)))
                file = table.file or (part.section.name, *reversed(subject.names), table.title)
                yield replace(table, title=about, file=file)


def csv_text(names: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """Returns a table as CSV text; an unknown value is an empty field. Text that a spreadsheet would take for a formula
    gets an apostrophe in front, which spreadsheets know as the sign of text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(no_formula, names))
    writer.writerows([["" if value is None else no_formula(value) for value in row] for row in rows])
    return text.getvalue()


def no_formula(value: Value) -> Value:
    """Returns a value as it is; text that a spreadsheet would run with an apostrophe in front. A number that is written
    as text ("-0.1", "+3") stays a number. A carriage return becomes a new line: `csv` does not quote it, and what
    follows it would begin a row. The apostrophe also stands before what follows a semicolon, a tab or a new line: by
    these, some spreadsheets divide cells."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    text = INNER.sub(r"\1'", text)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def latex(table: TextTable) -> str:
    """Returns a table as LaTeX, with booktabs' rules and a caption; needs \\usepackage{booktabs}."""
    label = slug("-".join(filter(None, table.file)))
    lines = [" & ".join(map(tex, row)) + r" \\" for row in (table.headers, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}", rf"\caption{{{tex(table.title)}}}", rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headers) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
            r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def tex(text: str) -> str:
    """Escapes text so that LaTeX shows it as it is."""
    return "".join(TEX.get(sign, sign) for sign in text)


def plain_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    words = wordy(rows) or [False] * len(names)
    aligned = ["---", *("---" if word else "---:" for word in words[1:])]
    lines = [[*map(escape, names)], aligned, *([*map(escape, cells)] for cells in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]
