"""What saves work changes nothing but the order in which numbers are added: each trick, on the tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from samples import ROWS
from transformers import AutoModelForCausalLM

from harness.curricula import Stage
from harness.methods import all_methods
from harness.records import FROZEN_LAYERS, FUSED, PACKING, TRICKS, TrainSettings
from harness.worker.answer_loss import Packing, answer_logits
from harness.worker.frozen_layers import below_the_trained, frozen_layers
from harness.worker.fused import Norms, fused
from harness.worker.profiling.meter import StepRecorder
from harness.worker.train import Collator, TrainRun, train

MANY = [
    {"input_ids": [5, 6, first, *range(10, 10 + length)], "labels": [-100] * (length + 1) + [12, 13]}
    for first, length in ((7, 2), (8, 5), (9, 3), (30, 7), (31, 2), (32, 4))
]
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "layerwise": {"layers": 1},
    "lora": {},
    "dora": {},
    "lora-dropout": {"dropout": 0.3},
    "prompt_tuning": {"init": "random", "virtual_tokens": 3},
    "prefix_tuning": {"virtual_tokens": 3},
    "ia3": {},
    "adapter": {},
    "lisa": {},
}


def made(folder: Path, label: str) -> tuple[Any, Any]:
    method = all_methods()[label.split("-")[0]](**METHODS[label])
    torch.manual_seed(0)
    return method.attach(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)), method


def losses(folder: Path, scratch: Path, label: str, fast: tuple[str, ...], **settings: Any) -> list[float]:
    model, method = made(folder, label)
    recorder = StepRecorder()
    wanted = TrainSettings(**{"steps": 6, "batch_size": 3, "fast": fast, **settings})
    train(model, method, Stage("all", MANY, ROWS), wanted, TrainRun(0, recorder, scratch))
    return [step.loss for step in recorder.steps]


@pytest.mark.parametrize("label", METHODS)
def test_losses_are_those_of_the_plain_path(tiny_model: Path, tmp_path: Path, label: str) -> None:
    plain = losses(tiny_model, tmp_path, label, ())
    assert losses(tiny_model, tmp_path, label, TRICKS) == pytest.approx(plain, rel=2e-4)


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("label", ["full", "layerwise", "dora"])
def test_losses_of_one_trick(tiny_model: Path, tmp_path: Path, label: str, trick: str) -> None:
    plain = losses(tiny_model, tmp_path, label, (), weight_decay=0.1, gradient_accumulation=2)
    one = losses(tiny_model, tmp_path, label, (trick,), weight_decay=0.1, gradient_accumulation=2)
    assert one == pytest.approx(plain, rel=2e-4)


def test_rows_are_weighted_alike_in_a_forest(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{**row, "weight": 1.0 + place} for place, row in enumerate(MANY)]
    found = []
    for fast in ((), (PACKING,)):
        model, method = made(tiny_model, "full")
        recorder = StepRecorder()
        settings = TrainSettings(steps=3, batch_size=3, fast=fast)
        train(model, method, Stage("all", rows, ROWS), settings, TrainRun(0, recorder, tmp_path))
        found.append([(step.loss, step.cross_entropy) for step in recorder.steps])
    assert found[1] == [pytest.approx(pair, rel=1e-4) for pair in found[0]]


def test_a_training_tells_which_tricks_it_used(tiny_model: Path, tmp_path: Path) -> None:
    def used(label: str, fast: tuple[str, ...]) -> dict[str, float]:
        model, method = made(tiny_model, label)
        recorder = StepRecorder()
        settings = TrainSettings(epochs=3, batch_size=6, fast=fast)
        train(model, method, Stage("all", MANY, ROWS), settings, TrainRun(0, recorder, tmp_path))
        return {fact.name: fact.value for fact in recorder.tricks}

    assert used("layerwise", TRICKS) == {"packed_batches": 1.0, "replayed_batches": 2 / 3}
    assert used("lora", TRICKS)["fused_modules"] > 1
    assert used("lora-dropout", TRICKS) == {"packed_batches": 0.0}
    assert used("lora", ()) == {}


# --- fewer operations ---


def gradients(model: Any) -> dict[str, torch.Tensor]:
    batch = Collator(pad=0)(MANY)
    model.zero_grad()
    answers = answer_logits(model, batch["input_ids"], batch["labels"], batch["attention_mask"])
    torch.nn.functional.cross_entropy(answers.logits, answers.targets, ignore_index=-100).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def disturb(model: Any) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))


@pytest.mark.parametrize("label", ["full", "lora", "dora"])
def test_gradients_of_fused_parts_are_the_librarys(tiny_model: Path, label: str) -> None:
    model, _ = made(tiny_model, label)
    disturb(model)
    usual = gradients(model.train())
    with fused(model) as count:
        assert count
        found = gradients(model)
    assert found.keys() == usual.keys()
    for name, value in usual.items():
        assert torch.allclose(found[name], value, atol=1e-6, rtol=1e-4), name
    assert not any("forward" in vars(module) for module in model.modules())


def test_dropout_is_left_to_the_library(tiny_model: Path) -> None:
    model, _ = made(tiny_model, "lora-dropout")
    with fused(model) as count:
        assert count == 0


def test_norms_follow_the_adapter() -> None:
    torch.manual_seed(0)
    weight, a, b = torch.randn(7, 5), torch.randn(2, 5), torch.randn(7, 2)
    norms = Norms(weight, a, b, 0.5)
    for training in (True, False, True, False):
        with torch.set_grad_enabled(training):
            assert torch.allclose(norms.now(training), (weight + 0.5 * b @ a).norm(dim=1), atol=1e-5)
    norms.now(False)  # with gradients: in the middle of a step, before the adapter changes
    for training in (True, False):
        with torch.set_grad_enabled(training):
            assert torch.allclose(norms.now(training), (weight + 0.5 * b @ a).norm(dim=1), atol=1e-5)
        if training:
            b.add_(1.0)


def test_the_padding_word_of_a_tied_embedding_learns_from_the_output_alone(tiny_model: Path) -> None:
    model, _ = made(tiny_model, "full")
    embedding = model.get_input_embeddings()
    embedding.padding_idx = 6  # a word of every row
    usual = gradients(model)
    with fused(model):
        found = gradients(model)
    name = next(name for name, value in model.named_parameters() if value is embedding.weight)
    assert torch.allclose(found[name], usual[name], atol=1e-6)


# --- what frozen layers give ---


def test_texts_that_come_again_start_at_the_lowest_trained_layer(tiny_model: Path) -> None:
    model, _ = made(tiny_model, "layerwise")
    model.train()
    batch = Collator(pad=0)(MANY)
    inputs = batch["input_ids"], batch["labels"], batch["attention_mask"]
    plain = answer_logits(model, *inputs, Packing()).logits
    runs = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    with frozen_layers(model) as frozen:
        assert frozen is not None
        packing = Packing(frozen)
        answer_logits(model, *inputs, packing)
        answer_logits(model, *inputs, packing)  # asked whether it gives the same
        before = len(runs)
        again = answer_logits(model, *inputs, packing).logits
        assert len(runs) == before
        assert torch.allclose(again, plain, atol=1e-5)
        with torch.no_grad():
            next(model.model.layers[0].parameters()).add_(0.1)  # no longer what was remembered
        changed = answer_logits(model, *inputs, packing).logits
    assert not torch.allclose(changed, plain, atol=1e-4)
    assert torch.allclose(changed, answer_logits(model, *inputs, Packing()).logits, atol=1e-5)


@pytest.mark.parametrize("label", ["full", "lora", "prompt_tuning"])
def test_nothing_is_remembered_below_what_is_trained(tiny_model: Path, label: str) -> None:
    assert below_the_trained(made(tiny_model, label)[0]) is None


def test_tricks_are_named_and_counted() -> None:
    assert TrainSettings(fast=(FUSED, PACKING)).fast == (PACKING, FUSED)
    assert "fast" not in TrainSettings().identity
    assert TrainSettings(fast=()).identity["fast"] == ()
    with pytest.raises(ValueError, match="packing"):
        TrainSettings(fast=("speed",))  # type: ignore[arg-type]
    assert FROZEN_LAYERS in TrainSettings().tricks
    assert TrainSettings(devices=2).tricks == ()
