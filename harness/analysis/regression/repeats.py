"""Ratios of a cost between two environments, over interleaved repeats (A B A B …) on one machine. Pure.

What disturbs times is the machine: it warms up, or somebody else computes for a while. So a repeat is compared with its
neighbour in time alone, of the same cell in the other environment, and a steady drift of the whole session (the slope
of equal measurements over time) is taken out of these pairs. How far the machine itself changed between the two
neighbours (`speed`, a fixed matrix product) is no correction, since cells do not slow down by as much as the product:
it widens what the ratio may be, to anything between "not at all" and "fully" explained by it.

The spread of pairs is taken to be the larger of what the pairs at hand show and of what most cells of the session show
(`USUAL`): two or three pairs that chance to agree are no proof. A difference must be shown to be larger than the
margin, not larger than nothing: times of the very same program often differ by a real per cent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.stats.intervals import LEVEL, Interval

Environment = Literal["old", "new"]
# The share of cells whose spread is at most the one that all are given.
USUAL = 0.9
TINY = 1e-9  # of a logarithm: below it, values are the same


@dataclass(frozen=True)
class Repeat:
    """One measurement of a cell's cost: a positive `value`, at `time` in seconds on any clock. `speed` is how fast the
    machine computed a fixed product meanwhile, None where that was not measured."""

    environment: Environment
    cell: str
    label: str
    time: float
    value: float
    speed: float | None = None


@dataclass(frozen=True)
class NeighbourPair:
    """Two repeats of a cell that ran one after the other in different environments: the logarithm of new / old, as
    measured; `apart` is the new one's time minus the old one's, in seconds. `machine` is the logarithm of how much
    longer the machine alone would have taken for the new one (0 where its speed is not known)."""

    cell: str
    label: str
    place: int  # the pair's place within its cell, from 0
    log_ratio: float
    apart: float
    machine: float


@dataclass(frozen=True)
class RatioEstimate:
    """The logarithm of new / old with its standard error and degrees of freedom, over so many pairs. The truth may also
    lie off by anything between 0 and `machine` (a logarithm), by which the machine itself was slower for the new
    one."""

    effect: float
    stderr: float
    df: float
    pairs: int
    machine: float = 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the most that the effect may be, of what the machine explains of it: none, or all."""
        return self.effect - max(self.machine, 0.0), self.effect - min(self.machine, 0.0)

    @property
    def interval(self) -> Interval:
        """The 95% interval of new / old, wider by what the machine may explain."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.df, (1 + LEVEL) / 2)) * self.stderr if self.stderr else 0.0
        low, high = self.ends
        return Interval(math.exp(self.effect), math.exp(low - reach), math.exp(high + reach))

    def p_beyond(self, margin: float) -> float:
        """The two-sided p-value of "the ratio is at most the margin (a relative difference) away from 1"."""
        low, high = self.ends
        beyond = max(low, -high) - math.log1p(margin)
        return min(1.0, 2 * self.tail(beyond))

    def p_same(self, margin: float) -> float:
        """The p-value of "the ratio is less than the margin away from 1", by two one-sided tests."""
        low, high = self.ends
        return self.tail(math.log1p(margin) - max(high, -low))

    def tail(self, distance: float) -> float:
        """Returns the chance of an estimate that is `distance` or more off."""
        from scipy.special import stdtr

        if not self.stderr:
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(self.df, -distance / self.stderr))


def neighbour_pairs(repeats: Sequence[Repeat]) -> list[NeighbourPair]:
    """Returns disjoint pairs of neighbours in time of each cell, one of either environment. Repeats that find no
    neighbour (two of one environment in a row) are left out."""
    by_cell: dict[str, list[Repeat]] = {}
    for repeat in sorted(repeats, key=lambda one: one.time):
        by_cell.setdefault(repeat.cell, []).append(repeat)
    pairs = []
    for own in by_cell.values():
        waiting: Repeat | None = None
        place = 0
        for repeat in own:
            if waiting is None or waiting.environment == repeat.environment:
                waiting = repeat
                continue
            old, new = (waiting, repeat) if waiting.environment == "old" else (repeat, waiting)
            machine = math.log(old.speed / new.speed) if old.speed and new.speed else 0.0
            log_ratio = math.log(new.value) - math.log(old.value)
            pairs.append(NeighbourPair(old.cell, old.label, place, log_ratio, new.time - old.time, machine))
            waiting, place = None, place + 1
    return pairs


def drift(repeats: Sequence[Repeat]) -> tuple[float, float]:
    """Returns (the common slope of the logarithm of a cost over time in 1/s, its standard error): of repeats of one
    cell in one environment, so that no difference between environments or cells counts. (0, 0) where nothing was
    repeated."""
    groups: dict[tuple[str, str], list[Repeat]] = {}
    for repeat in repeats:
        groups.setdefault((repeat.cell, repeat.environment), []).append(repeat)
    times: list[float] = []
    logs: list[float] = []
    df = -1
    for own in groups.values():
        middle = math.fsum(one.time for one in own) / len(own)
        level = math.fsum(math.log(one.value) for one in own) / len(own)
        times += [one.time - middle for one in own]
        logs += [math.log(one.value) - level for one in own]
        df += len(own) - 1
    squares = math.fsum(time**2 for time in times)
    if df < 1 or not squares:
        return 0.0, 0.0
    slope = math.fsum(time * log for time, log in zip(times, logs, strict=True)) / squares
    left = math.fsum((log - slope * time) ** 2 for time, log in zip(times, logs, strict=True))
    return slope, math.sqrt(left / df / squares)


@dataclass(frozen=True)
class Session:
    """All pairs of one cost, with what they share: the drift over time, and the usual variance of a pair (`usual_df`
    degrees of freedom; 0 where no cell has two pairs)."""

    pairs: tuple[NeighbourPair, ...]
    slope: float
    slope_error: float
    usual: float
    usual_df: float

    @classmethod
    def of(cls, repeats: Sequence[Repeat], drifts: bool) -> Session:
        """Makes the session of these repeats. `drifts`: the cost depends on the machine's speed, so that a drift over
        time is looked for."""
        pairs = neighbour_pairs(repeats)
        slope, error = drift(repeats) if drifts else (0.0, 0.0)
        own: dict[str, list[float]] = {}
        for pair in pairs:
            own.setdefault(pair.cell, []).append(pair.log_ratio - slope * pair.apart)
        variances = sorted(variance(values) for values in own.values() if len(values) > 1)
        df = float(sum(len(values) - 1 for values in own.values()))
        usual = variances[min(math.ceil(USUAL * len(variances)), len(variances)) - 1] if variances else 0.0
        return cls(tuple(pairs), slope, error, usual, df)

    def ratio(self, pairs: Sequence[NeighbourPair], unit_of: Mapping[str, str] | None = None) -> RatioEstimate:
        """Returns the mean ratio of some pairs, with equal weight for each cell; or, where `unit_of` maps a cell to
        what counts as one witness (its label), for each of these. The error is the largest of: the usual one; that of
        the pairs; that between witnesses; that of the pairs' places, as one sweep through all cells may have met a
        slower machine."""
        by_unit: dict[str, list[float]] = {}
        by_place: dict[int, list[float]] = {}
        for pair in pairs:
            value = pair.log_ratio - self.slope * pair.apart
            by_unit.setdefault(unit_of[pair.cell] if unit_of else pair.cell, []).append(value)
            by_place.setdefault(pair.place, []).append(value)
        means = [math.fsum(values) / len(values) for values in by_unit.values()]
        effect = math.fsum(means) / len(means)
        squares = math.fsum(1 / len(values) for values in by_unit.values()) / len(means) ** 2
        within = math.fsum(variance(values) * (len(values) - 1) for values in by_unit.values() if len(values) > 1)
        within_df = len(pairs) - len(by_unit)
        places = [math.fsum(values) / len(values) for values in by_place.values()]
        parts = [
            (self.usual * squares, self.usual_df),
            (within / within_df * squares if within_df else 0.0, float(within_df)),
            (variance(means) / len(means) if unit_of and len(means) > 1 else 0.0, len(means) - 1.0),
            (variance(places) / len(places) if len(places) > 1 and len(means) > 1 else 0.0, len(places) - 1.0),
        ]
        largest, df = max(part for part in parts)
        apart = math.fsum(pair.apart for pair in pairs) / len(pairs)
        total = largest + (self.slope_error * apart) ** 2
        machine = math.fsum(pair.machine for pair in pairs) / len(pairs)
        return RatioEstimate(effect, math.sqrt(total), max(df, 1.0), len(pairs), machine)


def variance(values: Sequence[float]) -> float:
    """Returns the variance of two values or more; one that rounding left of equal values is 0."""
    middle = math.fsum(values) / len(values)
    found = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    return found if found > TINY**2 else 0.0
