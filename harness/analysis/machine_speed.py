"""Judges how steadily a machine computed while the cells of a run were measured. Pure.

Before and after its work each cell times a fixed matrix product (facts `SPEED_BEFORE` and `SPEED_AFTER`, FLOP/s). Two
things are asked of these figures. Did the machine become slower or faster from the first cell to the last (`drifts`)?
And in which cells did it compute at another speed than usual (`speed_off`), so that their times must decide nothing?
Times are never corrected: a cell does not slow down by as much as the product does.

Cells that shared their device are left out, since their speed is that of a part of the machine and their times decide
nothing anyway.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.stats.intervals import Interval, Z
from harness.errors import counted
from harness.records import SPEED_AFTER, SPEED_BEFORE, quantity
from harness.store import CellRow

SPEEDS = (SPEED_BEFORE, SPEED_AFTER)
# A cell's speed is off beyond this share of the usual one. On a quiet machine the figure itself varies by one to two
# per cent, so that this never happens by chance; and it is five times the margin within which costs are usually tied.
OFF = 0.10
FEWEST = 5  # cells from which a drift is estimated: the interval of fewer never excludes anything
MOST = 200  # points through which a line is laid

Speeds = Mapping[str, float]  # fact of SPEEDS -> FLOP/s


@dataclass(frozen=True)
class CellSpeed:
    """The machine's speed around one attempt at a cell: `speeds` maps `SPEED_BEFORE` and `SPEED_AFTER` to FLOP/s, as
    far as measured. `device` is where the attempt ran, `contended` whether it shared the device with others."""

    key: str
    device: str
    speeds: Speeds
    contended: bool = False


@dataclass(frozen=True)
class MachineDrift:
    """The drift of one device's speed over the cells that ran on it, in the order in which they started.

    `change` is the relative change from the first cell to the last (-0.12: 12% slower) with its 95% interval, from a
    robust straight line through the logarithms. `spread` is the fastest cell's speed divided by the slowest one's.
    """

    device: str
    cells: int
    change: Interval
    spread: float

    def matters(self, margin: float) -> bool:
        """Whether the drift is shown, by its interval, to be larger than `margin`, a relative difference of costs
        (0.02: two per cent) that does not matter."""
        return self.change.high < -margin or self.change.low > margin


def cell_speeds(rows: Iterable[CellRow]) -> list[CellSpeed]:
    """Returns the speeds of all attempts behind these rows in which one was measured, in the order in which they
    started."""
    by_attempt = {row.attempt_id: row for row in rows if speeds_of(row)}
    ordered = sorted(by_attempt.values(), key=lambda row: (str(row.started or ""), row.attempt_id))
    return [CellSpeed(row.key, row.device, speeds_of(row), row.contended) for row in ordered]


def speeds_of(row: CellRow) -> dict[str, float]:
    """Returns `SPEED_BEFORE` and `SPEED_AFTER` of a cell -> FLOP/s, as far as they were measured."""
    return {name: row.facts[name] for name in SPEEDS if row.facts.get(name, 0.0) > 0}


def usual_speeds(cells: Iterable[CellSpeed]) -> dict[str, float]:
    """Returns the median speed before, and after, the cells that had their device to themselves, in FLOP/s by fact.

    The two have medians of their own: a machine that has worked may be warmer than one that begins.
    """
    alone = [cell.speeds for cell in cells if not cell.contended]
    values = {name: [speeds[name] for speeds in alone if name in speeds] for name in SPEEDS}
    return {name: statistics.median(found) for name, found in values.items() if found}


def speed_off(speeds: Speeds, usual: Speeds) -> float | None:
    """Returns how far a cell's speed is from the usual one, as a share of it (-0.23: 23% slower): the speed before the
    cell or after it, whichever is farther off. None where that is at most `OFF`, or nothing was measured."""
    apart = [speeds[name] / usual[name] - 1 for name in SPEEDS if name in speeds and name in usual]
    farthest = max(apart, key=abs, default=0.0)
    return farthest if abs(farthest) > OFF else None


def with_speed_off(rows: Sequence[CellRow], usual: Speeds | None = None) -> list[CellRow]:
    """Returns the rows with `speed_off` set: to how far the machine's speed was off, or None. `usual` are the speeds to
    compare with, by default the medians of these rows. Rows that are contended stay as they are."""
    known = usual_speeds(cell_speeds(rows)) if usual is None else usual
    return [row if row.contended else replace(row, speed_off=speed_off(speeds_of(row), known)) for row in rows]


def drifts(cells: Sequence[CellSpeed]) -> list[MachineDrift]:
    """Returns the drift of each device on which `FEWEST` cells or more were measured; other devices, and cells that
    shared theirs, are left out. `cells` are in the order in which they started."""
    usual = usual_speeds(cells)
    logs: dict[str, list[float]] = {}
    for cell in cells:
        parts = [math.log(cell.speeds[name] / usual[name]) for name in SPEEDS if name in cell.speeds and name in usual]
        if parts and not cell.contended:
            logs.setdefault(cell.device, []).append(statistics.fmean(parts))
    return [
        MachineDrift(device, len(found), change_over(found), math.exp(max(found) - min(found)))
        for device, found in logs.items()
        if len(found) >= FEWEST
    ]


def change_over(logs: Sequence[float]) -> Interval:
    """Returns the relative change from the first value to the last, of a straight line through the logarithms `logs`
    against their place, with a 95% interval. There are two values or more.

    The slope is the median of the slopes between all pairs, so that a few cells at another speed do not bend it (Sen
    1968, doi:10.1080/01621459.1968.10480934). Of many values, medians of neighbours are taken: their
    pairs would be too many.
    """
    size = math.ceil(len(logs) / MOST)
    groups = [range(start, min(start + size, len(logs))) for start in range(0, len(logs), size)]
    points = [(statistics.fmean(group), statistics.median(logs[place] for place in group)) for group in groups]
    slopes = sorted((b - a) / (later - place) for (place, a), (later, b) in itertools.combinations(points, 2))
    count, pairs = len(points), len(slopes)
    reach = Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)  # of Kendall's statistic
    ends = (max(round((pairs - reach) / 2) - 1, 0), min(round((pairs + reach) / 2), pairs - 1))
    found = (statistics.median(slopes), *(slopes[end] for end in ends))
    return Interval(*(math.expm1(slope * (len(logs) - 1)) for slope in found))


def cells_off(cells: Iterable[CellSpeed]) -> list[tuple[CellSpeed, float]]:
    """Returns (cell, how far off) for each cell in which the machine's speed was off the median of all `cells` (see
    `speed_off`), the farthest first. Cells that are contended are left out."""
    cells = list(cells)
    usual = usual_speeds(cells)
    off = [(cell, apart) for cell in cells if not cell.contended and (apart := speed_off(cell.speeds, usual))]
    return sorted(off, key=lambda pair: -abs(pair[1]))


# --- in words; without a full stop, as a verdict's remarks are ---


def speed_sentences(cells: Sequence[CellSpeed], margin: float) -> list[str]:
    """Says where the machine's speed matters for costs: the drift of each device, and in how many cells the speed was
    off. Empty where it was steady. `margin` is the relative difference of costs that does not matter."""
    off = len(cells_off(cells))
    told = (
        f"In {off} of {counted(len(cells), 'cell')} the machine's speed was more than {quantity(OFF, 'share')} off the "
        "median of the run: their times, rates and energy decide nothing"
    )
    return [*drift_sentences(cells, margin), *([told] if off else [])]


def drift_sentences(cells: Sequence[CellSpeed], margin: float) -> list[str]:
    """Says how far each device drifted whose drift is shown to be larger than `margin`, a relative difference of
    costs."""
    found = drifts(cells)
    return [drift_sentence(drift, named=len(found) > 1) for drift in found if drift.matters(margin)]


def drift_sentence(drift: MachineDrift, named: bool) -> str:
    """Says how far a machine drifted; `named` puts the device into the sentence."""
    change = drift.change
    low, high = (quantity(end, "share") for end in sorted((abs(change.low), abs(change.high))))
    who = f"The machine ({drift.device})" if named else "The machine"
    did = "slowed" if change.value < 0 else "sped up"
    return (
        f"{who} {did} by {quantity(abs(change.value), 'share')} (95% interval {low} to {high}) from the first cell to "
        "the last: costs in time of cells that ran early and late are not comparable to within that"
    )


def apart_text(apart: float) -> str:
    """Returns a relative difference of speeds in words: -0.23 is "23% slower"."""
    return f"{quantity(abs(apart), 'share')} {'slower' if apart < 0 else 'faster'}"
