"""The training loop on the tiny model: the loss is the right one, and every setting does something."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import ROWS
from transformers import AutoModelForCausalLM

from harness.curricula import Stage
from harness.curricula.base import aside
from harness.errors import Diverged, Unavailable
from harness.methods import Method, all_methods
from harness.methods.composed import Composed
from harness.models.loading import logits_at
from harness.objectives import Batch, Objective
from harness.records import TrainSettings
from harness.worker.answer_loss import answer_loss
from harness.worker.profiling.meter import StepRecorder
from harness.worker.train import Collator, TrainRun, train


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def fit(folder: Path, scratch: Path, method: str = "full", rows: Any = ROWS, seed: int = 0, **settings: Any) -> Any:
    train_settings = TrainSettings(**{"steps": 4, "batch_size": 2, **settings})
    made = all_methods()[method](learning_rate=1e-2)
    recorder = StepRecorder()
    torch.manual_seed(0)
    model = made.attach(model_of(folder))
    model = train(model, made, Stage("all", rows, ROWS), train_settings, TrainRun(seed, recorder, scratch))
    return model, recorder


def test_answer_loss_is_transformers_own(tiny_model: Path) -> None:
    model = model_of(tiny_model).eval()
    batch = Collator(pad=0)(ROWS)
    total, count = answer_loss(model, batch["input_ids"], batch["labels"], batch["attention_mask"])
    own = model(**batch).loss
    assert count == 5
    assert float((total / count).detach()) == pytest.approx(float(own.detach()), rel=1e-6)


def test_logits_at_places_are_the_models(tiny_model: Path) -> None:
    model = model_of(tiny_model).eval()
    batch = Collator(pad=0)(ROWS)
    places = torch.tensor([-5, -2, -1])
    some = logits_at(model, batch["input_ids"], places, batch["attention_mask"])
    every = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.allclose(some, every[:, places], atol=1e-6)


def test_virtual_tokens_do_not_shift_the_places(tiny_model: Path) -> None:
    model = all_methods()["prompt_tuning"](init="random", virtual_tokens=3).attach(model_of(tiny_model)).eval()
    batch = Collator(pad=0)(ROWS)
    total, count = answer_loss(model, batch["input_ids"], batch["labels"], batch["attention_mask"])
    assert float(total / count) == pytest.approx(float(model(**batch).loss), rel=1e-5)


def test_the_loss_falls_and_every_step_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    _, recorder = fit(tiny_model, tmp_path, steps=12, schedule="constant", warmup=0.0)
    losses = [step.loss for step in recorder.steps]
    assert [step.step for step in recorder.steps] == list(range(1, 13))
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(step.tokens and step.seconds for step in recorder.steps)
    assert recorder.total_samples == 24


# --- cross-entropy, apart from what is minimised ---


class Terms(Objective):
    """A term of 7 nats in every pass; of the task's own loss nothing is kept."""

    name = "terms"
    task_weight = 0.0

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        return torch.tensor(7.0)


def logged(
    folder: Path, scratch: Path, rows: Any = ROWS, penalty: float = 0.0, objectives: Any = (), **settings: Any
) -> tuple[list[Any], float]:
    """The steps of one training step on all rows; and the cross-entropy per answer token of the untrained model, of the
    rows that answer a task."""

    class Adds(type(all_methods()["full"]())):  # type: ignore[misc]
        def penalty(self, model: Any) -> torch.Tensor | None:
            return torch.tensor(penalty) if penalty else None

    model = model_of(folder)
    batch = Collator(pad=0)([row for row in rows if "aside" not in row] or ROWS)
    with torch.no_grad():
        total, count = answer_loss(model, batch["input_ids"], batch["labels"], batch["attention_mask"])
    recorder = StepRecorder()
    made = TrainSettings(**{"steps": 1, "batch_size": len(rows), **settings})
    run = TrainRun(0, recorder, scratch, objectives=objectives)
    train(model, Adds(), Stage("all", rows, ROWS), made, run)
    return recorder.steps, float(total / count)


@pytest.mark.parametrize("passes", [1, 4])
def test_a_penalty_is_minimised_and_is_no_cross_entropy(tiny_model: Path, tmp_path: Path, passes: int) -> None:
    split: dict[str, Any] = {"batch_size": 4 // passes, "gradient_accumulation": passes}
    (step,), entropy = logged(tiny_model, tmp_path, penalty=5.0, **split)
    assert step.loss == pytest.approx(entropy + 5, rel=1e-5)
    assert step.cross_entropy == pytest.approx(entropy, rel=1e-5)


def test_an_objective_that_takes_the_place_of_the_task_leaves_its_cross_entropy(
    tiny_model: Path, tmp_path: Path
) -> None:
    (step, validation), entropy = logged(tiny_model, tmp_path, objectives=[Terms()], eval_every=1)
    assert step.loss == pytest.approx(7.0)
    assert step.cross_entropy == pytest.approx(entropy, rel=1e-5)
    assert (validation.split, validation.cross_entropy) == ("validation", validation.loss)


def test_rows_count_by_their_answer_tokens_whatever_their_weight(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{**row, "weight": 1.0 + place} for place, row in enumerate(ROWS)]
    (step,), entropy = logged(tiny_model, tmp_path, rows=rows)
    assert step.loss != pytest.approx(entropy, rel=1e-3)
    assert step.cross_entropy == pytest.approx(entropy, rel=1e-5)


def test_text_beside_a_task_is_no_part_of_it(tiny_model: Path, tmp_path: Path) -> None:
    text = aside([{"input_ids": [1, 40, 41, 42, 43], "labels": [-100, 40, 41, 42, 43]}])
    (step,), entropy = logged(tiny_model, tmp_path, rows=[*ROWS, *text])
    assert step.cross_entropy == pytest.approx(entropy, rel=1e-5)
    assert step.loss != pytest.approx(entropy, rel=1e-3)
    (step,), _ = logged(tiny_model, tmp_path, rows=text)
    assert step.cross_entropy is None


def test_dropout_changes_what_is_learned_and_not_how_it_is_scored(tiny_model: Path, tmp_path: Path) -> None:
    plain, dropped = fit(tiny_model, tmp_path)[0], fit(tiny_model, tmp_path, dropout=0.5)[0]
    assert any(not torch.equal(*pair) for pair in zip(plain.parameters(), dropped.parameters(), strict=True))
    assert {part.attention_dropout for part in dropped.modules() if hasattr(part, "attention_dropout")} == {0.0}


def test_the_same_seed_gives_the_same_weights(tiny_model: Path, tmp_path: Path) -> None:
    one, two = fit(tiny_model, tmp_path)[0], fit(tiny_model, tmp_path)[0]
    other = fit(tiny_model, tmp_path, seed=3, rows=ROWS * 2)[0]
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_accumulation_equals_one_large_batch(tiny_model: Path, tmp_path: Path) -> None:
    whole, _ = fit(tiny_model, tmp_path, steps=1, batch_size=4, warmup=0.0)
    parts, recorder = fit(tiny_model, tmp_path, steps=1, batch_size=1, gradient_accumulation=4, warmup=0.0)
    assert recorder.total_samples == 4
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        # Adam's first step is the gradient's sign, so where a gradient is near zero rounding decides.
        assert (a - b).abs().max() < 2.1e-2
        assert ((a - b).abs() > 1e-5).float().mean() < 0.01


def test_checkpointing_changes_memory_not_results(tiny_model: Path, tmp_path: Path) -> None:
    plain, _ = fit(tiny_model, tmp_path)
    again, _ = fit(tiny_model, tmp_path, gradient_checkpointing=True)
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def gradients(folder: Path, scratch: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Of the first optimiser step, as the optimiser is given them."""
    seen: dict[str, torch.Tensor] = {}

    class Looks(type(all_methods()["full"]())):  # type: ignore[misc]
        def after_step(self, model: Any, step: int) -> None:
            seen.update({name: value.grad.clone() for name, value in model.named_parameters()})

    settings = TrainSettings(**{"steps": 1, "warmup": 0.0, "max_grad_norm": 1e9, **settings})
    train(model_of(folder), Looks(), Stage("all", ROWS), settings, TrainRun(0, StepRecorder(), scratch))
    return seen


def test_accumulated_gradients_are_those_of_one_large_batch(tiny_model: Path, tmp_path: Path) -> None:
    whole = gradients(tiny_model, tmp_path, batch_size=4)
    parts = gradients(tiny_model, tmp_path, batch_size=1, gradient_accumulation=4)
    assert whole.keys() == parts.keys()
    assert all(torch.allclose(whole[name], parts[name], rtol=0, atol=1e-6) for name in whole)
    assert max(float(value.abs().max()) for value in whole.values()) > 1e-2


def test_checkpointing_gives_the_same_losses(tiny_model: Path, tmp_path: Path) -> None:
    plain, again = (fit(tiny_model, tmp_path, gradient_checkpointing=flag)[1] for flag in (False, True))
    assert [step.loss for step in again.steps] == pytest.approx([step.loss for step in plain.steps], rel=1e-6)


def test_eight_bits_of_state_follow_the_thirty_two(tiny_model: Path, tmp_path: Path) -> None:
    """bitsandbytes has an 8-bit optimiser for a CPU as well: its state is in 8 bits, its losses are near."""
    choices: dict[str, Any] = {"steps": 12, "schedule": "constant", "batch_size": 4}
    exact, packed = (fit(tiny_model, tmp_path, optimizer=name, **choices)[1] for name in ("adamw", "adamw8bit"))
    losses = [[step.loss for step in recorder.steps] for recorder in (exact, packed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
    assert losses[1][-1] < 0.8 * losses[1][0]


# --- GaLore ---


def optimizer_of(folder: Path, scratch: Path, method: Any, **settings: Any) -> tuple[Any, torch.optim.Optimizer]:
    from harness.worker.train import CellTrainer, training_arguments

    made = TrainSettings(**{"steps": 1, "optimizer": "galore", "galore_rank": 8, **settings})
    model = method.attach(model_of(folder))
    arguments = training_arguments(made, 1e-3, TrainRun(0, StepRecorder(), scratch))
    trainer = CellTrainer(
        model=model, args=arguments, groups=method.parameter_groups(model), recorder=StepRecorder(),
        train_dataset=ROWS, data_collator=Collator(pad=0),
    )  # fmt: skip
    return trainer, trainer.create_optimizer()


def test_galore_learns(tiny_model: Path, tmp_path: Path) -> None:
    _, recorder = fit(
        tiny_model, tmp_path, optimizer="galore", galore_rank=8, galore_every=4, steps=16, batch_size=4,
        schedule="constant", warmup=0.0,
    )  # fmt: skip
    losses = [step.loss for step in recorder.steps]
    assert losses[-1] < 0.7 * losses[0]


def test_galore_projects_the_layers_weights_and_keeps_a_small_state(tiny_model: Path, tmp_path: Path) -> None:
    trainer, optimizer = optimizer_of(tiny_model, tmp_path, all_methods()["full"]())
    low = {id(value) for group in optimizer.param_groups if group.get("rank") == 8 for value in group["params"]}
    names = {name for name, value in trainer.model.named_parameters() if id(value) in low}
    assert names == {name for name, _ in trainer.model.named_parameters() if name.endswith("_proj.weight")}
    trainer.train()
    (value,) = [
        value for name, value in trainer.model.named_parameters() if name.endswith("layers.0.mlp.up_proj.weight")
    ]
    assert tuple(value.shape) == (128, 64)
    state = trainer.optimizer.state[value]
    assert state["exp_avg"].shape == (128, 8)
    assert state["projector"].ortho_matrix.shape == (8, 64)


def test_galores_scale_is_a_multiple_of_the_rate_of_projected_weights(tiny_model: Path, tmp_path: Path) -> None:
    start = dict(model_of(tiny_model).named_parameters())
    moved = {}
    for scale in (0.25, 1.0):
        chosen: dict[str, Any] = {} if scale == 0.25 else {"galore_scale": scale}
        model, _ = fit(tiny_model, tmp_path, steps=1, optimizer="galore", galore_rank=8, **chosen)
        moved[scale] = {name: value.detach() - start[name] for name, value in model.named_parameters()}
    for name, change in moved[1.0].items():
        times = 4.0 if name.endswith("_proj.weight") else 1.0
        assert change.abs().max() > 0
        assert torch.allclose(change, times * moved[0.25][name], atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_galore_keeps_groups_rates_and_decay(tiny_model: Path, tmp_path: Path, decay: float) -> None:
    method = all_methods()["layerwise"](layers=2, layer_decay=0.5, learning_rate=1e-3)
    _, optimizer = optimizer_of(tiny_model, tmp_path, method, weight_decay=decay)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3, 5e-4}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, decay}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2 * 9 + 1
    plain, _ = optimizer_of(tiny_model, tmp_path, all_methods()["full"](), weight_decay=decay)
    decays = {group["weight_decay"] for group in plain.optimizer.param_groups if "rank" not in group}
    assert decays == {0.0, decay}


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adafactor"}, {"schedule": "cosine"}, {"precision": "bf16"}, {"attention": "eager"}],
)
def test_settings_run(tiny_model: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    model, recorder = fit(tiny_model, tmp_path, **settings)
    assert all(math.isfinite(step.loss) for step in recorder.steps)
    assert next(model.parameters()).dtype is torch.float32


def test_epochs_instead_of_steps(tiny_model: Path, tmp_path: Path) -> None:
    _, recorder = fit(tiny_model, tmp_path, steps=None, epochs=3)
    assert len(recorder.steps) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a CPU cannot do")
def test_what_a_cpu_cannot_do_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="fp16 needs a GPU"):
        fit(tiny_model, tmp_path, precision="fp16")
    with pytest.raises(
        Unavailable, match="paged_adamw needs a GPU: on a CPU bitsandbytes would silently run it unpaged"
    ):
        fit(tiny_model, tmp_path, optimizer="paged_adamw")
    with pytest.raises(Unavailable, match="flash_attention_2 needs a GPU"):
        fit(tiny_model, tmp_path, attention="flash_attention_2")


def test_early_stopping_keeps_the_best(tiny_model: Path, tmp_path: Path) -> None:
    wrong = [{**row, "labels": [-100] * (len(row["labels"]) - 1) + [300]} for row in ROWS]
    model, recorder = fit(tiny_model, tmp_path, rows=wrong, steps=40, eval_every=1, early_stopping=2, warmup=0.0)
    validation = [step.loss for step in recorder.steps if step.split == "validation"]
    assert len(validation) < 40
    assert validation[-2:] == sorted(validation[-2:])
    batch = Collator(pad=0)(ROWS)
    with torch.no_grad():
        total, count = answer_loss(model, batch["input_ids"], batch["labels"], batch["attention_mask"])
    assert float(total / count) == pytest.approx(min(validation), rel=1e-4)


def test_a_loss_that_is_no_number_ends_the_cell(tiny_model: Path, tmp_path: Path) -> None:
    made = all_methods()["full"](learning_rate=1e30)
    settings = TrainSettings(steps=8, batch_size=2, warmup=0.0, max_grad_norm=1e9)
    with pytest.raises(Diverged, match="the training loss is"):
        train(model_of(tiny_model), made, Stage("all", ROWS), settings, TrainRun(0, StepRecorder(), tmp_path))


def test_layer_decay_gives_each_layer_its_rate(tiny_model: Path) -> None:
    method = all_methods()["layerwise"](layers=2, layer_decay=0.5, learning_rate=1e-3)
    groups = method.parameter_groups(method.attach(model_of(tiny_model)))
    assert groups is not None
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 5e-4]  # final norm, top layer, the layer below


@pytest.mark.parametrize(
    "choice", [{"which": "bottom", "layers": 2}, {"which": [0, 1]}, {"which": "middle", "layers": 2}]
)
def test_the_topmost_trained_layer_has_the_full_rate(tiny_model: Path, choice: dict[str, Any]) -> None:
    method = all_methods()["layerwise"](**choice, layer_decay=0.5, learning_rate=1e-3)
    model = method.attach(model_of(tiny_model))
    rates = {id(value): group["lr"] for group in method.parameter_groups(model) for value in group["params"]}
    layers = [{rates[id(value)] for value in layer.parameters()} for layer in model.get_decoder().layers]
    assert layers == [{5e-4}, {1e-3}]


# --- warm-up ---


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup", "rises"), [(1, 0.1, 1), (10, 0.4, 4), (10, 0.1, 1), (4, 0.0, 1)])
def test_the_first_step_has_a_rate(
    tiny_model: Path, tmp_path: Path, schedule: str, steps: int, warmup: float, rises: int
) -> None:
    _, recorder = fit(tiny_model, tmp_path, steps=steps, warmup=warmup, schedule=schedule)
    rates = [step.learning_rate / 1e-2 for step in recorder.steps]
    if schedule != "constant":  # transformers' has no warm-up
        assert rates[:rises] == pytest.approx([(step + 1) / rises for step in range(rises)])
    assert min(rates) > 0
    assert max(rates) == pytest.approx(1.0)


def test_one_step_changes_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    model, _ = fit(tiny_model, tmp_path, steps=1)
    moved = [not torch.equal(*pair) for pair in zip(model.parameters(), model_of(tiny_model).parameters(), strict=True)]
    assert all(moved)


# --- weight decay ---


def decayed(folder: Path, scratch: Path, method: Method, **settings: Any) -> dict[str, float]:
    """Trained weight -> its decay in the optimiser of a method."""
    trainer, optimizer = optimizer_of(
        folder, scratch, method, **{"optimizer": "adamw", "weight_decay": 0.3, **settings}
    )
    by_id = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    return {name: by_id[id(value)] for name, value in trainer.model.named_parameters() if value.requires_grad}


METHODS: dict[str, Any] = {
    "full": lambda: all_methods()["full"](),
    "full and another": lambda: Composed([all_methods()["full"](), all_methods()["base"]()]),
    "layerwise": lambda: all_methods()["layerwise"](layers=2),
    "layer_decay": lambda: all_methods()["layerwise"](layers=2, layer_decay=0.5),
    "norms": lambda: all_methods()["layernorm"](),
    "lora": lambda: all_methods()["lora"](),
    "lora+": lambda: all_methods()["lora"](loraplus_ratio=4.0),
    "dora": lambda: all_methods()["dora"](),
    "vera": lambda: all_methods()["vera"](),
    "hybrid": lambda: Composed([all_methods()["layerwise"](layers=1), all_methods()["prompt_tuning"](init="random")]),
}


@pytest.mark.parametrize("optimizer", ["adamw", "galore"])
@pytest.mark.parametrize("name", METHODS)
def test_matrices_decay_and_nothing_else_whatever_the_method(
    name: str, optimizer: str, tiny_model: Path, tmp_path: Path
) -> None:
    if optimizer == "galore" and name not in ("full", "full and another", "layerwise", "layer_decay"):
        pytest.skip("GaLore projects whole matrices")
    method = METHODS[name]()
    found = decayed(tiny_model, tmp_path, method, optimizer=optimizer)
    shapes = {key: value.ndim for key, value in method.attach(model_of(tiny_model)).named_parameters()}
    assert found
    assert found == {key: 0.3 if shapes[key] > 1 and "norm" not in key else 0.0 for key in found}


def test_a_method_beside_one_that_trains_nothing_decays_as_alone(tiny_model: Path, tmp_path: Path) -> None:
    alone, beside = (decayed(tiny_model, tmp_path, METHODS[name]()) for name in ("full", "full and another"))
    assert alone == beside
    assert set(alone.values()) == {0.0, 0.3}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "galore", "adafactor"])
def test_a_method_beside_one_that_trains_nothing_learns_the_same(
    optimizer: str, tiny_model: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(steps=3, batch_size=4, weight_decay=0.3, optimizer=optimizer, galore_rank=8)
    ended = []
    for name in ("full and another", "full"):  # bitsandbytes does not forget what the other order would tell it
        method = METHODS[name]()
        model = method.attach(model_of(tiny_model))
        ended.append(train(model, method, Stage("all", ROWS), settings, TrainRun(0, StepRecorder(), tmp_path)))
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in ended), strict=True))
