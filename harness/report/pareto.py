"""Estimates Pareto fronts of the score and a second goal: the probability that each label is on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats import on_front
from harness.report.ranking import TableRanking

if TYPE_CHECKING:
    from harness.report.table import Block, Row


@dataclass(frozen=True)
class Goal:
    """A quantity traded against the score: `read` gives a row's estimate and its standard error, or None where it has
    none."""

    name: str
    read: Callable[[Row], tuple[float, float] | None]
    higher_is_better: bool = False
    unit: str = ""


def measured(pick: Callable[[Row], float | None]) -> Callable[[Row], tuple[float, float] | None]:
    """Makes a reader of a cost (`pick` reads it off a row) that is taken as exact (standard error 0); it returns None
    for a row that was not trained."""

    def read(row: Row) -> tuple[float, float] | None:
        value = pick(row)
        return None if value is None or not row.n_train else (value, 0.0)

    return read


def retention(task: str) -> Goal:
    """Makes the goal of a small loss on a retained task: its change against the base model. A row that learned the task
    has no figure."""

    def read(row: Row) -> tuple[float, float] | None:
        estimate = row.retained.get(task)
        if estimate is None or estimate.gain is None or estimate.learned:
            return None
        sign = 1.0 if estimate.higher_is_better else -1.0
        return sign * estimate.gain, estimate.gain_stderr or 0.0

    return Goal(f"change on {task}", read, higher_is_better=True)


def seconds(row: Row) -> float | None:
    """Returns the seconds of training; None where they were disturbed, or the row trains nothing."""
    return row.train_seconds if trains(row) and not row.disturbed else None


def trains(row: Row) -> bool:
    """Whether the row trains anything itself. A merge does not, and has its costs in other cells."""
    return bool(row.trainable)


COSTS = (
    Goal("peak memory", measured(lambda row: row.peak_bytes), unit="GiB"),
    Goal("training time", measured(seconds), unit="s"),
    Goal("trainable share", measured(lambda row: row.trainable or None), unit="%"),
)


def goals(retain: Sequence[str]) -> list[Goal]:
    """Returns the goals to trade against the score: the first of the tasks `retain`, where there is any, then the costs
    of training."""
    return [*(retention(task) for task in retain[:1]), *COSTS]


def front(ranking: TableRanking, rows: Sequence[Row], goal: Goal) -> dict[str, float]:
    """Returns label -> the probability of being on the Pareto front of score and goal. Only rows that learned count,
    and the base model does not: doing nothing forgets nothing. Rows that were not compared, or have no figure for the
    goal, are left out. Scores are drawn jointly, as their items are shared; the goals' errors independently, which
    makes the front look less sure than it is, never surer."""
    import numpy

    known = {row.label: row for row in rows if row.learned and row.label != "base"}
    labels = [label for label in ranking.labels if label in known and goal.read(known[label]) is not None]
    if not labels or ranking.leads is None:
        return {}
    ahead = dict(zip(ranking.leads.labels, ranking.leads.draws.T, strict=True))
    level = numpy.zeros(len(ranking.leads.draws))  # the best label, over which all leads are
    scores = numpy.stack([ahead.get(label, level) for label in labels], axis=1)
    figures = numpy.array([goal.read(known[label]) for label in labels], dtype=float)
    noise = numpy.random.default_rng(0).standard_normal(scores.shape)
    draws = numpy.stack([scores, figures[:, 0] + figures[:, 1] * noise], axis=-1)
    shares = on_front(draws, [True, goal.higher_is_better])
    return dict(zip(labels, shares, strict=True))


def fronts(block: Block, goal: Goal) -> dict[tuple[str, int, str], float]:
    """Returns (label, n_train, condition) -> the probability of being on the Pareto front of score and goal in its
    table; see `front` for what is left out."""
    return {
        (label, n_train, condition): chance
        for n_train, condition in block.tables
        for label, chance in front(block.ranking(n_train, condition), block.at(n_train, condition), goal).items()
    }
