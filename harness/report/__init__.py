"""[7] In: stored rows, and verdicts on them. Out: the answer on a terminal, as a page, as `report.md`, and in files.

All forms are made from the same rows (`table.py`) and texts (`columns.py`, `answer.py`), so they cannot disagree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis import headlines
from harness.analysis.regression import kept_findings, series_over_versions
from harness.errors import StoreError, unknown
from harness.report import advice
from harness.report.advice import as_json
from harness.report.altair_charts import drawn_charts
from harness.report.candidates import Question, prices_of, questions
from harness.report.card import CardFacts, model_card
from harness.report.card import snippet as card_code
from harness.report.recommending import Recommendation, recommendations
from harness.report.regression import STEP_COLUMNS, markdown_summary, probe_rows, result_rows, step_rows, write_junit
from harness.report.regression import sentences as regression_sentences
from harness.report.sections.answer import lines as answer_lines
from harness.report.sections.tuning import notes
from harness.report.table import Report, build
from harness.store import (
    Store,
    all_suites,
    checks_of,
    designs_of,
    document_texts,
    fact_units,
    history_points,
    item_answers,
    latest_run,
    looks_of,
    member_rows,
    studies_of,
    task_rows_of,
    write_atomically,
)

if TYPE_CHECKING:
    from harness.report.terminal import TerminalReport

__all__ = [
    "STEP_COLUMNS",
    "CardFacts",
    "Question",
    "Recommendation",
    "ReportPaths",
    "advice",
    "answer_lines",
    "as_json",
    "card_code",
    "drawn_charts",
    "load",
    "markdown_summary",
    "model_card",
    "notes",
    "prices_of",
    "printable",
    "probe_rows",
    "questions",
    "recommendations",
    "regression_sentences",
    "result_rows",
    "step_rows",
    "write_contents",
    "write_junit",
    "write_report",
]


@dataclass(frozen=True)
class ReportPaths:
    """The files of a written report: its page, and its Markdown."""

    html: Path
    markdown: Path


def load(store: Store, suite: str) -> Report:
    """Reads the newest run of a suite from the store. Raises StoreError where the suite has no run."""
    with store.open(read_only=True) as connection:
        run = latest_run(connection, suite)
        if run is None:
            hint = f"Run it first: `tunebench run {suite}`."
            raise StoreError(unknown("suite with results", suite, all_suites(connection), hint))
        rows = member_rows(connection, run)
        checks, studies = checks_of(connection, run), studies_of(connection, run)
        answers = item_answers(connection, headlines(rows))
        texts = document_texts(connection, {row.fingerprint for row in rows})
        designs = designs_of(connection, run)
        units_by_fact = fact_units(connection)
        task_rows = task_rows_of(connection, run)
        series = series_over_versions(history_points(connection, suite))
    return replace(
        build(run, rows, checks, studies, answers, texts, designs),
        units=units_by_fact,
        versions=kept_findings(store.folder, suite),
        steps=tuple(step_rows(series)),
        task_rows=task_rows,
        looks=tuple(looks_of(store.folder, suite)),
    )


def write_report(report: Report, folder: Path) -> ReportPaths:
    """Write `index.html`, `report.md`, plots and tables as files, and `summary.json` into `folder`; return the paths of
    the first two."""
    from harness.report import files, html, index_page, markdown

    drawn = files.write_plots(report, folder)
    files.write_tables(report, folder)
    paths = ReportPaths(folder / "index.html", folder / "report.md")
    write_atomically(paths.html, html.render(report))
    write_atomically(paths.markdown, markdown.render(report, drawn))
    write_atomically(folder / index_page.SUMMARY, json.dumps(index_page.summary(report), indent=2, ensure_ascii=False))
    return paths


def write_contents(store: Store, folder: Path) -> Path:
    """Write `folder`/index.html, the list of all suites with results and of the reports in `folder`; return its
    path."""
    from harness.report.index_page import write_contents

    with store.open(read_only=True) as connection:
        return write_contents(folder, all_suites(connection))


def printable(report: Report) -> TerminalReport:
    """Makes a suite's results printable by rich: its tables, and the answer last."""
    from harness.report.terminal import TerminalReport

    return TerminalReport(report)
