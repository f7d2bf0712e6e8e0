"""What the worker notices about a cell on its way."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import cell_named, plan_of, run_here
from transformers import LlamaModel

from harness.methods import all_methods
from harness.methods.lora import LoRA
from harness.worker.profiling.meter import Meter

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  x: {label}
train: {{steps: 2, batch_size: 4}}
"""


def flags_of(project: Path, folder: Path, label: str) -> dict[str, dict[str, Any]]:
    plan = plan_of(project, SUITE.format(label=label))
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n8/s0"), folder)
    assert result.status == "done", result.reason
    return {flag.name: dict(flag.evidence) for flag in result.flags}


def test_an_adapter_that_is_not_zero_at_the_start_and_says_it_is(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = LoRA.attach

    def skewed(self: LoRA, model: Any) -> Any:
        adapted = sound(self, model)
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.1)
        return adapted

    assert "not_the_base_at_start" not in flags_of(project, tmp_path / "sound", "{method: lora}")
    monkeypatch.setattr(LoRA, "attach", skewed)
    evidence = flags_of(project, tmp_path / "skewed", "{method: lora}")["not_the_base_at_start"]
    assert evidence["change_nats"] > evidence["at_most"]


@pytest.mark.parametrize("label", ["full", "lora", "qlora", "ia3", "prompt_tuning"])
def test_nothing_passes_through_the_model_in_the_phase_load(
    label: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none that answered outside of it is there: its weights would count as those that load."""
    phases: list[str] = []
    answered: list[weakref.ref[Any]] = []
    begin, forward = Meter.begin, LlamaModel.forward

    def noting(self: Meter, name: str) -> None:
        begin(self, name)
        phases.append(name)
        if name == "load":
            assert [model for model in answered if model() is not None] == []

    passes: set[str] = set()

    def listening(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.device.type != "meta":  # one without weights, whose layers are looked at, takes no memory
            passes.add(phases[-1])
            answered.append(weakref.ref(self))
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Meter, "begin", noting)
    monkeypatch.setattr(LlamaModel, "forward", listening)
    flags_of(project, tmp_path / "cell", f"{{method: {label}}}")
    assert "load" not in passes
    assert ("check" in passes) == ("check" in phases) == (label != "prompt_tuning")


@pytest.mark.parametrize("label", ["{method: prompt_tuning, init: random}", "{method: full}", "{method: qlora}"])
def test_what_starts_elsewhere_by_definition_is_no_fault(project: Path, tmp_path: Path, label: str) -> None:
    assert "not_the_base_at_start" not in flags_of(project, tmp_path / "cell", label)


def test_a_learning_rate_of_nothing_learns_nothing(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label="{method: full, learning_rate: 1e-30}"))
    base = run_here(plan, cell_named(plan, "base/tiny/colours"), tmp_path / "base")
    assert base.status == "done"
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "cell", baseline=tmp_path / "base")
    assert "learned_nothing" in {flag.name for flag in result.flags}


def test_a_loss_that_is_no_number_at_step_3_is_divergence_with_the_step(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    kind = all_methods()["full"]
    monkeypatch.setattr(kind, "penalty", lambda self, model: torch.tensor(float("nan") if next(calls) == 2 else 0.0))
    plan = plan_of(project, SUITE.format(label="{method: full}").replace("steps: 2", "steps: 6"))
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "cell")
    assert result.status == "diverged"
    assert result.reason == "the training loss is nan at step 3 of 6"
    assert result.scores == ()
    assert [step.step for step in result.steps if step.split == "train"] == [1, 2], "what was measured before is kept"
