"""Pure mathematics of results: no store, no plots, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float


def expected_best(values: Sequence[float], k: int) -> float:
    """The expected best of `k` trials drawn with replacement from those seen (Dodge et al. 2019, arXiv:1909.03004).

    More is better. With v the n values in rising order: the sum over i of v_i ((i/n)^k - ((i-1)/n)^k). It treats trials
    as independent draws, which those of a sampler that learns are not: of these it says what chance would have found
    among the same settings. Raises ValueError without values, or for k below 1.
    """
    if not values or k < 1:
        raise ValueError(f"the best of {k} from {len(values)} values")
    n = len(values)
    return math.fsum(
        value * ((place / n) ** k - ((place - 1) / n) ** k) for place, value in enumerate(sorted(values), start=1)
    )


def expected_best_interval(values: Sequence[float], k: int, seed: int = 0) -> Interval:
    """`expected_best` with its percentile bootstrap interval (95%) over the trials."""
    import numpy

    n = len(values)
    point = expected_best(values, k)
    drawn = numpy.sort(numpy.random.default_rng(seed).choice(numpy.asarray(values), (RESAMPLES, n)), axis=1)
    places = numpy.arange(n + 1) / n
    estimates = drawn @ numpy.diff(places**k)
    low, high = numpy.quantile(estimates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(point, float(low), float(high))
