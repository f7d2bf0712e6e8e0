"""Fits score against the number of examples: which of two methods leads, from where on, and whether a curve fits. Pure.

Between sizes the lead is a straight line over log10 of the examples; beyond the sizes that were run nothing is said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats.contrast import Arm
from harness.analysis.stats.intervals import LEVEL, RESAMPLES, Interval
from harness.analysis.stats.p_best import correlation, root_of

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

LEAST_SIZES = 4  # sizes needed to fit three parameters with one size left out
EXPONENTS = (0.02, 3.0)  # range of exponents; beyond it a power law cannot be told from a logarithm or a step


@dataclass(frozen=True)
class Crossover:
    """The number of examples at which the lead passes for good from one method to the other.

    `leads_last` is 1 if A leads at the largest size, -1 if B does, 0 for neither. `at` is the number of examples from
    which on that method leads, None where it leads at all sizes or neither leads. An end of its interval is 0 where the
    method may lead from the first size on, and infinite where it may not lead by the last. `probability` is the share
    of draws in which the method that leads at last is behind at some smaller size.
    """

    leads_last: int
    at: Interval | None
    probability: float


def find_crossover(
    sizes: Sequence[int],
    lead: Sequence[float],
    stderr: Sequence[float],
    seed: int = 0,
    correlations: Array | None = None,
) -> Crossover:
    """Finds where the lead changes, from the lead A - B of scores and its standard error at rising sizes (as
    `contrast.compare` finds them). The caller negates a score of which less is better.

    The interval is that of draws around the leads, which move together between sizes as `correlations` [sizes, sizes]
    say (`lead_correlations`); without them they are independent. Raises ValueError for fewer than two sizes, sizes that
    do not rise from 1 up, or figures that are missing or not finite.
    """
    import numpy

    logs, centre, error = checked(sizes, lead, stderr)
    noise = numpy.random.default_rng(seed).standard_normal((RESAMPLES, len(logs)))
    draws = centre + error * (noise if correlations is None else noise @ root_of(correlations).T)
    last = int(numpy.sign(centre[-1]))
    signed = draws * (last or 1)
    probability = float(((signed[:, -1] > 0) & (signed[:, :-1] < 0).any(axis=1)).mean())
    point = float(leads_from(logs, centre[None, :], last)[0])
    if last == 0 or point == -math.inf:
        return Crossover(last, None, probability)
    # Ends are draws, not points between two of them: some lie at infinity.
    low, high = numpy.quantile(leads_from(logs, draws, last), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Crossover(last, Interval(10**point, 10 ** float(low), 10 ** float(high)), probability)


def lead_correlations(pairs: Sequence[tuple[Arm, Arm]]) -> Array:
    """Returns the correlations [sizes, sizes] of the errors of the leads A - B, from the values of (A, B) at each size
    on the same items in the same order.

    The items are shared by all sizes: what makes some of them easy for A does so at every size. A seed draws nested
    training examples, so that its luck may last from size to size; how much of it lasts is one number, the mean over
    all pairs of sizes, since few seeds tell no more. It is 0 where sizes were run with other seeds.
    """
    import numpy

    rows = [tuple(numpy.asarray(arm.rows, dtype=float) for arm in pair) for pair in pairs]
    apart = numpy.stack([a.mean(axis=0) - b.mean(axis=0) for a, b in rows])
    covariance = numpy.cov(apart) / apart.shape[1]
    of_seeds = numpy.array([sum(seed_variance(arm) for arm in pair) for pair in rows])
    lasting = 0.0
    numbers = {arm.seeds for pair in pairs for arm in pair if arm.seeded}
    if len(numbers) == 1 and all(len(seeds) > 1 for seeds in numbers):
        leads = numpy.stack([a.mean(axis=1) - b.mean(axis=1) for a, b in rows if len(a) == len(b)])
        if len(leads) == len(rows):
            of_seeds = leads.var(axis=1, ddof=1) / leads.shape[1]
            together = numpy.cov(leads) / leads.shape[1]
            scale = numpy.sqrt(of_seeds[:, None] * of_seeds)
            off = ~numpy.eye(len(rows), dtype=bool) & (scale > 0)
            lasting = float(numpy.clip((together[off] / scale[off]).mean(), 0, 1)) if off.any() else 0.0
    share = numpy.full(covariance.shape, lasting)
    numpy.fill_diagonal(share, 1.0)
    return correlation(covariance + share * numpy.sqrt(of_seeds[:, None] * of_seeds))


def seed_variance(rows: Array) -> float:
    """Returns the variance of a mean over seeds, from values [seeds, items]; 0 where there is one seed."""
    return float(rows.mean(axis=1).var(ddof=1)) / len(rows) if len(rows) > 1 else 0.0


def leads_from(logs: Array, leads: Array, last: int) -> Array:
    """Returns log10 of the examples from which on the method of sign `last` leads, for each row of `leads` [draws,
    sizes]; -inf where the method leads at all sizes, inf where it does not lead at the largest."""
    import numpy

    signed = leads * last
    behind = signed <= 0
    place = logs.size - 1 - numpy.argmax(behind[:, ::-1], axis=1)  # the last size at which it is behind
    before, after = numpy.minimum(place, logs.size - 2), numpy.minimum(place, logs.size - 2) + 1
    rows = numpy.arange(len(signed))
    low, high = signed[rows, before], signed[rows, after]
    share = numpy.where(high > low, -low / numpy.where(high > low, high - low, 1.0), 0.0)
    found = logs[before] + share * (logs[after] - logs[before])
    return numpy.where(behind.any(axis=1), numpy.where(behind[:, -1], math.inf, found), -math.inf)


@dataclass(frozen=True)
class Scaling:
    """A power law, score = a - b N^-c. `error` is the root mean square error of its forecasts of sizes left out,
    `constant_error` that of forecasting the mean of the other sizes."""

    a: float
    b: float
    c: float
    error: float
    constant_error: float

    def at(self, examples: float) -> float:
        return float(self.a - self.b * examples**-self.c)


def scaling(sizes: Sequence[int], scores: Sequence[float], stderr: Sequence[float] | None = None) -> Scaling | None:
    """Fits a power law through scores at rising sizes, by least squares, weighted by 1 / stderr² where errors are
    given.

    None unless the law forecasts sizes that were left out, one at a time, better than the mean of the others does, or
    with fewer than four sizes. A law that is returned holds for the sizes that were run and not far beyond.
    """
    import numpy

    errors = [1.0] * len(sizes) if stderr is None else stderr
    logs, values, error = checked(sizes, scores, errors)
    if logs.size < LEAST_SIZES:
        return None
    counts = 10**logs
    weights = 1 / numpy.maximum(error, 1e-9) ** 2
    misses = numpy.zeros((2, logs.size))
    for out in range(logs.size):
        kept = numpy.arange(logs.size) != out
        a, b, c = power_law(counts[kept], values[kept], weights[kept])
        misses[0, out] = values[out] - (a - b * counts[out] ** -c)
        misses[1, out] = values[out] - numpy.average(values[kept], weights=weights[kept])
    law, constant = (float(math.sqrt(numpy.average(miss**2, weights=weights))) for miss in misses)
    if not law < constant:
        return None
    return Scaling(*power_law(counts, values, weights), law, constant)


def power_law(counts: Array, values: Array, weights: Array) -> tuple[float, float, float]:
    """Fits (a, b, c) of a - b N^-c by weighted least squares: a and b are solved for each exponent that is tried."""
    import numpy
    from scipy.optimize import minimize_scalar

    root = numpy.sqrt(weights)

    def solved(log_c: float) -> tuple[Array, float]:
        columns = numpy.stack([numpy.ones_like(counts), -(counts ** -math.exp(log_c))], axis=1)
        law = numpy.asarray(numpy.linalg.lstsq(columns * root[:, None], values * root, rcond=None)[0], dtype=float)
        return law, float((((columns @ law - values) * root) ** 2).sum())

    grid = numpy.linspace(math.log(EXPONENTS[0]), math.log(EXPONENTS[1]), 25)
    best = int(numpy.argmin([solved(log_c)[1] for log_c in grid]))
    ends = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, grid.size - 1)]))
    log_c = float(minimize_scalar(lambda x: solved(x)[1], bounds=ends, method="bounded").x)
    a, b = solved(log_c)[0]
    return float(a), float(b), math.exp(log_c)


def checked(sizes: Sequence[int], values: Sequence[float], errors: Sequence[float]) -> tuple[Array, Array, Array]:
    """Returns (log10 of the sizes, values, errors) as arrays. Raises ValueError for fewer than two sizes, sizes that do
    not rise from 1 up, other lengths, and figures that are not finite."""
    import numpy

    rising = len(sizes) > 1 and sizes[0] >= 1 and all(low < high for low, high in itertools.pairwise(sizes))
    if not rising or not len(sizes) == len(values) == len(errors):
        raise ValueError(
            f"rising sizes from 1 up, two or more, each with a value and its error; got {list(sizes)}, {len(values)} "
            f"values and {len(errors)} errors"
        )
    found = numpy.asarray(values, dtype=float), numpy.asarray(errors, dtype=float)
    if not all(numpy.isfinite(each).all() for each in found) or (found[1] < 0).any():
        raise ValueError("a score or its error is missing or not finite")
    return numpy.log10(numpy.asarray(sizes, dtype=float)), *found
