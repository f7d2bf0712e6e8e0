"""Plots what each label scores against what it costs."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.chart_style import spec
from harness.report.elements import Plot
from harness.report.scatter import POINTS, RING, cost_charts
from harness.report.sections.base import WRITTEN, Section, Subject


class Costs(Section):
    """A plot for each cost that is known: memory, time, trainable share."""

    name = "costs"
    order = 150
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Plot]:
        block = subject.block
        charts = cost_charts(block) if block.compares else {}
        if charts:
            better = "Up" if block.higher_is_better else "Down"
            yield Plot(
                "Score against what it costs",
                {name: spec(chart) for name, chart in charts.items()},
                f"{better} and to the left is better. {POINTS} {RING}",
            )
