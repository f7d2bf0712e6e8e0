"""Judges all changes of one metric together: p-values are corrected for the common shift, the labels and the cells at
once, so that the chance of any false change stays at the level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis.regression.records import Change
from harness.analysis.stats.intervals import Interval
from harness.analysis.stats.power import ALPHA

# How the allowed error is shared: the common shift gets most of it, since no cell shows it alone and it is one test. A
# single label or cell that moved for a reason of its own mostly moved by far more than chance does.
SHARES = {"everything": 0.7, "label": 0.15, "cell": 0.15}


def weighted_holm(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Returns p-values corrected by Holm's weighted procedure (1979, section 4), in the order given; `weights` are
    above 0 and need not sum to 1.

    The hypothesis with the smallest p / weight is tested at the level times its share of the weights; each one that is
    rejected leaves its share to the others. The chance of any false rejection is at most the level, whatever the
    dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place] / weights[place])
    left, highest = sum(weights), 0.0
    corrected = [1.0] * len(p_values)
    for place in order:
        highest = max(highest, min(1.0, p_values[place] * left / weights[place]))
        corrected[place] = highest
        left -= weights[place]
    return corrected


@dataclass(frozen=True)
class Tested:
    """A change before it is judged: the p-value of a difference (of one beyond the margin for costs), that of "less
    than the margin apart", the effect and its interval. `tested` is False where no spread is known: nothing is decided.
    `confirmed`: what else must hold for a difference (`scores.confirmed`)."""

    change: Change
    p: float = 1.0
    p_same: float = 1.0
    tested: bool = True
    confirmed: bool = True


def judged(family: Sequence[Tested], higher_is_better: bool | None, alpha: float = ALPHA) -> list[Change]:
    """Returns the changes of one metric with answers and corrected p-values, in the order given.

    "different": a difference is shown, and not shown to be within the margin. "same": the values are identical, or the
    difference is shown to be within the margin. Changes whose `answer` is settled already (identical values, a cell
    that cannot run) are passed on as they are. What is tested is divided by `SHARES` among the levels, and evenly
    within one.
    """
    open_ones = [place for place, one in enumerate(family) if one.change.answer == "cannot tell" and one.tested]
    counts: dict[str, int] = {}
    for place in open_ones:
        counts[family[place].change.level] = counts.get(family[place].change.level, 0) + 1
    weights = [SHARES[family[place].change.level] / counts[family[place].change.level] for place in open_ones]
    p_values = dict(zip(open_ones, weighted_holm([family[place].p for place in open_ones], weights), strict=True))
    # A tie of each level is corrected by itself: no power is to be gained from the others.
    within = dict(zip(open_ones, weighted_holm([family[place].p_same for place in open_ones], weights), strict=True))
    return [
        judged_one(one, p_values[place], within[place], higher_is_better, alpha) if place in p_values else one.change
        for place, one in enumerate(family)
    ]


def judged_one(one: Tested, p: float, p_same: float, higher_is_better: bool | None, alpha: float) -> Change:
    """Returns one change with its answer; `p` and `p_same` are corrected."""
    change = replace(one.change, p=p, p_alone=one.p, p_same=p_same)
    if p_same < alpha:
        return replace(change, answer="same")
    if p >= alpha or not one.confirmed or change.effect is None:
        return change
    more = change.effect > (1.0 if change.relative else 0.0)
    return replace(change, answer="different", better=None if higher_is_better is None else more == higher_is_better)


def exact(value: float) -> Interval:
    """Returns the interval of a value that is known exactly."""
    return Interval(value, value, value)
