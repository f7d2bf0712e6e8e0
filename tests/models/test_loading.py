from pathlib import Path

import pytest
import torch

from harness.models.loading import load_model
from harness.records import TrainSettings


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_four_bits_are_never_repacked(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """As on a CPU for which bitsandbytes has a bf16 kernel: that has no gradient, and comes into use at the first
    forward pass in evaluation mode, which a cell makes before it trains."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    model = load_model(tiny_model, TrainSettings(precision=precision), "nf4")
    found = [module for module in model.modules() if isinstance(module, modules.Linear4bit)]
    assert found
    assert not any(module.support_avx512bf16_for_cpu for module in found)


def test_a_model_that_was_changed_leaves_the_next_one_as_its_file(tiny_model: Path) -> None:
    """Trials share a base model's file: what one does to the weights that it maps must not reach another."""
    from safetensors.torch import load_file

    settings = TrainSettings(steps=1)
    first = load_model(tiny_model, settings)
    with torch.no_grad():
        for value in first.parameters():
            value.fill_(7.0)
    second = load_model(tiny_model, settings)
    stored = load_file(tiny_model / "model.safetensors")
    held = dict(second.named_parameters())
    assert stored.keys() <= held.keys()
    assert all(torch.equal(held[name], value) for name, value in stored.items())
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "model.safetensors" in line]
    assert mapped, "the weights are those of the file, not a copy of it"
    assert all(line.split()[1].endswith("p") for line in mapped), "private: writing copies a page"
