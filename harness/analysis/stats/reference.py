"""The distribution of an estimate's distance from the truth, in standard errors, when its error has several parts.

The error of a difference is the sum of a part of the items, of many degrees of freedom, and one of each method's seeds,
of few. Its parts are estimated apart, so no Student's t is exact. Three approximations are used:

- Satterthwaite (1946, doi:10.2307/3002019): one t, whose degrees of freedom follow from the parts. In them a part with
  nu of its own counts 1 + 2 / nu times, since E[s^4] = (1 + 2 / nu) sigma^4. At 5%, at most 6.3% of identical methods
  are told apart, whatever the parts, from three seeds on; with two seeds it would be 9%. Far out in the tail it fails:
  at 0.1%, where a correction for many pairs looks, 3 to 12 times too many are.
- Cochran (1964, doi:10.2307/2283095): the mean of the parts' own t, weighted by the parts. At 5%, at most 6.2% are told
  apart with two seeds.
- Banerjee (1960): the root of the mean of the squares of the parts' own t, weighted by the parts. No more are told
  apart than the level says, whatever the parts and the level.

Down to a tail of 5% (two-sided) parts of one degree of freedom (two seeds) are taken by Cochran's rule, the others by
Satterthwaite's. From 0.1% on all are taken by Banerjee's, and between the two both count, weighted along the logarithm
of the tail. `docs/lab-notes.md` has the simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats.intervals import LEVEL

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

# One-sided tails: Satterthwaite's rule down to the first, Banerjee's from the second on.
WIDE, FAR = math.log(0.025), math.log(0.0005)
LEAST_TAIL = 1e-15  # the smallest tail that is reported


@dataclass(frozen=True)
class Reference:
    """The parts of a squared standard error, with the degrees of freedom that each was estimated with.

    `items` and each of `seeds` are numbers, or arrays of one shape (for many errors at once).
    """

    items: float | Array
    items_df: float
    seeds: tuple[float | Array, ...] = ()
    seeds_df: tuple[float, ...] = ()

    def critical(self, tail: float) -> Array:
        """Returns the distance, in standard errors, beyond which an estimate lies with a chance of `tail` (one-sided,
        up to 0.5)."""
        import numpy
        from scipy.special import stdtrit

        total = self.items + sum(self.seeds)
        items = numpy.where(numpy.asarray(total) > 0, self.items, 1.0)  # avoids 0 / 0 where nothing varies
        total = numpy.where(numpy.asarray(total) > 0, total, 1.0)
        few = sum(part for part, df in zip(self.seeds, self.seeds_df, strict=True) if df <= 1)
        few_t = -stdtrit(1.0, tail) if any(df <= 1 for df in self.seeds_df) else 0.0
        one = (total - few) / total * -stdtrit(self.degrees(), tail) + few / total * few_t
        share = min(max((WIDE - math.log(tail)) / (WIDE - FAR), 0.0), 1.0)
        if not share:
            return numpy.asarray(one)
        parts = ((items, self.items_df), *zip(self.seeds, self.seeds_df, strict=True))
        squares = sum(part * stdtrit(df, tail) ** 2 for part, df in parts)
        return numpy.asarray((1 - share) * one + share * numpy.sqrt(squares / total))

    def around(
        self, value: float, share_of: float = 0, tails: tuple[float, float] = ((1 - LEVEL) / 2, (1 - LEVEL) / 2)
    ) -> tuple[float, float]:
        """Returns the ends of the interval around the estimate `value`, whose error has these parts. `tails` are the
        chances that the truth lies below it and above it.

        For a share of at most `share_of` independent answers (0: no share) the interval is Wilson's (1927,
        doi:10.1080/01621459.1927.10502953), with this reference in place of the normal and the number of answers that
        would give the same error: near 0 and 1 it stays within them, and is not empty where all answers are right.
        """
        below, above = (float(self.critical(tail)) for tail in tails)
        variance = float(self.items + sum(self.seeds))
        if not share_of:
            return value - below * math.sqrt(variance), value + above * math.sqrt(variance)
        count = min(value * (1 - value) / variance, share_of) if variance > 0 and 0 < value < 1 else share_of

        def end(t: float) -> float:
            """Returns Wilson's end `t` standard errors away; a negative `t` gives the lower one."""
            centre = (value + t**2 / (2 * count)) / (1 + t**2 / count)
            return centre + t / (1 + t**2 / count) * math.sqrt(value * (1 - value) / count + t**2 / (4 * count**2))

        return end(-below), end(above)

    def degrees(self) -> Array:
        """Returns Satterthwaite's degrees of freedom of the sum of all parts that have more than one degree; never
        fewer than the fewest of a part."""
        import numpy

        parts = [(part, df) for part, df in zip(self.seeds, self.seeds_df, strict=True) if df > 1]
        counted = [(part * (1 + 2 / df), df) for part, df in parts]
        total = self.items + sum(part for part, _ in counted)
        scatter = self.items**2 / self.items_df + sum(part**2 / df for part, df in counted)
        found = numpy.asarray(total) ** 2 / numpy.where(numpy.asarray(scatter) > 0, scatter, 1.0)
        return numpy.asarray(numpy.maximum(found, min([self.items_df, *(df for _, df in parts)])), dtype=float)

    def tail(self, distance: float) -> float:
        """Returns the chance that an estimate lies `distance` standard errors or more above the truth."""
        from scipy.optimize import brentq
        from scipy.special import stdtr

        if distance < 0:
            return 1.0 - self.tail(-distance)
        if not any(self.seeds):
            return float(stdtr(self.items_df, -distance))
        if distance >= float(self.critical(LEAST_TAIL)):
            return LEAST_TAIL
        low, high = math.log(LEAST_TAIL), math.log(0.5)
        return math.exp(brentq(lambda log: float(self.critical(math.exp(log))) - distance, low, high, xtol=1e-10))


def satterthwaite(parts: Sequence[float], dfs: Sequence[float]) -> float:
    """Returns the degrees of freedom of a sum of independent mean squares `parts`, of which each has those in `dfs`;
    the fewest of `dfs` where all parts are 0."""
    scatter = math.fsum(part**2 / df for part, df in zip(parts, dfs, strict=True))
    return max(math.fsum(parts) ** 2 / scatter, min(dfs)) if scatter else float(min(dfs))
