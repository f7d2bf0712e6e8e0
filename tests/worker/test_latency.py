"""Latency and throughput: what is asked, what is counted, and that it ends in time and changes nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tools import cell_named, plan_of, run_here

from harness.records import CellResult, Fact
from harness.worker import latency as inference
from harness.worker import scoring
from harness.worker.evaluate import spread_evenly
from harness.worker.latency import inference_facts, repeated


class Asked:
    """An lm that notes what it is asked; each call takes `fixed` seconds, and `each` for a request."""

    def __init__(self, clock: list[float], fixed: float = 0.0, each: float = 0.01, counts: bool = True):
        self.clock, self.fixed, self.each, self.calls = clock, fixed, each, list[list[Any]]()
        if counts:
            self.scored_tokens = 0

    def loglikelihood(self, requests: list[Any]) -> None:
        self.calls.append(requests)
        self.clock[0] += self.fixed + self.each * len(requests)
        if hasattr(self, "scored_tokens"):
            self.scored_tokens += 10 * len(requests)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(inference.time, "perf_counter", lambda: now[0])
    return now


def requests(documents: int, choices: int = 3) -> list[Any]:
    return [SimpleNamespace(doc_id=number, request_type="loglikelihood") for number in range(documents)] * choices


def values(lm: Any, asked: list[Any], batch_size: int = 4) -> dict[str, float]:
    return {fact.name: fact.value for fact in inference_facts(lm, asked, batch_size)}


def test_documents_are_asked_alone_and_together(clock: list[float]) -> None:
    lm = Asked(clock, fixed=0.01)
    found = values(lm, requests(20))
    alone = [call for call in lm.calls if len(call) == 3]
    assert all(len({request.doc_id for request in call}) == 1 for call in alone)
    assert {call[0].doc_id for call in alone} == {0, 2, 5, 7, 10, 12, 15, 17}
    assert found["latency_passes"] == len(alone) - 1 == 16  # one has warmed up
    assert found["latency_ms_p50"] == pytest.approx(40)
    assert found["latency_ms_p90"] == pytest.approx(40)
    together = [call for call in lm.calls if len(call) == 12]
    assert len(lm.calls) == len(alone) + len(together)
    assert found["inference_batch"] == 4
    assert found["inference_documents_per_second"] == pytest.approx(4 / 0.13)
    assert found["inference_tokens_per_second"] == pytest.approx(120 / 0.13)


def test_what_takes_long_is_asked_less_often(clock: list[float]) -> None:
    lm = Asked(clock, each=0.1)
    found = values(lm, requests(20), batch_size=16)
    assert found["latency_passes"] == 2
    assert "latency_ms_p90" not in found
    assert found["inference_batch"] == 3  # as many as a second is enough for
    assert clock[0] < 4
    slow = Asked(clock, each=2.0)
    assert values(slow, requests(20)) == {"latency_ms_p50": pytest.approx(6000), "latency_passes": 1}
    assert len(slow.calls) == 1


def test_tokens_that_nobody_counts_are_no_rate(clock: list[float]) -> None:
    found = values(Asked(clock, counts=False), requests(20))
    assert "inference_tokens_per_second" not in found
    assert found["inference_documents_per_second"] > 0
    assert inference_facts(Asked(clock), [], 4) == []


def test_the_first_time_counts_only_where_there_is_no_other(clock: list[float]) -> None:
    lengths = iter([5.0, 1.0, 2.0, 3.0])

    def work(place: int) -> None:
        clock[0] += next(lengths)

    assert repeated(work, most=2, seconds=100) == [1.0, 2.0]
    assert repeated(work, most=2, seconds=0.5) == [3.0]


def test_documents_are_spread_over_all() -> None:
    assert spread_evenly(range(10), 4) == [0, 2, 5, 7]
    assert spread_evenly(range(3), 8) == [0, 1, 2]


# --- in a cell ---

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: {task}, sizes: [8]}}
retain: [prose]
methods:
  base: {{}}
  lora: {{learning_rate: 1e-2}}
  prompt: {{method: prompt_tuning, init: random}}
  shown: {{method: prompting, examples: 2, instruction: "{instruction}"}}
  head: {{method: classifier}}
seeds: [0]
train: {{steps: 3, batch_size: 4, max_length: {length}}}
"""


def suite(task: str = "colours", instruction: str = "Choose among {choices}.", length: int = 128) -> str:
    text = SUITE.format(task=task, instruction=instruction, length=length)
    return text if task == "colours" else text.replace("  head: {method: classifier}\n", "")


def facts(result: CellResult) -> dict[str, float]:
    assert result.status == "done", result.reason
    return {fact.name: fact.value for fact in result.facts}


def key(label: str, task: str = "colours") -> str:
    return f"{label}/tiny/{task}" + ("" if label == "base" else "/n8/s0")


@pytest.mark.parametrize("label", ["base", "lora", "prompt", "shown", "head"])
def test_every_kind_of_answer_has_a_latency_and_scores_stay(
    label: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(project, suite())
    cell = cell_named(plan, key(label))
    result = run_here(plan, cell, project / "results" / "one" / "measured")
    found = facts(result)
    assert found["latency_ms_p50"] > 0
    assert found["inference_batch"] > 1
    assert ("inference_tokens_per_second" in found) == (label != "head")
    monkeypatch.setattr(scoring.Scorer, "latency", lambda self, model: [])
    other = run_here(plan, cell, project / "results" / "two" / "plain")
    assert "latency_ms_p50" not in facts(other)
    assert other.scores == result.scores
    one, two = ((project / "results" / name / "items.parquet").read_bytes() for name in ("one/measured", "two/plain"))
    assert one == two


def test_generated_answers_have_a_latency_too(project: Path) -> None:
    plan = plan_of(project, suite("names", instruction="Answer."))
    found = facts(run_here(plan, cell_named(plan, key("prompt", "names")), project / "results" / "one" / "a"))
    assert found["latency_ms_p50"] > 0
    assert "inference_tokens_per_second" not in found


# --- what was cut ---


def test_what_max_length_cut_is_said(project: Path) -> None:
    plan = plan_of(project, suite(length=8))
    found = facts(run_here(plan, cell_named(plan, key("lora")), project / "results" / "one" / "a"))
    whole = plan_of(project, suite(), name="whole")
    uncut = facts(run_here(whole, cell_named(whole, key("lora")), project / "results" / "one" / "b"))
    assert (uncut["truncated_train_examples"], uncut["truncated_train_tokens"]) == (0, 0)
    lengths = training_lengths(whole, project)
    assert found["truncated_train_examples"] == sum(length > 8 for length in lengths) > 0
    assert found["truncated_train_tokens"] == sum(max(0, length - 8) for length in lengths)
    assert found["truncated_items"] == uncut["truncated_items"] == 0


def training_lengths(plan: Any, project: Path) -> list[int]:
    from tools import context_of

    work = context_of(plan, cell_named(plan, key("lora")), project / "results" / "one" / "c")
    return [len(row["input_ids"]) for row in work.encode(work.load_model(), work.examples())]


def test_what_encodes_its_own_examples_says_nothing_of_them(project: Path) -> None:
    plan = plan_of(project, suite())
    for label in ("head", "base"):
        found = facts(run_here(plan, cell_named(plan, key(label)), project / "results" / "one" / label))
        assert "truncated_train_tokens" not in found


# --- folded ---


@pytest.mark.parametrize(
    ("settings", "folded"),
    [
        ("lora: {}", True),
        ("vera: {}", True),
        ("x: {method: peft, type: loha}", True),
        ("x: {method: [lora, prompting]}", True),
        ("full: {}", False),
        ("prompt_tuning: {init: random}", False),
        ("adapter: {}", False),
        ("bitfit: {}", False),
    ],
)
def test_what_can_be_folded_is_timed_folded_and_unfolded(
    settings: str, folded: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []
    monkeypatch.setattr(
        inference, "inference_facts", lambda lm, *_: served.append(lm) or [Fact("latency_ms_p50", len(served), "ms")]
    )
    text = suite().split("methods:")[0] + f"methods:\n  base: {{}}\n  {settings}\n"
    plan = plan_of(project, text + "train: {steps: 2, batch_size: 4}\n")
    cell = next(one for one in plan.cells if one.label != "base")
    result = run_here(plan, cell, project / "results" / "one" / "a")
    found = facts(result)
    assert ("latency_ms_p50_unfolded" in found) is folded
    assert len(served) == 1 + folded
    model = getattr(served[-1], "inner", served[-1]).model
    if folded or settings == "full: {}":
        base = facts(run_here(plan, cell_named(plan, key("base")), project / "results" / "one" / "b"))
        assert found["served_bytes"] == base["served_bytes"]
        assert not hasattr(model, "merge_and_unload")
    else:
        assert found["served_bytes"] > 0
    assert any((project / "results" / "one" / "a" / "weights").iterdir())


def test_a_folded_network_answers_as_the_one_that_was_scored(project: Path, tmp_path: Path) -> None:
    from tools import context_of

    plan = plan_of(project, suite())
    cell = cell_named(plan, key("lora"))
    result = run_here(plan, cell, project / "results" / "one" / "a")
    saved = project / "results" / "one" / "a" / "weights"
    context = context_of(plan, cell, tmp_path / "again")
    model = context.method.fold(context.method.restore(context, saved)).eval()
    (score, *_), _, _ = scoring.evaluate(
        context.method.predictor(model, context), context.data.tasks, {"colours": "task", "prose": "retain"}
    )
    assert score.value == pytest.approx(result.scores[0].value, abs=0.04)
