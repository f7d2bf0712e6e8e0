"""Merging full weights: each way against its formula in numpy, on experts made up by hand; then as cells."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tools import cell_named, plan_of, run_here
from transformers import AutoModelForCausalLM

from harness.errors import SuiteError
from harness.methods import all_methods
from harness.methods.merge import WAYS, Merge, stack_configuration

Weights = dict[str, np.ndarray[Any, Any]]
TWO = {"method": "lora", "learn": ["a", "b"]}


@dataclass
class Stand:
    """What a merge asks of a worker, on experts in folders."""

    base: Path
    needs: dict[str, Path]
    scratch: Path
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def load_model(self, folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def weights_of(folder: Path) -> Weights:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: value.detach().numpy().astype(np.float64) for name, value in model.named_parameters()}


@pytest.fixture(scope="module")
def experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two experts: the base with normal noise on every weight."""
    root = tmp_path_factory.mktemp("experts")
    made = {}
    for number, task in enumerate(("a", "b")):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for value in model.parameters():
                value += 0.05 * torch.randn(value.shape, generator=generator)
        model.save_pretrained(root / task)
        made[task] = root / task
    return made


@pytest.fixture
def merged(tiny_model: Path, experts: dict[str, Path], tmp_path: Path) -> Callable[..., Weights]:
    """The weights that a merge with some settings makes of some of the experts."""

    def make(tasks: str = "ab", seed: int = 0, **settings: Any) -> Weights:
        scratch = tmp_path / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        needs = {f"expert:{task}": experts[task] for task in tasks}
        method = Merge(**{"experts": {"method": "lora", "learn": list(tasks)}, **settings})
        if method.how != "soup":
            assert list(method.problems()) == []
        model = method.fit(None, Stand(tiny_model, needs, scratch, seed))  # type: ignore[arg-type]
        return {name: value.detach().numpy().astype(np.float64) for name, value in model.named_parameters()}

    return make


def close(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-6, err_msg=name)


# --- formulas ---


def linear(base: Any, a: Any, b: Any) -> Any:
    return 0.25 * a + 0.75 * b


def slerp(base: Any, a: Any, b: Any) -> Any:
    """The point at 3/4 of the arc from a to b."""
    cosine = (a.ravel() @ b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b)
    if abs(cosine) > 0.9995:
        return 0.25 * a + 0.75 * b
    angle = np.arccos(cosine)
    return (np.sin(0.25 * angle) * a + np.sin(0.75 * angle) * b) / np.sin(angle)


def task_arithmetic(base: Any, a: Any, b: Any) -> Any:
    return base + 0.25 * (a - base) + 0.75 * (b - base)


def largest(change: Any, share: float) -> Any:
    kept = np.zeros(change.size)
    kept[np.argsort(-np.abs(change.ravel()))[: max(1, int(share * change.size))]] = 1
    return change * kept.reshape(change.shape)


def agreeing(base: Any, a: Any, b: Any, scale: float, share: float = 1.0, say: tuple[float, float] = (1, 1)) -> Any:
    """TIES: the mean over the experts whose change has the sign of the weighted sum of changes."""
    changes = np.stack([weight * largest(one - base, share) for weight, one in zip(say, (a, b), strict=True)])
    sign = np.where(changes.sum(0) >= 0, 1, -1)
    agree = np.sign(changes) == sign
    weight = np.array(say).reshape(2, *[1] * base.ndim) * agree
    total = weight.sum(0)
    return base + scale * (changes * agree).sum(0) / np.where(total == 0, 1, total)


def model_stock(base: Any, a: Any, b: Any) -> Any:
    one, two = (a - base).ravel(), (b - base).ravel()
    cosine = (one @ two) / max(np.linalg.norm(one) * np.linalg.norm(two), 1e-6)
    share = 2 * cosine / (1 + cosine)
    return share * (a + b) / 2 + (1 - share) * base


SHARES = {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        ({"how": "linear", "weights": SHARES}, linear),
        ({"how": "linear"}, lambda base, a, b: (a + b) / 2),
        ({"how": "slerp", "weights": SHARES}, slerp),
        ({"how": "task_arithmetic", "weights": SHARES}, task_arithmetic),
        ({"how": "task_arithmetic"}, lambda base, a, b: 0.5 * a + 0.5 * b),
        ({"how": "dare_linear", "weights": SHARES, "density": 1.0}, task_arithmetic),
        ({"how": "della_linear", "weights": SHARES, "density": 1.0}, task_arithmetic),
        ({"how": "ties", "weight": 0.7, "density": 0.3}, lambda base, a, b: agreeing(base, a, b, 0.7, 0.3)),
        ({"how": "ties", "weights": SHARES, "density": 0.3},
         lambda base, a, b: agreeing(base, a, b, 1.0, 0.3, (0.25, 0.75))),
        ({"how": "dare_ties", "weight": 0.7, "density": 1.0}, lambda base, a, b: agreeing(base, a, b, 0.7)),
        ({"how": "della", "weight": 0.7, "density": 1.0}, lambda base, a, b: agreeing(base, a, b, 0.7)),
        ({"how": "model_stock"}, model_stock),
        ({"how": "soup", "seeds": [0, 1]}, lambda base, a, b: (a + b) / 2),
    ],
)  # fmt: skip
def test_it_is_its_formula(
    settings: dict[str, Any], formula: Any, merged: Callable[..., Weights], tiny_model: Path, experts: dict[str, Path]
) -> None:
    base, a, b = (weights_of(folder) for folder in (tiny_model, experts["a"], experts["b"]))
    close(merged(**settings), {name: formula(base[name], a[name], b[name]) for name in base})


@pytest.mark.parametrize("how", [how for how, way in WAYS.items() if way.least == 1])
def test_one_expert_at_weight_1_is_that_expert(
    how: str, merged: Callable[..., Weights], experts: dict[str, Path]
) -> None:
    settings: dict[str, Any] = {"weight": 1.0} if WAYS[how].weight is not None else {}
    settings |= {"density": 1.0} if WAYS[how].density else {}
    settings |= {"slices": [["a", 0, 2]]} if how == "passthrough" else {}
    made, expert = merged("a", how=how, **settings), weights_of(experts["a"])
    assert all(np.array_equal(made[name], expert[name]) for name in expert)


def test_all_of_the_weight_on_one_of_two_is_that_one(merged: Callable[..., Weights], experts: dict[str, Path]) -> None:
    expert = weights_of(experts["b"])
    for how in ("slerp", "linear", "task_arithmetic"):
        made = merged(how=how, weights={"a": 0.0, "b": 1.0})
        assert all(np.array_equal(made[name], expert[name]) for name in expert), how


@pytest.mark.parametrize("how", ["dare_linear", "della_linear", "dare_ties", "della"])
def test_what_is_dropped_is_the_bases_and_the_rest_makes_up_for_it(
    how: str, merged: Callable[..., Weights], tiny_model: Path, experts: dict[str, Path]
) -> None:
    base, expert = weights_of(tiny_model), weights_of(experts["a"])
    made = merged("a", how=how, weight=1.0, density=0.4)
    assert all(np.array_equal(made[name], merged_again) for name, merged_again in merged(
        "a", how=how, weight=1.0, density=0.4).items())  # fmt: skip
    other = merged("a", seed=1, how=how, weight=1.0, density=0.4)
    assert any(not np.array_equal(made[name], other[name]) for name in made)
    name = "model.layers.0.mlp.up_proj.weight"
    change, whole = made[name] - base[name], expert[name] - base[name]
    kept = change != 0
    assert 0.35 < kept.mean() < 0.45
    assert np.abs(change).sum() == pytest.approx(np.abs(whole).sum(), rel=1e-4)
    np.testing.assert_allclose(change[kept] / whole[kept], (change[kept] / whole[kept])[0], rtol=1e-3)
    if how.startswith("della"):  # large changes are kept more often than small ones
        size = np.abs(whole)
        assert size[kept].mean() > 1.05 * size[~kept].mean()


def test_layers_are_stacked(merged: Callable[..., Weights], experts: dict[str, Path]) -> None:
    made = merged(how="passthrough", slices=[["a", 0, 2], ["b", 1, 2]])
    a, b = weights_of(experts["a"]), weights_of(experts["b"])
    for name, value in made.items():
        if "layers.2." in name:
            assert np.array_equal(value, b[name.replace("layers.2.", "layers.1.")]), name
        elif name == "model.norm.weight":  # what stands above the layers comes with the last of them
            assert np.array_equal(value, b[name])
        else:
            assert np.array_equal(value, a[name]), name
    assert sum("layers.2." in name for name in made) == sum("layers.1." in name for name in a)


def test_more_layers_than_there_are(merged: Callable[..., Weights]) -> None:
    with pytest.raises(ValueError, match="slices asks for layers up to 3, but the model has 2"):
        merged(how="passthrough", slices=[["a", 0, 3]])


def test_stacked_layers_keep_their_kind_of_attention(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    for name in ("base", "merged"):
        (tmp_path / name).mkdir()
        config = {"num_hidden_layers": 3, "layer_types": kinds}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    stack_configuration(tmp_path / "base", tmp_path / "merged", [(0, 2), (1, 3)])
    made = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert made["layer_types"] == [kinds[0], kinds[1], kinds[1], kinds[2]]
    assert made["num_hidden_layers"] == 4


def test_an_expert_of_another_size_is_refused(merged: Callable[..., Weights], experts: dict[str, Path]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(experts["a"])
    config.intermediate_size = 96
    LlamaForCausalLM(config).save_pretrained(experts["a"].parent / "c")
    experts["c"] = experts["a"].parent / "c"
    with pytest.raises(ValueError, match="expert:c has other weights than the base model, such as"):
        merged("ac", how="linear")


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"density": 0.0}, "density is 0.0"),
        ({"how": "linear", "weight": 0.3}, "weight has no effect on how: linear"),
        ({"how": "linear", "density": 0.3}, "density has no effect on how: linear"),
        ({"how": "model_stock", "weights": SHARES}, "weights has no effect on how: model_stock"),
        ({"how": "dare_ties", "epsilon": 0.1}, "epsilon has no effect on how: dare_ties"),
        ({"how": "ties", "slices": [["a", 0, 1]]}, "slices has no effect on how: ties"),
        ({"how": "ties", "seeds": [0, 1]}, "seeds has no effect on how: ties"),
        ({"how": "della", "density": 0.9}, "density 0.9 ± epsilon 0.15 leaves 0 to 1"),
        ({"how": "task_arithmetic", "weight": 1.0, "weights": SHARES}, "weight and weights are both given"),
        ({"weights": {"a": 1.0}}, "weights says nothing of b"),
        ({"weights": {"a": 1.0, "b": 1.0, "c": 1.0}}, "weights names 'c', which is no expert"),
        ({"weights": {"a": 1.0, "b": -1.0}}, "the weight of 'b' is -1.0"),
        ({"how": "linear", "weights": {"a": 0.0, "b": 0.0}}, "weights are all 0"),
        ({"quantize": "nf4"}, "merge cannot train nf4 weights. mergekit combines full weights"),
        ({"how": "slerp", "experts": {"method": "lora", "learn": ["a", "b", "c"]}}, "wants a list of 2 different"),
        ({"how": "model_stock", "experts": {"method": "lora", "learn": ["a"]}}, "wants a list of 2 or more"),
        ({"experts": {"learn": ["a"]}}, "experts.method is missing"),
        ({"how": "soup", "seeds": [0, 1]}, "Drop experts.learn"),
        ({"how": "soup", "seeds": [0], "experts": {"method": "lora"}}, r"seeds is [0]; a soup wants two or more"),
        ({"how": "passthrough"}, "slices is empty"),
        ({"how": "passthrough", "slices": [["c", 0, 1]]}, "slices names 'c', which is no expert"),
        ({"how": "passthrough", "slices": [["a", 1, 1]]}, "layers 1 to 1 of a are none"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in Merge(**{"experts": TWO, **settings}).mistakes())


def test_what_tuning_may_move_is_what_has_an_effect() -> None:
    assert set(Merge(how="ties").space) == {"weight", "density"}
    assert set(Merge(how="task_arithmetic").space) == {"weight"}
    assert set(Merge(how="dare_ties", weights=SHARES).space) == {"density"}
    assert not Merge(how="model_stock").space


# --- as cells ---

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  lora: {{learning_rate: 1e-2}}
  merged: {label}
seeds: {seeds}
train: {{steps: 2, batch_size: 4}}
"""
EXPERTS = "experts: {method: lora, learning_rate: 1e-2, learn: [colours, names]}"


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ("method: setfit, ", "setfit leaves no weights that can be merged"),
        ("method: prompt_tuning, ", "prompt_tuning leaves no weights that can be merged"),
        ("method: qlora, ", "qlora leaves nf4 weights"),
        ("method: base, ", "base leaves no weights that can be merged"),
        ("method: merge, experts: {method: lora, learn: [colours]}, ", "merge needs cells of its own"),
    ],
)
def test_an_expert_that_cannot_be_merged_is_refused(project: Path, expert: str, said: str) -> None:
    label = f"{{method: merge, experts: {{{expert}learn: [colours, names]}}}}"
    with pytest.raises(SuiteError, match=said):
        plan_of(project, SUITE.format(label=label, seeds=[0]))


@pytest.mark.parametrize(
    "label",
    [
        f"{{method: merge, how: task_arithmetic, {EXPERTS}}}",
        pytest.param(f"{{method: merge, how: della, {EXPERTS}}}", marks=pytest.mark.slow),  # as task_arithmetic
        f"{{method: merge, how: passthrough, slices: [[colours, 0, 2], [names, 1, 2]], {EXPERTS}}}",
        "{method: merge, how: soup, seeds: [0, 1], experts: {method: full, learning_rate: 1e-2}}",
    ],
)
def test_a_merge_of_two_experts(label: str, project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label=label, seeds=[0]))
    merge = cell_named(plan, "merged/tiny/colours/n8/s0")
    needs = {}
    for role, digest in merge.needs.items():
        folder = tmp_path / "attempts" / role.replace(":", "-")
        assert run_here(plan, plan.by_digest()[digest], folder).status == "done"
        needs[role] = folder / "weights"
    folder = tmp_path / "attempts" / "merged"
    result = run_here(plan, merge, folder, needs)
    assert result.status == "done", result.reason
    assert {score.task for score in result.scores if score.role == "task"} == set(merge.learn)
    facts = {fact.name: fact.value for fact in result.facts}
    assert facts["trainable_params"] == 0
    base = weights_of(Path(plan.facts.models["tiny"].folder))
    made = weights_of(folder / "weights")
    if "task_arithmetic" in label:  # adapters are folded first
        from peft import PeftModel

        wanted = dict(base)
        for saved in needs.values():
            model = AutoModelForCausalLM.from_pretrained(plan.facts.models["tiny"].folder, dtype=torch.float32)
            expert = PeftModel.from_pretrained(model, saved).merge_and_unload()
            for name, value in expert.named_parameters():
                wanted[name] = wanted[name] + 0.5 * (value.detach().numpy().astype(np.float64) - base[name])
        close(made, wanted)
    assert any(name not in base or not np.array_equal(made[name], base[name]) for name in made)


def test_a_soups_experts_differ_in_the_seed_alone(project: Path, tmp_path: Path) -> None:
    label = "{method: merge, how: soup, seeds: [0, 1], experts: {method: lora, learning_rate: 1e-2}}"
    plan = plan_of(project, SUITE.format(label=label, seeds=[0, 1]))
    soups = [cell_named(plan, f"merged/tiny/colours/n8/s{seed}") for seed in (0, 1)]
    cells = plan.by_digest()
    for seed, soup in enumerate(soups):
        assert soup.learn == ("colours",)
        experts = [cells[digest] for digest in soup.needs.values()]
        assert [expert.seed for expert in experts] == [0, 1]
        assert experts[seed] == cell_named(plan, f"lora/tiny/colours/n8/s{seed}")  # a row of its own, done once
        other = experts[1 - seed]
        assert (other.label, other.draw) == ("merged.lora", seed)
    assert set(soups[0].needs.values()).isdisjoint(soups[1].needs.values())
    from tools import context_of

    same = cells[list(soups[0].needs.values())[1]]
    one, two, three = (
        context_of(plan, cell, tmp_path / "attempts" / name).examples()
        for name, cell in (("x", soups[0]), ("y", same), ("z", soups[1]))
    )
    assert one == two != three


def test_every_way_is_told_in_its_docstring() -> None:
    assert [how for how in WAYS if how not in (all_methods()["merge"].__doc__ or "")] == []
