from pathlib import Path

import pytest
import torch

from harness.models.loading import load_model
from harness.records import TrainSettings


@pytest.mark.parametrize(("precision", "in_bf16"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_four_bits_are_scored_in_the_precision_they_are_trained_in(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, precision: str, in_bf16: bool
) -> None:
    """As on a CPU for which bitsandbytes has a bf16 kernel, which it uses only where nothing is trained."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    model = load_model(tiny_model, TrainSettings(precision=precision), "nf4")
    found = [module for module in model.modules() if isinstance(module, modules.Linear4bit)]
    assert found
    assert {module.support_avx512bf16_for_cpu for module in found} == {in_bf16}


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
