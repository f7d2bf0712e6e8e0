"""Generated answers that say that a task or its metric is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tools import cell_named, plan_of, run_here

from harness.worker.answer_flags import odd_answers


class Exact:
    """A task of generated text whose items are right where the text is the document's answer, to the sign."""

    OUTPUT_TYPE = "generate_until"

    def __init__(self, texts: list[Any], wanted: str = "red"):
        self.instances = [SimpleNamespace(doc={"answer": wanted}, filtered_resps={"none": text}) for text in texts]

    def process_results(self, doc: dict[str, str], results: list[str]) -> dict[str, float]:
        if results[0] == "crash":
            raise ValueError("the task's own code")
        return {"exact_match": float(results[0] == doc["answer"])}

    def aggregation(self) -> dict[str, Any]:
        return {"exact_match": sum}

    def higher_is_better(self) -> dict[str, bool]:
        return {"exact_match": True}


def flags(texts: list[Any], **more: str) -> dict[str, Any]:
    return {flag.name: dict(flag.evidence) for flag in odd_answers({"t": Exact(texts, **more)})}  # type: ignore[dict-item]


def test_sound_answers_have_no_flag() -> None:
    assert flags(["red", "blue", "red", ""]) == {}


def test_answers_that_are_mostly_empty() -> None:
    assert flags(["red", " \n", "", "blue"])["empty_answers"] == {"t": {"share": 0.5, "n": 4}}


def test_white_space_that_decides_the_score() -> None:
    found = flags([" red", "red", "red\n", "blue"])
    assert found == {"white_space_counts": {"t": {"metric": "exact_match", "as_it_is": 0.25, "without": 0.75}}}
    assert flags([" blue", "red", "blue\n"]) == {}, "white space that decides nothing"


def test_all_scored_zero_shows_an_answer() -> None:
    found = flags(["", "blue", "green"])
    assert found == {"all_scored_zero": {"t": {"metric": "exact_match", "n": 3, "an_answer": "blue"}}}


def test_a_task_of_which_no_item_can_be_scored_again_ends_nothing() -> None:
    assert flags(["crash", "crash"]) == {}
    assert flags([["a list"], 1.5]) == {}


def test_choices_are_not_answers() -> None:
    task = Exact(["", ""])
    task.OUTPUT_TYPE = "multiple_choice"
    assert odd_answers({"t": task}) == []  # type: ignore[dict-item]


SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: names, sizes: [8]}
methods:
  base: {}
train: {steps: 2, batch_size: 4}
"""


@pytest.mark.parametrize("answer", ["0", "nothing"])
def test_a_cell_has_them(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A random model answers no question, and its cell says so."""
    from harness.worker.evaluate import TunedLM

    monkeypatch.setattr(TunedLM, "generate_until", lambda self, requests, **_: [" " if answer == "0" else answer] * len(
        requests))  # fmt: skip
    plan = plan_of(project, SUITE)
    result = run_here(plan, cell_named(plan, "base/tiny/names"), tmp_path / "cell")
    assert result.status == "done", result.reason
    found = {flag.name: flag.evidence["names"] for flag in result.flags}
    assert found["all_scored_zero"]["n"] == 30
    assert ("empty_answers" in found) is (answer == "0")
