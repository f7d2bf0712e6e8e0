"""What a plan's items can decide, before and after something is known of its seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import MODEL, TASK, Results, cell, items, scores
from samples import MODELS, TASKS
from samples import plan as planned

from harness.analysis.planned_power import (
    outlook_assumption,
    outlook_sentence,
    outlook_warning,
    outlooks,
    seed_spreads,
    tuning_outlook,
    tuning_sentences,
)
from harness.analysis.stats.contrast import Spread, seed_spread
from harness.data.facts import Facts
from harness.plan.plan import Plan

SPREAD = Spread(variance=0.0004, df=6, residual=0.0003)


def plan(tmp_path: Path, metric: str = "acc", n_test: int = 200, **changes: Any) -> Plan:
    found = planned(tmp_path, **changes)
    tasks = {**TASKS, "a": replace(TASKS["a"], metric=metric, n_test=n_test)}
    return replace(found, facts=Facts(MODELS, tasks))


def test_two_hundred_items_show_no_tie_within_the_default_margin(tmp_path: Path) -> None:
    (found,) = outlooks(plan(tmp_path), {})
    assert (found.task, found.items, found.margin, found.seed_sd) == ("a", 200, 0.02, None)
    assert found.figures.score_stderr == pytest.approx(0.0354, abs=1e-4)
    assert not found.figures.decides
    assert "200 test items, so one score has a standard error of 0.035" in outlook_sentence(found)
    assert found.pairs == 3
    assert "a tie within 0.02 takes 7,269 items (corrected for 3 pairs" in outlook_sentence(found)
    assert "not known yet and taken as none, the best case" in outlook_assumption(found)
    assert outlook_warning([found]).startswith(
        "no tie within 0.02 can be expected: 200 items of a find differences from 0.12 on"
    )


def test_a_wide_margin_is_within_reach_and_nothing_is_said(tmp_path: Path) -> None:
    found = outlooks(plan(tmp_path, margin=0.2), {})
    assert found[0].figures.decides
    assert outlook_warning(found) == ""


def test_what_stored_seeds_tell_makes_it_harder_and_more_seeds_easier(tmp_path: Path) -> None:
    best = outlooks(plan(tmp_path), {})[0]
    known = outlooks(plan(tmp_path), {("m1", "a"): SPREAD})[0]
    more = outlooks(plan(tmp_path, seeds=[0, 1, 2, 3, 4]), {("m1", "a"): SPREAD})[0]
    assert more.figures.detectable < known.figures.detectable
    assert best.figures.detectable < known.figures.detectable
    assert known.seed_sd == pytest.approx(0.02)
    assert "with 2 seeds a difference of" in outlook_sentence(known)
    assert "vary by 0.020 between seeds" in outlook_assumption(known)


def test_one_seed_and_metrics_that_are_not_right_or_wrong(tmp_path: Path) -> None:
    (found,) = outlooks(plan(tmp_path, seeds=[0]), {("m1", "a"): SPREAD})
    assert found.seed_sd is None
    assert "with one seed nothing is settled" in outlook_assumption(found)
    for metric in ("word_perplexity", "kl_to_base", ""):
        assert outlooks(plan(tmp_path, metric=metric), {}) == []


def test_the_spread_of_stored_seeds_is_pooled_over_settings(tmp_path: Path) -> None:
    rng = numpy.random.default_rng(0)
    answers = {
        (label, seed): [float(value) for value in rng.random(50) < 0.6] for label in ("full", "lora") for seed in (0, 1)
    }
    results = Results(tmp_path)
    for (label, seed), values in answers.items():
        for _ in range(2):  # of two attempts the newer counts
            results.add(cell(label, 32, seed), scores(0.6), items=items(TASK, "acc", values))
    with results.store().open(read_only=True) as connection:
        found = seed_spreads(connection, {(MODEL, TASK): ("acc", "f" * 8)})[MODEL, TASK]
        assert seed_spreads(connection, {(MODEL, TASK): ("acc", "another definition")}) == {}
    each = [seed_spread([[answers[label, 0], answers[label, 1]]]) for label in ("full", "lora")]
    assert found.df == 2
    assert found.variance == pytest.approx(numpy.mean([spread.variance for spread in each if spread]))


def test_what_is_tuned_is_counted_over_all_studies(tmp_path: Path) -> None:
    labels = {"full": {"tune": False}, "lora": {}, "dora": {}}
    once = tuning_outlook(plan(tmp_path, methods=labels, seeds=[0, 1, 2], tune={"trials": 4}))
    assert once
    assert (sorted(once.labels), once.repeated, once.studies, once.trials) == (["dora", "lora"], (), 4, 16)
    assert tuning_sentences(once)[0] == "tuning: 4 studies, at most 16 trials in all"
    assert "as the setting that one study chooses, and another may choose another: dora, lora" in "".join(
        tuning_sentences(once)
    )
    many = tuning_outlook(plan(tmp_path, methods=labels, seeds=[0, 1, 2], tune={"trials": 4, "studies": 3}))
    assert many
    assert (many.labels, sorted(many.repeated), many.studies, many.trials) == ((), ["dora", "lora"], 12, 48)
    assert len(tuning_sentences(many)) == 2
    twice = tuning_outlook(plan(tmp_path, methods=labels, seeds=[0, 1, 2], tune={"seconds": 60, "studies": 2}))
    assert twice
    assert twice.trials is None
    assert tuning_sentences(twice)[0] == "tuning: 8 studies"
    assert "nothing is decided of them" in tuning_sentences(twice)[-1]
    assert tuning_outlook(plan(tmp_path)) is None
