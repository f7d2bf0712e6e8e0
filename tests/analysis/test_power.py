"""What seeds and items can find, against statsmodels and against simulated mean squares."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from statsmodels.stats.power import TTestIndPower, TTestPower

from harness.analysis.stats.power import (
    Parts,
    minimum_detectable_effect,
    moderated,
    needed_to_differ,
    needed_to_tie,
    outlook,
    power_to_differ,
    power_to_tie,
)

ITEMS_ALONE = Parts(item=0.25, seed=0.0, residual=0.0, varying=0)
BOTH = Parts(item=0.1, seed=0.0002, residual=0.05)
VARIANCES = some.floats(0.01, 1.0)


@pytest.mark.parametrize("items", [20, 200])
def test_without_seeds_it_is_the_power_of_a_paired_t_test(items: int) -> None:
    expected = TTestPower().solve_power(nobs=items, alpha=0.05, power=0.8) * math.sqrt(0.25)
    assert minimum_detectable_effect(ITEMS_ALONE, items, 1) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("seeds", [5, 20])
def test_without_items_it_is_the_power_of_a_t_test_of_seeds(seeds: int) -> None:
    expected = TTestIndPower().solve_power(nobs1=seeds, alpha=0.05, power=0.8) * 0.3
    found = minimum_detectable_effect(Parts(0.0, 0.09, 0.0), 200, seeds)
    assert found == pytest.approx(expected, rel=0.03)  # each method's spread is its own


def test_items_needed_are_those_of_statsmodels() -> None:
    expected = math.ceil(TTestPower().solve_power(effect_size=0.05 / 0.5, alpha=0.05, power=0.8))
    assert needed_to_differ(ITEMS_ALONE, 0.05, 200, 1).items == pytest.approx(expected, abs=3)


def test_the_power_to_tie_is_that_of_simulated_tests() -> None:
    """20,000 draws of the mean and of chi²; the standard error of a share of 0.6 is 0.0035."""
    random = numpy.random.default_rng(0)
    items, margin = 1000, 0.04
    error = math.sqrt(ITEMS_ALONE.variance(items, 1))
    seen = error * numpy.sqrt(random.chisquare(items - 1, 20_000) / (items - 1))
    effect = random.normal(0, error, 20_000)
    simulated = (numpy.abs(effect) < margin - 1.6464 * seen).mean()
    assert power_to_tie(ITEMS_ALONE, margin, items, 1) == pytest.approx(simulated, abs=0.012)


@given(VARIANCES, VARIANCES, VARIANCES, some.integers(10, 500), some.integers(3, 8))
@settings(max_examples=20, deadline=None)
def test_more_items_and_more_seeds_find_more(item: float, seed: float, residual: float, items: int, seeds: int) -> None:
    parts = Parts(item, seed / 100, residual)
    found = minimum_detectable_effect(parts, items, seeds)
    assert power_to_differ(parts, found, items, seeds) == pytest.approx(0.8, abs=1e-4)
    assert power_to_differ(parts, -found, items, seeds) == pytest.approx(0.8, abs=1e-4)
    # More items leave the spread of few seeds to decide alone, with fewer degrees of freedom: where items matter least,
    # that takes back a ten-thousandth.
    assert minimum_detectable_effect(parts, items * 2, seeds) < found * 1.001
    assert minimum_detectable_effect(parts, items, seeds * 2) < found


def test_what_is_needed_is_the_least_that_does() -> None:
    need = needed_to_differ(BOTH, 0.08, 200, 3)
    assert need.seeds is not None
    assert need.items is not None
    assert power_to_differ(BOTH, 0.08, 200, need.seeds) >= 0.8 > power_to_differ(BOTH, 0.08, 200, need.seeds - 1)
    assert power_to_differ(BOTH, 0.08, need.items, 3) >= 0.8 > power_to_differ(BOTH, 0.08, need.items - 1, 3)


def test_no_number_of_seeds_makes_up_for_items_nor_the_reverse() -> None:
    assert needed_to_tie(Parts(0.25, 1e-6, 0.0), 0.02, 200, 2).seeds is None
    assert needed_to_tie(Parts(0.01, 0.01, 0.0), 0.02, 200, 3).items is None


def test_two_hundred_items_cannot_decide_at_the_default_margin() -> None:
    found = outlook(200)
    assert found.score_stderr == pytest.approx(0.0354, abs=1e-4)
    assert found.stderr == pytest.approx(0.0354, abs=1e-4)
    assert not found.decides
    # (z(0.95) + z(0.90))² 0.25 / 0.02² items, for large numbers
    assert found.items_needed == pytest.approx((1.6449 + 1.2816) ** 2 * 0.25 / 0.02**2, rel=0.01)
    assert outlook(found.items_needed or 0).decides
    assert found.detectable == pytest.approx(0.099, abs=0.002)


def test_seeds_that_scatter_may_rule_a_margin_out() -> None:
    assert outlook(200, 0.02, seeds=2, seed_sd=0.02).items_needed is None


def test_nothing_that_varies_is_found_at_once() -> None:
    nothing = Parts(0.0, 0.0, 0.0, varying=0)
    assert (minimum_detectable_effect(nothing, 10, 1), power_to_differ(nothing, 0.1, 10, 1)) == (0.0, 1.0)
    assert (power_to_differ(nothing, 0.0, 10, 1), power_to_tie(nothing, 0.1, 10, 1)) == (0.0, 1.0)


def test_a_spread_that_came_out_small_counts_on_that_of_its_table() -> None:
    """Three seeds that chance to agree would promise that few more items settle the question; the table says that
    its pairs scatter by a point."""
    lucky = Parts(0.15, 0.0, 0.05, 1)
    usual = Parts(0.15, 2e-4, 0.05, 1)
    promised = needed_to_differ(lucky, 0.02, 400, 5).items
    forecast = moderated(lucky, [lucky, *[usual] * 9], 400, 4)
    assert 5e-5 < forecast.seed < 1e-4
    needed = needed_to_differ(forecast, 0.02, 400, 5).items
    assert promised
    assert needed
    assert needed > 2 * promised
    assert moderated(lucky, [], 400, 4) == lucky
    still = Parts(0.15, 0.0, 0.0, 0)
    assert moderated(still, [usual], 400, 0) == still
