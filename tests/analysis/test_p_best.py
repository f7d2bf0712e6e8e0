"""Chances of being the best: against a t distribution, against a simulation, and what must not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.stats.contrast import Arm, compare_arms
from harness.analysis.stats.falls import fallen
from harness.analysis.stats.p_best import Runner, best_chances, leads

ITEMS = 200


def runner(skill: float, seed: int, seeds: int = 3) -> Runner:
    hard = numpy.random.default_rng(0).random(ITEMS)
    random = numpy.random.default_rng(seed)
    own = skill + random.normal(0, 0.02, seeds)
    values = [(random.random(ITEMS) < numpy.clip(one + 0.6 * (0.5 - hard), 0, 1)).astype(float) for one in own]
    return Runner(float(numpy.mean(values)), Arm(tuple(map(tuple, values))))


@pytest.fixture
def nothing_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes seeds that were not run behave like those that were: draws are then those of the comparisons alone."""
    monkeypatch.setattr("harness.analysis.stats.falls.UNSEEN", 1e-9)


@pytest.mark.usefixtures("nothing_falls")
def test_of_two_it_is_the_tail_of_the_verdicts_own_distribution() -> None:
    both = {"a": runner(0.70, 1), "b": runner(0.67, 2)}
    found = compare_arms(both["a"].arm, both["b"].arm)
    chances = best_chances("a", leads("a", both))
    assert chances["a"] == pytest.approx(1 - found.reference.tail(found.effect / found.stderr), abs=0.025)
    assert chances["a"] + chances["b"] == pytest.approx(1.0)


@pytest.mark.usefixtures("nothing_falls")
def test_many_are_as_likely_as_a_simulation_of_items_and_seeds_says() -> None:
    """Normal items and seeds with known variances: the posterior of the means is known too."""
    random = numpy.random.default_rng(5)
    methods, seeds = 5, 40
    item = random.normal(0, 0.3, ITEMS)
    own = random.normal(0, 0.2, (methods, ITEMS))
    skill = numpy.array([0.0, 0.01, 0.02, 0.03, 0.035])
    seed_effect = random.normal(0, 0.01, (methods, seeds))
    scores = skill[:, None, None] + item + own[:, None, :] + seed_effect[:, :, None]
    runners = {str(n): Runner(float(scores[n].mean()), Arm(tuple(map(tuple, scores[n])))) for n in range(methods)}
    best = max(runners, key=lambda label: runners[label].merit)
    chances = best_chances(best, leads(best, runners))
    means = scores.mean(axis=(1, 2))
    draws = means + random.normal(0, 0.2 / numpy.sqrt(ITEMS), (40_000, methods))
    draws += random.normal(0, 0.01 / numpy.sqrt(seeds), draws.shape)
    truth = numpy.bincount(draws.argmax(axis=1), minlength=methods) / len(draws)
    assert [chances[str(n)] for n in range(methods)] == pytest.approx(list(truth), abs=0.05)


def test_what_answers_alike_shares_the_chance() -> None:
    one = runner(0.7, 3)
    chances = best_chances("a", leads("a", {"a": one, "b": one}))
    assert chances["a"] == pytest.approx(0.5, abs=0.03)


@settings(max_examples=10, deadline=None)
@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_methods_does_not_matter(order: list[str]) -> None:
    runners = {label: runner(0.6 + 0.02 * ord(label) % 7 / 50, ord(label)) for label in "abcd"}
    shuffled = {label: runners[label] for label in order}
    assert best_chances("b", leads("b", shuffled)) == best_chances("b", leads("b", runners))


def test_without_items_errors_are_independent() -> None:
    found = leads("a", {"a": Runner(0.70, None, 0.03), "b": Runner(0.70, None, 0.04)})
    assert not found.paired
    assert found.draws.std() == pytest.approx(0.05, rel=0.1)
    assert leads("a", {"a": runner(0.7, 1)}).labels == ()


def test_what_was_run_with_one_seed_has_no_chance_and_is_nobodys_rival() -> None:
    single = replace(runner(0.7, 1, seeds=1), repeated=False)
    runners = {"a": runner(0.7, 3), "b": single, "c": runner(0.6, 2)}
    chances = best_chances("a", leads("a", runners))
    assert set(chances) == {"a", "c"}
    assert sum(chances.values()) == pytest.approx(1.0)
    assert best_chances("b", leads("b", runners)) == {}


def test_a_lead_is_less_sure_where_seeds_of_others_fell() -> None:
    """Three seeds that agree say little where one seed in three of another method collapsed."""
    steady, behind = runner(0.75, 1), runner(0.70, 2)
    fell = runner(0.70, 4)
    assert fell.arm
    collapsed = Arm((*fell.arm.values[:2], runner(0.2, 5, seeds=1).arm.values[0]))  # type: ignore[union-attr]
    calm = best_chances("a", leads("a", {"a": steady, "b": behind, "c": fell}))
    warned = best_chances("a", leads("a", {"a": steady, "b": behind, "c": Runner(0.53, collapsed)}))
    assert warned["a"] + warned["c"] < calm["a"] + calm["c"]
    assert warned["a"] < calm["a"]


def test_falls_are_seeds_far_below_the_others_of_their_method() -> None:
    def counted(*scores: tuple[float, ...]) -> list[int]:
        return fallen([numpy.array(each) for each in scores], min(map(min, scores)))

    assert counted((0.80, 0.81, 0.79), (0.75, 0.76, 0.40)) == [0, 1]
    assert counted((0.80, 0.80, 0.80, 0.80, 0.10)) == [1]  # nothing else scatters
    assert counted((0.80, 0.70, 0.90), (0.75, 0.85, 0.65)) == [0, 0]  # wide, and alike
    assert counted((0.80,), (0.40, 0.42)) == [0, 0]
