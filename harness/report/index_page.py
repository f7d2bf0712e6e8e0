"""Writes `reports/index.html`: each suite with results, its question, the first line of its answer, and a link to its
report.

Each report leaves its entry for this list in `summary.json` beside itself, so that nobody has to read all results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from harness.report.chart_style import dark_rules
from harness.report.html import environment
from harness.report.sections.answer import lines
from harness.report.table import Report
from harness.store import write_atomically

SUMMARY = "summary.json"


class Summary(TypedDict):
    """The entry of one report in the list of all reports. `run` is a run id, `cells` and `done` count all and finished
    cells, `answer` holds the sentences of the report's answer."""

    suite: str
    question: str
    answer: list[str]
    run: str
    started: str
    cells: int
    done: int
    device: str


def summary(report: Report) -> Summary:
    """Returns the entry of a report for the list of all reports."""
    return {
        "suite": report.run.suite,
        "question": report.run.question,
        "answer": lines(report),
        "run": report.run.run_id,
        "started": f"{report.run.started:%Y-%m-%d %H:%M}",
        "cells": len(report.cells),
        "done": sum(cell.status == "done" for cell in report.cells),
        "device": report.run.environment.get("accelerator") or report.run.environment.get("cpu") or "",
    }


def write_contents(folder: Path, suites: Sequence[str]) -> Path:
    """Writes the list of the reports in `folder` and returns its path. `suites` are all that have results, with or
    without a report."""
    from markupsafe import Markup

    summaries = {name: read(folder / name / SUMMARY) for name in sorted({*suites, *reported(folder)})}
    page = (
        environment()
        .get_template("contents.html.jinja")
        .render(
            reports=[one for one in summaries.values() if one],
            missing=[name for name, one in summaries.items() if not one],
            dark_rules={"system": Markup(dark_rules()), "chosen": ""},
        )
    )
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def reported(folder: Path) -> list[str]:
    """Returns the names of the suites that have a report with a summary in `folder`."""
    return [path.parent.name for path in folder.glob(f"*/{SUMMARY}")]


def read(path: Path) -> Summary | None:
    """Reads a report's summary; None where the file is missing or damaged, as the report can be written again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not Summary.__annotations__.keys() <= content.keys():
        return None
    stored: Summary = content  # type: ignore[assignment]  # its keys are those of a summary
    return stored
