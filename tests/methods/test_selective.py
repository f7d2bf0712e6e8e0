"""What is trained of the model's own weights, step by step: layers, biases, norms, halves and samples."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import context_of, plan_of, run_here
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from harness.architecture import read_network
from harness.curricula import Stage
from harness.methods import Composed, Method, all_methods
from harness.methods.base import load_trained
from harness.records import TrainSettings
from harness.worker.profiling.meter import StepRecorder
from harness.worker.train import TrainRun, train

ROWS = [{"input_ids": [5, 6, 7, 8 + k], "labels": [-100, -100, -100, 8 + k]} for k in range(4)]
HARD = {"weight_decay": 0.5, "schedule": "constant", "warmup": 0.0, "batch_size": 4}  # momentum and decay move a lot


def make(name: str, **settings: Any) -> Method:
    return all_methods()[name](**{"learning_rate": 1e-2, **settings})


def deep(layers: int = 4, **changes: Any) -> Any:
    """A random Llama with more layers than the tiny one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, **changes,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


class Watch:
    """A method, and what each optimiser step of it moved."""

    def __init__(self, method: Method, model: Any) -> None:
        self.method, self.moved = method, list[set[str]]()
        self.model = method.attach(model)
        self.before = self.copy()
        inner: Callable[[Any, int], None] = method.after_step

        def after_step(model: Any, step: int) -> None:
            if step:
                now = self.copy()
                self.moved.append({name for name, value in now.items() if not torch.equal(value, self.before[name])})
                self.before = now
            inner(model, step)

        method.after_step = after_step  # type: ignore[method-assign]

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def train(self, folder: Path, steps: int, seed: int = 0, **changes: Any) -> "Watch":
        settings = TrainSettings(**{**HARD, "steps": steps, **changes})
        validation = ROWS if settings.eval_every else []
        train(self.model, self.method, Stage("all", ROWS, validation), settings, TrainRun(seed, StepRecorder(), folder))
        return self

    def layers(self) -> list[set[int]]:
        return [numbers(names) for names in self.moved]


def numbers(names: Iterable[str]) -> set[int]:
    """The layers that these weights lie in."""
    return {int(name.split("layers.")[1].split(".")[0]) for name in names if "layers." in name}


# --- layers ---


@pytest.mark.parametrize(
    ("settings", "wanted", "norm"),
    [
        ({"layers": 2}, {4, 5}, True),
        ({}, {4, 5}, True),
        ({"which": "bottom", "layers": 2}, {0, 1}, False),
        ({"which": "middle", "layers": 2}, {2, 3}, False),
        ({"which": "middle", "fraction": 0.5}, {1, 2, 3}, False),
        ({"which": [5, 0]}, {0, 5}, False),
    ],
)
def test_which_layers_are_trained(settings: dict[str, Any], wanted: set[int], norm: bool, tmp_path: Path) -> None:
    model = deep(6)
    watch = Watch(make("layerwise", **settings), model).train(tmp_path, 1)
    assert watch.layers() == [wanted]
    assert ("model.norm.weight" in watch.moved[0]) is norm
    assert not any("embed" in name for name in watch.moved[0])
    model.save_pretrained(tmp_path / "model")
    network = read_network(tmp_path / "model")
    assert network
    footprint = watch.method.footprint(network)
    assert footprint
    assert set(footprint.trained) == watch.moved[0]
    assert footprint.lowest == min(wanted)


def test_rates_fall_from_layer_to_layer() -> None:
    method = make("layerwise", which="bottom", layers=3, layer_decay=0.5)
    model = method.attach(deep(4))
    groups = method.parameter_groups(model) or []
    assert [group["lr"] for group in groups] == [1e-2, 5e-3, 2.5e-3]
    assert [id(group["params"][0]) for group in groups] == [
        id(next(model.model.layers[number].parameters())) for number in (2, 1, 0)
    ]


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_layers_unfreeze_from_the_top_and_then_move(decay: float, tmp_path: Path) -> None:
    method = make("layerwise", fraction=1.0, gradual=0.5, layer_decay=decay)
    watch = Watch(method, deep(4)).train(tmp_path, 16)
    wanted = [{3}] * 2 + [{2, 3}] * 2 + [{1, 2, 3}] * 2 + [{0, 1, 2, 3}] * 10
    assert watch.layers() == wanted
    assert all("model.norm.weight" in names for names in watch.moved)


def test_all_layers_unfreeze_in_fewer_steps_than_layers(tmp_path: Path) -> None:
    watch = Watch(make("layerwise", fraction=1.0, gradual=1.0), deep(6)).train(tmp_path, 2)
    assert watch.layers() == [{3, 4, 5}, {0, 1, 2, 3, 4, 5}]


def test_what_was_frozen_last_is_trainable_afterwards(tmp_path: Path) -> None:
    """So that the counts, a second stage of training, and what is saved do not hang on where training ended."""
    watch = Watch(make("lisa", layers=1, every=1), deep(4)).train(tmp_path, 2)
    assert all(value.requires_grad for value in watch.model.parameters())


def test_early_stopping_brings_back_what_is_frozen_by_then(tmp_path: Path) -> None:
    """The best weights are those of one moment, also of layers that were not trained at that moment."""
    watch = Watch(make("lisa", layers=1, every=1, learning_rate=0.3), deep(4))
    copies: list[dict[str, torch.Tensor]] = []
    inner = watch.method.after_step
    watch.method.after_step = lambda model, step: (inner(model, step), copies.append(watch.copy()))  # type: ignore
    watch.train(tmp_path, 12, eval_every=1, early_stopping=2)
    final = watch.copy()
    assert any(all(torch.equal(final[name], value) for name, value in copy.items()) for copy in copies)


def test_gradual_unfreezing_beside_an_adapter_leaves_the_adapter_alone(tmp_path: Path) -> None:
    parts = [make("layerwise", fraction=1.0, gradual=1.0), make("lora", rank=2)]
    watch = Watch(Composed(parts), deep(4)).train(tmp_path, 4)
    own = [{name for name in names if "lora_" not in name} for names in watch.moved]
    assert [numbers(names) for names in own] == [{3}, {2, 3}, {1, 2, 3}, {0, 1, 2, 3}]
    assert numbers(watch.moved[0] - own[0]) == {0, 1, 2, 3}


# --- biases and norms ---


def test_bitfit_adds_zeros_where_there_are_no_biases(tiny_model: Path, tmp_path: Path) -> None:
    watch = Watch(make("bitfit"), tiny(tiny_model))
    trainable = {name: value for name, value in watch.model.named_parameters() if value.requires_grad}
    assert all(not value.any() for value in trainable.values())
    assert len(trainable) == 2 * 7
    assert all("layers." in name for name in trainable)  # not the output layer, which is the embedding
    watch.train(tmp_path, 3)
    assert set.union(*watch.moved) == set(trainable)


def test_bitfit_trains_the_biases_that_a_model_has(tmp_path: Path) -> None:
    watch = Watch(make("bitfit"), deep(2, attention_bias=True)).train(tmp_path, 2)
    trained = {f"{part}_proj.bias" for part in "qkvo"}
    assert {".".join(name.split(".")[-2:]) for name in set.union(*watch.moved)} <= trained
    assert watch.model.model.layers[0].mlp.up_proj.bias is None


def test_biases_beside_layers_are_each_held_once(tmp_path: Path) -> None:
    watch = Watch(Composed([make("bitfit"), make("layerwise", layers=1)]), deep(2)).train(tmp_path, 2)
    moved = set.union(*watch.moved)
    assert "model.layers.1.mlp.up_proj.weight" in moved
    assert "model.layers.0.mlp.up_proj.bias" in moved
    assert "model.layers.0.mlp.up_proj.weight" not in moved


def test_layernorm_trains_norms_alone(tiny_model: Path, tmp_path: Path) -> None:
    watch = Watch(make("layernorm"), tiny(tiny_model)).train(tmp_path, 2)
    assert len(set.union(*watch.moved)) == 2 * 2 + 1
    assert all("norm" in name for name in set.union(*watch.moved))


# --- drawn by lot ---


def test_half_of_each_category_is_trained_and_the_other_half_stays(tmp_path: Path) -> None:
    watch = Watch(make("hft"), deep(4)).train(tmp_path, 4)
    moved = set.union(*watch.moved)
    assert not any("embed" in name or name == "model.norm.weight" for name in moved)
    for number in range(4):
        own = {name for name in moved if f"layers.{number}." in name}
        assert sum("self_attn" in name for name in own) == 2
        assert sum("mlp" in name for name in own) in (1, 2)
        assert sum("layernorm" in name for name in own) == 1
    assert sum("mlp" in name for name in moved) == 6  # of twelve
    assert watch.moved == [moved] * 4


def test_each_round_draws_its_half_anew(tmp_path: Path) -> None:
    watch = Watch(make("hft", rounds=2, embeddings=True), deep(4)).train(tmp_path, 6)
    one, two = watch.moved[0], watch.moved[-1]
    assert watch.moved == [one] * 3 + [two] * 3
    assert one != two
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= one & two


def test_lisa_trains_few_layers_at_a_time_and_the_ends_always(tmp_path: Path) -> None:
    watch = Watch(make("lisa", layers=2, every=2), deep(6)).train(tmp_path, 12)
    ends = {"model.embed_tokens.weight", "model.norm.weight"}
    assert all(names >= ends for names in watch.moved)
    drawn = watch.layers()
    assert all(len(one) == 2 for one in drawn)
    assert drawn[::2] == drawn[1::2]
    assert len(set(map(frozenset, drawn))) > 2
    # What rested for a while with momentum of its own did not move meanwhile: `moved` counts every step apart.
    assert any(one & two and not one & between for one, between, two in zip(drawn, drawn[2:], drawn[4:], strict=False))


@pytest.mark.parametrize("name", ["hft", "lisa"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_lots_hang_on_the_seed_alone(name: str, optimizer: str, tmp_path: Path) -> None:
    def drawn(seed: int) -> list[set[str]]:
        settings = {"every": 1} if name == "lisa" else {"rounds": 3}
        return Watch(make(name, **settings), deep(4)).train(tmp_path, 3, seed, optimizer=optimizer).moved

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    assert first != other


def test_stages_of_a_curriculum_draw_on(tmp_path: Path) -> None:
    watch = Watch(make("hft"), deep(4)).train(tmp_path, 1).train(tmp_path, 1)
    assert watch.moved[0] != watch.moved[1]


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("layerwise", {"which": []}, "a list names different layers"),
        ("layerwise", {"which": [1, 1]}, "a list names different layers"),
        ("layerwise", {"which": [-1]}, "a list names different layers"),
        ("layerwise", {"which": [1], "layers": 1}, "so layers and fraction have no effect"),
        ("layerwise", {"gradual": 1.5}, "gradual is 1.5"),
        ("bitfit", {"quantize": "nf4"}, "bitfit cannot train nf4 weights"),
        ("layernorm", {"quantize": "int8"}, "layernorm cannot train int8 weights"),
        ("hft", {"quantize": "nf4"}, "hft cannot train nf4 weights"),
        ("hft", {"rounds": 0}, "rounds is 0"),
        ("lisa", {"layers": 0}, "layers is 0"),
        ("lisa", {"every": 0}, "every is 0"),
    ],
)
def test_settings_that_cannot_be(name: str, settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in make(name, **settings).mistakes())


def test_layers_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="which names layer 9, but the model has those from 0 to 3"):
        make("layerwise", which=[0, 9]).attach(deep(4))
    with pytest.raises(ValueError, match="layers is 5, but the model has 4"):
        make("lisa", layers=5).attach(deep(4))


@pytest.mark.parametrize("label", ["{method: layerwise, gradual: 0.5}", "{method: hft}", "{method: lisa}"])
def test_what_changes_in_training_stays_on_one_device(label: str, project: Path) -> None:
    from tools import plan_of

    from harness.errors import SuiteError

    suite = f"version: 1\nmodels: [tiny]\ntasks: [{{learn: colours, sizes: [8]}}]\nmethods: {{x: {label}}}\n"
    with pytest.raises(SuiteError, match="is trained on one device, and devices is 2"):
        plan_of(project, suite + "train: {steps: 2, batch_size: 4, devices: 2}\n")


def test_a_list_of_layers_in_a_suite(project: Path) -> None:
    from tools import cell_named, plan_of

    from harness.errors import SuiteError

    suite = "version: 1\nmodels: [tiny]\ntasks: [{learn: colours, sizes: [8]}]\n"
    suite += "methods: {x: {method: layerwise, which: %s}}\n"
    plan = plan_of(project, suite % "[0, 1]")
    assert cell_named(plan, "x/tiny/colours/n8/s0").settings["which"] == [0, 1]
    with pytest.raises(SuiteError, match=r"which: got 'upper', wanted"):
        plan_of(project, suite % "upper")


@pytest.mark.parametrize("gradual", [0.0, 1.0])
def test_what_layerwise_ships_is_what_it_changed(project: Path, tmp_path: Path, gradual: float) -> None:
    plan = plan_of(
        project,
        "version: 1\nmodels: [tiny]\ntasks: [{learn: colours, sizes: [8]}]\n"
        f"methods: {{x: {{method: layerwise, layers: 1, gradual: {gradual}, learning_rate: 1e-2}}}}\n"
        "train: {steps: 3, batch_size: 4}\n",
    )
    cell = next(one for one in plan.cells if one.label == "x")
    result = run_here(plan, cell, tmp_path / "results" / "attempts" / "x")
    facts = {fact.name: fact.value for fact in result.facts}
    assert 4 * facts["trainable_params"] <= facts["artifact_bytes"] < 4 * facts["trainable_params"] + 4096
    context = context_of(plan, cell, tmp_path / "again")
    model = context.method.restore(context, tmp_path / "results" / "attempts" / "x" / "weights")
    base = dict(context.load_model().named_parameters())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, base[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in changed)


def test_layers_that_are_closed_again_are_saved_too(tmp_path: Path) -> None:
    method, model = make("layerwise", fraction=1.0, gradual=1.0), deep(3)
    model = method.attach(model)
    method.before_training(model, 6, 0)  # the topmost layer alone is open
    with torch.no_grad():
        for value in model.model.layers[0].parameters():
            value.add_(1.0)
    method.save(model, tmp_path / "weights")
    again = load_trained(method.attach(deep(3)), tmp_path / "weights")
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
