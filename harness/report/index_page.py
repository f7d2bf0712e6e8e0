"""`reports/index.html`: every suite with results, its question, the first line of its answer, and where its report is.

Each report leaves what is said of it here in `summary.json` beside itself, so that nobody has to read all results.
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
    """What the list of all reports says of one."""

    suite: str
    question: str
    answer: list[str]
    run: str
    started: str
    cells: int
    done: int
    device: str


def summary(report: Report) -> Summary:
    """What is said of a report in the list of all."""
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
    """Write the list of the reports in `folder`; `suites` are all that have results, reported on or not."""
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
    return [path.parent.name for path in folder.glob(f"*/{SUMMARY}")]


def read(path: Path) -> Summary | None:
    """A report's summary; None where there is none, or it is damaged: the report can be written again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not Summary.__annotations__.keys() <= content.keys():
        return None
    stored: Summary = content  # type: ignore[assignment]  # its keys are those of a summary
    return stored
