"""Merging adapters as adapters: each way against its formula, and what is saved loads with peft alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import cell_named, plan_of, run_here
from transformers import AutoModelForCausalLM

from harness.errors import SuiteError
from harness.methods.adapter_merge import AdapterMerge, check_adapter

LAYER = "model.layers.1.mlp.down_proj"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@dataclass
class Stand:
    """What a merge asks of a worker."""

    needs: dict[str, Path]
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


def base_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_expert(base: Path, folder: Path, number: int, **config: Any) -> Path:
    """An adapter of normal numbers, saved by peft."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(number)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(base_model(base), LoraConfig(**options))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(0.1 * torch.randn(value.shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    def make(**config: Any) -> dict[str, Path]:
        root = tmp_path_factory.mktemp("adapters")
        return {f"expert:{task}": make_expert(tiny_model, root / task, place, **config)
                for place, task in enumerate(("a", "b.c"))}  # fmt: skip

    return make


def merge(base: Path, needs: dict[str, Path], **settings: Any) -> Any:
    learn = [role.removeprefix("expert:") for role in needs]
    method = AdapterMerge(**{"experts": {"method": "lora", "learn": learn}, **settings})
    assert list(method.problems()) == []
    return method.fit(base_model(base), Stand(needs))  # type: ignore[arg-type]


def update(model: Any, adapter: str = "default") -> torch.Tensor:
    layer: torch.Tensor = model.base_model.model.get_submodule(LAYER).get_delta_weight(adapter).detach()
    return layer


def factors(base: Path, folder: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(A, B, scaling) of one layer of an adapter."""
    from peft import PeftModel

    layer = PeftModel.from_pretrained(base_model(base), folder).base_model.model.get_submodule(LAYER)
    return layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data, layer.scaling["default"]


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"lora_alpha": 3}])
def test_cat_at_weight_1_is_the_sum_of_both_updates(
    config: dict[str, Any], tiny_model: Path, experts: Callable[..., dict[str, Path]]
) -> None:
    needs = experts(**config)
    made = merge(tiny_model, needs, how="cat", weight=1.0)
    (a1, b1, s1), (a2, b2, s2) = (factors(tiny_model, folder) for folder in needs.values())
    assert torch.allclose(update(made), s1 * b1 @ a1 + s2 * b2 @ a2, atol=1e-5)
    assert made.peft_config["default"].r == 8


def test_linear_adds_the_factors(tiny_model: Path, experts: Callable[..., dict[str, Path]]) -> None:
    needs = experts()
    made = merge(tiny_model, needs, how="linear", weights={"a": 0.25, "b.c": 1.0})
    (a1, b1, s1), (a2, b2, s2) = (factors(tiny_model, folder) for folder in needs.values())
    one, two = (0.25 * s1) ** 0.5, (1.0 * s2) ** 0.5
    assert torch.allclose(update(made), (one * b1 + two * b2) @ (one * a1 + two * a2), atol=1e-5)


@pytest.mark.parametrize("rank", [None, 2, 8])
def test_svd_is_the_nearest_of_its_rank(
    rank: int | None, tiny_model: Path, experts: Callable[..., dict[str, Path]]
) -> None:
    needs = experts()
    made = merge(tiny_model, needs, how="svd", weight=0.5, rank=rank)
    (a1, b1, s1), (a2, b2, s2) = (factors(tiny_model, folder) for folder in needs.values())
    left, sizes, right = torch.linalg.svd(0.5 * s1 * b1 @ a1 + 0.5 * s2 * b2 @ a2, full_matrices=False)
    kept = rank or 4
    assert torch.allclose(update(made), left[:, :kept] * sizes[:kept] @ right[:kept], atol=1e-5)


@pytest.mark.parametrize("how", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_at_density_1_nothing_is_dropped(how: str, tiny_model: Path, experts: Callable[..., dict[str, Path]]) -> None:
    needs = dict(list(experts().items())[:1])
    made = merge(tiny_model, needs, how=how, weight=1.0, density=1.0)
    a, b, scale = factors(tiny_model, next(iter(needs.values())))
    assert torch.allclose(update(made), scale * b @ a, atol=1e-5)


def test_what_is_dropped_follows_the_seed(tiny_model: Path, experts: Callable[..., dict[str, Path]]) -> None:
    needs = experts()

    def make(seed: int, how: str) -> torch.Tensor:
        method = AdapterMerge(how=how, experts={"method": "lora", "learn": ["a", "b.c"]})
        return update(method.fit(base_model(tiny_model), Stand(needs, seed)))  # type: ignore[arg-type]

    assert torch.equal(make(0, "dare_ties"), make(0, "dare_ties"))
    assert not torch.equal(make(0, "dare_ties"), make(1, "dare_ties"))
    assert torch.equal(make(0, "ties_svd"), make(1, "ties_svd"))


@pytest.mark.parametrize("how", ["cat", "linear", "svd"])
def test_one_expert_at_weight_1_is_that_expert(
    how: str, tiny_model: Path, experts: Callable[..., dict[str, Path]]
) -> None:
    from peft import PeftModel

    needs = dict(list(experts().items())[:1])
    made = merge(tiny_model, needs, how=how, weight=1.0)
    alone = PeftModel.from_pretrained(base_model(tiny_model), next(iter(needs.values()))).eval()
    with torch.no_grad():
        assert torch.allclose(made(input_ids=IDS).logits, alone(input_ids=IDS).logits, atol=1e-5)


def test_what_is_saved_loads_with_peft_alone(
    tiny_model: Path, experts: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    from peft import PeftModel

    made = merge(tiny_model, experts(), how="cat")
    made.save_pretrained(tmp_path / "weights")
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    again = PeftModel.from_pretrained(base_model(tiny_model), tmp_path / "weights").eval()
    with torch.no_grad():
        assert torch.equal(made(input_ids=IDS).logits, again(input_ids=IDS).logits)


# --- settings, and as a cell ---

TWO = {"method": "lora", "learn": ["a", "b"]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"how": "cat", "density": 0.5}, "density has no effect on how: cat"),
        ({"how": "ties", "density": 0.0}, "density is 0.0"),
        ({"how": "linear", "rank": 4}, "rank has no effect on how: linear"),
        ({"how": "svd", "rank": 0}, "rank is 0"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"weight": 1.0, "weights": {"a": 1.0, "b": 1.0}}, "weight and weights are both given"),
        ({"weights": {"a": 1.0}}, "weights says nothing of b"),
        ({"experts": {"method": "lora"}}, "experts.learn is None"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in AdapterMerge(**{"experts": TWO, **settings}).mistakes())


SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  merged: {{method: adapter_merge, experts: {{{expert}, learn: [colours, names]}}}}
train: {{steps: 2, batch_size: 4}}
"""


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ("method: dora", "dora leaves no low-rank update"),
        ("method: full", "full leaves no low-rank update"),
        ("method: prompt_tuning", "prompt_tuning leaves no low-rank update"),
        ("method: qlora", "qlora is trained on nf4 weights, and its adapter would be put on full ones"),
    ],
)
def test_an_expert_without_a_low_rank_update_is_refused(project: Path, expert: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        plan_of(project, SUITE.format(expert=expert))


def test_another_adapter_is_refused_when_it_is_met(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the expert of a left DoRA"):
        check_adapter("a", make_expert(tiny_model, tmp_path / "dora", 0, use_dora=True))
    with pytest.raises(ValueError, match="the expert of a left no adapter"):
        check_adapter("a", tmp_path)


def test_as_a_cell(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(expert="method: lora, learning_rate: 1e-2"))
    cell = cell_named(plan, "merged/tiny/colours/n8/s0")
    needs = {}
    for role, digest in cell.needs.items():
        folder = tmp_path / "attempts" / role.replace(":", "-")
        assert run_here(plan, plan.by_digest()[digest], folder).status == "done"
        needs[role] = folder / "weights"
    result = run_here(plan, cell, tmp_path / "attempts" / "merged", needs)
    assert result.status == "done", result.reason
    assert {score.task for score in result.scores if score.role == "task"} == {"colours", "names"}
    assert {fact.name: fact.value for fact in result.facts}["trainable_params"] == 0
    weights = tmp_path / "attempts" / "merged" / "weights"
    made = merge(
        Path(plan.facts.models["tiny"].folder), needs, experts={"method": "lora", "learn": ["colours", "names"]}
    )
    from peft import PeftModel

    saved = PeftModel.from_pretrained(base_model(Path(plan.facts.models["tiny"].folder)), weights)
    assert torch.equal(update(saved), update(made))
