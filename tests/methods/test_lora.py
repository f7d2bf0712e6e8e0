"""LoRA's starts, LoRA+, AdaLoRA and VeRA: what is trained, and that the result stands on the untouched base."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from samples import ROWS
from tiny import make_project
from tools import cell_named, context_of, plan_of, training_of
from transformers import AutoModelForCausalLM, set_seed

from harness.curricula import Stage
from harness.methods import Method, all_methods
from harness.methods.composed import Composed
from harness.methods.lora import ADAPTER, adapted, dequantised
from harness.models.loading import load_model
from harness.records import TrainSettings
from harness.worker.answer_loss import answer_loss
from harness.worker.context import CellContext
from harness.worker.profiling.meter import StepRecorder
from harness.worker.train import Collator, TrainRun, train

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  x: {label}
train: {{steps: {steps}, batch_size: 8, warmup: 0.0, schedule: constant}}
"""
IDS = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])


@pytest.fixture(scope="module")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests of this file: nothing is written into it but attempts, each test's in a folder of its own."""
    root = tmp_path_factory.mktemp("lora")
    make_project(root / "project", tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBENCH_CACHE", str(root / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(root / "hf-datasets"))
        yield root / "project"


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def quantised(folder: Path, kind: str) -> Any:
    return load_model(folder, TrainSettings(precision="fp32", attention="sdpa"), kind)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def fitted(project: Path, folder: Path, steps: int = 6, **label: Any) -> tuple[CellContext, Any]:
    """A label's work, and its model as it is scored; saved in `weights`."""
    plan = plan_of(project, SUITE.format(label=json.dumps({"learning_rate": 1e-2, **label}), steps=steps))
    work = context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), folder)
    set_seed(0)
    model = work.method.attach(work.method.load(work))
    training_of(work).encode_stages(model)
    model = work.method.fit(model, work)
    work.method.save(model, folder / "weights")
    return work, model


# --- where A and B start ---


@pytest.mark.parametrize(
    ("init", "settings"),
    [
        ("gaussian", {}),
        ("eva", {"rank": 3}),
        ("pissa", {}),
        ("pissa", {"rslora": True}),
        ("olora", {"rank": 3, "alpha": 5.0}),
    ],
)
def test_any_start_is_a_plain_adapter_on_the_untouched_base(
    init: str, settings: dict[str, Any], project: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Loaded with peft alone: nothing of the change is hidden in weights that are not saved."""
    from peft import PeftModel

    work, model = fitted(project, tmp_path / "a", method="lora", init=init, **settings)
    loaded = PeftModel.from_pretrained(tiny(tiny_model), tmp_path / "a" / "weights")
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(model), logits(tiny(tiny_model)), atol=1e-2)
    assert torch.equal(logits(work.method.restore(work, tmp_path / "a" / "weights")), logits(model))
    config = json.loads((tmp_path / "a" / "weights" / "adapter_config.json").read_text())
    assert config["r"] == work.method.rank * (2 if init in ("pissa", "olora") else 1)
    assert config["init_lora_weights"] in (True, "gaussian")
    for name, value in tiny(tiny_model).named_parameters():  # the base inside is that on the disk, bit for bit
        inside = dict(model.get_base_model().named_parameters())
        assert torch.equal(inside.get(name, inside.get(name.replace(".weight", ".base_layer.weight"))), value)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_is_given_back_is_what_was_trained(init: str, project: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The conversion changes the form, not the model: compared with the residual that was trained."""
    plan = plan_of(project, SUITE.format(label=json.dumps({"method": "lora", "init": init}), steps=2))
    work = context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "a")
    model = work.method.attach(tiny(tiny_model))
    assert torch.allclose(logits(model), logits(tiny(tiny_model)), atol=1e-5)
    for name, part in adapted(model):
        taken = part.scaling[ADAPTER] * part.lora_B[ADAPTER].weight @ part.lora_A[ADAPTER].weight
        whole = tiny(tiny_model).get_parameter(f"{name}.weight")
        assert float(taken.norm()) > 0.1 * float(whole.norm())
        assert torch.allclose(part.base_layer.weight + taken, whole, atol=1e-5)
        with torch.no_grad():
            part.lora_B[ADAPTER].weight += 0.05
    trained = logits(model)
    assert torch.allclose(logits(work.method.finish(model, work)), trained, atol=1e-4)


def test_pissa_takes_the_main_directions(tiny_model: Path) -> None:
    model = all_methods()["lora"](init="pissa", rank=4).attach(tiny(tiny_model))
    name, part = next(adapted(model))
    values = torch.linalg.svdvals(tiny(tiny_model).get_parameter(f"{name}.weight"))
    best = float(values[4:].square().sum())  # of any four directions, what is left is at least this (Eckart & Young)
    assert float(part.base_layer.weight.square().sum()) == pytest.approx(best, rel=5e-3)


def test_eva_starts_from_the_inputs_of_the_examples(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label="{method: lora, init: eva, rank: 4}", steps=1))
    work = context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "a")
    model = work.method.attach(work.method.load(work)).eval()
    work.method.prepare(model, work)
    seen: list[torch.Tensor] = []
    _, part = next(adapted(model))
    part.base_layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0]))
    for row in work.rows(model, work.examples()):
        with torch.no_grad():
            model(input_ids=torch.tensor([row["input_ids"]]))
    _, _, right = torch.linalg.svd(torch.cat(seen), full_matrices=False)
    a = part.lora_A[ADAPTER].weight.detach()
    inside = (a / a.norm(dim=1, keepdim=True)) @ right[:8].T  # of a unit vector, what lies in the first directions
    assert float(inside.norm(dim=1).min()) > 0.95
    assert not part.lora_B[ADAPTER].weight.any()


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_loftq_makes_up_for_rounding(kind: str, project: Path, tiny_model: Path, tmp_path: Path) -> None:
    plan = plan_of(
        project, SUITE.format(label=json.dumps({"method": "qlora", "quantize": kind, "init": "loftq"}), steps=1)
    )
    work = context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "a")
    model = work.method.attach(work.method.load(work))
    work.method.prepare(model, work)
    for name, part in adapted(model):
        whole = tiny(tiny_model).get_parameter(f"{name}.weight")
        lost = whole - dequantised(part.base_layer).float()
        made = part.scaling[ADAPTER] * part.lora_B[ADAPTER].weight @ part.lora_A[ADAPTER].weight
        kept = torch.linalg.svdvals(lost)[part.r[ADAPTER] :].square().sum().sqrt()
        assert float((lost - made).norm()) == pytest.approx(float(kept), rel=1e-3)
        assert float(kept) < 0.95 * float(lost.norm())
    off = [float((logits(one) - logits(tiny(tiny_model))).abs().mean()) for one in (model, quantised(tiny_model, kind))]
    assert off[0] < off[1]


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_every_quantised_base_is_trained_and_restored(kind: str, project: Path, tmp_path: Path) -> None:
    work, model = fitted(project, tmp_path / "a", method="qlora", quantize=kind)
    losses = [step.loss or 0.0 for step in training_of(work).recorder.steps]
    assert losses[-1] < losses[0]
    assert torch.equal(logits(work.method.restore(work, tmp_path / "a" / "weights")), logits(model))


# --- LoRA+ ---


def test_loraplus_is_a_rate_of_its_own_for_b(tiny_model: Path) -> None:
    method = all_methods()["lora"](learning_rate=1e-3, loraplus_ratio=16)
    model = method.attach(tiny(tiny_model))
    slow, fast = method.parameter_groups(model) or []
    assert (slow["lr"], fast["lr"]) == (1e-3, 1.6e-2)
    named = {id(value): name for name, value in model.named_parameters()}
    assert {"lora_A" in named[id(value)] for value in slow["params"]} == {True}
    assert {"lora_B" in named[id(value)] for value in fast["params"]} == {True}
    assert len(slow["params"]) + len(fast["params"]) == sum(value.requires_grad for value in model.parameters())
    assert all_methods()["lora"]().parameter_groups(model) is None


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("lora", {"init": "loftq"}, "nothing is quantised"),
        ("lora", {"init": "pissa", "quantize": "nf4"}, "could not be given it back"),
        ("qlora", {"init": "olora"}, "could not be given it back"),
        ("qlora", {"quantize": None}, "that is method lora"),
        ("dora", {"init": "eva"}, "does not go with dora"),
        ("lora", {"loraplus_ratio": 0.5}, "loraplus_ratio is 0.5"),
        ("adalora", {"rank": 12}, "below start_rank"),
        ("adalora", {"tinit": 0.5, "tfinal": 0.5}, "together below 1"),
        ("adalora", {"orth_reg": -1.0}, "orth_reg is -1"),
        ("vera", {"rank": 0}, "rank is 0"),
        ("vera", {"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_what_does_not_go_together(name: str, settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in all_methods()[name](**settings).mistakes())


def test_only_some_starts_are_not_the_base() -> None:
    told = {
        init: bool(all_methods()["lora"](init=init).starts_at_base) for init in ("default", "eva", "pissa", "olora")
    }
    assert told == {"default": False, "eva": False, "pissa": True, "olora": True}


# --- AdaLoRA and VeRA ---


@pytest.mark.parametrize("names", [["vera"], ["vera", "prompt_tuning"]])
def test_the_seed_moves_veras_matrices_and_what_is_saved_stands_on_them(
    names: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    def made() -> Method:
        return Composed([all_methods()[name](**({"init": "random"} if "prompt" in name else {})) for name in names])

    def attached(seed: int) -> Any:
        set_seed(seed)
        return made().attach(AutoModelForCausalLM.from_pretrained(tiny_model))

    def matrices(model: Any) -> list[torch.Tensor]:
        return [value for name, value in model.named_buffers() if "vera_A" in name or "vera_B" in name]

    one, again, other = (attached(seed) for seed in (1, 1, 2))
    assert matrices(one)
    assert all(map(torch.equal, matrices(one), matrices(again)))
    assert not any(map(torch.equal, matrices(one), matrices(other)))
    for name, value in one.named_parameters():
        if "vera_lambda_b" in name:
            torch.nn.init.ones_(value)
    method = made()
    method.save(one, tmp_path)
    set_seed(7)
    context: Any = SimpleNamespace(seed=1, load_model=lambda **_: AutoModelForCausalLM.from_pretrained(tiny_model))
    assert torch.equal(logits(method.restore(context, tmp_path)), logits(one.eval()))


def ranks(model: Any) -> list[int]:
    return [part.lora_A[ADAPTER].shape[0] for _, part in adapted(model)]


@pytest.mark.parametrize("rank", [1, 4])
def test_adalora_ends_with_the_ranks_that_were_asked_for(rank: int, project: Path, tmp_path: Path) -> None:
    work, model = fitted(project, tmp_path / "a", steps=12, method="adalora", rank=rank, start_rank=6)
    assert sum(ranks(model)) == rank * len(ranks(model))
    assert len(set(ranks(model))) > 1  # and not every layer has the same
    assert torch.equal(logits(work.method.restore(work, tmp_path / "a" / "weights")), logits(model))


@pytest.mark.parametrize(("steps", "rank"), [(1, 4), (2, 2), (3, 2)])
def test_adalora_in_very_few_steps(steps: int, rank: int, project: Path, tmp_path: Path) -> None:
    """Two steps share the ranks out; one cannot."""
    _, model = fitted(project, tmp_path / "a", steps=steps, method="adalora", rank=2, start_rank=4)
    assert sum(ranks(model)) == rank * len(ranks(model))


def test_early_stopping_ends_adalora_with_the_ranks_of_its_best_step(tiny_model: Path, tmp_path: Path) -> None:
    """The rows teach what is wrong for validation, so that the first step is the best, and ranks go on to be taken."""
    method: Method = all_methods()["adalora"](rank=1, start_rank=6, tinit=0.0, learning_rate=5e-2)
    model = method.attach(AutoModelForCausalLM.from_pretrained(tiny_model))
    wrong = [{**row, "labels": [-100] * (len(row["labels"]) - 1) + [300]} for row in ROWS]
    settings = TrainSettings(steps=14, batch_size=4, eval_every=1, early_stopping=6, schedule="constant", warmup=0.0)
    patterns: list[Any] = []

    class Watch(type(method)):  # type: ignore[misc]
        def after_step(self, model: Any, step: int) -> None:
            super().after_step(model, step)
            patterns.append(copy.deepcopy(model.peft_config["default"].rank_pattern))

    method.__class__ = Watch
    recorder = StepRecorder()
    model = train(model, method, Stage("all", wrong, ROWS), settings, TrainRun(0, recorder, tmp_path))
    losses = [step.loss for step in recorder.steps if step.split == "validation"]
    best = losses.index(min(losses))
    assert patterns[best] != patterns[-1]
    assert model.peft_config["default"].rank_pattern == patterns[best]
    batch = Collator(pad=0)(ROWS)
    with torch.no_grad():
        total, count = answer_loss(method.finish(model, None).eval(), **batch)  # type: ignore[arg-type]
    assert float(total / count) == pytest.approx(min(losses), rel=1e-4)


def test_adaloras_penalty_is_that_of_peft(tiny_model: Path) -> None:
    method: Method = all_methods()["adalora"](orth_reg=0.5)
    model = method.attach(tiny(tiny_model))
    model.peft_config[ADAPTER].orth_reg_weight = 0.5
    with_it = model(input_ids=IDS, labels=IDS).loss
    plain = model.get_base_model()(input_ids=IDS, labels=IDS).loss
    penalty = method.penalty(model)
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(float((with_it - plain).detach()), rel=1e-4)
    assert all_methods()["adalora"](orth_reg=0.0).penalty(model) is None


def test_vera_shares_its_matrices(tiny_model: Path) -> None:
    method = all_methods()["vera"](rank=16)
    model = method.attach(tiny(tiny_model))
    trained = {name.split(".")[-2] for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"vera_lambda_b", "vera_lambda_d"}
    assert model.base_model.vera_A[ADAPTER].shape == (16, 128)
    assert model.base_model.vera_B[ADAPTER].shape == (128, 16)
