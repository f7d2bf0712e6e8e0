"""Computes retention at matched task score: how much each label had forgotten when all had learned equally much. Pure.

A method that learns more often forgets more; what it forgot at the end says little of how gently it learns. Where a
suite asks for checkpoints, each label has a curve: the base model at step 0 (or the untrained start, where that was
scored), its checkpoints, its end. The target is the lowest final task score among the labels with a curve that are
better than the base model (and not flagged as having learned nothing): all of these labels have reached it. Along each
label's curve, linear between its points, the first crossing of the target is found, and the changes of the retained
scores are read off there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.measurements import headline
from harness.store import CellRow


@dataclass(frozen=True)
class Curve:
    """The course of a label's training. `scores` are those on the learned task at `steps`, means over seeds. `changes`
    maps each retained task to its changes against the base model at those steps, [seeds][steps]. `learned` is False
    where a seed is flagged as having learned nothing."""

    steps: tuple[int, ...]
    scores: tuple[float, ...]
    changes: dict[str, tuple[tuple[float, ...], ...]]
    seeds: int
    higher_is_better: bool
    learned: bool


@dataclass(frozen=True)
class MatchedChange:
    """The change of a retained task against the base model: its mean over seeds, and its standard deviation between
    seeds (None for one seed)."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Match:
    """The figures of a label where it reaches the target: the step of the crossing, interpolated between two points of
    its curve, and the change of each retained task there. `step` is None where the label never reaches the target.
    `best` is the best score of its curve."""

    label: str
    seeds: int
    step: float | None
    best: float
    changes: dict[str, MatchedChange]


@dataclass(frozen=True)
class MatchedRetention:
    """The labels of one table at the same score on the learned task, the `target`, by `metric`."""

    metric: str
    target: float
    matches: tuple[Match, ...]


def retention_at_matched_score(
    groups: Mapping[str, Sequence[CellRow]], retain: Sequence[str]
) -> MatchedRetention | None:
    """Reads the changes of every label on the tasks `retain` off at the same task score. `groups` has each label's
    cells, a seed each, at one data size and quality; labels without checkpoints are left out. None with fewer than two
    curves, for scores of different metrics, or where no label is better than the base model."""
    curves = {label: curve for label, cells in groups.items() if (curve := curve_of(cells, retain))}
    metrics = {score.metric for cells in groups.values() for c in cells if (score := headline(c, c.task, "task"))}
    target = target_of(list(curves.values()))
    if len(curves) < 2 or target is None or len(metrics) > 1:
        return None
    return MatchedRetention(
        metrics.pop(), target, tuple(match(label, curve, target) for label, curve in curves.items())
    )


def target_of(curves: Sequence[Curve]) -> float | None:
    """Returns the lowest final score of the labels that learned and end better than they began; None where there are
    none."""
    ends = [
        curve.scores[-1]
        for curve in curves
        if curve.learned and signed(curve.scores[-1], curve) > signed(curve.scores[0], curve)
    ]
    return (min(ends) if curves[0].higher_is_better else max(ends)) if ends else None


def match(label: str, curve: Curve, target: float) -> Match:
    """Returns the step at which a label's mean curve first reaches the `target` score, and how much the retained tasks
    have changed there; step None and no changes where it never does."""
    place = crossing([signed(score, curve) for score in curve.scores], signed(target, curve))
    best = max(curve.scores, key=lambda score: signed(score, curve))
    if place is None:
        return Match(label, curve.seeds, None, best, {})
    changes = {}
    for task, of_seeds in curve.changes.items():
        values = [between(changed, place) for changed in of_seeds]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        changes[task] = MatchedChange(statistics.fmean(values), deviation)
    return Match(label, curve.seeds, between(curve.steps, place), best, changes)


def signed(score: float, curve: Curve) -> float:
    """Returns a score with its sign turned where lower is better on this curve, so that more is always better."""
    return score if curve.higher_is_better else -score


def crossing(scores: Sequence[float], target: float) -> float | None:
    """Returns where a line through points first reaches the target from below: 2.25 is a quarter of the way from point
    number 2 to the next. 0 where it begins at the target or above; None where it never reaches it."""
    for place, score in enumerate(scores):
        if score >= target:
            if place == 0:
                return 0.0
            before = scores[place - 1]
            return place - 1 + (target - before) / (score - before)
    return None


def between(values: Sequence[float], place: float) -> float:
    """Returns the value at a place in `values` such as 2.25 (a quarter of the way from number 2 to the next),
    interpolated linearly."""
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def curve_of(cells: Sequence[CellRow], retain: Sequence[str]) -> Curve | None:
    """Makes the curve of a label from its finished cells with checkpoints, at the steps at which all of them scored
    the learned task; None without such cells. Tasks of `retain` that were not scored at every one of these steps are
    left out."""
    courses = [course for cell in cells if cell.status == "done" and (course := course_of(cell, retain))]
    if not courses:
        return None
    first = next(score for cell in cells if (score := headline(cell, cell.task, "task")))
    task = cells[0].task
    steps = sorted(set.intersection(*({step for step in course if task in course[step]} for course in courses)))
    kept = [name for name in retain if all(name in course[step] for course in courses for step in steps)]
    return Curve(
        steps=tuple(steps),
        scores=tuple(statistics.fmean(course[step][task] for course in courses) for step in steps),
        changes={
            name: tuple(tuple(course[step][name] for step in steps) for course in courses)
            for name in kept
            if name != task
        },
        seeds=len(courses),
        higher_is_better=first.higher_is_better,
        learned=not any("learned_nothing" in cell.flags for cell in cells),
    )


def course_of(cell: CellRow, retain: Sequence[str]) -> dict[int, dict[str, float]] | None:
    """Returns step -> {the learned task: its score, a task of `retain`: its change against the base model}, of headline
    metrics, from the base model at step 0 to the end. None without checkpoints, or without the base model's score."""
    last = cell.facts.get("optimizer_steps")
    own = headline(cell, cell.task, "task")
    if not cell.checkpoints or last is None or not math.isfinite(last) or own is None or own.base_value is None:
        return None
    heads = {name: score for name in retain if (score := headline(cell, name, "retain"))}
    bases = {name: score.base_value for name, score in heads.items() if score.base_value is not None}
    found: dict[int, dict[str, float]] = {0: {cell.task: own.base_value, **dict.fromkeys(bases, 0.0)}}
    for point in cell.checkpoints:
        at = found.setdefault(point.step, {})
        if (point.task, point.metric) == (cell.task, own.metric):
            at[cell.task] = point.value
        elif point.task in bases and point.metric == heads[point.task].metric:
            at[point.task] = point.value - bases[point.task]
    end = {name: heads[name].value - base for name, base in bases.items()}
    return {**found, int(last): {cell.task: own.value, **end}}
