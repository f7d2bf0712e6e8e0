"""Plots what each label learned against what it forgot."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.chart_style import spec
from harness.report.elements import Plot
from harness.report.scatter import POINTS, RING, learning_against_forgetting
from harness.report.sections.base import WRITTEN, Section, Subject


class Forgetting(Section):
    """A plot: the gain on the learned task against the change on the first retained one."""

    name = "forgetting"
    order = 140
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Plot]:
        chart = learning_against_forgetting(subject.block) if subject.block.compares else None
        if chart is not None:
            yield Plot(
                "Learning against forgetting",
                {"": spec(chart)},
                "The cross is the base model. Points to the right learned more, points lower down forgot more. "
                f"{POINTS} {RING}",
            )
