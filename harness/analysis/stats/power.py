"""Computes what seeds and items can show: power, the minimum detectable effect, what would settle a question. Pure.

All figures are of the test in `contrast.compare`, from the variance components of a difference; they are averages over
what the mean squares may turn out to be, not normal approximations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.analysis.stats.reference import Reference
from harness.records import MARGIN

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

ALPHA = 0.05
POWER = 0.8
MOST_ITEMS = 1_000_000
MOST_SEEDS = 1_000
DISAGREEMENT = 0.25  # share of items that two methods answer differently: right half the time, correlated by a half
PRIOR_DF = 4  # degrees of freedom that the spread of a table is worth beside that of a pair
SEED_POINTS, ITEM_POINTS = 48, 8  # quantiles of the two mean squares over which power is averaged


@dataclass(frozen=True)
class Parts:
    """The variance components of a difference between two methods, for one item and one seed.

    `item` is the variance of true differences between items (method x item), `seed` that of a method's expected score
    between its seeds, `residual` that of single answers between seeds beyond it. `varying` is how many of the two
    methods vary with their seed (0 to 2). `bounded`: the values that were compared lie between 0 and 1. Where items
    come in clusters, a cluster stands for an item here; `answers` is how many independent answers one is worth.
    """

    item: float
    seed: float
    residual: float
    varying: int = 2
    bounded: bool = False
    answers: float = 1.0

    def variance(self, items: float, seeds: float) -> float:
        """Returns the variance of the difference with that many items and that many seeds of each method."""
        return self.item / items + self.varying / seeds * (self.seed + self.residual / items)


@dataclass(frozen=True)
class Need:
    """The number of seeds of each method at the present items, or of items at the present seeds, with which a
    difference (or a tie) would be shown with a chance of 80%. Both are totals, not additions. None: no number would do,
    up to a thousand seeds or a million items."""

    seeds: int | None
    items: int | None


@dataclass(frozen=True)
class Outlook:
    """The differences and ties that a plan's items can show, before anything has run.

    `score_stderr` is the standard error of one score, `stderr` that of a difference. `detectable` is the smallest
    difference that is found 80% of the time. `items_needed` is how many items show a tie within the margin as often,
    None where the seeds alone leave more open than the margin. `decides`: whether there are that many items.
    """

    score_stderr: float
    stderr: float
    detectable: float
    items_needed: int | None
    decides: bool


def power_to_differ(parts: Parts, effect: float, items: float, seeds: int, alpha: float = ALPHA) -> float:
    """Returns the chance that `compare` finds a true difference of `effect` at the level `alpha`, with so many `items`
    and `seeds` of each method, averaged over what the mean squares of items and seeds may turn out to be."""
    from scipy.special import ndtr

    true, weights, reach = reaches(parts, items, seeds, alpha / 2)
    if true == 0:
        return float(effect != 0)
    return float((weights * (ndtr((effect - reach) / true) + ndtr((-reach - effect) / true))).sum())


def power_to_tie(parts: Parts, margin: float, items: float, seeds: int, alpha: float = ALPHA) -> float:
    """Returns the chance that two methods without any true difference are found tied within the margin at the level
    `alpha`, with so many `items` and `seeds` of each method."""
    import numpy
    from scipy.special import ndtr

    more = least_variance(margin) / (items * parts.answers) if parts.bounded else 0.0
    true, weights, reach = reaches(parts, items, seeds, alpha, more)
    if true == 0:
        return 1.0
    room = numpy.maximum(margin - reach, 0.0) / true
    return float((weights * (ndtr(room) - ndtr(-room))).sum())


def least_variance(margin: float) -> float:
    """Returns the least variance that differences between right-or-wrong answers can have when their mean is the
    margin."""
    return margin * (1 - margin) if 0 < margin < 1 else 0.0


def minimum_detectable_effect(
    parts: Parts, items: float, seeds: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Returns the smallest true difference that is found at the level `alpha` with a chance of `power`, with so many
    `items` and `seeds` of each method."""
    from scipy.optimize import brentq

    true = math.sqrt(parts.variance(items, seeds))
    if true == 0:
        return 0.0
    high = true
    while power_to_differ(parts, high, items, seeds, alpha) < power:
        high *= 2
    return float(brentq(lambda x: power_to_differ(parts, x, items, seeds, alpha) - power, 0.0, high, xtol=1e-6 * true))


def moderated(own: Parts, others: Sequence[Parts], items: float, seed_df: float) -> Parts:
    """Returns the parts of one pair with their spread between seeds drawn towards that of `others`, the pairs of the
    same table: for a forecast, not for a verdict. All were measured on so many `items`, the own spread with `seed_df`
    degrees of freedom.

    Three or five seeds measure a spread within a factor of two or more, and where it comes out small by chance, numbers
    of items are told that would not do. The mean of the table counts as `PRIOR_DF` further degrees of freedom.
    """
    alike = [parts for parts in others if parts.varying == own.varying]
    if not own.varying or not seed_df or not alike:
        return own
    table = math.fsum(parts.seed + parts.residual / items for parts in alike) / len(alike)
    variance = (seed_df * (own.seed + own.residual / items) + PRIOR_DF * table) / (seed_df + PRIOR_DF)
    return replace(own, seed=max(variance - own.residual / items, 0.0))


def needed_to_differ(parts: Parts, effect: float, items: float, seeds: int, alpha: float = ALPHA) -> Need:
    """Returns how many seeds (at these `items`), or how many items (at these `seeds`), find a true difference of
    `effect`, in the metric's unit, with a chance of 80%."""
    return needed(lambda items, seeds: power_to_differ(parts, effect, items, seeds, alpha), items, seeds)


def needed_to_tie(parts: Parts, margin: float, items: float, seeds: int, alpha: float = ALPHA) -> Need:
    """Returns how many seeds (at these `items`), or how many items (at these `seeds`), find two equally good methods
    tied within `margin` with a chance of 80%. `margin` is in the metric's unit."""
    return needed(lambda items, seeds: power_to_tie(parts, margin, items, seeds, alpha), items, seeds)


def outlook(
    items: int,
    margin: float = MARGIN,
    *,
    seeds: int = 1,
    seed_sd: float = 0.0,
    residual: float = 0.0,
    share_right: float = 0.5,
    disagreement: float = DISAGREEMENT,
    alpha: float = ALPHA,
) -> Outlook:
    """Forecasts what `items` right-or-wrong items can show, from assumptions that are all stated: the share of right
    answers, the share of items that two methods answer differently, and the standard deviation of the score between
    seeds.

    200 items give one score a standard error of 0.035. With `seed_sd` 0 the forecast counts items alone, which is the
    best case. `residual` is the part of `seed_sd` squared that comes from single answers and that more items would
    shrink (`contrast.Spread`).
    """
    varying = 2 if seed_sd else 0
    answers = residual * items
    parts = Parts(max(disagreement - varying * answers, 0.0), max(seed_sd**2 - residual, 0.0), answers, varying)
    need = needed_to_tie(parts, margin, items, seeds, alpha).items
    return Outlook(
        math.sqrt(share_right * (1 - share_right) / items),
        math.sqrt(parts.variance(items, seeds)),
        minimum_detectable_effect(parts, items, seeds, alpha),
        need,
        need is not None and need <= items,
    )


@functools.lru_cache(maxsize=512)
def reaches(parts: Parts, items: float, seeds: int, tail: float, more: float = 0.0) -> tuple[float, float, Array]:
    """Returns (true standard error, weight of each entry, how far from 0 a difference must lie to be found at this
    tail).

    The last is an array over quantiles of the mean squares: those of items are chi² with items - 1 degrees of freedom,
    those of seeds with seeds - 1 for each method that varies; both methods are taken to scatter alike. With a single
    seed the spread is taken as known. `more` is a variance that a test adds to the items' part.
    """
    import numpy

    varying = parts.varying / seeds
    seed_df = parts.varying * (seeds - 1)
    noise = varying * parts.residual / items
    item_points = ITEM_POINTS if seed_df else SEED_POINTS * ITEM_POINTS
    item_square = quantiles(items - 1, item_points)[None, :] * (parts.item / items + noise)
    item_part = numpy.maximum(item_square - noise, 0.0) + more
    seed_true = varying * (parts.seed + parts.residual / items)
    if seed_df:
        points = SEED_POINTS if parts.varying == 1 else round(SEED_POINTS**0.5) * 2
        one = quantiles(seeds - 1, points) * seed_true / parts.varying
        grid = numpy.stack(numpy.meshgrid(*[one] * parts.varying, indexing="ij")).reshape(parts.varying, -1, 1)
        seed_part = grid.sum(axis=0)
        item_part = item_part + numpy.maximum(noise / parts.varying - grid, 0.0).sum(axis=0)
        reference = Reference(item_part, items - 1, tuple(grid), (seeds - 1,) * parts.varying)
    else:
        seed_part = numpy.full((1, 1), seed_true)
        reference = Reference(item_part + seed_part, items - 1)
    reach = reference.critical(tail) * numpy.sqrt(item_part + seed_part)
    return math.sqrt(parts.variance(items, seeds)), 1 / reach.size, reach


@functools.lru_cache(maxsize=512)
def quantiles(df: float, points: int) -> Array:
    """Returns `points` equally likely values of a mean square with `df` degrees of freedom and mean 1."""
    import numpy
    from scipy.special import chdtri

    squares: Array = chdtri(df, 1 - (numpy.arange(points) + 0.5) / points) / df
    return squares


def needed(power: Callable[[float, int], float], items: float, seeds: int) -> Need:
    """Returns the least seeds at these items, and the least items at these seeds, whose power is 80% or more; two of
    either at least. `power` maps (items, seeds) to a power."""
    return Need(
        least(lambda count: power(items, count), 2, MOST_SEEDS), least(lambda count: power(count, seeds), 2, MOST_ITEMS)
    )


def least(power: Callable[[int], float], low: int, high: int) -> int | None:
    """Returns the least count from `low` to `high` whose power is `POWER` or more, by bisection (power rises with the
    count); None where even `high` has less."""
    if power(high) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return low
