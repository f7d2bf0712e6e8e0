"""Statistics against their definitions and against other libraries."""

from __future__ import annotations

import itertools
import statistics
from typing import Literal

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import false_discovery_control, ttest_1samp, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar

from harness.analysis.stats.intervals import (
    Interval,
    cohen_d,
    corrected,
    expected_best,
    expected_best_interval,
    mean_interval,
    paired,
)

SCORES = some.lists(some.floats(-10, 10), min_size=1, max_size=6)


@given(SCORES, some.integers(1, 4))
def test_the_expected_best_is_that_of_every_draw(values: list[float], k: int) -> None:
    draws = [max(draw) for draw in itertools.product(values, repeat=k)]
    assert expected_best(values, k) == pytest.approx(statistics.fmean(draws), abs=1e-9)


@given(SCORES)
def test_the_expected_best_rises_from_the_mean_towards_the_best(values: list[float]) -> None:
    found = [expected_best(values, k) for k in (1, 2, 5, 1000)]
    assert found[0] == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert all(before <= after + 1e-9 for before, after in itertools.pairwise(found))
    assert found[-1] == pytest.approx(max(values), abs=0.1)


def test_its_interval_holds_it_and_narrows() -> None:
    few = expected_best_interval([0.5, 0.6, 0.7, 0.8], 2)
    many = expected_best_interval([0.5, 0.6, 0.7, 0.8] * 16, 2)
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert expected_best_interval([0.5], 3).low == 0.5


@pytest.mark.parametrize(("values", "k"), [([], 1), ([1.0], 0)])
def test_of_nothing_there_is_no_best(values: list[float], k: int) -> None:
    with pytest.raises(ValueError, match="the best of"):
        expected_best(values, k)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_intervals_are_near_those_of_students_t(method: Literal["BCa", "percentile"]) -> None:
    values = numpy.random.default_rng(0).normal(0.3, 0.1, 200)
    found, expected = mean_interval(values, method), ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)
    assert found == mean_interval(values, method)
    assert found != mean_interval(values, method, seed=1)


def test_bias_correction_follows_the_skew() -> None:
    values = numpy.random.default_rng(0).exponential(1, 40)
    corrected_for, plain = mean_interval(values), mean_interval(values, "percentile")
    assert corrected_for.low > plain.low
    assert corrected_for.high > plain.high


def test_values_without_spread_have_an_interval_without_width() -> None:
    assert mean_interval([0.5] * 10) == Interval(0.5, 0.5, 0.5)
    assert mean_interval([0.5]) == Interval(0.5, 0.5, 0.5)


PAIRS = some.lists(some.tuples(some.integers(0, 1), some.integers(0, 1)), min_size=1, max_size=40)


@given(PAIRS)
@settings(max_examples=30, deadline=None)
def test_right_and_wrong_answers_get_mcnemars_test(pairs: list[tuple[int, int]]) -> None:
    a, b = [float(one) for one, _ in pairs], [float(other) for _, other in pairs]
    table = [[sum(pair == (x, y) for pair in pairs) for y in (1, 0)] for x in (1, 0)]
    found = paired(a, b)
    assert found.test == "mcnemar"
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found.wins, found.losses) == (table[0][1], table[1][0])


def test_other_values_get_a_paired_t_test() -> None:
    a, b = numpy.random.default_rng(1).normal(0, 1, (2, 30))
    found, expected = paired(a, b), ttest_rel(a, b)
    assert (found.test, found.p) == ("t", pytest.approx(expected.pvalue))
    assert found.difference.low < found.difference.value < found.difference.high
    assert found.wins + found.losses == 30


def test_differences_that_are_all_the_same_have_no_t() -> None:
    assert paired([1.5, 2.5, 3.5], [0.5, 1.5, 2.5]).p == 0.25
    assert paired([1.5, 2.5], [1.5, 2.5]).p == 1.0


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 0.0]), ([], [])])
def test_other_items_are_not_paired(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="same items"):
        paired(a, b)


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_corrections_are_those_of_their_definitions(p_values: list[float]) -> None:
    count, order = len(p_values), sorted(range(len(p_values)), key=p_values.__getitem__)
    holm, hochberg = [0.0] * count, [0.0] * count
    highest, lowest = 0.0, 1.0
    for place, index in enumerate(order):
        highest = holm[index] = min(1.0, max(highest, (count - place) * p_values[index]))
    for place, index in reversed(list(enumerate(order))):
        lowest = hochberg[index] = min(lowest, count / (place + 1) * p_values[index])
    assert corrected(p_values) == pytest.approx(holm)
    assert corrected(p_values, "benjamini-hochberg") == pytest.approx(hochberg)
    assert hochberg == pytest.approx(list(false_discovery_control(p_values)))


def test_no_pairs_need_no_correction() -> None:
    assert corrected([]) == []


def test_cohens_d_is_t_over_the_root_of_n() -> None:
    a, b = numpy.random.default_rng(2).normal(0, 1, (2, 25))
    assert cohen_d(a, b) == pytest.approx(ttest_rel(a, b).statistic / 5)
    assert (cohen_d([1.0, 2.0], [1.0, 2.0]), cohen_d([2.0, 3.0], [1.0, 2.0])) == (0.0, float("inf"))
