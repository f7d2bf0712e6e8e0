"""Compares one model's labels over several tasks: interquartile means, and which labels differ in rank."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.analysis.stats import (
    Interval,
    Ranking,
    friedman,
    interquartile_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)
from harness.report.chart_style import colours, legend, spec
from harness.report.elements import Element, Plot, Text, TextTable
from harness.report.format import digits_of, number, share
from harness.report.measurements import headline
from harness.report.sections.base import WRITTEN, Section, Subject
from harness.report.table import Report, condition_of
from harness.store import CellRow

if TYPE_CHECKING:
    import altair as alt
    import numpy
    from numpy.typing import NDArray

TITLE = "Across tasks"
NOTE = (
    "IQM: the mean of the middle half of all runs, with a bootstrap interval over seeds within tasks (Agarwal et al. "
    "2021; too narrow below five seeds). Beats: the chance that a run is better than one of the reference on a task "
    "drawn at random. Groups: labels that share a letter do not differ in mean rank over the tasks (Friedman, Nemenyi; "
    "Demšar 2006), where tasks like these are what is asked about. The profile is the share of runs above each score."
)


class CrossTask(Section):
    """The ranks of labels over all tasks that they share, for each model and data size."""

    name = "across"
    title = TITLE
    order = 200
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Element]:
        comparisons = across(subject.report)
        for one in comparisons:
            yield TextTable(one.title, headers(one), lines(one), file=("across", one.title))
            if told := sentence(one):
                yield Text(told, "note")
            charts = {"": spec(chart(one))}
            yield Plot("", charts, label=f"Performance profiles: {one.title}", file=(one.title,))
        if comparisons:
            yield Text(NOTE, "note")


@dataclass(frozen=True)
class TaskComparison:
    """The comparison of the labels that finished every task at one data size; `scores` maps each label to an array
    [seeds, tasks], `means` to its interquartile mean. `reference` is the label with the best one."""

    model: str
    n_train: int
    condition: str
    metric: str
    higher_is_better: bool
    tasks: tuple[str, ...]
    scores: dict[str, NDArray[numpy.float64]]
    means: dict[str, Interval]
    beats: dict[str, float]  # label -> the chance of beating the reference
    reference: str
    ranking: Ranking | None  # in the order of `scores`; None for fewer than three labels

    @property
    def title(self) -> str:
        """The model, its tasks, and the size and quality of the training data, as text."""
        size = f"{self.n_train} examples each" + f", {self.condition}" * bool(self.condition)
        return f"{self.model}: {', '.join(self.tasks)}; {size}"


@lru_cache(maxsize=4)
def across(report: Report) -> tuple[TaskComparison, ...]:
    """Returns the comparisons of labels across tasks: one for each model, metric, size (above 0) and quality at which
    at least two labels finished the same two or more tasks. A label counts only if it has a score on every task that
    any label has one on."""
    blocks, cells = report.blocks, report.cells
    found = []
    for model in dict.fromkeys(block.model for block in blocks):
        mine = [block for block in blocks if block.model == model and block.metric]
        for metric in dict.fromkeys(block.metric for block in mine):
            tasks = [block.task for block in mine if block.metric == metric]
            points = dict.fromkeys(
                point for block in mine if block.metric == metric for point in block.tables if point[0]
            )
            for n_train, condition in points:
                kept = [
                    cell for cell in cells
                    if cell.base_model == model and cell.n_train == n_train and condition_of(cell) == condition
                ]  # fmt: skip
                one = compared(model, n_train, condition, metric, tasks, kept)
                if one:
                    found.append(one)
    return tuple(found)


def compared(
    model: str, n_train: int, condition: str, metric: str, tasks: Sequence[str], cells: Sequence[CellRow]
) -> TaskComparison | None:
    """Compares the labels of one model at one data size by one metric over `tasks`, from its `cells` there; None where
    fewer than two tasks or two labels are left. Labels without a score on every task, and a label's seeds that one of
    its tasks lacks, are left out: a row of scores is one seed on every task."""
    import numpy

    table: dict[str, dict[str, dict[int | None, float]]] = {}  # label -> task -> seed -> score
    better = True
    for cell in cells:
        score = headline(cell, cell.task, "task") if cell.task in tasks else None
        if score and score.metric == metric:
            better = score.higher_is_better
            table.setdefault(cell.label, {}).setdefault(cell.task, {})[cell.seed] = score.value
    held = [task for task in tasks if any(task in scores for scores in table.values())]
    complete = {label: scores for label, scores in table.items() if set(scores) == set(held)}
    seeds = {
        label: [seed for seed in scores[held[0]] if all(seed in scores[task] for task in held)]
        for label, scores in complete.items()
    }
    whole = {label: scores for label, scores in complete.items() if seeds[label]}
    if len(held) < 2 or len(whole) < 2:
        return None
    scores = {
        label: numpy.array([[found[task][seed] for task in held] for seed in seeds[label]])
        for label, found in whole.items()
    }
    reference = max(scores, key=lambda label: interquartile_mean(scores[label]) * (1 if better else -1))
    sign = 1 if better else -1
    return TaskComparison(
        model, n_train, condition, metric, better, tuple(held), scores,
        means={label: interquartile_interval(values) for label, values in scores.items()},
        beats={
            label: probability_of_improvement(sign * values, sign * scores[reference])
            for label, values in scores.items()
        },
        reference=reference,
        ranking=friedman(
            numpy.array([values.mean(axis=0) for values in scores.values()]).T, higher_is_better=better
        ) if len(scores) > 2 else None,
    )  # fmt: skip


def headers(one: TaskComparison) -> list[str]:
    """Returns the headers of the table of one comparison, in the order of `lines`."""
    return ["method", "mean rank", "group", f"IQM {one.metric}", "95%", f"beats {one.reference}"]


def lines(one: TaskComparison) -> list[list[str]]:
    """Returns the texts of the table's rows, the best mean rank first."""
    digits = digits_of(one.metric)
    labels = list(one.scores)
    letters = groups(one.ranking, labels) if one.ranking else {}
    sign = -1 if one.higher_is_better else 1
    order = sorted(
        labels, key=lambda label: one.ranking.mean_ranks[labels.index(label)] if one.ranking
        else sign * one.means[label].value
    )  # fmt: skip
    return [
        [
            label,
            f"{one.ranking.mean_ranks[labels.index(label)]:.1f}" if one.ranking else "",
            letters.get(label, ""),
            number(one.means[label].value, digits),
            f"{number(one.means[label].low, digits)} to {number(one.means[label].high, digits)}",
            "" if label == one.reference else share(one.beats[label]),
        ]
        for label in order
    ]


def groups(ranking: Ranking, labels: Sequence[str]) -> Mapping[str, str]:
    """Returns label -> the letters of the groups that hold it; labels that share a letter do not differ in mean rank. A
    label in no group is left out. `labels` are in the order of the ranking's indices."""
    found: dict[str, str] = {}
    for place, group in enumerate(ranking.groups):
        letter = string.ascii_lowercase[place % 26]
        for index in group:
            found[labels[index]] = found.get(labels[index], "") + letter
    return found


def sentence(one: TaskComparison) -> str:
    """Says the result of Friedman's test in words; "" for fewer than three labels."""
    if one.ranking is None:
        return ""
    if one.ranking.p >= 0.05:
        return (
            f"Over {len(one.tasks)} tasks no difference in rank is shown (Friedman's test, p = {one.ranking.p:.2g}): "
            "more tasks would have to be run."
        )
    return (
        f"Over {len(one.tasks)} tasks ranks differ (Friedman's test, p = {one.ranking.p:.2g}); mean ranks closer than "
        f"{one.ranking.critical_difference:.2f} do not."
    )


def chart(one: TaskComparison) -> alt.Chart:
    """Draws the performance profile of each label: the share of its runs that score above each threshold."""
    import altair as alt
    import numpy

    values = numpy.concatenate([scores.ravel() for scores in one.scores.values()])
    low, high = float(values.min()), float(values.max())
    thresholds = [low + (high - low) * step / 60 for step in range(61)]
    rows = [
        {"label": label, "threshold": threshold, "share": above}
        for label, scores in one.scores.items()
        for threshold, above in zip(thresholds, performance_profile(scores, thresholds), strict=True)
    ]
    labels = list(one.scores)
    scale = alt.Scale(domain=labels, range=colours(labels, labels))
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(interpolate="step-after", strokeWidth=1.6)
        .encode(
            x=alt.X("threshold:Q", title=f"{one.metric} above", scale=alt.Scale(zero=False, nice=False)),
            y=alt.Y("share:Q", title="share of runs", axis=alt.Axis(format="%")),
            color=alt.Color("label:N", title=None, scale=scale, legend=legend(labels)),
        )
        .properties(width=620, height=260)
    )
