"""What lies beside the page: its plots as SVG and PNG, its tables as CSV, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis import Verdict
from harness.records import digest
from harness.report import advice, cross_task, tuning
from harness.report.chart_style import png, svg
from harness.report.columns import BESIDE, columns, headers, problem, texts, title
from harness.report.figures import crossing_sheets, drawings, further
from harness.report.format import escape, slug
from harness.report.table import Block, Report, Row
from harness.store import write_atomically

PLOTS, TABLES = "plots", "tables"
LONGEST = 100  # characters of a file's name
TEX = {
    **{sign: f"\\{sign}" for sign in "_%&#${}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "±": r"$\pm$",
    "Δ": r"$\Delta$", "×": r"$\times$", "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "…": r"\ldots{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One to write: texts for people, and for CSV the numbers behind them. `name` are the parts of its file's name."""

    name: tuple[str, ...]
    title: str
    headers: list[str]
    rows: list[list[str]]
    numbers: tuple[list[str], list[list[Any]]] | None = None


def write_plots(report: Report, folder: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Each plot as SVG and PNG in `folder`/plots. (model, task) -> the title and SVG of its first plot, for the
    Markdown beside it. Plots of an earlier report that are no more are removed."""
    shown: dict[tuple[str, str], tuple[str, str]] = {}
    names = Names()
    for block in report.blocks:
        for drawing in drawings(block):
            for what, chart in drawing.charts.items():
                name = names.of(drawing.title, what, block.model, block.task)
                write_plot(folder, name, chart)
                shown.setdefault((block.model, block.task), (drawing.title, f"{PLOTS}/{name}.svg"))
    for title_, chart in further(report).items():
        write_plot(folder, names.of(title_), chart)
    names.tidy(folder / PLOTS)
    return shown


def write_plot(folder: Path, name: str, chart: dict[str, Any]) -> None:
    write_atomically(folder / PLOTS / f"{name}.svg", svg(chart))
    write_atomically(folder / PLOTS / f"{name}.png", png(chart))


def write_tables(report: Report, folder: Path) -> None:
    """Each table as CSV, LaTeX and Markdown in `folder`/tables; those of an earlier report are removed."""
    names = Names()
    for table in tables(report):
        path = folder / TABLES / names.of(*table.name)
        headers, rows = table.numbers or (table.headers, table.rows)
        write_atomically(path.with_name(f"{path.name}.csv"), csv_text(headers, rows))
        write_atomically(path.with_name(f"{path.name}.tex"), latex(table))
        lines = plain_table(table.headers, table.rows)
        write_atomically(path.with_name(f"{path.name}.md"), "\n".join([f"**{escape(table.title)}**", "", *lines, ""]))
    names.tidy(folder / TABLES)


class Names:
    """Names for files, each once: what two things would share, or what is too long, gets a digest."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def of(self, *parts: str) -> str:
        """A name for what these parts say, such as a title, a model and a task."""
        name = slug("-".join(filter(None, parts)))
        if name.lower() in self.given or not name or len(name) > LONGEST:
            name = f"{name[:LONGEST]}-{digest(list(parts))[:8]}".lstrip("-")
        self.given.add(name.lower())
        return name

    def tidy(self, folder: Path) -> None:
        """Remove what is in a folder of ours and was not named."""
        for path in folder.glob("*.*"):
            if path.stem.lower() not in self.given:
                path.unlink()


def tables(report: Report) -> Iterator[Table]:
    """All that can be exported."""
    for block in report.blocks:
        where = f"{block.task}, {block.model}"
        for n_train, condition in block.tables:
            rows = block.at(n_train, condition)
            name = (block.model, block.task, f"n{n_train}", condition)
            yield Table(
                ("scores", *name),
                f"{where}, {title(n_train, condition)}",
                headers(block),
                [full_texts(block, row) for row in rows],
                numbers(block, rows),
            )
            pairs = block.standing(n_train, condition).pairs
            if pairs:
                yield Table(
                    ("verdicts", *name),
                    f"Verdicts: {where}, {title(n_train, condition)}",
                    VERDICTS,
                    [verdict_texts(one) for one in pairs.values()],
                )
        for sheet in crossing_sheets(block):
            yield Table((sheet.title, block.model, block.task), sheet.title, sheet.headers, sheet.rows)
    for answer, question in advice.advised(report):
        yield Table(
            ("advice", question.model, question.task),
            f"Along five dimensions: {advice.title(question)}",
            advice.headers(question),
            [advice.texts(one, answer.prices) for one in answer.ranked],
        )
    for one in cross_task.across(report):
        yield Table(("across", one.title), one.title, cross_task.headers(one), cross_task.lines(one))
    for group, studies in tuning.groups(report.studies).items():
        yield Table(("tuning", group), group, tuning.headers(studies), tuning.lines(studies, report.blocks))


def full_texts(block: Block, row: Row) -> list[str]:
    """A row's texts, with the reason where there is no number."""
    found = texts(block, row)
    return [*found[:2], problem(row) or found[2], *found[3:]]


def numbers(block: Block, rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """The figures of a table as they are: a column each, and the standard error beside it where it has one. What a row
    is to the best is a word, beside its rank."""
    names = ["label", "method", "family", "model", "task", "n_train", "condition", "status"]
    parts: list[tuple[str, Callable[[Row], Any]]] = []
    for column in columns(block)[1:]:
        if column.name == BESIDE:
            parts += [("rank", column.value), (column.name, column.text)]
        else:
            parts.append((column.name, column.value))
        if column.error:
            parts.append((f"{column.name} stderr", column.error))
    found = [
        [
            row.label, row.method, row.family, row.model, block.task, row.n_train, row.condition,
            "done" if row.seeds else ", ".join(dict.fromkeys(status for _, status, _ in row.failures)),
            *(value(row) for _, value in parts),
        ]
        for row in rows
    ]  # fmt: skip
    return [*names, *(name for name, _ in parts)], found


VERDICTS = ["a", "verdict", "b", "metric", "effect", "low", "high", "d_z", "p alone", "p Holm", "q Benjamini-Hochberg"]


def verdict_texts(verdict: Verdict) -> list[str]:
    found = verdict.decision
    figures: list[float | None] = [None] * 7
    if found:
        ends = found.interval.low, found.interval.high
        figures = [found.effect, *ends, verdict.effect_size, verdict.p_alone, found.p, verdict.q]
    texts = ("" if value is None else f"{value:.4g}" for value in figures)
    return [verdict.a, verdict.verdict, verdict.b, verdict.metric, *texts]


def csv_text(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV; what is not known is an empty field."""
    found = io.StringIO()
    writer = csv.writer(found, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    return found.getvalue()


def latex(table: Table) -> str:
    """A table with booktabs' rules and a caption; needs \\usepackage{booktabs}."""
    label = slug("-".join(filter(None, table.name)))
    lines = [" & ".join(map(tex, row)) + r" \\" for row in (table.headers, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}", rf"\caption{{{tex(table.title)}}}", rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headers) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
            r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def tex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(TEX.get(sign, sign) for sign in text)


def plain_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    aligned = ["---", *["---:"] * (len(names) - 1)]
    lines = [[*map(escape, names)], aligned, *([*map(escape, cells)] for cells in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]
