"""Stage 7 of 7. In: the database. Out: a table on the terminal, `report.md`, and one HTML file.

All three are made from the same rows (`table.py`) and texts (`columns.py`), so they cannot disagree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError, unknown
from harness.report.table import Report, build
from harness.store.database import Store
from harness.store.files import write_atomically
from harness.store.queries import checks_of, latest_run, member_rows, suites
from harness.store.studies import studies_of


@dataclass(frozen=True)
class ReportPaths:
    html: Path
    markdown: Path


def load(store: Store, suite: str) -> Report:
    """The newest run of a suite. Raises StoreError when it has none."""
    with store.open(read_only=True) as connection:
        run = latest_run(connection, suite)
        if run is None:
            hint = f"Run it first: `tunebench run {suite}`."
            raise StoreError(unknown("suite with results", suite, suites(connection), hint))
        return build(run, member_rows(connection, run), checks_of(connection, run), studies_of(connection, run))


def write_report(store: Store, suite: str, folder: Path) -> ReportPaths:
    """Write `index.html`, `report.md` and the plots of a suite into `folder`."""
    from harness.report import html, markdown, plots

    report = load(store, suite)
    drawn = {}
    for block in report.blocks:
        picture = plots.learning_against_forgetting(block)
        if picture:
            name = f"learning-against-forgetting-{block.model}-{block.task}"
            name = re.sub(r"[^\w.-]+", "-", name) + ".svg"
            write_atomically(folder / name, picture)
            drawn[block.model, block.task] = name
    paths = ReportPaths(folder / "index.html", folder / "report.md")
    write_atomically(paths.html, html.render(report))
    write_atomically(paths.markdown, markdown.render(report, drawn))
    return paths


def printable(store: Store, suite: str) -> Any:
    """A suite's results as a rich renderable."""
    from harness.report.terminal import render

    return render(load(store, suite))
