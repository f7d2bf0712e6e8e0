"""KL to the base model: by hand on small distributions, exactly 0 where nothing has changed, on the scorer's path."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tools import cell_named, plan_of, run_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data.facts import PLACES, TEXTS, TOKENS
from harness.methods import all_methods
from harness.records import CellResult, Score
from harness.worker.base_kl import KL, compare, divergence, text_inputs
from harness.worker.evaluate import TunedLM, spread_evenly

TEXT = "Ada sees the sky and then Ada sees the sky"
SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
retain: [prose, names]
methods:
  full: {learning_rate: 1e-2}
  prompt_tuning: {init: random, virtual_tokens: 4}
  told: {method: prompting, examples: 0}
  base-nf4: {method: base, quantize: nf4}
  merged: {method: merge, how: linear, experts: {method: full, learn: [colours, names]}}
seeds: [0]
train: {steps: 3, batch_size: 4}
"""


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def lm_of(folder: Path, model: Any = None) -> TunedLM:
    return TunedLM(model or model_of(folder), AutoTokenizer.from_pretrained(folder), 4)


def kl_of(result: CellResult) -> Score | None:
    return next((score for score in result.scores if score.metric == KL), None)


def test_a_divergence_by_hand() -> None:
    base, tuned = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]])
    by_hand = 0.5 * math.log(2) + 0.25 * math.log(0.5) + math.log(2)
    assert divergence(base.log(), tuned.log()) == pytest.approx(by_hand)


@given(st.integers(1, 3 * PLACES), st.integers(0, 99))
def test_a_divergence_is_torchs_and_not_negative(tokens: int, seed: int) -> None:
    made = torch.Generator().manual_seed(seed)
    base, tuned = (torch.randn(tokens, 7, generator=made, dtype=torch.float64) for _ in range(2))
    theirs = torch.nn.functional.kl_div(tuned.log_softmax(-1), base.log_softmax(-1), reduction="sum", log_target=True)
    assert divergence(base, tuned) == pytest.approx(float(theirs), rel=1e-9)
    assert divergence(base, tuned) > 0
    assert divergence(base, base) == 0.0
    assert divergence(base, base + 3.0) == pytest.approx(0.0, abs=1e-12)  # logits are known but for a constant


@given(st.integers(0, 60), st.integers(1, 20))
def test_chosen_texts_are_different_and_from_all_over(count: int, most: int) -> None:
    chosen = spread_evenly(range(count), most)
    assert len(set(chosen)) == len(chosen) == min(count, most)
    assert chosen == sorted(chosen)
    assert max((b - a for a, b in pairwise(chosen)), default=0) <= math.ceil(count / most)


def test_the_tokens_are_those_that_are_scored(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of(tiny_model)
    given: list[Any] = []
    monkeypatch.setattr(
        lm, "_loglikelihood_tokens", lambda requests, **options: given.extend(requests) or [(0.0, True)]
    )
    from types import SimpleNamespace

    lm.loglikelihood_rolling([SimpleNamespace(args=(TEXT,))], disable_tqdm=True)
    ((_, context, continuation),) = given
    assert text_inputs(lm, TEXT) == (context + continuation)[:-1]
    assert len(text_inputs(lm, " ".join([TEXT] * 40))) == TOKENS
    assert text_inputs(lm, "") == []


def test_logits_of_a_text_give_the_score_of_a_text(tiny_model: Path) -> None:
    from types import SimpleNamespace

    model = all_methods()["prompt_tuning"](init="random", virtual_tokens=3).attach(model_of(tiny_model)).eval()
    for lm in (lm_of(tiny_model), lm_of(tiny_model, model)):
        (logits,) = lm.logits_of([text_inputs(lm, TEXT)])
        wanted = torch.tensor(lm.tok_encode(TEXT))
        found = logits.log_softmax(-1).gather(1, wanted.unsqueeze(1)).sum()
        (scored,) = lm.loglikelihood_rolling([SimpleNamespace(args=(TEXT,))], disable_tqdm=True)
        assert float(found) == pytest.approx(scored, rel=1e-5)


def test_a_null_adapter_has_not_moved(tiny_model: Path) -> None:
    texts = {("prose", f"d{place}"): f"{TEXT} {place}" for place in range(3)}
    base = lm_of(tiny_model)
    null = lm_of(tiny_model, all_methods()["lora"]().attach(model_of(tiny_model)).eval())
    (score,), items, tokens = compare(null, base, texts, ["prose"])
    assert abs(score.value) < 1e-12
    assert score.stderr is not None
    assert score.stderr < 1e-12
    assert (score.role, score.metric, score.n, score.higher_is_better) == ("retain", KL, 3, False)
    assert tokens == sum(len(base.tok_encode(text)) for text in texts.values())

    moved = model_of(tiny_model)
    with torch.no_grad():
        moved.model.layers[0].mlp.down_proj.weight.mul_(3.0)
    (score,), items, _ = compare(lm_of(tiny_model, moved), base, texts, ["prose"])
    lengths = [len(base.tok_encode(text)) for text in texts.values()]
    totals = [item.value * length for item, length in zip(items, lengths, strict=True)]
    assert score.value == pytest.approx(sum(totals) / sum(lengths))
    assert all(item.value > 1e-6 for item in items)
    whole, parts = score.value, []
    for place in range(3):
        rest = [pair for at, pair in enumerate(zip(totals, lengths, strict=True)) if at != place]
        parts.append(sum(total for total, _ in rest) / sum(length for _, length in rest))
    middle = sum(parts) / 3
    assert score.stderr == pytest.approx(math.sqrt(2 / 3 * sum((part - middle) ** 2 for part in parts)))
    assert whole > 0


def test_no_more_than_so_many_texts(tiny_model: Path) -> None:
    lm = lm_of(tiny_model)
    texts = {("prose", f"d{place}"): f"{TEXT} {place}" for place in range(3 * TEXTS)}
    (score,), items, _ = compare(lm, lm, texts, ["prose", "other"])
    assert score.n == len(items) == TEXTS
    assert [item.doc_id for item in items] == [f"d{3 * place}" for place in range(TEXTS)]


def test_every_language_model_is_compared_with_plain_weights(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE)
    found: dict[str, CellResult] = {}
    experts: dict[str, Path] = {}
    for cell in plan.cells:
        needs = {role: experts[need] for role, need in cell.needs.items()}
        folder = tmp_path / "attempts" / cell.spec_digest[:12]
        found[cell.label if cell.task == "colours" else f"expert {cell.task}"] = run_here(plan, cell, folder, needs)
        experts[cell.spec_digest] = folder / "weights"
    for label in ("base", "told"):  # the same weights: nothing has moved, and it is measured
        score = kl_of(found[label])
        assert score is not None
        assert (score.value, score.stderr, score.n) == (0.0, 0.0, 6)
    for label in ("full", "prompt_tuning", "base-nf4", "merged"):
        score = kl_of(found[label])
        assert score is not None
        assert score.value > 1e-7, label
        assert (score.task, score.role) == ("prose", "retain")
    result = found["full"]
    phases = [phase.phase for phase in result.phases]
    assert phases == ["load", "check", "train", "evaluate", "compare", "save", "infer"]
    assert result.phases[4].samples == 6
    heads = {task: next(score.metric for score in result.scores if score.task == task) for task in ("prose", "names")}
    assert heads == {"prose": "log_likelihood_per_word", "names": "exact_match"}
    (folder,) = [path for path in (tmp_path / "attempts").iterdir() if path.name == result.cell.spec_digest[:12]]
    items = [item for item in pq.read_table(folder / "items.parquet").to_pylist() if item["task"] == "prose"]
    named = {item["doc_id"] for item in items if item["metric"] == "log_likelihood_per_word"}
    assert {item["doc_id"] for item in items if item["metric"] == KL} == named


def test_without_room_for_the_base_model_it_is_left_out_and_said(project: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tools import job_of

    from harness.store import read_result, write_job
    from harness.worker import cell as worker

    plan = plan_of(project, SUITE)
    for label, limit in (("full", 1), ("base", 1)):
        cell = next(cell for cell in plan.cells if (cell.label, cell.task) == (label, "colours"))
        folder = tmp_path / "attempts" / label
        write_job(folder, replace(job_of(plan, cell, folder), memory_limit=limit))
        worker.run(folder)
        result = read_result(folder)
        assert str(result.status) == "done"
        flags = {flag.name: flag.evidence for flag in result.flags}
        if label == "base":  # needs no second model
            assert kl_of(result) is not None
            assert "not_compared" not in flags
        else:
            assert kl_of(result) is None
            assert flags["not_compared"]["needed_bytes"] > flags["not_compared"]["free_bytes"]


def test_a_cell_that_retains_no_running_text_is_not_compared(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.replace("[prose, names]", "[names]"))
    result = run_here(plan, cell_named(plan, "full/tiny/colours/n8/s0"), tmp_path / "attempts" / "a")
    assert kl_of(result) is None
    assert "compare" not in {phase.phase for phase in result.phases}
