"""Ranks, aggregates and fronts: against SciPy, published tables and plain counting."""

from __future__ import annotations

import itertools
import statistics

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import friedmanchisquare

from harness.analysis.stats.rankings import (
    friedman,
    interquartile_mean,
    on_front,
    pareto_front,
    performance_profile,
    probability_of_improvement,
)

SCORES = numpy.random.default_rng(0).normal(0, 1, (12, 5)) + numpy.array([0.0, 0.2, 1.0, 2.5, 2.7])
SEEDS = some.integers(0, 2**32 - 1)


# Nemenyi's q at 0.05 for 2 to 10 methods: Demšar 2006, table 5(a).
DEMSAR = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)


@pytest.mark.parametrize(("methods", "q"), list(enumerate(DEMSAR, start=2))[1:])
def test_critical_differences_are_those_of_the_published_table(methods: int, q: float) -> None:
    scores = numpy.random.default_rng(0).normal(size=(15, methods))
    # Friedman's test is about three methods or more
    assert friedman(scores).critical_difference == pytest.approx(q * (methods * (methods + 1) / 90) ** 0.5, abs=2e-3)


def test_friedman_is_scipys_and_ties_share_a_rank() -> None:
    rounded = SCORES.round()
    found = friedman(rounded, higher_is_better=False)
    assert found.p == pytest.approx(friedmanchisquare(*rounded.T).pvalue)
    assert sum(found.mean_ranks) == pytest.approx(15)
    assert friedman(-rounded).mean_ranks == found.mean_ranks


def test_groups_overlap_and_are_the_largest() -> None:
    """Ten tasks, all in the same order: ranks 1 to 5, critical difference 1.93 (Demšar's table: q = 2.728)."""
    found = friedman(numpy.tile([5.0, 4.0, 3.0, 2.0, 1.0], (10, 1)))
    assert found.mean_ranks == (1, 2, 3, 4, 5)
    assert found.critical_difference == pytest.approx(2.728 * (5 * 6 / 60) ** 0.5, abs=1e-3)
    assert found.groups == ((0, 1), (1, 2), (2, 3), (3, 4))


def test_where_friedman_finds_nothing_all_are_one_group() -> None:
    assert friedman(numpy.tile([1.0, 1.0, 1.0], (4, 1))).groups == ((0, 1, 2),)
    mixed = [[1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]]
    assert friedman(mixed).p == pytest.approx(1.0)
    assert set(friedman(mixed).groups[0]) == {0, 1, 2}


@pytest.mark.parametrize("scores", [[[1.0, 2.0]] * 5, [[1.0, 2.0, 3.0]], [[1.0, 2.0, float("nan")]] * 3])
def test_ranks_of_too_little_are_refused(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="two tasks and three methods"):
        friedman(scores)


@given(SEEDS, some.integers(1, 6), some.integers(1, 4))
def test_the_interquartile_mean_is_that_of_the_middle_half(seed: int, quarter: int, width: int) -> None:
    values = numpy.random.default_rng(seed).normal(0, 1, (4 * quarter, width))
    middle = sorted(values.ravel())[quarter * width : 3 * quarter * width]
    assert interquartile_mean(values) == pytest.approx(statistics.fmean(middle))


@given(SEEDS, some.integers(1, 4), some.integers(1, 4), some.integers(1, 3))
def test_improvement_is_counted_over_all_pairs(seed: int, first: int, second: int, tasks: int) -> None:
    random = numpy.random.default_rng(seed)
    a, b = random.integers(0, 3, (first, tasks)), random.integers(0, 3, (second, tasks))
    won = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for task in range(tasks)
        for one, other in itertools.product(a[:, task], b[:, task])
    ]
    assert probability_of_improvement(a, b) == pytest.approx(statistics.fmean(won))
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1)


def test_profiles_fall_from_one_to_zero() -> None:
    assert performance_profile([[0.1, 0.5], [0.3, 0.7]], [0.0, 0.3, 0.6, 1.0]) == [1.0, 0.5, 0.25, 0.0]


@given(SEEDS, some.integers(1, 8), some.integers(1, 3))
def test_the_front_is_who_nobody_beats(seed: int, methods: int, goals: int) -> None:
    random = numpy.random.default_rng(seed)
    values, higher = random.integers(0, 4, (methods, goals)), random.integers(0, 2, goals).astype(bool)
    signed = values * numpy.where(higher, 1, -1)
    expected = [not any((other >= one).all() and (other > one).any() for other in signed) for one in signed]
    assert list(pareto_front(values, list(higher))) == expected
    assert any(expected)


def test_a_method_is_on_the_front_as_surely_as_its_figures() -> None:
    """Accuracy and memory of three methods: the last is worse in both, by far; the second costs more, and is better by
    one standard error of the difference: P(z < 1) = 0.841."""
    means, errors = [[0.7, 4.0], [0.71, 8.0], [0.5, 9.0]], [[0.01 / 2**0.5, 0.0], [0.01 / 2**0.5, 0.0], [0.01, 0.0]]
    noise = numpy.random.default_rng(0).standard_normal((2000, 3, 2))
    found = on_front(numpy.array(means) + numpy.array(errors) * noise, [True, False])
    assert (found[0], found[2]) == (1.0, 0.0)
    assert found[1] == pytest.approx(0.841, abs=0.025)  # three standard errors of 2,000 draws


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_without_errors_a_method_is_on_the_front_or_not(seed: int) -> None:
    values = numpy.random.default_rng(seed).normal(0, 1, (5, 2))
    expected = [float(on) for on in pareto_front(values, [True, False])]
    assert on_front(values[None], [True, False]) == expected
