from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.methods import all_methods
from harness.worker.callbacks import Dropout

IDS = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])


def two_passes(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two forward passes in training."""
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        return model(input_ids=IDS).logits, model(input_ids=IDS).logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_dropped_in_training_alone(tiny_model: Path, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention)
    one, other = two_passes(model)
    assert torch.equal(one, other)
    dropout = Dropout(0.3)
    dropout.on_train_begin(None, None, None, model=model)
    one, other = two_passes(model)
    assert not torch.equal(one, other)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    dropout.on_train_end(None, None, None)
    one, other = two_passes(model)
    assert torch.equal(one, other)


def test_adapters_keep_their_own(tiny_model: Path) -> None:
    model = all_methods()["lora"](dropout=0.1).attach(AutoModelForCausalLM.from_pretrained(tiny_model))
    Dropout(0.3).on_train_begin(None, None, None, model=model)
    assert {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {0.1}
    assert {part.attention_dropout for part in model.modules() if hasattr(part, "attention_dropout")} == {0.3}


def test_dropout_layers_of_the_network_drop_and_one_without_any_is_told(tiny_model: Path) -> None:
    layer = torch.nn.Dropout(0.0)
    dropout = Dropout(0.3)
    dropout.on_train_begin(None, None, None, model=torch.nn.Sequential(torch.nn.Linear(2, 2), layer))
    assert layer.p == 0.3
    dropout.on_train_end(None, None, None)
    assert layer.p == 0.0
    with pytest.raises(ValueError, match=r"dropout is 0\.3, and the network has nothing that drops"):
        Dropout(0.3).on_train_begin(SimpleNamespace(), None, None, model=torch.nn.Linear(2, 2))
