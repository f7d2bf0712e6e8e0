"""How far an estimate may lie from the truth: against Student's t, Wilson's interval, and scores with a known truth."""

from __future__ import annotations

import numpy
import pytest
from scipy.stats import binomtest, t

from harness.analysis import Side, interval_of
from harness.analysis.stats.reference import LEAST_TAIL, Reference


@pytest.mark.parametrize("tail", [0.3, 0.05, 0.025, 0.001, 1e-6])
def test_one_part_is_students_t(tail: float) -> None:
    alone = Reference(0.04, 30)
    assert float(alone.critical(tail)) == pytest.approx(t.isf(tail, 30))
    assert alone.tail(float(t.isf(tail, 30))) == pytest.approx(tail)
    assert Reference(0.0, 30, (0.04,), (4,)).tail(float(t.isf(tail, 4))) == pytest.approx(tail, rel=1e-6)


def test_the_tail_undoes_the_critical_value() -> None:
    parts = Reference(0.002, 199, (0.001, 0.004), (1, 4))
    for tail in (0.4, 0.1, 0.025, 0.01, 0.0005, 1e-9):
        assert parts.tail(float(parts.critical(tail))) == pytest.approx(tail, rel=1e-6)
    assert parts.tail(-1.0) == pytest.approx(1 - parts.tail(1.0))
    assert parts.tail(1e30) == LEAST_TAIL


def test_few_seeds_reach_further_than_many() -> None:
    reaches = [float(Reference(0.001, 199, (0.001,), (df,)).critical(0.025)) for df in (1, 2, 4, 20, 1000)]
    assert reaches == sorted(reaches, reverse=True)
    assert reaches[-1] == pytest.approx(1.96, abs=0.02)


def test_without_seeds_a_share_has_wilsons_interval() -> None:
    for right, items in ((0, 20), (20, 20), (197, 200), (100, 200), (1990, 2000)):
        share = right / items
        low, high = Reference(share * (1 - share) / items, 10**9).around(share, items)
        wilson = binomtest(right, items).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-4)


@pytest.mark.parametrize(
    ("share", "items", "least"), [(0.98, 200, 0.93), (0.98, 20, 0.90), (0.5, 20, 0.90), (0.995, 200, 0.90)]
)
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_intervals_of_a_score_cover_the_truth(share: float, items: int, least: float, seeds: int) -> None:
    """Items that are right under all seeds or none, half of them, and others by chance."""
    from harness.report.measurements import score_interval

    random = numpy.random.default_rng(items + seeds)
    covered = 0
    for _ in range(400):
        fixed = random.random(items) < 0.5
        once, each = random.random(items) < share, random.random((seeds, items)) < share
        values = numpy.where(fixed, once, each).mean(axis=1)
        errors = [float(value * (1 - value) / (items - 1)) ** 0.5 for value in values]
        ends = score_interval(list(map(float, values)), errors, items, True)
        assert ends
        assert 0 <= ends[0] <= ends[1] <= 1
        covered += ends[0] <= share <= ends[1]
    assert covered >= (least - 0.02) * 400


def test_single_items_make_an_interval_of_seeds_as_wide_as_it_need_be() -> None:
    """Five seeds whose answers vary singly are nearly five times as many answers; scores alone do not tell."""
    from harness.report.measurements import score_interval

    values = (numpy.random.default_rng(4).random((5, 200)) < 0.8).astype(float)
    side = Side("m", "acc", True, tuple(map(str, range(200))), tuple(map(tuple, values.tolist())))
    low, high = interval_of(side, True)
    means = [float(value) for value in values.mean(axis=1)]
    wide = score_interval(means, [(value * (1 - value) / 199) ** 0.5 for value in means], 200, True)
    assert wide
    assert wide[0] < low < values.mean() < high < wide[1]
    assert 0.035 < high - low < 0.08  # of 1,000 independent answers it would be 0.05
