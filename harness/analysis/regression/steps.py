"""Finds steps in a series of numbers: a piecewise constant fit whose penalty is set by what chance does. Pure.

The fit is that of the least squares with a penalty for each step (PELT, Killick et al. 2012,
doi:10.1080/01621459.2012.737745, of the package `ruptures`). A penalty taken from a formula (BIC and its kin) is made
for long series of a known spread; five to twenty versions, whose spread is estimated from the same few numbers, would
show steps by chance far too often. So the penalty is simulated: it is the one that would give a series of the same
length, without a step and with independent normal noise, any step in 5% of cases. The spread is that of neighbours'
differences without the two largest, which up to two steps do not change.

A step is held by two points at least on either side: one point that is off is an outlier until the next one agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

FEWEST = 5  # points from which steps are looked for
HELD = 2  # points on either side of a step
LEFT_OUT = 2  # of the largest differences, when the spread is estimated
# Of simulated series: so many that a p-value can still be small after a correction for many series.
DRAWS = 10_000
MOST_PAIRS = 30  # points up to which pairs of steps are simulated too; a longer series has enough for one at a time
ALPHA = 0.05
PROFILE = 3.84  # a place of a step is possible where the fit is worse by at most this many variances (95%)


@dataclass(frozen=True)
class Step:
    """A step of a series: the first point `at` the new level, the levels before and after it, how sure it is (`p`: how
    often chance shows a step as clear), and the places `first` to `last` where it may have happened as well."""

    at: int
    before: float
    after: float
    p: float
    first: int
    last: int

    @property
    def size(self) -> float:
        """The new level minus the old one."""
        return self.after - self.before


def find_steps(values: Sequence[float], least_spread: float = 0.0) -> list[Step]:
    """Returns the steps in a series, in its order; none in a series of fewer than `FEWEST` values. `least_spread` is
    the smallest standard deviation that is believed: a few values that are equal by chance do not make all others
    steps."""
    import numpy
    import ruptures

    if len(values) < FEWEST:
        return []
    series = numpy.asarray(values, dtype=float)
    variance = max(float(spread_of(series[None, :])[0]), least_spread) ** 2
    # Equal values throughout: any difference is a step, beyond what rounding leaves.
    variance = max(variance, (1e-9 * max(float(numpy.abs(series).max()), 1e-300)) ** 2)
    chance, bias = null_gains(len(values))
    penalty = float(numpy.quantile(chance, 1 - ALPHA))
    fit = ruptures.Pelt(model="l2", min_size=HELD, jump=1).fit(series)
    while True:
        edges = [0, *fit.predict(pen=penalty * variance)]
        # What the fit leaves may vary by more than most neighbours do: an outlier is no level of its own.
        left = sum(float(series[start:end].var()) * (end - start) for start, end in pairwise(edges))
        larger = bias * left / max(len(series) - len(edges) + 1, 1)
        if len(edges) == 2 or larger <= variance * (1 + 1e-9):
            break
        variance = larger
    steps = []
    for start, at, end in zip(edges, edges[1:], edges[2:], strict=False):
        gains = split_gains(series[start:end])
        best = gains[at - start]
        p = (1 + int((chance >= best / variance).sum())) / (1 + len(chance))
        possible = [start + place for place, gain in gains.items() if best - gain <= PROFILE * variance]
        levels = float(series[start:at].mean()), float(series[at:end].mean())
        steps.append(Step(at, *levels, p, min(*possible, at), max(*possible, at)))
    return steps


def split_gains(series: Array) -> dict[int, float]:
    """Returns place -> by how much the squared error falls when a series is split there, for each allowed place."""
    total = len(series)
    return {
        place: float(place * (total - place) / total * (series[:place].mean() - series[place:].mean()) ** 2)
        for place in range(HELD, total - HELD + 1)
    }


def spread_of(series: Array) -> Array:
    """Returns the standard deviation of the noise of each row [rows, points], from the differences of neighbours
    without the `LEFT_OUT` largest. It is too small by a factor that depends on the length alone, which the simulated
    penalty has as well."""
    import numpy

    differences = numpy.sort(numpy.abs(numpy.diff(series, axis=1)), axis=1)
    kept = differences[:, : max(differences.shape[1] - LEFT_OUT, 2)]
    return numpy.asarray(numpy.sqrt((kept**2).mean(axis=1) / 2))


@cache
def null_gains(points: int) -> tuple[Array, float]:
    """Returns (for each of many simulated series of so many points without a step, the penalty from which on it shows
    none, in variances as `spread_of` estimates them; the mean of these estimates where the variance is 1). The same for
    the same length."""
    import numpy

    series = numpy.random.default_rng(points).standard_normal((DRAWS, points))
    sums = numpy.concatenate([numpy.zeros((DRAWS, 1)), series.cumsum(axis=1)], axis=1)
    whole = sums[:, -1] ** 2 / points
    best = numpy.zeros(DRAWS)
    for first in range(HELD, points - HELD + 1):
        left = sums[:, first] ** 2 / first
        rest = sums[:, -1] - sums[:, first]
        best = numpy.maximum(best, left + rest**2 / (points - first) - whole)
        if points > MOST_PAIRS:
            continue
        for second in range(first + HELD, points - HELD + 1):
            middle = (sums[:, second] - sums[:, first]) ** 2 / (second - first)
            last = (sums[:, -1] - sums[:, second]) ** 2 / (points - second)
            best = numpy.maximum(best, (left + middle + last - whole) / 2)
    variances = spread_of(series) ** 2
    return numpy.asarray(best / variances), float(variances.mean())
