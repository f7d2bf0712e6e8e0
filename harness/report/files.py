"""What lies beside the page: its plots as SVG and PNG, its tables as CSV, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report import across, advice, tuning
from harness.report.columns import columns, headers, problem, texts, title
from harness.report.drawings import crossing_sheets, drawings, further
from harness.report.picture import png, svg
from harness.report.table import Block, Report, Row
from harness.store.files import write_atomically
from harness.verdicts import Verdict

PLOTS, TABLES = "plots", "tables"


@dataclass(frozen=True)
class Table:
    """One to write: texts for people, and for CSV the numbers behind them."""

    name: str
    title: str
    headers: list[str]
    rows: list[list[str]]
    numbers: tuple[list[str], list[list[Any]]] | None = None


def write_plots(report: Report, folder: Path) -> dict[tuple[str, str], str]:
    """Each plot as SVG and PNG in `folder`/plots. (model, task) -> the SVG of learning against forgetting, for the
    Markdown beside it."""
    shown: dict[tuple[str, str], str] = {}
    for block in report.blocks:
        for drawing in drawings(block):
            for what, chart in drawing.charts.items():
                name = slug("-".join(filter(None, (drawing.title, what, block.model, block.task))))
                write_plot(folder, name, chart)
                shown.setdefault((block.model, block.task), f"{PLOTS}/{name}.svg")
    for name, chart in further(report).items():
        write_plot(folder, slug(name), chart)
    return shown


def write_plot(folder: Path, name: str, chart: dict[str, Any]) -> None:
    write_atomically(folder / PLOTS / f"{name}.svg", svg(chart))
    write_atomically(folder / PLOTS / f"{name}.png", png(chart))


def write_tables(report: Report, folder: Path) -> None:
    """Each table as CSV, LaTeX and Markdown in `folder`/tables."""
    for table in tables(report):
        path = folder / TABLES / table.name
        names, rows = table.numbers or (table.headers, table.rows)
        write_atomically(path.with_name(f"{table.name}.csv"), csv_text(names, rows))
        write_atomically(path.with_name(f"{table.name}.tex"), latex(table))
        lines = plain_table(table.headers, table.rows)
        write_atomically(path.with_name(f"{table.name}.md"), "\n".join([f"**{escape(table.title)}**", "", *lines, ""]))


def tables(report: Report) -> Iterator[Table]:
    """All that can be exported."""
    for block in report.blocks:
        where = f"{block.task}, {block.model}"
        for n_train, condition in block.tables:
            rows = block.at(n_train, condition)
            name = slug("-".join(filter(None, ("scores", block.model, block.task, f"n{n_train}", condition))))
            yield Table(
                name, f"{where}, {title(n_train, condition)}", headers(block), [full_texts(block, row) for row in rows],
                numbers(block, rows),
            )  # fmt: skip
            pairs = block.standing(n_train, condition).pairs
            if pairs:
                name = name.replace("scores", "verdicts", 1)
                yield Table(
                    name,
                    f"Verdicts: {where}, {title(n_train, condition)}",
                    VERDICTS,
                    [verdict_texts(one) for one in pairs.values()],
                )
        for sheet in crossing_sheets(block):
            yield Table(slug(f"{sheet.title}-{block.model}-{block.task}"), sheet.title, sheet.headers, sheet.rows)
    for answer, question in advice.advised(report):
        yield Table(
            slug(f"advice-{question.model}-{question.task}"),
            f"Along five dimensions: {advice.title(question)}",
            advice.headers(question),
            [advice.texts(one, answer.prices) for one in answer.ranked],
        )
    for one in across.across(report):
        yield Table(slug(f"across-{one.title}"), one.title, across.headers(one), across.lines(one))
    for name, studies in tuning.groups(report.studies).items():
        yield Table(slug(f"tuning-{name}"), name, tuning.headers(studies), tuning.lines(studies, report.blocks))


def full_texts(block: Block, row: Row) -> list[str]:
    """A row's texts, with the reason where there is no number."""
    found = texts(block, row)
    return [*found[:2], problem(row) or found[2], *found[3:]]


def numbers(block: Block, rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """The figures of a table as they are: a column each, the standard error of a score beside it."""
    shown = columns(block)
    names = ["label", "method", "family", "model", "task", "n_train", "condition", "status"]
    names += [part for column in shown[1:] for part in (column.name, f"{column.name} stderr")[: 1 + bool(column.error)]]
    return names, [
        [
            row.label, row.method, row.family, row.model, block.task, row.n_train, row.condition,
            "done" if row.seeds else ", ".join(dict.fromkeys(status for _, status, _ in row.failures)),
            *(
                value
                for column in shown[1:]
                for value in (column.value(row), column.error(row) if column.error else None)[: 1 + bool(column.error)]
            ),
        ]
        for row in rows
    ]  # fmt: skip


VERDICTS = ["a", "verdict", "b", "metric", "effect", "low", "high", "p corrected"]


def verdict_texts(verdict: Verdict) -> list[str]:
    found = verdict.decision
    figures = [found.effect, found.interval.low, found.interval.high, found.p] if found else []
    return [verdict.a, verdict.verdict, verdict.b, verdict.metric, *(f"{value:.4g}" for value in figures)]


def csv_text(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV; what is not known is an empty field."""
    found = io.StringIO()
    writer = csv.writer(found, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    return found.getvalue()


def latex(table: Table) -> str:
    """A tabular with booktabs' rules and a caption; needs \\usepackage{booktabs}."""
    import pandas

    frame = pandas.DataFrame([row + [""] * (len(table.headers) - len(row)) for row in table.rows])
    frame.columns = pandas.Index(table.headers)
    styled = frame.style.format(escape="latex").format_index(escape="latex", axis=1).hide(axis="index")
    caption = table.title.replace("_", "\\_").replace("&", "\\&").replace("%", "\\%")
    text = str(styled.to_latex(hrules=True, caption=caption, column_format="l" + "r" * (len(table.headers) - 1)))
    return text.replace("−", "$-$").replace("±", "$\\pm$").replace("Δ", "$\\Delta$").replace("†", "\\dag{}") + "\n"


def plain_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    aligned = ["---", *["---:"] * (len(names) - 1)]
    lines = [[*map(escape, names)], aligned, *([*map(escape, cells)] for cells in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    for sign in "\\`*[]|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.replace("<", "&lt;").split())


def slug(text: str) -> str:
    """A name for files and places in a page."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")
