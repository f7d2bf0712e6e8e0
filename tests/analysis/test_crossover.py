"""Where the lead changes, and curves that are drawn only where they forecast."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from harness.analysis.stats.contrast import Arm
from harness.analysis.stats.crossover import find_crossover, lead_correlations, scaling

SIZES = [10, 100, 1000, 10_000]


def test_the_lead_changes_where_the_line_crosses() -> None:
    found = find_crossover(SIZES, [-0.2, -0.1, 0.1, 0.2], [0.0] * 4)
    assert found.leads_last == 1
    assert found.at is not None
    assert found.at.value == found.at.low == pytest.approx(10**2.5)
    assert (found.at.high, found.probability) == (pytest.approx(10**2.5), 1.0)


def test_the_last_change_counts() -> None:
    found = find_crossover(SIZES, [0.1, -0.1, 0.1, -0.3], [0.0] * 4)
    assert found.leads_last == -1
    assert found.at is not None
    assert found.at.value == pytest.approx(10**3.25)


@given(some.lists(some.floats(0.01, 1), min_size=2, max_size=6))
def test_who_leads_at_all_sizes_crosses_nowhere(leads: list[float]) -> None:
    sizes = [10 * 2**place for place in range(len(leads))]
    found = find_crossover(sizes, leads, [0.0] * len(leads))
    assert (found.at, found.leads_last, found.probability) == (None, 1, 0.0)


@given(some.lists(some.floats(-1, 1).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=6))
@settings(deadline=None)
def test_turning_methods_round_moves_nothing(leads: list[float]) -> None:
    sizes = [10 * 3**place for place in range(len(leads))]
    one, other = (
        find_crossover(sizes, leads, [0.0] * len(leads)),
        find_crossover(sizes, [-x for x in leads], [0.0] * len(leads)),
    )
    assert (one.at, one.probability, one.leads_last) == (other.at, other.probability, -other.leads_last)
    if one.at:
        assert sizes[0] <= one.at.value <= sizes[-1]


def test_intervals_cover_the_true_crossing() -> None:
    """A lead that rises by 0.1 a decade from -0.15, seen with errors of 0.02: 300 intervals that each cover with 95%
    cover between 277 and 293 times in 98% of simulations."""
    random = numpy.random.default_rng(2)
    truth, errors = numpy.array([-0.15, -0.05, 0.05, 0.15]), [0.02] * 4
    covered = 0
    for _ in range(300):
        found = find_crossover(SIZES, list(truth + random.normal(0, 0.02, 4)), errors)
        covered += found.at is not None and found.at.low <= 10**2.5 <= found.at.high
    assert 276 <= covered <= 294


def test_an_interval_is_open_where_the_lead_may_not_change() -> None:
    found = find_crossover(SIZES, [-0.02, 0.1, 0.1, 0.03], [0.02] * 4)
    assert found.at is not None
    assert (found.at.low, found.at.high) == (0.0, math.inf)
    assert found.probability < 0.9


@pytest.mark.parametrize(
    ("sizes", "lead", "stderr"),
    [
        ([10], [0.1], [0.1]),
        ([100, 10], [0.1, 0.2], [0.1, 0.1]),
        ([0, 10], [0.1, 0.2], [0.1, 0.1]),
        ([1, 2], [0.1], [0.1]),
    ],
)
def test_sizes_that_do_not_rise_are_refused(sizes: list[int], lead: list[float], stderr: list[float]) -> None:
    with pytest.raises(ValueError, match="rising sizes"):
        find_crossover(sizes, lead, stderr)


def test_figures_that_are_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        find_crossover([1, 2], [0.1, math.nan], [0.1, 0.1])


@given(some.floats(0.3, 1), some.floats(0.5, 3), some.floats(0.2, 1.5))
@settings(max_examples=10, deadline=None)
def test_a_power_law_is_found_again(a: float, b: float, c: float) -> None:
    sizes = [10, 30, 100, 300, 1000, 3000]
    found = scaling(sizes, [a - b * n**-c for n in sizes])
    assert found is not None
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), rel=0.02)
    assert found.error < found.constant_error
    assert found.at(100) == pytest.approx(a - b * 100**-c, abs=1e-4)


def test_scores_that_do_not_rise_get_a_curve_seldom() -> None:
    random = numpy.random.default_rng(3)
    drawn = sum(scaling([10, 30, 100, 300, 1000], list(random.normal(0.5, 0.02, 5))) is not None for _ in range(40))
    assert drawn <= 10


def test_too_few_sizes_get_no_curve() -> None:
    assert scaling([10, 100, 1000], [0.1, 0.2, 0.25]) is None
    assert scaling([10, 100, 1000, 10_000], [0.5] * 4) is None


def scored(lasting: float, seed: int) -> list[tuple[Arm, Arm]]:
    """Two methods at three sizes on the same 400 items, five seeds. `lasting` is the part of the luck of an item, and
    of a seed, that is the same at every size."""
    random = numpy.random.default_rng(seed)

    def luck(shape: tuple[int, ...]) -> list[numpy.ndarray]:
        same = random.normal(0, 1, shape)
        return [lasting**0.5 * same + (1 - lasting) ** 0.5 * random.normal(0, 1, shape) for _ in range(3)]

    def arm(of_items: numpy.ndarray, of_seeds: numpy.ndarray) -> Arm:
        return Arm((0.2 * of_items + 0.02 * of_seeds[:, None]).tolist(), True, tuple(range(5)))

    methods = [[arm(*pair) for pair in zip(luck((400,)), luck((5,)), strict=True)] for _ in range(2)]
    return list(zip(*methods, strict=True))


def test_leads_at_different_sizes_move_together_as_their_items_and_seeds_do() -> None:
    """Seeds make about two thirds of the variance; what lasts from size to size is found again on average."""
    for lasting in (0.0, 0.8):
        apart = [lead_correlations(scored(lasting, seed)) for seed in range(40)]
        off = numpy.mean([matrix[numpy.triu_indices(3, 1)].mean() for matrix in apart])
        assert off == pytest.approx(lasting, abs=0.2)
        assert all(matrix.diagonal() == pytest.approx(numpy.ones(3)) for matrix in apart)


def test_leads_that_move_together_may_cross_over_a_wider_range() -> None:
    """All leads too high together move the crossing farther than leads that err each for itself."""
    lead, errors = [-0.06, -0.02, 0.02, 0.06], [0.02] * 4
    alone = find_crossover(SIZES, lead, errors)
    together = find_crossover(SIZES, lead, errors, correlations=numpy.full((4, 4), 0.9) + 0.1 * numpy.eye(4))
    assert alone.at
    assert together.at
    assert together.at.high / together.at.low > alone.at.high / alone.at.low
