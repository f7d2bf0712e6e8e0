"""Compares costs of cells as ratios over seeds: how many times the cost of one label is the cost of another.

A cost is any number that is kept of an attempt but its scores: a fact (`latency_ms_p50`), a column of a phase
(`train_seconds`, `evaluate_rss_bytes`, `train_energy_j`), or `peak_bytes`, the peak of training. Costs are compared as
ratios: Welch's t-test (1947, doi:10.1093/biomet/34.1-2.28) on their logarithms, a value a seed, so that the margin is a
relative difference. Costs that do not vary at all (parameters, the size of files) are compared as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.analysis.machine_speed import apart_text
from harness.analysis.stats.intervals import LEVEL, Interval
from harness.analysis.stats.power import ALPHA
from harness.analysis.tuning import UNTUNED, Tuning, study_means, tuning_of
from harness.analysis.verdicts import Outcome, Ratio, Verdict
from harness.records import MARGIN
from harness.store import CellRow

PEAK = "peak_bytes"
# Columns of table `phases`, with their unit and whether more is better (None: neither).
COLUMNS: dict[str, tuple[str, bool | None]] = {
    "seconds": ("s", False),
    "tokens": ("tokens", None),
    "samples": ("samples", None),
    "allocated_bytes": ("B", False),
    "reserved_bytes": ("B", False),
    "device_bytes": ("B", False),
    "rss_bytes": ("B", False),
    "energy_j": ("J", False),
}
TIMED = ("s", "ms", "J", "share of the matmul peak")  # units of costs that the speed of the machine changes


class CostKind(NamedTuple):
    """A cost's name, unit and direction (None: neither more nor less is better)."""

    name: str
    unit: str
    higher_is_better: bool | None

    @property
    def disturbed(self) -> bool:
        """Whether the cost changes when cells share a device: times, rates, energy, and peaks of a whole device do."""
        return self.timed or self.name.endswith("device_bytes")

    @property
    def timed(self) -> bool:
        """Whether the cost changes when the machine computes at another speed: times, rates and energy do."""
        return self.unit in TIMED or self.unit.endswith("/s")


Units = Mapping[str, tuple[str, bool | None]]  # fact -> (unit, whether more is better)


@dataclass(frozen=True)
class CostSide:
    """The values of one cost for a label or cell, one for each seed (or repeat); of a label with several studies that
    share its seeds, one for each study. `device` is the hardware that measured them, `contended` whether other cells
    shared it. `speed_off` names the cell in which the machine's speed was farthest off and says how far, "" where it
    was usual. `missing` says why the cost cannot be compared, "" where it can."""

    label: str
    values: tuple[float, ...]
    contended: bool = False
    device: str = ""
    speed_off: str = ""
    missing: str = ""
    tuning: Tuning = UNTUNED


def cost_kind(name: str, rows: Iterable[CellRow], units: Units) -> CostKind | None:
    """Returns the cost of that name with its unit and direction, or None where none of these cells has such a cost.
    `units` are those of facts: name -> (unit, whether more is better)."""
    for row in rows:
        if value_of(row, name) is None:
            continue
        if name in row.facts:
            return CostKind(name, *units.get(name, ("", None)))
        return CostKind(name, *(("B", False) if name == PEAK else COLUMNS[column_of(row, name)[1]]))
    return None


def cost_names(rows: Iterable[CellRow]) -> list[str]:
    """Returns the names of all costs that some of these cells have, in alphabetical order."""
    found: set[str] = set()
    for row in rows:
        found |= row.facts.keys()
        found |= {
            f"{phase}_{column}" for phase, values in row.phases.items() for column in COLUMNS if values.get(column)
        }
        found |= {PEAK} if value_of(row, PEAK) is not None else set()
    return sorted(found)


def value_of(row: CellRow, name: str) -> float | None:
    """Returns a cell's value of the cost of that name, in the unit in which it is stored; None where it was not
    measured."""
    if name in row.facts:
        return row.facts[name]
    if name == PEAK:  # the peak of training: the device's on a GPU, else resident memory
        train = row.phases.get("train", {})
        return next((float(train[c]) for c in ("device_bytes", "rss_bytes") if train.get(c) is not None), None)
    phase, column = column_of(row, name)
    value = row.phases.get(phase, {}).get(column)
    return None if value is None else float(value)


def column_of(row: CellRow, name: str) -> tuple[str, str]:
    """Splits the name of a cost such as `score_stages_seconds` into (phase, column); ("", "") where the cell has no
    such cost."""
    for phase in row.phases:
        if name.startswith(f"{phase}_") and (column := name.removeprefix(f"{phase}_")) in COLUMNS:
            return phase, column
    return "", ""


def cost_side(label: str, cells: Sequence[CellRow], name: str, device: str = "") -> CostSide:
    """Collects the cost called `name` from the finished cells of a label, or repeats of a cell: a value for each, or
    for each study where several chose their settings. `device` is their hardware in words. Where a finished cell has no
    value, or one that is not above 0, `missing` of the result says so."""
    done = [cell for cell in cells if cell.status == "done"]
    values = [value for cell in done if (value := value_of(cell, name)) is not None]
    missing = "" if done else f"{label} has no finished cell"
    if done and len(values) < len(done):
        missing = f"{label} has no {name}" + (f" in {len(done) - len(values)} of {len(done)} cells" if values else "")
    elif any(not math.isfinite(value) or value <= 0 for value in values):
        missing = f"{label} has a {name} that is not above 0, so there is no ratio"
    if not missing:
        values = study_means(done, values)
    off = [(cell.speed_off, cell.key) for cell in done if cell.speed_off is not None]
    apart, key = max(off, key=lambda pair: abs(pair[0]), default=(0.0, ""))
    return CostSide(
        label,
        tuple(values),
        contended=any(cell.contended for cell in done),
        device=device,
        speed_off=f"{apart_text(apart)} in {key}" if off else "",
        missing=missing,
        tuning=tuning_of(done),
    )


def why_costs_incomparable(a: CostSide, b: CostSide, kind: CostKind) -> str:
    """Returns the reason why the values of a cost on two sides cannot be compared (missing, other hardware, a shared
    device, a machine at another speed), "" where they can."""
    if a.missing or b.missing:
        return a.missing or b.missing
    if kind.higher_is_better is None:
        return f"neither more nor less {kind.name} is better"
    if a.device != b.device:
        return f"they were measured on different devices: {a.device}; {b.device}"
    if kind.disturbed and (a.contended or b.contended):
        who = " and ".join(side.label for side in (a, b) if side.contended)
        return f"other cells ran on the same device as those of {who}, so that their {kind.name} says little"
    if kind.timed and (a.speed_off or b.speed_off):
        off = " and ".join(side.speed_off for side in (a, b) if side.speed_off)
        return f"the machine was {off} than in the median cell, so that this {kind.name} says little"
    return ""


def cost_verdict(a: CostSide, b: CostSide, kind: CostKind, margin: float = MARGIN, p: float | None = None) -> Verdict:
    """Returns the verdict on `a` against `b` by one cost. `margin` is a relative difference (0.02: two per cent). `p`
    is the p-value of their difference as corrected for all pairs shown; None takes the p-value of this pair alone."""
    if reason := why_costs_incomparable(a, b, kind):
        return Verdict(a.label, b.label, "incomparable", kind.name, reason=reason)
    found = ratio(a.values, b.values, margin)
    used = found.p if p is None else p
    few = a.tuning.few or b.tuning.few
    word: Outcome = "underpowered"
    if few:
        pass  # two studies may choose settings of the same cost by chance
    elif used < ALPHA:
        word = "better" if (found.value > 1) == kind.higher_is_better else "worse"
    elif found.p_tied < ALPHA:
        word = "tied"
    remarks = tuple(filter(None, (side.tuning.remark(side.label) for side in (a, b))))
    return Verdict(a.label, b.label, word, kind.name, ratio=replace(found, p=used, few_studies=few), remarks=remarks)


def ratio(a: Sequence[float], b: Sequence[float], margin: float = MARGIN) -> Ratio:
    """Returns how many times `a` is `b`: the ratio of the geometric means of two lists of positive values, one value
    for each seed.

    Welch's t-test on logarithms; the interval is of `LEVEL`. `p_tied` comes from two one-sided tests against ratios of
    1 / (1 + margin) and 1 + margin (Schuirmann 1987, doi:10.1007/BF01068419). Where neither side varies, the ratio is
    exact. With a single value on either side the spread is unknown, and both p-values are 1.
    """
    from scipy.special import stdtr, stdtrit

    counts = (len(a), len(b))
    first, second = [math.log(value) for value in a], [math.log(value) for value in b]
    means = [math.fsum(logs) / len(logs) for logs in (first, second)]
    effect, bound = means[0] - means[1], math.log1p(margin)
    if min(counts) < 2:
        return Ratio(math.exp(effect), None, 1.0, 1.0, margin, counts)
    parts = [
        math.fsum((x - mean) ** 2 for x in logs) / (len(logs) - 1) / len(logs)
        for logs, mean in zip((first, second), means, strict=True)
    ]
    stderr = math.sqrt(sum(parts))
    if stderr <= 1e-12:
        same = abs(effect) <= 1e-12
        value = 1.0 if same else math.exp(effect)
        exact = Interval(value, value, value)
        return Ratio(value, exact, float(same), float(abs(effect) > bound), margin, counts)
    degrees = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * stderr
    interval = Interval(math.exp(effect), math.exp(effect - reach), math.exp(effect + reach))
    p = 2 * float(stdtr(degrees, -abs(effect) / stderr))
    return Ratio(math.exp(effect), interval, p, float(stdtr(degrees, (abs(effect) - bound) / stderr)), margin, counts)
