"""Results over environments as series, with the steps in them and the versions at which they happened. Pure.

A series is one cell (or the mean of a label's cells), task and metric over environments in the order of their dates, or
of the versions of a package. Where something else changed that makes values incomparable, the series breaks, and a
difference across the break is no step: another metric, another cell under the same key (task, data or settings),
another RESULT_VERSION, and for costs another machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Literal

from harness.analysis.regression.records import (
    MEMORY_MARGIN,
    SCORE_MARGIN,
    TIME_MARGIN,
    effect_text,
)
from harness.analysis.regression.steps import ALPHA, FEWEST, Step, find_steps
from harness.analysis.stats.intervals import corrected
from harness.environment import RESULT_PACKAGES, normal_name
from harness.store import HistoryPoint

NamePair = tuple[str, str]
# A spread smaller than this share of the margin is not believed: see `steps.find_steps`.
BELIEVED = 0.25


@dataclass(frozen=True)
class SeriesPoint:
    """A value of a series in one environment, over so many attempts."""

    env_digest: str
    created: datetime
    value: float
    attempts: int
    packages: dict[str, str]


@dataclass(frozen=True)
class SeriesBreak:
    """A place where a series starts anew: before its point `at`, for the `reason`."""

    at: int
    reason: str


@dataclass(frozen=True)
class HistoryStep:
    """A step of a series: at which point, from which level to which, and how sure that is.

    `size` is the difference of the levels, or for a cost (`relative`) the ratio of the new level to the old one.
    `p_alone` is how often a series without a step shows one as clear, `p` is corrected for all series that were looked
    at (Benjamini and Hochberg): of the steps that are told, at most 5% are expected to be chance. `since` is the
    environment with the first value at the new level, `after` the one before it; `packages` are those that differ
    between the two, those that results depend on first. The step may as well have happened at any of the points `first`
    to `last`. `better` says which way it goes, None where neither direction is better. `negligible`: it is smaller than
    the margin. `points`: the values are shares, told in points of a hundred.
    """

    at: int
    size: float
    before: float
    after_level: float
    p: float
    p_alone: float
    after: str
    since: str
    since_date: datetime
    packages: dict[str, NamePair]
    first: int
    last: int
    better: bool | None
    relative: bool
    negligible: bool
    points: bool = False

    @property
    def size_text(self) -> str:
        """The size in words: "−1.7 points", "1.2 ×"."""
        return effect_text(self.size, self.relative, self.points)

    @property
    def versions_text(self) -> str:
        """The packages that changed at the step: "peft 0.20.0 → 0.21.0, …"; "no package" where none did."""
        told = [f"{name} {old or 'none'} → {new or 'none'}" for name, (old, new) in self.packages.items()]
        return ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "") if told else "no package"


@dataclass(frozen=True)
class Series:
    """The values of one cell or label over environments, the breaks and the steps in it."""

    level: Literal["cell", "label"]
    suite: str
    name: str
    label: str
    task: str
    role: str
    metric: str
    higher_is_better: bool | None
    points: tuple[SeriesPoint, ...]
    breaks: tuple[SeriesBreak, ...] = ()
    steps: tuple[HistoryStep, ...] = ()


def series_over_versions(
    points: Iterable[HistoryPoint], by: str = "", score_margin: float = SCORE_MARGIN
) -> list[Series]:
    """Returns the series of all cells and labels, with breaks and steps. The environments stand in the order of their
    dates or, with `by`, of the versions of that package (dates decide between equal ones)."""
    groups: dict[tuple[str, str, str, str, str], list[HistoryPoint]] = {}
    for point in points:
        # A cost has a series for each name; the headline of a task has one, which breaks where its metric changes.
        name = point.metric if point.role == "cost" else ""
        groups.setdefault((point.suite, point.key, point.task, point.role, name), []).append(point)
    order = ordering(by)
    made, cells = [], {}
    for key, own in groups.items():
        newest = {point.env_digest: point for point in own}
        cells[key] = sorted(newest.values(), key=order)
        made.append(series_of("cell", own[-1].key, cells[key], score_margin))
    by_label: dict[tuple[str, str, str, str, str], list[list[HistoryPoint]]] = {}
    for (suite, _, task, role, name), own in cells.items():
        by_label.setdefault((suite, own[-1].label, task, role, name), []).append(own)
    for label, several in by_label.items():
        if len(several) > 1 and (mean := mean_of(several, order)):
            made.append(series_of("label", label[1], mean, score_margin))
    return corrected_steps(made)


def corrected_steps(series: Sequence[Series]) -> list[Series]:
    """Returns the series with the p-values of their steps corrected for all series that are long enough to have one,
    and without the steps that are not shown then."""
    places = [(number, step) for number, one in enumerate(series) for step in one.steps]
    quiet = sum(1 for one in series if not one.steps and len(one.points) >= FEWEST)
    p_values = corrected([step.p for _, step in places] + [1.0] * quiet, "benjamini-hochberg")
    kept: dict[int, list[HistoryStep]] = {}
    for (number, step), p in zip(places, p_values, strict=False):
        if p < ALPHA:
            kept.setdefault(number, []).append(replace(step, p=p))
    return [replace(one, steps=tuple(kept.get(number, ()))) for number, one in enumerate(series)]


def ordering(by: str) -> Callable[[HistoryPoint], tuple[object, ...]]:
    """Returns the key by which points are sorted: (version of the package `by`,) date, digest."""
    from packaging.version import InvalidVersion, Version

    def version(point: HistoryPoint) -> Version:
        try:
            return Version(point.packages.get(by, "0").split()[0])  # behind it may stand where a build came from
        except InvalidVersion:
            return Version("0")

    def key(point: HistoryPoint) -> tuple[object, ...]:
        return (*([version(point)] if by else []), point.created, point.env_digest)

    return key


def mean_of(
    several: Sequence[Sequence[HistoryPoint]], order: Callable[[HistoryPoint], tuple[object, ...]]
) -> list[HistoryPoint]:
    """Returns the mean of a label's cells in each environment that has all of them: with other cells it would move by
    what is missing. Costs are averaged by their logarithms."""
    by_environment: dict[str, list[HistoryPoint]] = {}
    for own in several:
        for point in own:
            by_environment.setdefault(point.env_digest, []).append(point)
    means = []
    for found in by_environment.values():
        values = [point.value for point in found]
        if len(found) < len(several) or (found[0].role == "cost" and min(values) <= 0):
            continue
        costs = found[0].role == "cost"
        mean = math.exp(math.fsum(map(math.log, values)) / len(values)) if costs else math.fsum(values) / len(values)
        specs = ",".join(sorted(point.spec_digest for point in found))
        first = found[0]
        means.append(replace(first, value=mean, spec_digest=specs, attempts=sum(one.attempts for one in found)))
    return sorted(means, key=order)  # type: ignore[arg-type, unused-ignore]


def series_of(
    level: Literal["cell", "label"], name: str, points: Sequence[HistoryPoint], score_margin: float
) -> Series:
    """Builds one series from its points in order, with its breaks and the steps between them."""
    breaks = [
        SeriesBreak(place + 1, reason)
        for place, (old, new) in enumerate(pairwise(points))
        if (reason := why_broken(old, new))
    ]
    edges = [0, *(one.at for one in breaks), len(points)]
    steps = [step for start, end in pairwise(edges) for step in steps_of(points[start:end], start, score_margin)]
    last = points[-1]
    return Series(
        level, last.suite, name, last.label, last.task, last.role, last.metric, last.higher_is_better,
        tuple(SeriesPoint(one.env_digest, one.created, one.value, one.attempts, one.packages) for one in points),
        tuple(breaks), tuple(steps),
    )  # fmt: skip


def why_broken(old: HistoryPoint, new: HistoryPoint) -> str:
    """Returns why two neighbours of a series are not comparable, "" where they are."""
    if old.metric != new.metric:
        return f"the metric changed from {old.metric} to {new.metric}"
    if old.fingerprint and new.fingerprint and old.fingerprint != new.fingerprint:
        return "the task's definition or documents changed"
    if old.spec_digest != new.spec_digest:
        return "the settings, model or data of the cell changed"
    if old.result_version and new.result_version and old.result_version != new.result_version:
        return f"tunebench computes results in another way (RESULT_VERSION {old.result_version} → {new.result_version})"
    if old.role == "cost" and old.machine != new.machine:
        return f"the machine changed from {old.machine or 'unknown'} to {new.machine or 'unknown'}"
    return ""


def margin_of_point(point: HistoryPoint, score_margin: float) -> float:
    """Returns the difference that does not matter: of a score, or a relative one of time or memory."""
    if point.role != "cost":
        return score_margin
    timed = point.metric.endswith("_seconds") or "latency" in point.metric
    return TIME_MARGIN if timed else MEMORY_MARGIN


def steps_of(points: Sequence[HistoryPoint], start: int, score_margin: float) -> list[HistoryStep]:
    """Returns the steps within one unbroken stretch of a series, which begins at the point `start` of the whole."""
    cost = bool(points) and points[0].role == "cost"
    if not points or (cost and min(point.value for point in points) <= 0):
        return []
    margin = margin_of_point(points[0], score_margin)
    reach = math.log1p(margin) if cost else margin
    values = [math.log(point.value) if cost else point.value for point in points]
    shares = not cost and all(0 <= point.value <= 1 for point in points)
    return [step_of(points, step, start, reach, shares) for step in find_steps(values, BELIEVED * reach)]


def step_of(points: Sequence[HistoryPoint], step: Step, start: int, reach: float, shares: bool) -> HistoryStep:
    """Returns a step with what it means: its versions, its direction, and whether it is smaller than the margin
    `reach` (of a cost, a logarithm)."""
    before, since = points[step.at - 1], points[step.at]
    cost = since.role == "cost"
    higher = since.higher_is_better
    levels = (math.exp(step.before), math.exp(step.after)) if cost else (step.before, step.after)
    return HistoryStep(
        at=start + step.at,
        size=math.exp(step.size) if cost else step.size,
        before=levels[0],
        after_level=levels[1],
        p=step.p,
        p_alone=step.p,
        after=before.env_digest,
        since=since.env_digest,
        since_date=since.created,
        packages=changed_packages(before.packages, since.packages),
        first=start + step.first,
        last=start + step.last,
        better=None if higher is None else (step.size > 0) == higher,
        relative=cost,
        negligible=abs(step.size) < reach,
        points=shares,
    )


def changed_packages(old: dict[str, str], new: dict[str, str]) -> dict[str, NamePair]:
    """Returns package -> (old version, new version) of those that differ, those that results depend on first; "" where
    one is not installed."""
    decisive = {normal_name(package) for package in RESULT_PACKAGES}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    names.sort(key=lambda name: (normal_name(name) not in decisive, name.lower()))
    return {name: (old.get(name, ""), new.get(name, "")) for name in names}
