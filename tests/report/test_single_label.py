"""Sentences where only one label is left to be said something of: nothing then "fits", and nothing forgets "least"."""

from __future__ import annotations

from pathlib import Path

from results_factory import PROSE, TASK, Results, answered, cell, items, scores

from harness.records import Flag
from harness.report import answer_lines, load
from harness.store import Store


def results(folder: Path, learned: bool, forgot: bool = False) -> Store:
    """The base model and three seeds of one label."""
    made = Results(folder)
    base = cell("base", family="no training")
    words = [-5.0, -5.5, -5.1, -5.4]
    prose = items(PROSE, "log_likelihood_per_word", words)
    made.add(base, scores(0.60, 0.035, -5.25), items=[*prose, *answered(0.60, 1)])
    for seed in range(3):
        share = 0.8 if learned else 0.6
        flags = [] if learned else [Flag("learned_nothing", {"p": 0.4})]
        if forgot:
            flags.append(Flag("forgetting", {PROSE: {"metric": "m", "change": -0.21, "limit": -0.1, "p": 0.01}}))
        moved = items(PROSE, "log_likelihood_per_word", [word - 0.21 for word in words])
        made.add(
            cell("lora", 32, seed, baseline=base.spec_digest), scores(share, 0.03, -5.46),
            items=[*moved, *answered(share, 10 + seed)], train_seconds=50.0, flags=flags,
        )  # fmt: skip
    return made.store()


def said(store: Store) -> str:
    return " ".join(answer_lines(load(store, "demo")))


def test_the_untouched_model_is_advised_because_nothing_beats_it(tmp_path: Path) -> None:
    text = said(results(tmp_path, learned=False))
    assert "nothing trained is shown to beat the untouched model" in text
    assert "the only one that fits" not in text


def test_answers_that_speak_against_the_task_are_told_with_the_answer(tmp_path: Path) -> None:
    results(tmp_path, learned=True)
    made = Results(tmp_path, run_id="run-2", started="2026-02-02T10:00:00.000+00:00")
    flag = Flag("all_scored_zero", {TASK: {"metric": "acc", "n": 200, "an_answer": "::"}})
    for label in ("base", "prompting"):
        made.add(cell(label), scores(0.0), flags=[flag])
    text = said(made.store())
    assert (
        "Look at the answers to topic first: all are scored 0, so the metric or the prompt may be wrong (base, " in text
    )
    assert "white space" not in text


def test_one_label_that_learned_changes_a_text_and_forgets_nothing_least(tmp_path: Path) -> None:
    text = said(results(tmp_path, learned=True))
    assert "lora, the only label that learned, changes prose by −0.210 nats/word." in text
    assert "forgets least" not in text


def test_forgetting_beyond_the_limit_is_said_with_the_limit(tmp_path: Path) -> None:
    text = said(results(tmp_path, learned=True, forgot=True))
    assert "changes prose by −0.210 nats/word, beyond the limit of −0.10." in text
