"""Bounds on the differences of labels that hold at all looks at once, however often one looks. Pure.

Two labels are compared on the seeds that both have, paired by seed and by item. Whatever cells were chosen to run, the
comparison of a pair on its first m seeds is the same numbers. So there are at most S - 1 comparisons of a pair (m = 2
to S, the suite's number of seeds), and a bound that holds for all of them at once (Bonferroni: the error is divided
among them by `look_shares`) holds at every look, in whatever order cells were run. This takes the place of a confidence
sequence: for two to five seeds an anytime-valid interval over unboundedly many is several times wider.

What can go wrong? The answer A is worse by more than the margin than the best label, B. Then B was left out for some
label, or A was said to be within the margin of B: either way a comparison of B with one of the other labels was wrong.
So the error is divided among these, one fewer than there are labels; not among all pairs, since which label is the best
is unknown but fixed.

The error of a difference has a part of the items and a part of the seeds, each with its degrees of freedom
(`stats.reference`). With two seeds a pair's own spread is worth one degree, which says next to nothing. It is therefore
drawn towards the mean spread of all pairs of the table, which counts as `TABLE_DF` degrees of freedom (a moderated t,
Smyth 2004, doi:10.2202/1544-6115.1027). With 4, bounds of 95% are wrong about the best label in up to 5% of worlds,
also where one or two of eight labels vary twelve times as much as the others; with 8, in 8% (docs/lab-notes.md).

A label that falls under some seeds, and under none of those that were run, is not covered by these bounds: what unseen
falls may cost the answer is allowed for apart (`forecast.fall_risk`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.analysis.deciding.evidence import Evidence
from harness.analysis.stats.power import least_variance
from harness.analysis.stats.reference import Reference

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

TABLE_DF = 4.0  # degrees of freedom that the mean spread of a table is worth beside a pair's own


@dataclass(frozen=True)
class Pairs:
    """The comparisons of all tried labels on their first `seeds` seeds. Arrays are [labels, labels], row less column,
    more is better; NaN where a label has fewer seeds.

    `effect` is the difference of the mean scores; `items` and `spread` are the parts of its squared standard error.
    `spread` is of a pair's own seeds, undrawn; `varying` [labels, labels] says whether either label varies with its
    seed. `answers` is the number of independent answers behind a score.
    """

    seeds: int
    effect: Array
    items: Array
    spread: Array
    varying: Array
    bounded: bool
    answers: float


def look_shares(most: int) -> dict[int, float]:
    """Returns {number of seeds: the share of the error that is spent on comparisons of so many}, for 2 to `most` seeds.
    The shares are equal: with larger ones for more seeds, a decision took a tenth more cells (simulated)."""
    numbers = range(2, max(most, 2) + 1)
    return {seeds: 1 / len(numbers) for seeds in numbers}


def compare_all(evidence: Evidence, seeds: int) -> Pairs:
    """Compares all tried labels that have `seeds` seeds (two or more) with each other, on these seeds."""
    import numpy

    tried = evidence.tried
    having = [place for place, each in enumerate(tried) if each.seeds >= seeds or not each.seeded]
    shape = (len(tried), len(tried))
    effect, items, spread = (numpy.full(shape, numpy.nan) for _ in range(3))
    seeded = numpy.array([each.seeded for each in tried], dtype=bool)
    varying = seeded[:, None] | seeded
    if not having:
        return Pairs(seeds, effect, items, spread, varying, False, 1.0)
    values = numpy.stack([evidence.rows(tried[place], seeds) for place in having])
    units = values.shape[2]
    by_item, by_seed = values.mean(axis=1), values.mean(axis=2)
    score = by_seed.mean(axis=1)
    left = values - by_item[:, None] - by_seed[:, :, None] + score[:, None, None]
    left = left.reshape(len(having), -1)
    residual = differences(left @ left.T) / ((seeds - 1) * max(units - 1, 1)) / units / seeds
    raw = differences(numpy.cov(by_item).reshape(len(having), len(having))) / units
    apart = by_seed - score[:, None]
    of_seeds = differences(apart @ apart.T) / (seeds - 1) / seeds
    at = numpy.ix_(having, having)
    effect[at] = score[:, None] - score
    # Seeds that chance to agree better than single answers vary leave the error of the items, and no less.
    items[at] = numpy.maximum(raw - residual, 0.0) + numpy.maximum(residual - of_seeds, 0.0)
    spread[at] = of_seeds
    return Pairs(seeds, effect, items, spread, varying, evidence.bounded, float(units))


def differences(products: Array) -> Array:
    """Returns the squared lengths [n, n] of all differences of n vectors, from the `products` [n, n] of each with
    each."""
    import numpy

    own = numpy.diag(products)
    lengths: Array = numpy.maximum(own[:, None] + own - 2 * products, 0.0)
    return lengths


@dataclass(frozen=True)
class Bounds:
    """What holds of all tried labels at once with the confidence that was asked for, in the order of `labels`.

    `out` [labels]: another label is shown to be better. `behind` [labels]: the place of that label, -1 where there is
    none. `within` [labels, labels]: the row is shown to be better than the column by at most the margin.
    """

    labels: tuple[str, ...]
    out: Array
    behind: Array
    within: Array

    def settled(self, label: str) -> bool:
        """Whether no label that is not out can be better than `label` by more than the margin."""
        import numpy

        place = self.labels.index(label)
        rivals = numpy.logical_not(self.out)
        rivals[place] = False
        return bool(not self.out[place] and self.within[rivals, place].all())


def find_bounds(evidence: Evidence, sure: float) -> Bounds:
    """Returns what holds at every look at once with the probability `sure`. The error is divided among all labels,
    those that were not tried or are ruled out among them."""
    import numpy

    tried = evidence.tried
    count = len(tried)
    out = numpy.zeros(count, dtype=bool)
    behind = numpy.full(count, -1)
    within = numpy.eye(count, dtype=bool)
    if not count:
        return Bounds((), out, behind, within)
    error = (1 - sure) / max(len(evidence.labels) - 1, 1)
    levels = [compare_all(evidence, seeds) for seeds in range(2, evidence.most + 1)] or [fixed(evidence)]
    shares = look_shares(evidence.most)
    drawn = mean_spread(levels)
    for pairs in levels:
        reach = error_reach(pairs, drawn, error * shares[pairs.seeds])
        with numpy.errstate(invalid="ignore"):
            upper = pairs.effect + reach
            unseen = pairs.effect + error_reach(pairs, drawn, error * shares[pairs.seeds], evidence.margin)
            worse = upper < 0
            within |= unseen <= evidence.margin
        numpy.fill_diagonal(worse, False)
        found = worse.any(axis=1) & ~out
        behind[found] = numpy.where(worse, pairs.effect, numpy.inf)[found].argmin(axis=1)
        out |= found
    return Bounds(tuple(each.label for each in tried), out, behind, within)


def fixed(evidence: Evidence) -> Pairs:
    """Compares labels of a suite with one seed: those that do not vary with it can be compared with each other."""
    import numpy

    pairs = compare_all(evidence, 2)
    return replace(pairs, effect=numpy.where(pairs.varying, numpy.nan, pairs.effect))


def mean_spread(levels: list[Pairs]) -> float:
    """Returns the mean, over all pairs of labels, of the variance of a difference between seeds, of one seed; each pair
    counts with as many seeds as it has. NaN where no pair varies."""
    import numpy

    best: Array | None = None
    for pairs in levels:
        one = pairs.spread * pairs.seeds
        best = one if best is None else numpy.where(numpy.isnan(one), best, one)
    if best is None:
        return float("nan")
    known = best[levels[0].varying & ~numpy.isnan(best)]
    return float(known.mean()) if known.size else float("nan")


def error_reach(pairs: Pairs, drawn: float, tail: float, margin: float = 0.0, df: float | None = None) -> Array:
    """Returns how far [labels, labels] the true differences may lie above the estimates, with the chance `tail` that
    they lie farther. `drawn` is the mean spread of the table (of one seed), NaN where spreads are drawn towards it
    already: they have `df` degrees of freedom then. With a `margin` the variance is at least the one that right or
    wrong answers with such a difference have (see `contrast.p_tied`)."""
    import math

    import numpy

    items, spread = pairs.items, pairs.spread
    df = pairs.seeds - 1.0 if df is None else df
    if not math.isnan(drawn):
        moderated = (df * spread + TABLE_DF * drawn / pairs.seeds) / (df + TABLE_DF)
        spread, df = numpy.where(pairs.varying, moderated, spread), df + TABLE_DF
    if margin and pairs.bounded:
        seen = numpy.minimum(numpy.abs(pairs.effect), 1.0)
        unseen = numpy.maximum(least_variance(margin) - seen * (1 - seen), 0.0) / pairs.answers
        items = items + numpy.where(numpy.abs(pairs.effect) < margin, unseen, 0.0)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        critical = Reference(items, pairs.answers - 1, (spread,), (df,)).critical(tail)
        reach: Array = critical * numpy.sqrt(items + spread)
    return reach
