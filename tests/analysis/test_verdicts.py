"""From stored results to verdicts: what may be compared at all, and that figures and words agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import Results, cell, items, scores
from samples import answers

from harness.analysis.comparisons import Request, compare_labels
from harness.analysis.stats.contrast import compare
from harness.analysis.stats.intervals import corrected
from harness.analysis.verdicts import Side, Verdict, pairwise_verdicts
from harness.cli.verdict_text import sentence
from harness.errors import UserError
from harness.records import Status
from harness.store.database import Store


def stored(folder: Path, skills: dict[str, float], seeds: int = 3, **about: Any) -> Store:
    results = Results(folder, **about)
    for number, (label, skill) in enumerate(skills.items()):
        for seed in range(seeds):
            values = answers(skill, 100 * number + seed)
            results.add(cell(label, 32, seed), scores(float(numpy.mean(values))), items=items("topic", "acc", values))
    return results.store()


def verdict(store: Store, a: str, b: str, margin: float | None = 0.02, metric: str = "") -> Verdict:
    with store.open(read_only=True) as connection:
        ((where, found),) = compare_labels(connection, a, b, Request("", margin, metric))
    assert str(where) == "topic, tiny, 32 examples"
    return found


def test_a_large_difference_is_better_and_the_other_way_round_worse(tmp_path: Path) -> None:
    store = stored(tmp_path, {"good": 0.8, "bad": 0.5})
    found = verdict(store, "good", "bad")
    assert found.verdict == "better"
    assert found.decision
    assert 0.2 < found.decision.effect < 0.4
    assert sentence(found).startswith("good is better than bad (acc +0.")
    assert verdict(store, "bad", "good").verdict == "worse"


def test_alike_is_tied_within_a_wide_margin_and_open_within_a_narrow_one(tmp_path: Path) -> None:
    store = stored(tmp_path, {"one": 0.7, "other": 0.7})
    assert verdict(store, "one", "other", margin=0.2).verdict == "tied"
    found = verdict(store, "one", "other", margin=0.05)
    assert found.verdict == "underpowered"
    assert found.decision
    assert found.decision.to_tie
    assert f"It would take {found.decision.to_differ.items} items" in sentence(found)
    assert "to show a difference of 0.05" in sentence(found)
    assert f"{found.decision.to_tie.items or found.decision.to_tie.seeds}" in sentence(found)
    assert "to show a tie" in sentence(found)
    hopeless = verdict(store, "one", "other", margin=1e-9)
    assert "Neither more seeds alone nor more items alone would settle it" in sentence(hopeless)


def test_one_seed_each_settles_nothing(tmp_path: Path) -> None:
    assert verdict(stored(tmp_path, {"good": 0.9, "bad": 0.3}, seeds=1), "good", "bad").verdict == "underpowered"


def test_a_row_without_seeds_needs_none(tmp_path: Path) -> None:
    results = Results(tmp_path)
    values = answers(0.4, 1)
    results.add(cell("base"), scores(float(numpy.mean(values))), items=items("topic", "acc", values))
    for seed in range(2):
        values = answers(0.8, 50 + seed)
        results.add(cell("good", 32, seed), scores(float(numpy.mean(values))), items=items("topic", "acc", values))
    assert verdict(results.store(), "good", "base").verdict == "better"


def test_what_failed_or_was_scored_on_other_items_is_incomparable(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for label, count in (("whole", 200), ("short", 150)):
        for seed in range(2):
            values = answers(0.7, seed)[:count]
            results.add(cell(label, 32, seed), scores(0.7), items=items("topic", "acc", values))
    results.add(cell("broken", 32, 0), status=Status.OOM, reason="needs more than 24 GiB")
    results.add(cell("bare", 32, 0), scores(0.7))
    store = results.store()
    assert "different items: 200 and 150, of which 150 are the same" in verdict(store, "whole", "short").reason
    broken = verdict(store, "whole", "broken")
    assert broken.verdict == "incomparable"
    assert "broken has no finished cell (oom: needs more than 24 GiB)" in sentence(broken)
    assert "no values of single items" in verdict(store, "whole", "bare").reason
    with pytest.raises(UserError, match=r"unknown metric 'acu'\. Did you mean 'acc'"):
        verdict(store, "whole", "short", metric="acu")


def test_what_was_scored_by_another_definition_of_the_task_is_incomparable() -> None:
    one, other = (replace(side(name, 0.7, 0), fingerprint=name) for name in ("old", "new"))
    (found,) = pairwise_verdicts([one, other])
    assert found.verdict == "incomparable"
    assert "the task was defined otherwise" in found.reason
    assert (
        pairwise_verdicts([one, replace(other, fingerprint="")])[0].verdict != "incomparable"
    )  # not known: not refused


def test_the_margin_is_that_of_the_run_unless_another_is_given(tmp_path: Path) -> None:
    store = stored(tmp_path, {"one": 0.7, "other": 0.7}, margin=0.2)
    assert verdict(store, "one", "other", margin=None).verdict == "tied"
    assert verdict(store, "one", "other", margin=0.01).verdict == "underpowered"


def test_labels_that_nobody_knows_name_the_nearest(tmp_path: Path) -> None:
    store = stored(tmp_path, {"good": 0.8, "bad": 0.5}, seeds=1)
    with store.open(read_only=True) as connection, pytest.raises(UserError, match="Did you mean 'good'"):
        compare_labels(connection, "goood", "bad", Request("", 0.02, ""))
    with store.open(read_only=True) as connection, pytest.raises(UserError, match="unknown suite"):
        compare_labels(connection, "good", "bad", Request("nowhere", 0.02, ""))


def side(label: str, skill: float, seed: int) -> Side:
    docs = tuple(map(str, range(200)))
    return Side(label, "acc", True, docs, tuple(tuple(answers(skill, seed + s)) for s in range(3)))


def test_all_pairs_are_corrected_for_their_number() -> None:
    sides = [side("a", 0.6, 0), side("b", 0.66, 10), side("c", 0.7, 20)]
    found = pairwise_verdicts(sides)
    assert [(one.a, one.b) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    alone = [compare(sides[x].values, sides[y].values).p for x, y in ((0, 1), (0, 2), (1, 2))]
    assert [one.decision.p for one in found if one.decision] == pytest.approx(list(corrected(alone, "holm")))
    beside = pairwise_verdicts(sides, against="c")
    assert [(one.a, one.b) for one in beside] == [("a", "c"), ("b", "c")]


def test_less_is_better_where_the_metric_says_so() -> None:
    losses = [
        Side(
            name, "loss", False, side("x", 0, 0).docs, tuple(tuple(1 - v for v in answers(skill, s)) for s in (1, 2, 3))
        )
        for name, skill in (("low", 0.9), ("high", 0.3))
    ]
    (found,) = pairwise_verdicts(losses)
    assert found.verdict == "better"
    assert found.decision
    assert found.decision.effect < 0


def test_every_correction_and_the_effect_size_are_those_of_the_libraries() -> None:
    from statsmodels.stats.multitest import multipletests

    sides = [
        Side(
            str(skill),
            "acc",
            True,
            tuple(map(str, range(200))),
            tuple(tuple(answers(skill, 7 * n + s)) for s in (0, 1)),
        )
        for n, skill in enumerate((0.5, 0.55, 0.6, 0.7))
    ]
    found = pairwise_verdicts(sides, settle=False)
    alone = [one.p_alone for one in found]
    assert [one.decision.p for one in found if one.decision] == pytest.approx(multipletests(alone, method="holm")[1])
    assert [one.q for one in found] == pytest.approx(multipletests(alone, method="fdr_bh")[1])
    gap = numpy.mean(sides[0].values, axis=0) - numpy.mean(sides[3].values, axis=0)
    assert found[2].effect_size == pytest.approx(gap.mean() / gap.std(ddof=1))
