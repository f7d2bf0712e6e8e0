"""The pairs that SetFit learns from: how many, of what, drawn by the seed, and within memory."""

import tracemalloc
from collections import Counter

import pytest

from harness.methods.setfit import Pair, draw_pairs


def made(count: int, labels: int = 3) -> tuple[list[str], list[int]]:
    return [f"text {number}" for number in range(count)], [number % labels for number in range(count)]


def of_each(pairs: list[Pair], same: float) -> Counter[int]:
    """Example -> its pairs of one kind."""
    return Counter(number for number, _, alike in pairs if alike == same)


@pytest.mark.parametrize("count", [1, 5, 20])
def test_each_example_has_as_many_pairs_of_either_kind(count: int) -> None:
    texts, labels = made(16)
    pairs = draw_pairs(texts, labels, count, seed=0)
    assert of_each(pairs, 1.0) == of_each(pairs, 0.0) == dict.fromkeys(range(16), count)
    assert all(texts[one] != texts[other] for one, other, _ in pairs)
    assert all((labels[one] == labels[other]) == bool(same) for one, other, same in pairs)


def test_partners_differ_as_long_as_there_are_enough() -> None:
    texts, labels = made(12, labels=2)
    pairs = draw_pairs(texts, labels, 5, seed=0)
    assert set(Counter(pairs).values()) == {1}
    twice = Counter(draw_pairs(texts, labels, 12, seed=0))  # 5 others of its label, 6 of the other one
    assert {times for (_, _, same), times in twice.items() if same} == {2, 3}
    assert {times for (_, _, same), times in twice.items() if not same} == {2}


def test_the_seed_draws_them() -> None:
    texts, labels = made(30)
    one, again, other = (draw_pairs(texts, labels, 2, seed) for seed in (1, 1, 2))
    assert one == again != other


def test_a_text_that_several_examples_have_is_not_paired_with_itself() -> None:
    texts = ["a", "a", "a", "b", "b", "c", "a"]
    labels = [0, 0, 0, 0, 0, 1, 1]  # the last one is mislabelled
    for seed in range(20):
        pairs = draw_pairs(texts, labels, 4, seed)
        assert all(texts[one] != texts[other] for one, other, _ in pairs)
        assert of_each(pairs, 1.0) == dict.fromkeys(range(7), 4)
        assert of_each(pairs, 0.0) == dict.fromkeys(range(7), 4)


def test_a_label_with_a_single_text_has_no_positive_pairs() -> None:
    pairs = draw_pairs(["a", "b", "c"], [0, 1, 1], 2, seed=0)
    assert of_each(pairs, 1.0) == {1: 2, 2: 2}
    assert of_each(pairs, 0.0) == {0: 2, 1: 2, 2: 2}
    assert draw_pairs(["a"], [0], 2, seed=0) == []


def test_every_other_text_is_as_likely() -> None:
    texts, labels = made(9)
    drawn = Counter(
        (one, other) for seed in range(600) for one, other, _ in draw_pairs(texts, labels, 1, seed)
    )  # fmt: skip
    assert len(drawn) == 9 * 8
    for (one, other), times in drawn.items():
        assert times / 600 == pytest.approx(1 / 2 if labels[one] == labels[other] else 1 / 6, abs=0.1)


def test_ten_thousand_texts_fit_in_memory() -> None:
    texts, labels = made(10_000, labels=5)
    tracemalloc.start()
    pairs = draw_pairs(texts, labels, 5, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == 2 * 5 * 10_000
    assert peak < 50 * 2**20
