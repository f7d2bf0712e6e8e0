"""Statistics against their definitions and against other libraries."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as some

from harness.stats import expected_best, expected_best_interval

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
