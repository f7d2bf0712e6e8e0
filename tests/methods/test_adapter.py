"""Bottleneck adapters and (IA)³ vectors: where they stand, where they start, what they save."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu
from transformers import AutoModelForCausalLM

from harness.methods import Method, all_methods
from harness.records import TrainSettings

IDS = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])


def make(name: str, **settings: Any) -> Method:
    return all_methods()[name](**settings)


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def shake(model: Any) -> None:
    """Give every trainable number another value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.1)


@pytest.mark.parametrize(("placement", "parts"), [("houlsby", {"self_attn", "mlp"}), ("pfeiffer", {"mlp"})])
def test_adapters_stand_where_their_placement_says(placement: str, parts: set[str], tiny_model: Path) -> None:
    model = make("adapter", placement=placement, bottleneck=4).attach(tiny(tiny_model))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {tuple(name.split(".")[2:4]) for name in trained} == {(str(n), part) for n in (0, 1) for part in parts}
    assert all(".adapter." in name for name in trained)
    # Each: 2 hidden bottleneck + bottleneck + hidden.
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == (
        2 * len(parts) * (2 * 64 * 4 + 4 + 64)
    )
    assert torch.equal(logits(model), logits(tiny(tiny_model)))


def test_an_adapter_computes_what_it_says(tiny_model: Path) -> None:
    """x + up(gelu(down(x))), x being what the MLP gives, before the residual sum."""
    model = make("adapter", placement="pfeiffer", bottleneck=4).attach(tiny(tiny_model))
    shake(model)
    base, mlp = tiny(tiny_model), model.model.layers[0].mlp
    x = torch.randn(1, 3, 64)
    given = base.model.layers[0].mlp(x)
    adapter = mlp.down_proj.adapter  # behind the layer that gives what the MLP gives
    wanted = given + gelu(given @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    assert torch.allclose(mlp(x), wanted, atol=1e-6)


def test_adapters_are_saved_with_the_settings_they_were_made_with(tiny_model: Path, tmp_path: Path) -> None:
    method = make("adapter", bottleneck=4, activation="tanh")
    model = method.attach(tiny(tiny_model))
    shake(model)
    method.save(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"trained.safetensors", "adapter.json"}
    assert all(".adapter." in name for name in load_file(tmp_path / "trained.safetensors"))
    assert json.loads((tmp_path / "adapter.json").read_text())["bottleneck"] == 4
    job: Any = SimpleNamespace(load_model=lambda quantize=None: tiny(tiny_model))
    restored = make("adapter").restore(job, tmp_path)  # whatever the settings of who restores it
    assert torch.equal(logits(restored), logits(model))


@pytest.mark.parametrize("name", ["adapter", "ia3"])
def test_they_stand_on_a_quantised_base(name: str, tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from harness.models.loading import load_model

    def base() -> Any:
        return load_model(tiny_model, TrainSettings(precision="auto", attention="sdpa"), "nf4").eval()

    model = make(name, quantize="nf4").attach(base())
    assert torch.allclose(logits(model), logits(base()), atol=1e-6)
    model(input_ids=IDS, labels=IDS).loss.backward()
    trained = [value for value in model.parameters() if value.requires_grad]
    assert trained
    assert any(value.grad is not None and value.grad.any() for value in trained)


def test_ia3_scales_keys_values_and_the_inner_activations(tiny_model: Path) -> None:
    model = make("ia3").attach(tiny(tiny_model))
    assert torch.equal(logits(model), logits(tiny(tiny_model)))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(bool((value == 1).all()) for value in trained.values())
    assert {name.split(".ia3_l")[0].split(".")[-1] for name in trained} == {"k_proj", "v_proj", "down_proj"}
    shake(model)
    wanted = tiny(tiny_model)
    with torch.no_grad():
        for number, layer in enumerate(wanted.model.layers):
            for part, name in ((layer.self_attn, "k_proj"), (layer.self_attn, "v_proj"), (layer.mlp, "down_proj")):
                vector = next(value for key, value in trained.items() if f"layers.{number}." in key and name in key)
                getattr(part, name).weight.mul_(vector)  # [out, 1] scales outputs, [1, in] inputs
    assert torch.allclose(logits(model), logits(wanted), atol=1e-5)
    assert torch.allclose(logits(make("ia3").fold(model)), logits(wanted), atol=1e-5)


def test_ia3_on_packed_weights_cannot_be_folded() -> None:
    assert make("ia3").foldable
    assert not make("ia3", quantize="nf4").foldable


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("adapter", {"bottleneck": 0}, "bottleneck is 0"),
        ("ia3", {"targets": []}, "targets is empty"),
        (
            "ia3",
            {"targets": ["k_proj"], "feedforward": ["down_proj"]},
            "feedforward names down_proj, which is none of targets (k_proj)",
        ),
    ],
)
def test_settings_that_cannot_be(name: str, settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in make(name, **settings).mistakes())
