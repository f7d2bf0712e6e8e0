"""Deciding a suite: which cell comes next, what is shown at all looks at once, when to stop, how often it is wrong."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from harness.analysis.deciding import Evidence, LabelEvidence, find_bounds, leader, look_shares, take_look

ITEMS, SEEDS = 200, 5


def values(random: Any, score: float, seeds: int = SEEDS, spread: float = 0.005, items: int = ITEMS) -> Any:
    """Graded answers [seeds, items] about `score`; all labels find the same items hard."""
    ease = numpy.random.default_rng(0).normal(0, 0.1, items)
    own = score + random.normal(0, spread, (seeds, 1))
    return numpy.clip(own + ease - ease.mean() + random.normal(0, 0.05, (seeds, items)), 0, 1)


def evidence(
    scores: dict[str, Any], seeds: dict[str, int] | None = None, margin: float = 0.02, **more: Any
) -> Evidence:
    """Evidence of labels with these values, of which the first `seeds` have ended (all, where it is not said)."""
    counts = seeds or {}
    return Evidence(
        tuple(LabelEvidence(label, its[: counts.get(label, SEEDS)].tolist(), SEEDS) for label, its in scores.items()),
        margin, **more,
    )  # fmt: skip


@pytest.fixture
def clear() -> dict[str, Any]:
    """Three labels, of which "c" is far better."""
    random = numpy.random.default_rng(1)
    return {label: values(random, score) for label, score in {"a": 0.4, "b": 0.42, "c": 0.7}.items()}


SECONDS = {"a": 1.0, "b": 2.0, "c": 4.0}


def test_labels_that_were_not_tried_come_first_the_shortest_before_the_others(clear: dict[str, Any]) -> None:
    look = take_look(evidence(clear, {"a": 0, "b": 1, "c": 0}), SECONDS, 0.95)
    assert [step.label for step in look.steps[:2]] == ["a", "c"]
    assert look.state == "open"
    assert look.confidence is None  # one seed of a label says nothing of another


def test_the_first_of_all_looks_has_no_answer() -> None:
    look = take_look(Evidence((LabelEvidence("a", (), 3), LabelEvidence("b", (), 3)), 0.02), {"a": 5.0, "b": 2.0}, 0.95)
    assert (look.answer, look.confidence, look.state) == ("", None, "open")
    assert [step.label for step in look.steps] == ["b", "a"]


def test_a_clear_lead_is_settled_and_the_others_are_out(clear: dict[str, Any]) -> None:
    look = take_look(evidence(clear, {"a": 3, "b": 3, "c": 4}), SECONDS, 0.95)
    assert (look.state, look.answer) == ("settled", "c")
    assert look.out == {"a": "c", "b": "c"}
    assert look.confidence is not None
    assert look.confidence >= 0.95


def test_one_seed_shows_nothing_however_far_ahead_it_is(clear: dict[str, Any]) -> None:
    look = take_look(evidence(clear, {"a": 1, "b": 1, "c": 1}), SECONDS, 0.95)
    assert (look.out, look.settled) == ({}, ())
    look = take_look(evidence(clear, {"a": 1, "b": 3, "c": 3}), SECONDS, 0.95)
    assert (set(look.out), look.settled) == ({"b"}, ())
    assert look.steps[0].label == "a"  # nothing can be shown of it before its second seed


def test_a_label_without_seeds_is_known_after_one_cell(clear: dict[str, Any]) -> None:
    base = LabelEvidence("base", clear["a"][:1].tolist(), 1, seeded=False)
    best = LabelEvidence("c", clear["c"].tolist(), SEEDS)
    assert (base.repeated, base.open) == (True, False)
    look = take_look(Evidence((base, best), 0.02), {}, 0.95)
    assert (look.state, look.out) == ("settled", {"base": "c"})


def test_a_suite_with_one_seed_compares_what_does_not_vary(clear: dict[str, Any]) -> None:
    fixed = tuple(LabelEvidence(label, clear[label][:1].tolist(), 1, seeded=False) for label in "ac")
    assert take_look(Evidence(fixed, 0.02), {}, 0.95).answer == "c"
    assert take_look(Evidence(fixed, 0.02), {}, 0.95).state == "settled"
    once = LabelEvidence("b", clear["b"][:1].tolist(), 1)
    look = take_look(Evidence((*fixed, once), 0.02), {}, 0.95)
    assert (look.state, look.settled) == ("exhausted", ())


def test_what_a_limit_rules_out_is_neither_answer_nor_rival(clear: dict[str, Any]) -> None:
    known = evidence(clear, {"a": 3, "b": 3, "c": 3}).labels
    out = LabelEvidence("c", known[2].values, SEEDS, ruled_out="memory")
    look = take_look(Evidence((known[0], known[1], out), 0.05), SECONDS, 0.95)
    assert look.answer == "b"
    assert "c" not in {*look.chances, *(step.label for step in look.steps)}
    alone = take_look(Evidence((known[0], out), 0.02), SECONDS, 0.95)
    assert (alone.state, alone.answer) == ("settled", "a")


def test_running_cells_count_when_the_next_ones_are_chosen(clear: dict[str, Any]) -> None:
    known = evidence(clear, {"a": 1, "b": 1, "c": 1})
    first = take_look(known, SECONDS, 0.95, chances=False).steps[0]
    second = take_look(known, SECONDS, 0.95, {first.label: 1}, chances=False).steps
    assert first.seed == 1
    assert (second[0].label, second[0].seed) != (first.label, first.seed)
    none_tried = evidence(clear, {"a": 0, "b": 0, "c": 0})
    steps = take_look(none_tried, SECONDS, 0.95, {"a": 1}, chances=False).steps
    assert [step.label for step in steps[:2]] == ["b", "c"]
    assert steps[-1].label == "a"


def test_labels_that_nobody_can_tell_apart_are_given_up_before_the_last_cell() -> None:
    """Right or wrong answers to 200 items do not show a tie within two points, with five seeds or with fifty."""
    random = numpy.random.default_rng(2)
    alike = {label: (random.random((SEEDS, ITEMS)) < 0.6).astype(float) for label in "abcd"}
    seeds = dict.fromkeys("abcd", 1)
    while (look := take_look(evidence(alike, seeds), dict.fromkeys("abcd", 1.0), 0.95, chances=False)).state == "open":
        seeds[look.steps[0].label] += 1
    assert look.state == "out of reach"
    assert look.reach is not None
    assert look.reach < 0.02
    assert sum(seeds.values()) < 4 * SEEDS


def test_a_lower_confidence_is_within_reach() -> None:
    random = numpy.random.default_rng(3)
    close = {label: values(random, score, spread=0.01) for label, score in {"a": 0.60, "b": 0.63}.items()}
    assert not take_look(evidence(close), {}, 0.9999, chances=False).settled
    assert take_look(evidence(close), {}, 0.6, chances=False).settled == ("b",)


def test_what_takes_far_longer_waits() -> None:
    random = numpy.random.default_rng(4)
    alike = {label: (random.random((SEEDS, ITEMS)) < 0.6).astype(float) for label in "abcd"}
    known = evidence(alike, dict.fromkeys("abcd", 2))
    first, second, *_ = take_look(known, dict.fromkeys("abcd", 1.0), 0.95, chances=False).steps
    dear = {label: 1e6 if label == first.label else 1.0 for label in "abcd"}
    assert take_look(known, dear, 0.95, chances=False).steps[0].label == second.label


def test_lower_may_be_better(clear: dict[str, Any]) -> None:
    look = take_look(evidence(clear, margin=0.1, higher_is_better=False), SECONDS, 0.95)
    assert look.answer in "ab"
    assert "c" in look.out
    assert leader(evidence(clear, higher_is_better=False)) == "a"


def test_items_in_clusters_count_as_their_clusters() -> None:
    of = tuple(f"text {place // 50}" for place in range(ITEMS))
    random = numpy.random.default_rng(6)
    close = {label: values(random, score) for label, score in {"a": 0.60, "c": 0.64}.items()}
    close["c"][:, :50] += 0.1  # most of the difference comes from the questions about one text
    close["c"][:, 50:] -= 0.03
    assert find_bounds(evidence(close, margin=0.0), 0.95).out.tolist() == [True, False]
    assert not find_bounds(evidence(close, margin=0.0, clusters=of), 0.95).out.any()


def test_seeds_that_all_agree_are_no_proof_that_others_would(clear: dict[str, Any]) -> None:
    """Two seeds with the same answers have no spread at all; that of the table is drawn upon."""
    same = numpy.repeat(clear["c"][:1], SEEDS, axis=0)
    wild = values(numpy.random.default_rng(5), 0.55, spread=0.15)
    bounds = find_bounds(evidence({"a": same, "b": same - 0.03, "w": wild}, {"a": 2, "b": 2, "w": 5}, 0.0), 0.95)
    assert not bounds.out[:2].any()


def test_the_error_is_divided_among_all_looks() -> None:
    assert look_shares(5) == pytest.approx({2: 0.25, 3: 0.25, 4: 0.25, 5: 0.25})
    assert look_shares(1) == {2: 1.0}


def test_bounds_do_not_depend_on_the_order_in_which_cells_were_run(clear: dict[str, Any]) -> None:
    """What two seeds have shown, further seeds of other labels cannot take back: the looks of a pair are its own."""
    two = find_bounds(evidence(clear, {"a": 2, "b": 2, "c": 2}), 0.8)
    more = find_bounds(evidence(clear, {"a": 2, "b": 2, "c": 5}), 0.8)
    assert two.out.any()
    assert (two.out == more.out).all()


def simulated(lead: float, unstable: int, times: int) -> tuple[int, int]:
    """Counts (settled, settled and wrong) in small worlds of four labels, of which the last leads."""
    settled = wrong = 0
    for number in range(times):
        random = numpy.random.default_rng([9, number])
        spreads = [0.08 if place < unstable else 0.007 for place in range(4)]
        truth = [0.6, 0.6, 0.6, 0.6 + lead]
        labels = {
            label: values(random, truth[place], spread=spreads[place], items=60) for place, label in enumerate("abcd")
        }
        seeds = dict.fromkeys("abcd", 1)
        while (
            look := take_look(evidence(labels, seeds), dict.fromkeys("abcd", 1.0), 0.9, chances=False)
        ).state == "open":
            seeds[look.steps[0].label] += 1
        settled += bool(look.settled)
        wrong += bool(look.settled) and max(truth) - truth["abcd".index(look.answer)] > 0.02
    return settled, wrong


@pytest.mark.parametrize(("unstable", "least"), [(0, 5), (2, 0)])
def test_what_is_settled_is_seldom_wrong(unstable: int, least: int) -> None:
    """A hair more than the margin apart, the hardest case: at 90% at most 3 of 12 may be wrong by chance (p = 0.03)."""
    settled, wrong = simulated(0.0201, unstable, 12)
    assert settled >= least
    assert wrong <= 3
