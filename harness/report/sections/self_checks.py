"""Shows the results of the self-checks: tests of the measuring instruments before anything was measured with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness.report.elements import Custom, Element, Text, TextTable
from harness.report.format import NA
from harness.report.sections.base import Section, Subject
from harness.report.table import Report
from harness.store import StoredCheck

HEADERS = ("check", "result", "measured", "at most", "unit", "what was compared")


class SelfChecks(Section):
    """The results of the self-checks on each base model: whether the measuring instruments measure rightly."""

    name = "instruments"
    title = "Instruments"
    order = 320

    def elements(self, subject: Subject) -> Iterator[Element]:
        yield Text(summary(subject.report), "note")
        for checks in tables(subject.report):
            yield TextTable(checks.title, HEADERS, [texts for texts, _ in checks.rows])

    def on_page(self, subject: Subject) -> Iterator[Element]:
        """Yields the summary, and the tables with failed checks marked."""
        yield Text(summary(subject.report), "note")
        yield Custom("self_checks.html.jinja", {"headers": HEADERS, "tables": tables(subject.report)})

    def on_terminal(self, subject: Subject) -> Iterator[Element]:
        """Yields the summary alone, in the colour of failures where a check failed."""
        passed = all(check.passed for check in subject.report.checks)
        yield Text(summary(subject.report), "note" if passed else "bad")


@dataclass(frozen=True)
class CheckTable:
    """The checks on one base model: for each its texts, in the order of `HEADERS`, and whether it was passed."""

    title: str
    rows: tuple[tuple[tuple[str, ...], bool], ...]


def summary(report: Report) -> str:
    """Says in one sentence how many self-checks passed, and which failed."""
    checks = report.checks
    if not checks:
        return "Instruments: no checks of them are stored for this environment."
    failed = [f"{check.name} ({check.model})" for check in checks if not check.passed]
    if failed:
        return f"Instruments: {len(failed)} of {len(checks)} checks FAILED: {', '.join(failed)}."
    return f"Instruments: all {len(checks)} checks passed."


def tables(report: Report) -> list[CheckTable]:
    """Returns a table for each base model and the settings that its scores are made with."""
    groups: dict[str, list[StoredCheck]] = {}
    for check in report.checks:
        title = f"{check.model}, precision {check.precision}, attention {check.attention}"
        groups.setdefault(title, []).append(check)
    return [
        CheckTable(title, tuple((texts(check), check.passed) for check in checks)) for title, checks in groups.items()
    ]


def texts(check: StoredCheck) -> tuple[str, ...]:
    """Returns the texts of a check, in the order of `HEADERS`; "n/a" where it could not be done."""
    known = not math.isnan(check.measured)
    return (
        check.name.replace("_", " "),
        "passed" if check.passed else "FAILED",
        f"{check.measured:.3g}" if known else NA,
        f"{check.at_most:.3g}" if known else "",
        check.unit,
        check.about,
    )
