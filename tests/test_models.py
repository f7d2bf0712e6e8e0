from pathlib import Path

import pytest

from harness.models import load_model
from harness.settings import TrainSettings


@pytest.mark.parametrize(("precision", "in_bf16"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_four_bits_are_scored_in_the_precision_they_are_trained_in(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, precision: str, in_bf16: bool
) -> None:
    """As on a CPU for which bitsandbytes has a bf16 kernel, which it uses only where nothing is trained."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    model = load_model(tiny_model, TrainSettings(precision=precision).model_dump(), "nf4")
    found = [module for module in model.modules() if isinstance(module, modules.Linear4bit)]
    assert found
    assert {module.support_avx512bf16_for_cpu for module in found} == {in_bf16}
