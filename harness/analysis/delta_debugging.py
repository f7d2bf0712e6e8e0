"""Finds the smallest set of changes that makes a difference, where some combinations of changes cannot be tried. Pure.

Delta debugging (Zeller & Hildebrandt 2002, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2)), with a
third answer for what cannot be tried, as `git bisect skip` has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise


class Toggled(StrEnum):
    """What a combination of changes that was tried does: nothing ("old"), the difference ("new"), or it cannot be
    tried."""

    OLD = "old"
    NEW = "new"
    UNRESOLVED = "unresolved"


Test = Callable[[frozenset[str]], Toggled]


@dataclass(frozen=True)
class Cause:
    """The changes that make a difference together, none of which can be left out; `cleared` are changes without which
    the difference is still there, `untold` those of the cause that could not be tried on their own side: leaving one
    out cannot be run."""

    changes: tuple[str, ...]
    cleared: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


def smallest_cause(changes: Sequence[str], test: Test) -> Cause:
    """Returns the smallest set of `changes` that makes the difference. All together must make it (`test` says "new"),
    and none of them not ("old"); the order of `changes` is the order in which they are suspected.

    A set without a smaller one that was seen to make the difference is minimal: every change in it was left out once,
    and then the difference was gone, or nothing could be run.
    """
    suspects = list(changes)
    alone = next((name for name in suspects if len(suspects) > 1 and test(frozenset({name})) is Toggled.NEW), None)
    if alone is not None:
        suspects = [alone]
    parts = 2
    while len(suspects) > 1:
        pieces = split(suspects, parts)
        smaller = next((piece for piece in pieces if test(frozenset(piece)) is Toggled.NEW), None)
        if smaller is not None:
            suspects, parts = smaller, 2
            continue
        rests = [[name for name in suspects if name not in piece] for piece in pieces]
        rest = next((one for one in rests if one and test(frozenset(one)) is Toggled.NEW), None)
        if rest is not None:
            suspects, parts = rest, max(parts - 1, 2)
        elif parts < len(suspects):
            parts = min(2 * parts, len(suspects))
        else:
            break
    left = set(suspects)
    untold = [name for name in suspects if len(suspects) > 1 and test(frozenset(left - {name})) is Toggled.UNRESOLVED]
    return Cause(tuple(suspects), tuple(name for name in changes if name not in left), tuple(untold))


def split(names: Sequence[str], parts: int) -> list[list[str]]:
    """Returns names in `parts` pieces of nearly equal length, in their order."""
    bounds = [round(place * len(names) / parts) for place in range(parts + 1)]
    return [list(names[start:stop]) for start, stop in pairwise(bounds) if start < stop]


@dataclass(frozen=True)
class Turn:
    """Where a series of versions turns from "old" to "new": the last version that is old, the first that is new, those
    between them that could not be tried, and all that were (in order). `again` says that the tried ones go back and
    forth."""

    last_old: str
    first_new: str
    untried: tuple[str, ...] = ()
    tried: tuple[tuple[str, Toggled], ...] = ()
    again: bool = False


def find_turn(versions: Sequence[str], test: Callable[[str], Toggled], every: int = 4) -> Turn:
    """Returns where `versions` (in order; the first is old, the last new) turn. Up to `every` versions between the two
    ends are all tried, so that a series that goes back and forth is seen; of more, halves are searched, passing over
    those that cannot be tried."""
    answers = {0: Toggled.OLD, len(versions) - 1: Toggled.NEW}
    if len(versions) - 2 <= every:
        answers |= {place: test(versions[place]) for place in range(1, len(versions) - 1)}
    else:
        while (place := next_to_try(answers)) is not None:
            answers[place] = test(versions[place])
    told = [(place, answer) for place, answer in sorted(answers.items()) if answer is not Toggled.UNRESOLVED]
    first_new = next(place for place, answer in told if answer is Toggled.NEW)
    last_old = max(place for place, answer in told if answer is Toggled.OLD and place < first_new)
    again = any(answer is Toggled.OLD for place, answer in told if place > first_new)
    return Turn(
        versions[last_old],
        versions[first_new],
        tuple(versions[last_old + 1 : first_new]),
        tuple((versions[place], answer) for place, answer in sorted(answers.items())),
        again,
    )


def next_to_try(answers: dict[int, Toggled]) -> int | None:
    """Returns the place to try next: of those between the last old and the first new one that were not tried, the
    nearest to the middle; None where there is none."""
    new = min(place for place, answer in answers.items() if answer is Toggled.NEW)
    old = max(place for place, answer in answers.items() if answer is Toggled.OLD and place < new)
    middle = (old + new) / 2
    left = [place for place in range(old + 1, new) if place not in answers]
    return min(left, key=lambda place: abs(place - middle), default=None)
