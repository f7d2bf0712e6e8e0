"""Tells a shift of the axis from a shift of single methods: "everything moved by −1.7 points", "only lora moved"."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.analysis.regression.crossed import Estimate, ScoredUnit, estimate
from harness.analysis.regression.families import SHARES
from harness.analysis.regression.records import Change, Pattern, effect_text, named
from harness.analysis.stats.intervals import Interval
from harness.analysis.stats.power import ALPHA

# A label leaves the common shift at this level, shared among all labels: what leaves may make the rest look steadier.
APART = 0.01


@dataclass(frozen=True)
class Part:
    """One label's judged change, with the estimate that it rests on and the units from which a mean of labels is made
    again (none for a cost)."""

    change: Change
    found: Estimate
    units: Sequence[ScoredUnit]


@dataclass(frozen=True)
class Rest:
    """The common shift of some labels: its effect, standard error, p-values and interval, on the scale of scores or of
    logarithms of costs."""

    effect: float
    stderr: float
    df: float
    p: float
    p_same: float
    interval: Interval


def pattern_of(
    parts: Sequence[Part], whole: Change | None, cells: Sequence[Change], points: bool, margin: float
) -> Pattern:
    """Returns the pattern of a score's changes. `whole` is the judged common shift of all labels (None with fewer than
    two), `cells` are the judged cells."""

    def rest_of(labels: Sequence[int]) -> Rest:
        found = estimate([unit for place in labels for unit in parts[place].units], points)
        return Rest(
            found.effect, found.stderr, max(len(labels) - 1.0, 1.0), found.p, found.p_same(margin), found.interval
        )

    effects = [(part.change, part.found.effect, part.found.stderr) for part in parts]
    return made(effects, whole, cells, rest_of, lambda effect: effect_text(effect, False, points))


def made(
    labels: Sequence[tuple[Change, float, float]],
    whole: Change | None,
    cells: Sequence[Change],
    rest_of: Callable[[Sequence[int]], Rest],
    text: Callable[[float], str],
    to_scale: Callable[[float], float] = lambda effect: effect,
) -> Pattern:
    """Returns the pattern of labels, given as (judged change, effect, standard error). `rest_of` gives the common shift
    of the labels at some places, `text` an effect in words, and `to_scale` turns an effect into that of a change."""
    down, up = sum(effect < 0 for _, effect, _ in labels), sum(effect > 0 for _, effect, _ in labels)
    changes = [change for change, *_ in labels]
    apart = outliers(labels, rest_of) if len(labels) > 2 else []
    core = [place for place in range(len(labels)) if place not in apart]
    if not apart and whole and whole.answer == "different" and whole.effect is not None:
        sentence = f"everything moved by {text(whole.effect)}"
        if whole.interval:
            still = len(labels) - down - up
            told = f"{down} of {len(labels)} labels down, {up} up" + (f", {still} unchanged" if still else "")
            sentence += f" ({interval_text(whole, text)}; {told})"
        return Pattern(
            "everything", sentence, tuple(change.name for change in changes), whole.effect, whole.interval, whole.p,
            down, up,
        )  # fmt: skip
    if apart and len(core) > 2:
        rest = rest_of(core)
        if rest.p < ALPHA * SHARES["everything"] and rest.p_same >= ALPHA:
            return everything_but(labels, apart, rest, text, to_scale, (down, up))
    moved = [change for change in changes if change.answer == "different"]
    if moved and len(moved) == len(changes) > 1:
        told = "; ".join(f"{change.name} {text(change.effect or 0.0)}" for change in moved[:6])
        return Pattern(
            "everything", f"every label moved: {told}", tuple(change.name for change in moved), None, None,
            max(change.p for change in moved), down, up,
        )  # fmt: skip
    if moved:
        told = named([f"{change.name} ({text(change.effect or 0.0)})" for change in moved])
        sentence = f"only {told} moved" if len(changes) > 1 else f"{told} moved"
        return Pattern(
            "only", sentence, tuple(change.name for change in moved), None, None, min(change.p for change in moved),
            down, up,
        )  # fmt: skip
    return of_cells(changes, cells, (down, up))


def everything_but(
    labels: Sequence[tuple[Change, float, float]],
    apart: Sequence[int],
    rest: Rest,
    text: Callable[[float], str],
    to_scale: Callable[[float], float],
    counts: tuple[int, int],
) -> Pattern:
    """Returns the pattern of a common shift that some labels do not share: they stayed, or moved otherwise."""
    changes = [labels[place][0] for place in apart]
    stayed = [change.name for change in changes if change.answer != "different"]
    moved = [f"{change.name} by {text(change.effect or 0.0)}" for change in changes if change.answer == "different"]
    effect = to_scale(rest.effect)
    sentence = f"everything but {named(stayed)} moved by {text(effect)}" if stayed else ""
    sentence = sentence or f"everything moved by {text(effect)}"
    if moved:
        sentence += f", and {named(moved)}"
    ends = Interval(effect, to_scale(rest.interval.low), to_scale(rest.interval.high))
    return Pattern("everything but", sentence, tuple(change.name for change in changes), effect, ends, rest.p, *counts)


def of_cells(changes: Sequence[Change], cells: Sequence[Change], counts: tuple[int, int]) -> Pattern:
    """Returns the pattern where no label is shown to have moved: single cells did, cells cannot run, or nothing."""
    moved = [cell for cell in cells if cell.answer == "different"]
    stopped = [cell for cell in cells if cell.answer == "cannot run there" and cell.missing != "both"]
    if moved or stopped:
        told = [f"only {named([cell.name for cell in moved])} moved"] if moved else []
        for side in ("old", "new"):
            names = list(dict.fromkeys(cell.label for cell in stopped if cell.missing == side))
            told += [f"{named(names)} cannot run in the {side} environment"] if names else []
        p = min((cell.p for cell in moved), default=0.0)
        names = list(dict.fromkeys(cell.label for cell in (*moved, *stopped)))
        return Pattern("only", "; ".join(told), tuple(names), None, None, p, *counts)
    if changes and all(change.answer == "same" for change in changes):
        identical = all(change.identical for change in changes)
        how = "every value is the same" if identical else "every label is the same within the margin"
        return Pattern("nothing", f"nothing moved: {how}", (), None, None, 1.0, *counts)
    unsure = [change.name for change in changes if change.answer == "cannot tell"]
    sentence = f"nothing is shown to have moved; of {named(unsure)} it cannot be told" if unsure else "no values"
    return Pattern("cannot tell", sentence, (), None, None, 1.0, *counts)


def outliers(labels: Sequence[tuple[Change, float, float]], rest_of: Callable[[Sequence[int]], Rest]) -> list[int]:
    """Returns the places of labels whose change is not that of the others, one after another: the one farthest off is
    left out first, and the rest looked at again. Labels of which nothing can be tested stay."""
    from scipy.special import stdtr

    out: list[int] = []
    while len(labels) - len(out) > 3:
        inside = [place for place in range(len(labels)) if place not in out]
        found = []
        for place in inside:
            change, effect, stderr = labels[place]
            if change.answer == "cannot tell" and change.interval is None:
                continue
            rest = rest_of([other for other in inside if other != place])
            error = math.hypot(stderr, rest.stderr)
            distance = abs(effect - rest.effect)
            p = 2 * float(stdtr(rest.df, -distance / error)) if error else float(distance == 0)
            found.append((p, place))
        if not found or min(found)[0] * len(inside) >= APART:
            break
        out.append(min(found)[1])
    return out


def interval_text(change: Change, text: Callable[[float], str]) -> str:
    """Returns the interval of a change in words."""
    ends = change.interval
    assert ends is not None
    return f"95% interval {text(ends.low)} to {text(ends.high)}"
