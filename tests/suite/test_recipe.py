"""What is put beside a method: several methods at once, objectives, a curriculum; from YAML to what is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tools import cell_named, plan_of, run_here
from transformers import AutoModelForCausalLM

from harness.errors import SuiteError
from harness.methods import make_method
from harness.records import Cell
from harness.suite.recipe import Recipe

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
retain: [prose]
methods:
  x: {label}
train: {{steps: 4, batch_size: 4}}
"""
BOTH = (
    "{method: [layerwise, prompt_tuning], layerwise: {layers: 1, learning_rate: 1e-2}, prompt_tuning: {init: random}}"
)


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_two_methods_train_both_parts_at_their_own_rates(project: Path, tiny_model: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label=BOTH))
    cell = cell_named(plan, "x/tiny/colours/n8/s0")
    assert (cell.method, cell.family) == ("layerwise+prompt_tuning", "hybrid")
    folder = tmp_path / "attempts" / "a"
    result = run_here(plan, cell, folder)
    assert result.status == "done", result.reason
    from safetensors.torch import load_file

    saved = load_file(folder / "weights" / "trained.safetensors")
    method = make_method(cell.method, cell.settings)
    model = method.attach(tiny(tiny_model))
    start = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert saved.keys() == start.keys()
    assert sum(value.numel() for value in saved.values()) == {f.name: f.value for f in result.facts}["trainable_params"]
    moved = {name for name, value in saved.items() if not torch.equal(value, start[name])}
    assert any("prompt_encoder" in name for name in saved)
    assert {name for name in saved if "layers.1." in name} <= moved
    rates = {group["lr"] for group in method.parameter_groups(model) or []}
    assert rates == {1e-2}


def test_what_a_composition_saves_is_what_was_scored(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label=BOTH))
    cell = cell_named(plan, "x/tiny/colours/n8/s0")
    folder = tmp_path / "attempts" / "a"
    assert run_here(plan, cell, folder).status == "done"
    from dataclasses import replace

    from harness.store import read_job
    from harness.worker.context import CellContext

    job = replace(read_job(folder), needs={"it": folder / "weights"}, needed={"it": cell})
    work = CellContext(job, tmp_path / "scratch")
    work.scratch.mkdir()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        one, two = (work.load_need("it")(input_ids=ids).logits for _ in range(2))
        base = work.load_model()(input_ids=ids).logits
    assert torch.equal(one, two)
    assert not torch.allclose(one[:, -4:], base)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: [layerwise]}", "wanted a name, or two or more"),
        ("{method: [layerwise, nothing]}", "unknown method 'nothing'"),
        ("{method: [layerwise, lora], layers: 2}", "unknown part of the method 'layers'"),
        ("{method: [layerwise, lora], lora: 2}", "lora: got 2, wanted settings"),
        ("{method: [lora, lora]}", "lora is listed twice"),
        ("{method: [lora, prompt_tuning]}", "both peft's"),
        ("{method: [lora, setfit]}", "setfit cannot be combined"),
        (
            "{method: [layerwise, lora], lora: {init: pissa}}",
            "lora cannot be trained beside another method: init",
        ),
        ("{method: [layerwise, adalora]}", "adalora cannot be trained beside another method"),
        ("{method: [layerwise, lora], lora: {rank: 0}}", "rank is 0"),
        ("{method: [full, qlora]}", "full cannot train nf4 weights"),
        ("{method: lora, objectives: {nothing: {}}}", "unknown objective 'nothing'"),
        ("{method: lora, objectives: 3}", "objectives: got 3"),
        ("{method: lora, curriculum: nothing}", "unknown curriculum 'nothing'"),
        ("{method: setfit, curriculum: single}", "setfit has a trainer of its own, which single cannot reach"),
        ("{method: base, quantize: nf4, curriculum: single}", "base trains nothing"),
    ],
)
def test_what_does_not_go_together(project: Path, label: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        plan_of(project, SUITE.format(label=label))


def test_a_recipe_comes_back_from_its_cell(project: Path) -> None:
    plan = plan_of(project, SUITE.format(label="{method: lora, curriculum: single}"))
    cell = cell_named(plan, "x/tiny/colours/n8/s0")
    assert cell.curriculum == {"single": {}}
    recipe = Recipe.of(Cell.from_json(cell.to_json()))
    assert recipe.method.name == "lora"
    assert recipe.curriculum is not None
    assert recipe.curriculum.name == "single"
    alone = cell_named(plan_of(project, SUITE.format(label="{method: lora}")), cell.key)
    assert alone.spec_digest != cell.spec_digest
    assert "curriculum" in Recipe.of(cell).beside
    assert Recipe.of(alone).beside == {}
