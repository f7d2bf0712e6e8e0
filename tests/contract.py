"""What every method must keep to, as functions over a method: for those found in `harness/methods/`, and for the one in
the README."""

from __future__ import annotations

from pathlib import Path

from harness.methods import LogFloat, Method, Options


def check_description(kind: type[Method]) -> None:
    """A name, a family, a docstring whose first sentence can be listed, and a search space over settings that exist."""
    assert kind.name
    assert kind.family
    assert kind.__doc__
    assert "." in kind.__doc__ or ":" in kind.__doc__
    for key, space in kind.space.items():
        assert key in kind.fields(), f"{kind.name}.space names {key}, which is no setting"
        assert isinstance(space, LogFloat | Options)


def check_quantized(method: Method, folder: Path) -> None:
    """On a base model of packed weights, a method takes a step or is refused beforehand; it never fails on the way."""
    import torch

    from harness.models import load_model
    from harness.records import TrainSettings

    if refusals := list(method.mistakes()):
        assert any(str(method.quantize) in message or "quantize" in message for message in refusals), refusals
        return
    if not method.trains or method.own_trainer or not method.is_language_model:
        return
    model = method.attach(load_model(folder, TrainSettings(), method.quantize))
    ids = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    for name, value in trained:
        assert value.grad is None or value.grad.isfinite().all(), name
    torch.optim.SGD([value for _, value in trained], lr=1e-3).step()
