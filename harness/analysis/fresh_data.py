"""Compares a result's score on fresh data with its stored score, and says whether to train again.

The rule: train again where the score is shown to be lower by more than the margin, that is, where the whole 95%
interval of the difference lies below minus the margin. Where the whole interval lies above it, do not. Else it is open,
and the number of labelled rows is told that would settle a difference as large as the one seen. Drift of inputs or
answers alone never decides: a model may answer other inputs as well.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.stats.intervals import Interval, paired

Z = 1.959964
Advice = Literal["retrain", "keep", "open", "no labels"]
HALF = 0.5  # share of fresh rows that repeat stored items, from which on these are compared pair by pair


@dataclass(frozen=True)
class ScoreChange:
    """A score on `n` fresh items (`now`), the stored one on `n_before` items (`before`), and now − before with its 95%
    interval; `is_paired`: on the same items."""

    before: float
    now: Interval
    n_before: int
    n: int
    difference: Interval
    is_paired: bool


def score_change(
    before: dict[str, float], now: Sequence[tuple[str, float]], higher_is_better: bool = True
) -> ScoreChange:
    """Returns the change of a score. `before` maps stored items to their values, `now` has (item, value) of fresh ones;
    where half of these are stored items, those are compared pair by pair. Where lower is better, the difference has its
    sign turned: below 0 is always worse. Raises ValueError for no items."""
    both = [(before[item], value) for item, value in now if item in before]
    is_paired = len(both) >= HALF * len(now) and len(both) > 1
    old = [value for value, _ in both] if is_paired else list(before.values())
    new = [value for _, value in both] if is_paired else [value for _, value in now]
    if not old or not new:
        raise ValueError("a score needs items")
    difference = paired(new, old).difference if is_paired else unpaired(new, old)
    if not higher_is_better:
        difference = Interval(-difference.value, -difference.high, -difference.low)
    return ScoreChange(statistics.fmean(old), score_of(new), len(old), len(new), difference, is_paired)


def score_of(values: Sequence[float]) -> Interval:
    """Returns a mean with its 95% interval: Wilson's for values of 0 and 1 (Wilson 1927), else Student's."""
    from scipy.stats import binomtest, t

    n, point = len(values), statistics.fmean(values)
    if set(values) <= {0.0, 1.0}:
        ends = binomtest(round(sum(values)), n).proportion_ci(method="wilson")
        return Interval(point, float(ends.low), float(ends.high))
    if n < 2:
        return Interval(point, -math.inf, math.inf)
    half = float(t.ppf(0.975, n - 1)) * math.sqrt(statistics.variance(values) / n)
    return Interval(point, point - half, point + half)


def unpaired(new: Sequence[float], old: Sequence[float]) -> Interval:
    """Returns the difference of two means (new − old) of different items with its 95% interval: Newcombe's hybrid score
    interval for values of 0 and 1 (Newcombe 1998, method 10), else Welch's."""
    first, second = score_of(new), score_of(old)
    d = first.value - second.value
    if set(new) | set(old) <= {0.0, 1.0}:
        low = d - math.hypot(first.value - first.low, second.high - second.value)
        return Interval(d, low, d + math.hypot(first.high - first.value, second.value - second.low))
    if min(len(new), len(old)) < 2:
        return Interval(d, -math.inf, math.inf)
    if len(set(new)) == len(set(old)) == 1:
        return Interval(d, d, d)
    from scipy.stats import ttest_ind

    ends = ttest_ind(new, old, equal_var=False).confidence_interval()
    return Interval(d, float(ends.low), float(ends.high))


def advise(change: ScoreChange | None, margin: float) -> Advice:
    """Returns what the rule says; "no labels" where no fresh item could be scored."""
    if change is None:
        return "no labels"
    if change.difference.high < -margin:
        return "retrain"
    return "keep" if change.difference.low > -margin else "open"


def rows_to_settle(change: ScoreChange, margin: float) -> int | None:
    """Returns about how many labelled fresh rows would settle a difference as large as the one seen; None where none
    would, as the stored score is not certain enough itself or the difference is the margin."""
    room = abs(change.difference.value + margin) / Z
    spread = change.now.value * (1 - change.now.value) if 0 <= change.now.value <= 1 else 0.0
    spread = max(spread, ((change.now.high - change.now.low) / (2 * Z)) ** 2 * change.n)
    stored = 0.0
    if not change.is_paired:
        whole = ((change.difference.high - change.difference.low) / (2 * Z)) ** 2
        stored = max(0.0, whole - ((change.now.high - change.now.low) / (2 * Z)) ** 2)
    left = room**2 - stored
    return math.ceil(spread / left) if left > 0 and math.isfinite(spread / left) else None
