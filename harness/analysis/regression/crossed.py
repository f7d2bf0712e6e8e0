"""The mean change of several units (cells, or labels) that were scored on the same items, and how sure it is. Pure.

Ten methods on one test set are not ten witnesses: an item that turns false for one of them often turns false for all.
And a method whose score varies by itself is no evidence of a common shift. So both count, crossed:

    change[unit, item] = common change + item + unit + item × unit

The error of the mean has a part of the items (their variance, less what units add to it) and one of the units (the
variance between the units' own means, divided by their number), each with its degrees of freedom. Items belong to a
task; tasks are fixed and have equal weight within a unit. The units' part is that of Student's t over the means of
groups, which stays valid where groups have very different variances (Ibragimov and Müller 2010,
doi:10.1198/jbes.2009.08046): one unstable method among stable ones makes the answer less sure, and not false.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness.analysis.stats.intervals import LEVEL, Interval
from harness.analysis.stats.power import least_variance
from harness.analysis.stats.reference import Reference, satterthwaite
from harness.data import independent_units

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

TINY = 1e-15  # a variance below this is what rounding left of equal values


@dataclass(frozen=True)
class ScoredUnit:
    """The changes (new - old) of one cell's items on one task. `unit` is what the cell belongs to and counts as one
    witness: itself, or its label. `clusters` are those of the items, () where items are independent."""

    unit: str
    task: str
    changes: Array  # [items]
    clusters: tuple[str, ...] = ()
    known_items: bool = True  # False: `changes` holds one value, the change of the score
    weight: float = 1.0  # of the unit among the others


@dataclass(frozen=True)
class Estimate:
    """The mean change with the parts of its squared error, and how many units and items are behind it. `bounded`: the
    values lie between 0 and 1."""

    effect: float
    reference: Reference
    units: int
    items: int
    bounded: bool = False

    @cached_property
    def stderr(self) -> float:
        """The standard error of the mean change."""
        return math.sqrt(max(float(self.reference.items + sum(self.reference.seeds)), 0.0))

    @cached_property
    def interval(self) -> Interval:
        """The 95% interval of the mean change."""
        reach = float(self.reference.critical((1 - LEVEL) / 2)) * self.stderr if self.stderr else 0.0
        return Interval(self.effect, self.effect - reach, self.effect + reach)

    @cached_property
    def p(self) -> float:
        """The two-sided p-value of no change. Where nothing varies, all items changed by the same amount, which equal
        chances of either sign do with 2 ** (1 - items)."""
        if not self.stderr:
            return 2.0 ** (1 - max(self.items, self.units)) if self.effect else 1.0
        return min(1.0, 2 * self.reference.tail(abs(self.effect) / self.stderr))

    def p_same(self, margin: float) -> float:
        """The p-value of "the change is smaller than the margin": two one-sided tests (Schuirmann 1987,
        doi:10.1007/BF01068419). For shares the variance is the one that a change of the margin would have, as in
        `stats.contrast.p_tied`: a few items that nobody answered differently are no proof."""
        room = margin - abs(self.effect)
        if room <= 0:
            return 1.0
        unseen = max(least_variance(margin) - least_variance(abs(self.effect)), 0.0) if self.bounded else 0.0
        missing = unseen / max(self.items, 1)
        stderr = math.sqrt(self.stderr**2 + missing)
        if not stderr:
            return 2.0 ** (1 - max(self.items, self.units))
        reference = Reference(
            self.reference.items + missing, self.reference.items_df, self.reference.seeds, self.reference.seeds_df
        )
        return reference.tail(room / stderr)


def estimate(rows: Sequence[ScoredUnit], bounded: bool = False, spread_of_units: bool = True) -> Estimate:
    """Returns the mean change over units by their weights; within a unit each task has the same weight, and then each
    row. Without `spread_of_units` the units are what they are, and only the items are drawn from others.

    Rows of one task must hold the same items in the same order. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("a mean of no units")
    weights = weights_of(rows)
    means = [float(row.changes.mean()) for row in rows]
    effect = math.fsum(weight * mean for weight, mean in zip(weights, means, strict=True))
    units = list(dict.fromkeys(row.unit for row in rows))
    of_units, units_df = unit_part(rows, weights, means) if spread_of_units and len(units) > 1 else (0.0, 0.0)
    by_task: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.known_items:
            by_task.setdefault(row.task, []).append(place)
    variances, noises, dfs = [], [], []
    for places in by_task.values():
        variance, noise, df = item_part([rows[place] for place in places], [weights[place] for place in places])
        variances.append(variance)
        noises.append(noise if spread_of_units else 0.0)
        dfs.append(df)
    items = math.fsum(max(v - n, 0.0) for v, n in zip(variances, noises, strict=True))
    # Units that chance to agree better than single items vary leave the error of the items, and no less.
    items += max(math.fsum(noises) - of_units, 0.0)
    items_df = satterthwaite(variances, dfs) if variances else 1.0
    seeds = ((of_units,), (units_df,)) if of_units > TINY else ((), ())
    reference = Reference(items if items > TINY else 0.0, items_df, *seeds)
    counted = sum(next(len(rows[place].changes) for place in places) for places in by_task.values())
    return Estimate(effect, reference, len(units), counted, bounded)


def weights_of(rows: Sequence[ScoredUnit]) -> list[float]:
    """Returns the weight of each row in the mean: units by their own, the tasks of a unit alike, then its rows; the sum
    is 1."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        counts[row.unit, row.task] = counts.get((row.unit, row.task), 0) + 1
    of_unit = {row.unit: row.weight for row in rows}
    total = math.fsum(of_unit.values())
    tasks = {unit: sum(1 for name, _ in counts if name == unit) for unit in of_unit}
    return [of_unit[row.unit] / total / tasks[row.unit] / counts[row.unit, row.task] for row in rows]


def unit_part(rows: Sequence[ScoredUnit], weights: Sequence[float], means: Sequence[float]) -> tuple[float, float]:
    """Returns (the part of the squared error that the spread between units leaves, its degrees of freedom). Units that
    are cells of different tasks are compared within their task where each task has two or more."""
    own: dict[str, float] = {}
    shares: dict[str, float] = {}
    strata: dict[str, frozenset[str]] = {}
    for row, weight, mean in zip(rows, weights, means, strict=True):
        own[row.unit] = own.get(row.unit, 0.0) + weight * mean
        shares[row.unit] = shares.get(row.unit, 0.0) + weight
        strata[row.unit] = strata.get(row.unit, frozenset()) | {row.task}
    groups: dict[frozenset[str], list[str]] = {}
    for unit, tasks in strata.items():
        groups.setdefault(tasks, []).append(unit)
    if min(map(len, groups.values())) < 2:
        groups = {frozenset(): list(own)}
    total, df = 0.0, 0.0
    for units in groups.values():
        middle = math.fsum(own[unit] for unit in units) / math.fsum(shares[unit] for unit in units)
        squares = math.fsum((own[unit] - shares[unit] * middle) ** 2 for unit in units)
        total += squares * len(units) / (len(units) - 1)
        df += len(units) - 1
    return total, df


def item_part(rows: Sequence[ScoredUnit], weights: Sequence[float]) -> tuple[float, float, float]:
    """Returns of one task (the variance that its items leave in the mean, the part of it that items × units leave, the
    degrees of freedom). Items in clusters are turned into clusters first."""
    import numpy

    clusters = rows[0].clusters
    table = independent_units(numpy.stack([row.changes for row in rows]), clusters)  # [rows, items]
    count = table.shape[1]
    if count < 2:
        return 0.0, 0.0, 1.0
    units = list(dict.fromkeys(row.unit for row in rows))
    parts = numpy.zeros((len(units), count))
    shares = numpy.zeros(len(units))
    for row, values, weight in zip(rows, table, weights, strict=True):
        parts[units.index(row.unit)] += weight * values
        shares[units.index(row.unit)] += weight
    summed = parts.sum(axis=0)
    variance = float(summed.var(ddof=1)) / count
    noise = 0.0
    if len(units) > 1:
        left = parts - shares[:, None] / shares.sum() * summed
        noise = float(left.var(axis=1, ddof=1).sum()) * len(units) / (len(units) - 1) / count
    return variance, noise, float(count - 1)
