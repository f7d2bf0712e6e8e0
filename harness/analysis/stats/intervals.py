"""Basic statistics of results: intervals, paired tests and corrected p-values. Pure: no store, no plots, no torch.

These are the figures of one method, and of two methods compared on one seed each. `contrast` compares across seeds,
`rankings` over many methods and tasks, and `crossover` against the number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.data import independent_units, mean_test

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Array = NDArray[numpy.float64]
    Mask = NDArray[numpy.bool_]
    Values = Sequence[float] | Array
    Matrix = Sequence[Sequence[float]] | Array

RESAMPLES = 2000
LEVEL = 0.95
Z = 1.959964  # half a normal interval of LEVEL, in standard errors


@dataclass(frozen=True)
class Interval:
    """An estimate (`value`) with the ends of its interval, a 95% one unless it is said otherwise."""

    value: float
    low: float
    high: float


def expected_best(values: Sequence[float], k: int) -> float:
    """Returns the expected best of `k` trials drawn with replacement from those seen (Dodge et al. 2019,
    arXiv:1909.03004).

    More is better. With v the n values in rising order: the sum over i of v_i ((i/n)^k - ((i-1)/n)^k). It treats trials
    as independent draws. A sampler that learns does not draw independently: for its trials the figure is what chance
    would have found among the same settings. Raises ValueError without values, or for k below 1.
    """
    if not values or k < 1:
        raise ValueError(f"the best of {k} from {len(values)} values")
    n = len(values)
    return math.fsum(
        value * ((place / n) ** k - ((place - 1) / n) ** k) for place, value in enumerate(sorted(values), start=1)
    )


def expected_best_interval(values: Sequence[float], k: int, seed: int = 0) -> Interval:
    """Returns `expected_best` of `k` trials with its percentile bootstrap interval (95%) over the trials; `seed` is
    that of the resampling."""
    import numpy

    n = len(values)
    point = expected_best(values, k)
    drawn = numpy.sort(numpy.random.default_rng(seed).choice(numpy.asarray(values), (RESAMPLES, n)), axis=1)
    places = numpy.arange(n + 1) / n
    estimates = drawn @ numpy.diff(places**k)
    low, high = numpy.quantile(estimates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(point, float(low), float(high))


def mean_interval(values: Values, method: Literal["BCa", "percentile"] = "BCa", seed: int = 0) -> Interval:
    """Returns the mean of `values` [items] with its 95% bootstrap interval over the items; `seed` is that of the
    resampling.

    BCa is bias-corrected and accelerated (Efron 1987, doi:10.1080/01621459.1987.10478410). The interval says how sure
    the mean is over items like these, and nothing of other seeds. Values that are all the same give an interval of no
    width.
    """
    import numpy
    from scipy.stats import bootstrap

    found = numpy.asarray(values, dtype=float)
    point = float(found.mean())
    if found.size < 2 or numpy.ptp(found) == 0:
        return Interval(point, point, point)
    ends = bootstrap(
        (found,), numpy.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method=method, rng=seed, vectorized=True
    ).confidence_interval
    return Interval(point, float(ends.low), float(ends.high))


@dataclass(frozen=True)
class Paired:
    """The comparison of two methods on the same items, one seed each: it holds for these two trained models alone.

    `difference` is the mean of A - B with its BCa interval over the items; `wins` and `losses` count the items on which
    A has more, or less, than B; `test` names where `p` comes from.
    """

    difference: Interval
    p: float
    test: Literal["mcnemar", "t"]
    wins: int
    losses: int


def paired(a: Values, b: Values, seed: int = 0, clusters: Sequence[str] = ()) -> Paired:
    """Compares two runs item by item: `a` and `b` are [items], in the same order. `clusters` are those of the items, ()
    where items are independent; `seed` is that of the bootstrap interval.

    Values of 0 and 1 get McNemar's exact test (two-sided, binomial over the items that differ; McNemar 1947,
    doi:10.1007/BF02295996), others Student's paired t. Items in clusters get the t-test and the interval over their
    clusters (`data.independent_units`). Raises ValueError for other lengths or no items.
    """
    import numpy
    from scipy.stats import binomtest, ttest_1samp

    first, second = numpy.asarray(a, dtype=float), numpy.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"runs of the same items are compared; these have shapes {first.shape}, {second.shape}")
    gains = first - second
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    units = independent_units([gains], clusters)[0]
    if numpy.ptp(units) <= 1e-12:  # what rounding left of units that are alike
        units = numpy.full_like(units, gains.mean())
    difference = mean_interval(units, seed=seed)
    if len(clusters):
        p = min(2 * mean_test(gains if gains.mean() > 0 else -gains, clusters), 1.0) if wins + losses else 1.0
        return Paired(difference, p, "t", wins, losses)
    if numpy.isin(first, (0, 1)).all() and numpy.isin(second, (0, 1)).all():
        p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
        return Paired(difference, p, "mcnemar", wins, losses)
    if gains.size < 2 or numpy.ptp(gains) == 0:
        p = float(2.0 ** (1 - gains.size)) if wins + losses else 1.0  # the sign test: t needs a spread
        return Paired(difference, p, "t", wins, losses)
    return Paired(difference, float(ttest_1samp(gains, 0.0).pvalue), "t", wins, losses)


def corrected(p_values: Sequence[float], method: Literal["holm", "benjamini-hochberg"] = "holm") -> list[float]:
    """Returns the p-values corrected for all that are shown together, in the order given.

    "holm" keeps the chance of any false "better" or "worse" at the level (Holm 1979); "benjamini-hochberg" keeps the
    expected share of false ones among those claimed there (doi:10.1111/j.2517-6161.1995.tb02031.x).
    """
    import numpy
    from scipy.stats import false_discovery_control

    p = numpy.asarray(p_values, dtype=float)
    if method == "benjamini-hochberg":
        return [float(value) for value in false_discovery_control(p)] if p.size else []
    # Not statsmodels' multipletests: it collects garbage in every call, 0.2 s of a report's process each time.
    order = p.argsort()
    raised = numpy.maximum.accumulate(p[order] * numpy.arange(p.size, 0, -1)).clip(max=1.0)
    return [float(value) for value in raised[order.argsort()]]


def cohen_d(a: Values, b: Values) -> float:
    """Returns Cohen's d_z: the mean of paired differences [items], in standard deviations of these differences (Cohen
    1988). 0 where no item differs, infinite where all differ by the same amount."""
    import numpy

    gains = numpy.asarray(a, dtype=float) - numpy.asarray(b, dtype=float)
    mean, spread = float(gains.mean()), float(gains.std(ddof=1)) if gains.size > 1 else 0.0
    if spread == 0.0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread
