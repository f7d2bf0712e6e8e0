"""The smallest cause of a difference, where some combinations cannot be tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from harness.analysis.delta_debugging import Cause, Toggled, find_turn, smallest_cause

NAMES = [f"package{number}" for number in range(8)]


def world(cause: set[str], broken: tuple[str, str] | None = None) -> tuple[list[frozenset[str]], object]:
    tried: list[frozenset[str]] = []

    def test(names: frozenset[str]) -> Toggled:
        tried.append(names)
        if broken and (broken[0] in names) != (broken[1] in names):
            return Toggled.UNRESOLVED
        return Toggled.NEW if cause <= names else Toggled.OLD

    return tried, test


@given(some.sets(some.sampled_from(NAMES), min_size=1, max_size=4))
def test_the_cause_is_found_whatever_it_is(cause: set[str]) -> None:
    _, test = world(cause)
    found = smallest_cause(NAMES, test)  # type: ignore[arg-type]
    assert set(found.changes) == cause
    assert set(found.cleared) == set(NAMES) - cause
    assert found.untold == ()


@given(some.sampled_from(NAMES), some.sampled_from(NAMES))
def test_packages_that_run_only_together_are_found_together(one: str, other: str) -> None:
    if one == other:
        return
    _, test = world({one}, broken=(one, other))
    found = smallest_cause(NAMES, test)  # type: ignore[arg-type]
    assert set(found.changes) == {one, other}
    assert other in found.untold, "leaving it out cannot be run, so that nobody knows whether it is part of the cause"


def test_one_guilty_package_takes_few_trials() -> None:
    tried, test = world({NAMES[0]})
    assert smallest_cause(NAMES, test) == Cause((NAMES[0],), tuple(NAMES[1:]))  # type: ignore[arg-type]
    assert len(tried) == 1, "those that compute results are suspected first"


VERSIONS = [f"0.{number}" for number in range(12)]


@given(some.integers(1, 11), some.sets(some.integers(1, 10)))
def test_the_turn_is_found_past_versions_that_cannot_be_tried(first_new: int, broken: set[int]) -> None:
    def test(version: str) -> Toggled:
        place = VERSIONS.index(version)
        return Toggled.UNRESOLVED if place in broken else Toggled.NEW if place >= first_new else Toggled.OLD

    turn = find_turn(VERSIONS, test)
    old, new = VERSIONS.index(turn.last_old), VERSIONS.index(turn.first_new)
    assert old < first_new <= new
    assert all(VERSIONS.index(version) in broken for version in turn.untried)
    assert turn.untried == tuple(VERSIONS[old + 1 : new])


def test_a_short_series_that_goes_back_and_forth_is_seen() -> None:
    answers = {"1": Toggled.NEW, "2": Toggled.OLD}
    turn = find_turn(["0", "1", "2", "3"], answers.__getitem__)
    assert (turn.last_old, turn.first_new, turn.again) == ("0", "1", True)
    assert [version for version, _ in turn.tried] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("versions", [["0", "1"], ["0", "1", "2"]])
def test_neighbours_need_no_trial(versions: list[str]) -> None:
    turn = find_turn(versions, lambda version: Toggled.UNRESOLVED)
    assert (turn.last_old, turn.first_new) == (versions[0], versions[-1])
    assert turn.untried == tuple(versions[1:-1])
