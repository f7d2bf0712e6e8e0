"""Forecasts what further cells would show: the gain of one more seed, and the chance that all of them settle it. Pure.

A label's mean over S seeds lies around its mean over the s that were run with the variance spread² (1 / s - 1 / S): the
items stay the same. The spread of a label is drawn towards that of the table, as in `bounds.py`; here it only decides
what runs and when to stop, and never what is said to be shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.deciding.bounds import TABLE_DF, Bounds, Pairs, error_reach, look_shares
from harness.analysis.deciding.evidence import Evidence
from harness.analysis.stats.falls import SEEN, UNSEEN, fallen
from harness.analysis.stats.p_best import lowest

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

DRAWS = 400
OWN_ITEMS = 0.5  # share of the items' variance that more seeds do not shrink, while no label has two seeds


@dataclass(frozen=True)
class Errors:
    """The parts of the errors of the tried labels' differences, in their order. `items` [labels, labels] is the
    variance that more seeds do not shrink; `seed` [labels] is the variance of a label's mean score between seeds, 0 for
    labels that do not vary, with `df` [labels] degrees of freedom. `noise` [labels] is the part of it that comes from
    answers that change on single items, which is known well. `table_df` counts the degrees of freedom of all labels."""

    items: Array
    seed: Array
    df: Array
    noise: Array
    table_df: float

    def of(self, counts: Array) -> Array:
        """Returns the variance [labels, labels] of the differences with so many seeds of each label [labels], enlarged
        where few degrees of freedom tell it."""
        own = self.seed * (1 + 2 / self.df) / counts
        variance: Array = self.items + own[:, None] + own
        return variance


def errors_of(evidence: Evidence) -> Errors:
    """Returns the parts of the errors of the tried labels; None of them is NaN, since labels with one seed borrow."""
    import numpy

    tried = evidence.tried
    rows = [evidence.rows(each, len(each.values)) for each in tried]
    units = rows[0].shape[1]
    means = numpy.stack([row.mean(axis=0) for row in rows])
    centred = means - means.mean(axis=1, keepdims=True)
    products = centred @ centred.T / max(units - 1, 1) / units
    own = numpy.diag(products)
    raw = numpy.maximum(own[:, None] + own - 2 * products, 0.0)
    repeated = [row for each, row in zip(tried, rows, strict=True) if each.seeded and len(row) > 1]
    table = float(numpy.mean([row.mean(axis=1).var(ddof=1) for row in repeated])) if repeated else 0.0
    noise = float(numpy.mean([residual(row) for row in repeated])) if repeated else 0.0
    seed, df, single = (numpy.zeros(len(tried)) for _ in range(3))
    for place, (each, row) in enumerate(zip(tried, rows, strict=True)):
        more = len(row) - 1
        df[place] = more + TABLE_DF
        if each.seeded:
            variance = float(row.mean(axis=1).var(ddof=1)) if more else 0.0
            seed[place] = (more * variance + TABLE_DF * table) / (more + TABLE_DF)
            single[place] = residual(row) if more else noise
    if not repeated:  # half of what items differ by is taken to change with the seed
        seeded = numpy.array([each.seeded for each in tried], dtype=float)
        half = (1 - OWN_ITEMS) * raw.sum() / max(2 * len(tried) * (len(tried) - 1), 1)
        seed, single = seeded * half, seeded * half
    shrinking = single / numpy.array([len(row) for row in rows])
    items = numpy.maximum(raw - shrinking[:, None] - shrinking, 0.0)
    return Errors(items, seed, df, single, float(sum(len(row) - 1 for row in repeated)))


def residual(values: Array) -> float:
    """Returns the part of the variance of a label's mean between seeds that comes from answers that change on single
    items; `values` are [seeds, units], two seeds or more."""
    seeds, units = values.shape
    left: Array = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float((left**2).sum() / ((seeds - 1) * max(units - 1, 1) * units))


def seeds_of(evidence: Evidence, running: Mapping[str, int] | None = None) -> Array:
    """Returns how many seeds [labels] of each tried label have ended or, with those that are `running`, will have."""
    import numpy

    more = running or {}
    return numpy.array([float(len(each.values) + more.get(each.label, 0)) for each in evidence.tried])


def chances_behind(evidence: Evidence, errors: Errors, place: int, seeds: Array) -> Array:
    """Returns the chances [labels] that each tried label is better by more than the margin than the one at `place`, if
    the measured means stay as they are with so many `seeds` [labels]."""
    import numpy
    from scipy.special import ndtr

    merits = numpy.array([evidence.merit(each) for each in evidence.tried])
    room = evidence.margin + merits[place] - merits
    return numpy.asarray(ndtr(-room / numpy.sqrt(numpy.maximum(errors.of(seeds)[place], 1e-18))))


def rival_chances(evidence: Evidence, answer: str) -> dict[str, float]:
    """Returns rival -> the chance that it is better than the `answer` by more than the margin."""
    labels = [each.label for each in evidence.tried]
    behind = chances_behind(evidence, errors_of(evidence), labels.index(answer), seeds_of(evidence))
    return {label: float(chance) for label, chance in zip(labels, behind, strict=True) if label != answer}


def gains(
    evidence: Evidence, limits: Bounds, answer: str, sure: float, running: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Returns label -> by how much one more seed of it is expected to lower the chances, summed over the rivals that
    the bounds leave, that a rival is better than the `answer` by more than the margin; for the answer also the chance
    that it falls below a rival by trainings that fail. A second seed counts in addition for a label of which the bounds
    cannot speak before it has one. Seeds that are `running` count as ended."""
    tried = evidence.tried
    labels = [each.label for each in tried]
    at = labels.index(answer)
    errors, counts = errors_of(evidence), seeds_of(evidence, running)
    least = (1 - sure) / max(len(evidence.labels) - 1, 1)
    rivals = [
        place for place in range(len(tried))
        if place != at and not limits.out[place] and not limits.within[place, at]
    ]  # fmt: skip
    now = chances_behind(evidence, errors, at, counts)
    found = {}
    for place, each in enumerate(tried):
        if not each.open or (place != at and place not in rivals):
            continue
        more = counts.copy()
        more[place] += 1
        then = chances_behind(evidence, errors, at, more)
        known = least if counts[place] < 2 else 0.0
        done = int(counts[at]) - len(tried[at].values)
        falls = fall_risk(evidence, answer, done) - fall_risk(evidence, answer, done + 1) if place == at else 0.0
        found[each.label] = known + falls + float(sum(max(now[rival] - then[rival], 0.0) for rival in rivals))
    return found


@dataclass(frozen=True)
class Falls:
    """What trainings that fail under seeds that were not run may cost each tried label, in their order (see
    `stats.falls`). `depth` [labels] is what a fall costs a label's score, 0 for labels without seeds and for those of
    which a seed fell: their scores count it. The share of seeds that fall is drawn from Beta(`strength`, seeds)."""

    depth: Array
    strength: float

    def risk(self, place: int, seeds: float, room: float) -> float:
        """Returns the chance that falls cost the label at `place`, of whose `seeds` none fell, more than `room`."""
        from scipy.special import betainc

        depth = float(self.depth[place])
        if depth <= max(room, 0.0):
            return 0.0
        return 1.0 - float(betainc(self.strength, seeds, max(room, 0.0) / depth))

    def loss(self, place: int, seeds: float, sure: float) -> float:
        """Returns what falls cost the label at `place` at most, with the chance `sure`."""
        from scipy.special import betaincinv

        return float(self.depth[place] * betaincinv(self.strength, seeds, sure))


def falls_of(evidence: Evidence) -> Falls:
    """Returns what unseen falls may cost the tried labels."""
    import numpy

    runners = list(evidence.runners.values())
    bottom = lowest(runners, evidence.floor)
    counted = fallen([runner.seed_merits for runner in runners], bottom)
    depth = [
        max(runner.merit - bottom, 0.0) if each.seeded and not count else 0.0
        for each, runner, count in zip(evidence.tried, runners, counted, strict=True)
    ]
    return Falls(numpy.array(depth), SEEN if any(counted) else UNSEEN)


def fall_risk(evidence: Evidence, answer: str, more: int = 0) -> float:
    """Returns the chance that unseen falls make the `answer` worse than its best rival by more than the margin, if the
    scores are as they were measured. `more` seeds in which none falls are added to those that were run."""
    tried = evidence.tried
    place = next(at for at, each in enumerate(tried) if each.label == answer)
    merits = [evidence.merit(each) for each in tried]
    lead = merits[place] - max((merit for at, merit in enumerate(merits) if at != place), default=-math.inf)
    return falls_of(evidence).risk(place, len(tried[place].values) + more, evidence.margin + lead)


@dataclass(frozen=True)
class Forecast:
    """What is expected once every cell of the suite has run. `reach` is the chance that the bounds then settle it."""

    reach: float


def forecast(evidence: Evidence, limits: Bounds, sure: float, seed: int = 0) -> Forecast:
    """Returns what is expected of the whole suite, by `DRAWS` draws of the means over all seeds."""
    import numpy

    tried = evidence.tried
    most = numpy.array([float(each.most if each.seeded else 1) for each in tried])
    counts = seeds_of(evidence)
    errors = errors_of(evidence)
    random = numpy.random.default_rng(seed)
    # The spread of the table is known from few seeds: draws of it keep a chance outlier from ending the search.
    scale = (
        errors.table_df / random.chisquare(errors.table_df, (DRAWS, 1)) if errors.table_df else numpy.ones((DRAWS, 1))
    )
    spread = numpy.maximum(errors.seed * scale, errors.noise)  # [draws, labels]
    deviation = numpy.sqrt(spread * numpy.maximum(1 / counts - 1 / most, 0.0))
    merits = numpy.array([evidence.merit(each) for each in tried])
    final = merits + deviation * random.standard_normal((DRAWS, len(tried)))
    live = numpy.logical_not(limits.out)
    first = numpy.where(live, final, -math.inf).argmax(axis=1)
    lead = final[numpy.arange(DRAWS), first][:, None] - final  # [draws, labels]
    own = spread / most
    varying = numpy.array([each.seeded for each in tried], dtype=bool)
    units = float(evidence.rows(tried[0], 1).shape[1])
    levels = int(max(evidence.most, 2))
    pairs = Pairs(
        levels, -lead, errors.items[first], own[numpy.arange(DRAWS), first][:, None] + own,
        varying[first][:, None] | varying, False, units,
    )  # fmt: skip
    tail = (1 - sure) / max(len(evidence.labels) - 1, 1) * look_shares(levels)[levels]
    reach = error_reach(pairs, float("nan"), tail, df=levels - 1 + TABLE_DF)
    shown = (reach - lead <= evidence.margin) | limits.within[:, first].T | limits.out
    shown[numpy.arange(DRAWS), first] = True
    settled = shown.all(axis=1)
    falls = falls_of(evidence)
    for place, each in enumerate(tried):
        if falls.depth[place]:
            rivals = numpy.where(live, lead, math.inf)
            rivals[:, place] = math.inf
            room = rivals.min(axis=1) + evidence.margin
            settled &= (first != place) | (room >= falls.loss(place, each.most, sure))
    return Forecast(float(settled.mean()))
