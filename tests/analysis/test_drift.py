"""Drift is found where there is some, and as often as the level says where there is none."""

from __future__ import annotations

import random

import pytest

from harness.analysis.drift import buckets_of, corrected_drifts, input_drift, length_drift, share_drift, words_of

OLD = [
    "the",
    "match",
    "team",
    "goal",
    "player",
    "season",
    "coach",
    "league",
    "win",
    "cup",
    "shares",
    "profit",
    "market",
    "bank",
    "rates",
]
NEW = [*OLD[:8], *["vaccine", "virus", "hospital", "ward", "nurse", "patient"]]


def texts(words: list[str], count: int, seed: int, length: int = 8) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=length)) for _ in range(count)]


def buckets(found: list[str]) -> list[list[int]]:
    return [buckets_of(text) for text in found]


def test_words_that_are_new_are_found_and_named_first() -> None:
    fresh = texts(NEW, 60, 2)
    drift, order = input_drift(buckets(texts(OLD, 60, 1)), buckets(fresh))
    assert drift.p == 1 / 500
    told = {number: rank for rank, number in enumerate(order)}
    ranked = sorted({word for text in fresh for word in words_of(text)}, key=lambda word: told[buckets_of(word)[0]])
    assert set(ranked[:6]) == set(NEW[8:])


def test_false_alarms_are_as_frequent_as_the_level_says() -> None:
    """Of 40 pairs of samples from one source, 5% are expected below 0.05: 7 or more have a chance of 0.3%."""
    found = [input_drift(buckets(texts(OLD, 30, n)), buckets(texts(OLD, 30, 1000 + n)))[0].p for n in range(40)]
    assert sum(p < 0.05 for p in found) < 7
    assert sum(p < 0.5 for p in found) > 8, "and they are no larger than they should be"


def test_unequal_samples_are_no_drift() -> None:
    drift, _ = input_drift(buckets(texts(OLD, 200, 1)), buckets(texts(OLD, 20, 2)))
    assert drift.p > 0.05


def test_lengths_and_shares() -> None:
    assert length_drift([8, 9, 10] * 20, [20, 30, 40] * 10).p == 1 / 500
    assert length_drift([8, 9, 10] * 20, [8, 9, 10] * 5).p > 0.9
    moved = share_drift("answers", ["a"] * 30 + ["b"] * 30, ["a"] * 5 + ["b"] * 45 + ["c"] * 2)
    assert moved.p < 0.01
    assert moved.now.startswith("a 10%")
    assert share_drift("answers", ["a", "b"] * 30, ["a", "b"] * 10).p > 0.9
    twice = corrected_drifts([moved, moved])
    assert [one.p for one in twice] == [2 * moved.p] * 2


def test_languages_without_spaces_have_words() -> None:
    assert words_of("数据很好") == ["数", "据", "很", "好"]
    assert words_of("Größe, naïve 42!") == ["größe", "naïve", "42"]


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="both samples"):
        input_drift([], [[1]])
