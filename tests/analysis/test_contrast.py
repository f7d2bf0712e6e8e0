"""The difference of two methods: against SciPy and statsmodels where they apply, and calibrated where they do not.

The bounds of simulations follow from the binomial. A rate of 5% among 400 comparisons stays below 5% + 1.96 sqrt(0.05 x
0.95 / 400) = 7.1% in 97.5% of simulations; of 1,000 intervals that each cover with 95%, 93.6 to 96.4% cover in 95% of
simulations; of 1,000 comparisons that each find with 80%, 77.5 to 82.5% do. All are drawn from fixed seeds.
"""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from scipy.stats import ttest_ind, ttest_rel
from simulated import World
from statsmodels.stats.weightstats import ttost_paired

from harness.analysis.stats.contrast import (
    Arm,
    Comparison,
    compare,
    compare_arms,
    compare_tasks,
    decide,
    p_tied,
    pooled_spread,
    seed_spread,
)
from harness.analysis.stats.power import Parts, minimum_detectable_effect

WORLDS = {
    "seeds alike": World(own_item=0.0, seed=0.0),
    "seeds scatter": World(own_item=0.0, seed=0.15),
    "items and seeds": World(own_item=0.5, seed=0.15),
    "losses": World(own_item=0.0, seed=0.1, binary=False),
    "losses, items and seeds": World(own_item=0.6, seed=0.05, binary=False),
}
SEEDS = some.integers(0, 2**32 - 1)


def compared(world: World, times: int, seeds: int, items: int = 200, effect: float = 0.0) -> list[Comparison]:
    random = numpy.random.default_rng(20_261 + seeds)
    return [compare(*world.draw(random, seeds, items, effect)) for _ in range(times)]


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("world", [name for name, world in WORLDS.items() if not world.own_item])
def test_identical_methods_are_seldom_told_apart(world: str, seeds: int) -> None:
    found = compared(WORLDS[world], 400, seeds)
    told_apart = [each for each in found if each.p < 0.05]
    assert (seeds > 2) * 0.02 * 400 <= len(told_apart) <= 0.072 * 400  # of two seeds as good as nothing is said
    assert all(decide(each).verdict in ("better", "worse") for each in told_apart[:3])


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_cover_the_truth(world: str, seeds: int) -> None:
    effect = 0.05
    found = compared(WORLDS[world], 1000, seeds, effect=effect)
    covered = sum(each.interval.low <= effect <= each.interval.high for each in found)
    # Two seeds say little, and where nothing but single answers varies, items and seeds are the same thing twice.
    assert 930 <= covered <= (1000 if seeds == 2 or world == "seeds alike" else 975)


@pytest.mark.parametrize("seeds", [3, 5])  # of two seeds it may be more than a share of right answers can differ by
@pytest.mark.parametrize("world", WORLDS)
def test_the_stated_effect_is_found_four_times_in_five(world: str, seeds: int) -> None:
    """The parts are those of a world with many seeds and items and an effect of about that size: right or wrong answers
    scatter less, the further their share is from a half. It is then planted among 200 items."""
    effect = 0.0
    for _ in range(2):
        random = numpy.random.default_rng(5)
        pilots = [compare(*WORLDS[world].draw(random, 40, 1000, effect)).parts for _ in range(10)]
        parts = Parts(*(float(numpy.mean([getattr(p, name) for p in pilots])) for name in ("item", "seed", "residual")))
        effect = minimum_detectable_effect(parts, 200, seeds)
    found = compared(WORLDS[world], 1000, seeds, effect=effect)
    assert 750 <= sum(each.p < 0.05 for each in found) <= 850


@pytest.mark.parametrize(("first", "second"), [(5, 5), (2, 5), (2, 10), (3, 3)])
def test_one_that_scatters_is_told_from_none_too_often(first: int, second: int) -> None:
    """Identical methods whose scores vary by 8.6 and by 0.7 points between seeds, with few seeds and with many. Taken
    together, as one spread, 13 to 54% were told apart."""
    unstable, stable = World(seed=0.32), World(seed=0.026)
    random = numpy.random.default_rng(10 * first + second)
    apart = 0
    for _ in range(400):
        item = random.normal(0, 1, 200)
        a, b = (one.answers(random, seeds, item) for one, seeds in ((unstable, first), (stable, second)))
        apart += compare(a, b, paired_seeds=first == second).p < 0.05
    assert apart <= 0.072 * 400


def bootstrap(a: NDArray[numpy.float64], b: NDArray[numpy.float64], resamples: int = 2000) -> tuple[float, float]:
    """The 95% percentile interval of A - B over seeds, drawn for each method, and items, drawn for both."""
    random = numpy.random.default_rng(0)
    items = random.multinomial(a.shape[1], numpy.full(a.shape[1], 1 / a.shape[1]), resamples) / a.shape[1]
    drawn = numpy.zeros(resamples)
    for sign, values in ((1, a), (-1, b)):
        seeds = len(values)
        weights = random.multinomial(seeds, numpy.full(seeds, 1 / seeds), resamples) / seeds
        drawn += sign * ((weights @ values) * items).sum(axis=1)
    low, high = numpy.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def test_a_bootstrap_of_two_seeds_tells_identical_methods_apart() -> None:
    """Why it is not the default."""
    random = numpy.random.default_rng(11)
    apart = 0
    for _ in range(200):
        found = bootstrap(*WORLDS["losses"].draw(random, 2, 200), resamples=400)
        apart += not found[0] <= 0 <= found[1]
    assert apart > 0.072 * 200


def test_a_bootstrap_of_many_seeds_agrees() -> None:
    a, b = WORLDS["items and seeds"].draw(numpy.random.default_rng(12), 30, 400, effect=0.05)
    (low, high), found = bootstrap(a, b), compare(a, b)
    assert found.effect == pytest.approx(a.mean() - b.mean())
    assert high - low == pytest.approx(found.interval.high - found.interval.low, rel=0.25)


def test_seeds_that_chance_to_be_right_equally_often_leave_the_error_of_items() -> None:
    """Both seeds of A have 3 of 5 right, both of B 2 of 5; no two of them the same items. What single answers vary
    between seeds counts, though their sums agree: here it is more than the items' means vary."""
    a, b = [[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]], [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    found = compare(a, b)
    spreads = [seed_spread([one]) for one in (a, b)]
    assert all(spread and spread.variance == pytest.approx(0.0) for spread in spreads)
    assert found.stderr**2 == pytest.approx(sum(spread.residual / 2 for spread in spreads if spread))
    assert found.p > 0.05


def test_tasks_that_share_their_seeds_are_calibrated_too() -> None:
    """A seed that goes well goes well on both tasks: errors of their average are not those of independent tasks."""
    random = numpy.random.default_rng(13)
    apart = 0
    for _ in range(400):
        luck = random.normal(0, 0.1, (2, 3, 1))
        tasks = [
            luck + random.normal(0, 0.5, (2, 3, items)) + random.normal(0, 1, (1, 1, items)) for items in (50, 200)
        ]
        apart += compare_tasks([task[0] for task in tasks], [task[1] for task in tasks]).p < 0.05
    assert 0.022 * 400 <= apart <= 0.072 * 400


def test_seeds_that_methods_share_are_paired() -> None:
    """Luck that both have in the same seed: pairing takes it out, and stays calibrated."""
    random = numpy.random.default_rng(14)
    apart, paired, unpaired = 0, [], []
    for _ in range(400):
        scores = WORLDS["losses"].draw(random, 5, 100) + random.normal(0, 0.5, (1, 5, 1))
        found = compare(*scores, paired_seeds=True)
        apart += found.p < 0.05
        paired.append(found.stderr)
        unpaired.append(compare(*scores).stderr)
    assert 0.022 * 400 <= apart <= 0.072 * 400
    assert numpy.mean(paired) < 0.4 * numpy.mean(unpaired)


def test_of_two_studies_nothing_is_decided() -> None:
    random = numpy.random.default_rng(3)
    a, b = ([list(row) for row in (random.random((2, 300)) < share).astype(float)] for share in (0.9, 0.2))
    assert decide(compare_arms(Arm(a), Arm(b))).verdict == "better"
    found = compare_arms(Arm(a, few_studies=True), Arm(b))
    assert not found.seeds_known
    assert decide(found).verdict == "underpowered"
    assert decide(found).few_studies


def test_other_numbers_of_seeds_are_calibrated_too() -> None:
    random = numpy.random.default_rng(15)
    apart = 0
    for _ in range(400):
        a, b = WORLDS["seeds scatter"].draw(random, 5, 200)
        apart += compare(a, b[:2]).p < 0.05
    assert 0.022 * 400 <= apart <= 0.072 * 400


@given(SEEDS, some.integers(2, 40), some.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_methods_without_seeds_are_compared_by_a_paired_t_test(seed: int, items: int, seeds: int) -> None:
    a, b = numpy.random.default_rng(seed).normal(10, 1, (2, items))  # no shares, of which ties ask for more
    found, expected = compare([a] * max(seeds, 2), [b] * max(seeds, 2)), ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert p_tied(found, 0.3) == pytest.approx(ttost_paired(a, b, -0.3, 0.3)[0])
    assert found.seeds_known


def test_items_that_are_all_alike_leave_a_t_test_of_seeds() -> None:
    scores = numpy.random.default_rng(3).normal(0, 1, (2, 4, 1)) + numpy.zeros((2, 4, 30))
    expected = ttest_ind(scores[0, :, 0], scores[1, :, 0], equal_var=False)
    assert expected.pvalue > 0.05  # further out the reference is another
    assert compare(*scores).p == pytest.approx(expected.pvalue)
    paired = compare(*scores, paired_seeds=True)
    assert paired.p == pytest.approx(ttest_rel(scores[0, :, 0], scores[1, :, 0]).pvalue)


def test_the_parts_are_those_of_an_analysis_of_variance() -> None:
    """Mean squares of one method's seeds x items, from statsmodels' least squares."""
    from statsmodels.regression.linear_model import OLS

    scores = World(binary=False).draw(numpy.random.default_rng(4), 4, 12)[0]
    of_seeds, of_items = numpy.kron(numpy.eye(4), numpy.ones((12, 1))), numpy.kron(numpy.ones((4, 1)), numpy.eye(12))
    both = OLS(scores.ravel(), numpy.hstack([of_seeds[:, 1:], of_items])).fit()
    without = OLS(scores.ravel(), of_items).fit()
    spread = seed_spread([scores])
    assert spread is not None
    assert spread.variance == pytest.approx((without.ssr - both.ssr) / 3 / 12)
    assert spread.residual == pytest.approx(both.mse_resid / 12)


@given(SEEDS, some.integers(1, 3), some.integers(1, 3), some.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_turning_methods_round_turns_the_figures_round(seed: int, first: int, second: int, items: int) -> None:
    random = numpy.random.default_rng(seed)
    a, b = random.integers(0, 2, (first, items)), random.integers(0, 2, (second, items))
    one, other = compare(a, b), compare(b, a)
    assert (one.effect, one.p, one.stderr) == pytest.approx((-other.effect, other.p, other.stderr))
    assert one.interval.low <= one.effect <= one.interval.high
    assert 0 <= one.p <= 1
    assert one.effect == pytest.approx(a.mean() - b.mean())
    assert one.stderr > 0 or numpy.ptp(a.mean(axis=0) - b.mean(axis=0)) < 1e-9


@given(SEEDS, some.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_the_order_of_seeds_and_items_is_nothing_to_it(seed: int, seeds: int) -> None:
    random = numpy.random.default_rng(seed)
    a, b = World().draw(random, seeds, 20)
    items = random.permutation(20)
    assert compare(a[::-1, items], b[:, items]).p == pytest.approx(compare(a, b).p)


def test_more_seeds_do_not_shrink_the_error_of_items() -> None:
    a, b = WORLDS["items and seeds"].draw(numpy.random.default_rng(6), 60, 50)
    found = compare(a, b)
    assert found.stderr**2 == pytest.approx(found.parts.variance(50, 60))
    assert found.parts.variance(50, 10**9) > 0.8 * found.stderr**2
    assert found.parts.variance(10**9, 60) == pytest.approx(found.parts.seed / 30)


def test_one_seed_decides_nothing_of_methods_that_vary() -> None:
    a, b = World().draw(numpy.random.default_rng(8), 1, 200, effect=0.4)
    found = compare(a, b)
    assert found.p < 1e-6
    assert not found.seeds_known
    assert decide(found).verdict == "underpowered"


def test_one_seed_beside_several_decides_nothing_either() -> None:
    a, b = World().draw(numpy.random.default_rng(8), 4, 200, effect=0.4)
    found = compare(a, b[:1])
    assert not found.seeds_known
    assert decide(found).verdict == "underpowered"
    assert decide(compare(a, [b[0]] * 2)).verdict == "better"  # it has no seed


def test_one_seed_borrows_the_spread_of_the_other() -> None:
    a, b = World().draw(numpy.random.default_rng(8), 4, 200)
    found = compare(a, b[:1])
    assert found.seeds == (4, 1)
    assert found.stderr > compare(a, b).stderr


def made(effect: float, stderr: float) -> Comparison:
    """A comparison without spread between seeds; 400 items whose differences have the mean and standard error."""
    gains = numpy.resize([1.0, -1.0], 400) * stderr * numpy.sqrt(399) + effect
    return compare([gains] * 2, numpy.zeros((2, 400)))


@pytest.mark.parametrize(
    ("effect", "stderr", "verdict", "negligible"),
    [
        (0.1, 0.01, "better", False),
        (-0.1, 0.01, "worse", False),
        (0.0, 0.005, "tied", False),
        (0.01, 0.002, "better", True),
        (0.01, 0.03, "underpowered", False),
    ],
)
def test_verdicts(effect: float, stderr: float, verdict: str, negligible: bool) -> None:
    found = decide(made(effect, stderr))
    assert (found.verdict, found.negligible) == (verdict, negligible)
    assert (found.to_tie is None) == (verdict != "underpowered")


def test_a_lower_loss_is_better() -> None:
    assert decide(made(-0.1, 0.01), higher_is_better=False).verdict == "better"


def test_what_is_corrected_for_many_pairs_may_be_open_again() -> None:
    found = made(0.1, 0.04)
    assert decide(found).verdict == "better"
    assert decide(found, p=min(1.0, found.p * 20)).verdict == "underpowered"


def test_an_open_question_says_what_would_settle_it() -> None:
    a, b = WORLDS["items and seeds"].draw(numpy.random.default_rng(21), 2, 200, effect=0.03)
    found = decide(compare(a, b))
    assert found.verdict == "underpowered"
    assert found.to_differ is not None
    assert found.to_tie is not None
    assert found.detectable > abs(found.effect)
    assert found.to_tie.seeds is None or found.to_tie.seeds > 2
    assert found.to_differ.items is None or found.to_differ.items > 200


def test_differences_without_any_spread_fall_back_on_signs() -> None:
    found = compare(numpy.ones((2, 3)), numpy.zeros((2, 3)))
    assert found.p == 0.25
    assert decide(found).verdict == "underpowered"
    assert decide(compare(numpy.ones((2, 9)), numpy.zeros((2, 9)))).verdict == "better"
    same = compare(numpy.ones((2, 9)), numpy.ones((2, 9)))
    assert (same.p, same.stderr) == (1.0, 0.0)
    assert decide(same).verdict == "underpowered"  # nine items show no tie within 0.02
    assert decide(compare(numpy.ones((2, 400)), numpy.ones((2, 400)))).verdict == "tied"
    losses = compare(numpy.full((2, 9), -3.0), numpy.full((2, 9), -3.0))  # nothing is known but that they agree
    assert decide(losses).verdict == "tied"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 0.0], [1.0, 0.0], "seeds, items"),
        ([[1.0, 0.0]], [[1.0]], "same items"),
        ([[1.0, float("nan")]], [[1.0, 0.0]], "not finite"),
        ([[1.0]], [[0.0]], "two or more"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(a, b)


def test_paired_seeds_come_in_equal_numbers() -> None:
    with pytest.raises(ValueError, match="equal numbers"):
        compare(numpy.eye(3), numpy.eye(3)[:2], paired_seeds=True)


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        pooled_spread([])
