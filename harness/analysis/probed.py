"""Compares the probes of two environments: which readings differ, by how much, and of which methods. Pure.

Probes are exact where the libraries are the same: one environment read twice gives the same numbers. The tolerances
leave room for rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.delta_debugging import Toggled
from harness.analysis.ends import side
from harness.records import LIBRARIES, Probe, quantity

# Unit -> (absolute, relative) difference that is rounding, and no change.
TOLERANCES: Mapping[str, tuple[float, float]] = {
    "parameters": (0.0, 0.0),
    "bytes": (0.0, 0.0),
    "nats": (2e-4, 1e-4),  # different kernels of one torch agree to 1e-5 after twelve steps
    "ratio": (1e-3, 1e-3),
    "weights": (1e-3, 0.0),
    "sum": (0.0, 1e-6),
    "times": (0.5, 0.4),  # a median of ratios moves by a fifth on a busy machine; of other times cells tell
    "resident bytes": (128 * 2**20, 0.1),  # one environment differs by up to 80 MiB from run to run, by what is cached
}
NOISY = ("times", "resident bytes")  # units of readings that one environment does not give twice
LOWER_IS_BETTER = ("bytes", "resident bytes", "weights", "times")
Key = tuple[str, str]  # subject and name of a probe


@dataclass(frozen=True)
class ProbeChange:
    """A reading that differs between two environments. `before` and `after` are texts for people; `better` says whether
    the second is the better one, None where neither is. `settings` are the fields that differ: name -> (before,
    after)."""

    subject: str
    name: str
    before: str
    after: str
    better: bool | None = None
    settings: tuple[tuple[str, str, str], ...] = ()

    @property
    def key(self) -> Key:
        """What was read, of what."""
        return self.subject, self.name

    @property
    def keys(self) -> list[Key]:
        """What was read, of what, each setting by itself: two packages may each have changed one of them."""
        return [(self.subject, f"{self.name}: {name}") for name, _, _ in self.settings] or [self.key]


def probe_changes(before: Iterable[Probe], after: Iterable[Probe]) -> list[ProbeChange]:
    """Returns the readings that differ, in the order of the probes. A probe that only one side has is left out: it was
    not asked for; one that could be made on one side alone differs."""
    first = {(probe.subject, probe.name): probe for probe in before}
    second = {(probe.subject, probe.name): probe for probe in after}
    changes = (change_of(probe, second[key]) for key, probe in first.items() if key in second)
    lost = [change for change in changes if change]
    for mine, theirs, flipped in ((first, second, False), (second, first, True)):
        for key, probe in mine.items():
            if key not in theirs and (change := lone(probe, theirs.values(), flipped)):
                lost.append(change)
    return lost


def lone(probe: Probe, others: Iterable[Probe], flipped: bool) -> ProbeChange | None:
    """Returns the change that a probe which failed on one side is, whose readings the other side has under other
    names; None where the other side did not probe this subject."""
    if not probe.reason or not any(other.subject == probe.subject for other in others):
        return None
    texts = (f"cannot be read: {probe.reason}", "can be read")
    before, after = reversed(texts) if flipped else texts
    return ProbeChange(probe.subject, probe.name, before, after, not flipped)


def change_of(before: Probe, after: Probe) -> ProbeChange | None:
    """Returns how a reading changed; None where both are equal but for rounding."""
    if before.reason or after.reason:
        if bool(before.reason) == bool(after.reason):
            return None  # neither side can be read: there is nothing to compare
        return ProbeChange(before.subject, before.name, text_of(before), text_of(after), bool(before.reason))
    if before.fields != after.fields:
        names = sorted(
            name for name in {*before.fields, *after.fields} if not same_setting(before.fields, after.fields, name)
        )
        if not names:
            return None
        settings = tuple((name, before.fields.get(name, ABSENT), after.fields.get(name, ABSENT)) for name in names)
        texts = [", ".join(f"{name}: {pair[side]}" for name, *pair in settings) for side in (0, 1)]
        return ProbeChange(before.subject, before.name, texts[0], texts[1], None, settings)
    if same(before, after):
        return None
    better = sum(after.values) < sum(before.values) if after.unit in LOWER_IS_BETTER else None
    return ProbeChange(before.subject, before.name, *apart(before, after), better)


def noisy_sides(
    before: Iterable[Probe], between: Iterable[Probe], after: Iterable[Probe], keys: Iterable[Key]
) -> dict[Key, Toggled]:
    """Returns on which side of a difference a combination of packages is, for those of `keys` whose readings vary from
    run to run: a tolerance alone would take chance for the difference."""
    ends = [{probe.key: probe for probe in probes} for probes in (before, between, after)]
    found = {}
    for key in keys:
        readings = [probes.get(key) for probes in ends]
        if all(one is not None and one.unit in NOISY and min(one.values, default=0) > 0 for one in readings):
            old, now, new = ([np.log(np.array(one.values))] for one in readings if one)
            found[key] = side(old, now, new)
    return found


def unread(before: Iterable[Probe], after: Iterable[Probe]) -> dict[str, str]:
    """Returns label -> why its method can be probed in neither of two environments: nothing is known of it."""
    sides: list[dict[str, list[Probe]]] = [{}, {}]
    for by_subject, probes in zip(sides, (before, after), strict=True):
        for probe in probes:
            by_subject.setdefault(probe.subject, []).append(probe)
    return {
        subject: own[0].reason
        for subject, own in sides[0].items()
        if all(probe.reason for probe in (*own, *sides[1].get(subject, ())))
    }


ABSENT = "(no such setting)"


def same_setting(before: Mapping[str, str], after: Mapping[str, str], name: str) -> bool:
    """Returns whether a setting means the same on both sides. One that a release has added, and that is off, is no
    change."""
    one, other = before.get(name, ABSENT), after.get(name, ABSENT)
    off = (ABSENT, "None", "False", "{}", "[]")
    return one == other or (ABSENT in (one, other) and one in off and other in off)


def same(before: Probe, after: Probe) -> bool:
    """Returns whether two readings in numbers are equal but for rounding."""
    absolute, relative = TOLERANCES.get(before.unit, (0.0, 1e-6))
    return len(before.values) == len(after.values) and all(
        close(one, other, absolute, relative) for one, other in zip(before.values, after.values, strict=True)
    )


def close(one: float, other: float, absolute: float, relative: float) -> bool:
    """Returns whether two numbers differ by at most `absolute`, or `relative` of the larger; NaN equals NaN."""
    if one != one or other != other:
        return one != one and other != other
    return abs(one - other) <= max(absolute, relative * max(abs(one), abs(other)))


def apart(before: Probe, after: Probe) -> tuple[str, str]:
    """Returns two readings as texts. Of a series, the number that differs most is shown, with its place."""
    if len(before.values) != len(after.values):
        return f"{len(before.values)} values", f"{len(after.values)} values"
    gaps = [abs(one - other) for one, other in zip(before.values, after.values, strict=True)]
    place = max(range(len(gaps)), key=lambda where: gaps[where] if gaps[where] == gaps[where] else float("inf"))
    where = f" (value {place + 1} of {len(gaps)})" if len(gaps) > 1 else ""
    pair = before.values[place], after.values[place]
    first, second = (shown(value, before.unit) for value in pair)
    if first == second:  # too close for a rounded text
        first, second = (f"{value:,.9g}" for value in pair)
    return first, second + where


def text_of(probe: Probe) -> str:
    """Returns a reading as a text for people."""
    if probe.reason:
        return f"cannot be read: {probe.reason}"
    if probe.fields:
        return "can be read"
    return ", ".join(shown(value, probe.unit) for value in probe.values[:4])


def shown(value: float, unit: str) -> str:
    """Returns a number of a reading with its unit."""
    if unit in ("bytes", "resident bytes"):
        return quantity(value, "B")
    if unit == "parameters":
        return f"{value:,.0f}"
    return f"{value:.4g}" + (f" {unit}" if unit == "nats" else "")


def moved_sentence(changes: Sequence[ProbeChange], labels: Sequence[str]) -> str:
    """Returns which of a suite's `labels` moved, in a sentence: none, all of them (the axis), or these alone."""
    moved = list(dict.fromkeys(change.subject for change in changes if change.subject != LIBRARIES))
    libraries = any(change.subject == LIBRARIES for change in changes)
    if not changes:
        return "Nothing that was probed differs."
    if not moved:
        return "No method moved by itself; the libraries differ in what lies under all of them."
    if len(moved) == len(labels) > 1:
        return "Every method moved: the axis, not the methods."
    still = len(labels) - len(moved)
    rest = f"; {still} {'other' if still == 1 else 'others'} did not" if still > 0 else ""
    return f"Only {', '.join(moved)} moved{rest}." + (" The libraries differ too." if libraries else "")
