"""Every plot of a report with its title, its words and the tables that belong to it: for the page and for files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from harness.report import cross_task, learning_curves, tuning
from harness.report.chart_style import spec
from harness.report.losses import losses
from harness.report.plots import cost_charts, learning_against_forgetting
from harness.report.table import Block, Report


@dataclass(frozen=True)
class Sheet:
    """A plain table of texts."""

    title: str
    headers: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Drawing:
    """Plots of one matter: `charts` maps what each shows to its `picture.spec`."""

    title: str
    charts: dict[str, Any]
    caption: str
    sheets: tuple[Sheet, ...] = field(default=())


RING = "A ring is as strong as the probability that no other is better in both."
POINTS = (
    "Bars are one standard error where it is known. A line joins the data sizes of a label. Hollow: not trained, or "
    "not shown to have learned."
)


@lru_cache(maxsize=64)  # both the page and the files have them
def drawings(block: Block) -> tuple[Drawing, ...]:
    """The plots of a block, in the order in which they are read. With a single label there is nothing to see."""
    found = drawn(block) if block.compares else ()
    return tuple(replace(one, charts={name: spec(chart) for name, chart in one.charts.items()}) for one in found)


def drawn(block: Block) -> Iterator[Drawing]:
    """The same, with Altair's charts."""
    kept = learning_against_forgetting(block)
    if kept is not None:
        yield Drawing(
            "Learning against forgetting",
            {"": kept},
            "The cross is the untouched model. Points to the right learned more, points lower down forgot more. "
            f"{POINTS} {RING}",
        )
    costs = cost_charts(block)
    if costs:
        way = "Up" if block.higher_is_better else "Down"
        yield Drawing("Score against what it costs", costs, f"{way} and to the left is better. {POINTS} {RING}")
    by_data = {condition: learning_curves.chart(block, condition) for condition in block.conditions}
    by_data = {condition or "clean data": chart for condition, chart in by_data.items() if chart is not None}
    if by_data:
        yield Drawing(learning_curves.TITLE, by_data, learning_curves.NOTE, tuple(crossing_sheets(block)))
    curves = losses(block)
    if curves is not None:
        yield Drawing("Training loss", {"": curves}, "Mean over finished seeds, running mean of five steps.")


def crossing_sheets(block: Block) -> Iterator[Sheet]:
    """Which wins at each size, and where the lead changes."""
    for condition in block.conditions if block.compares else ():
        ending = f", {condition}" * bool(condition)
        if len(learning_curves.sizes(block, condition)) < 2:
            continue
        yield Sheet(
            f"Which wins with how many examples{ending}",
            learning_curves.headers(),
            learning_curves.lines(block, condition),
        )
        found = learning_curves.change_lines(block, condition)
        if found:
            yield Sheet(f"Where the lead changes{ending}", learning_curves.change_headers(), found)


@lru_cache(maxsize=4)
def further(report: Report) -> dict[str, dict[str, Any]]:
    """What the plots that belong to no block are of -> their specs: a comparison across tasks, a group of studies."""
    found = {one.title: spec(cross_task.chart(one)) for one in cross_task.across(report)}
    for name, studies in tuning.groups(report.studies).items():
        of = studies[0]
        rows = (
            row for block in report.blocks if (block.task, block.model) == (of.task, of.model) for row in block.rows
        )
        chart = tuning.curves(studies, list(dict.fromkeys(row.label for row in rows)))
        if chart is not None:
            found[name] = spec(chart)
    return found
