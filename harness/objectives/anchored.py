"""Penalties on how far the weights have moved from their start, all weights alike (L2-SP) or by importance (EWC).

L2-SP: Li, Grandvalet & Davoine 2018, arXiv:1802.01483. EWC: Kirkpatrick et al. 2017, arXiv:1612.00796.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.objectives.base import Batch, Context, LogFloat, Method, Objective, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn


class L2SP(Objective):
    """L2-SP: pulls weights back to where they started, strength / 2 · Σ (θ - θ₀)².

    `strength` is the weight of the penalty. θ are the effective weights: for a layer with a low-rank update (LoRA and
    its variants) the weight plus the update, so that full and low-rank updates of the same size cost the same. Methods
    whose result is not a change of weights (soft prompts, adapter modules) are refused, and so is a quantised base
    model.
    """

    name = "l2sp"
    paper = "arXiv:1802.01483"
    once_a_step = True
    space = {"strength": LogFloat(1e-3, 1e2)}

    strength: float = 1.0

    def problems(self) -> Iterable[str]:
        if self.strength < 0:
            yield f"strength is {self.strength}; it must be at least 0."

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        yield from super().refuses(method, train)
        if not method.foldable:
            yield (
                f"{self.name} measures how far the model's weights move, and what {method.name} learns is not in them. "
                "Drop it, or use retain."
            )
        if method.quantize:
            yield f"{self.name} cannot measure from {method.quantize} weights. Drop it, or quantize."

    def prepare(self, model: nn.Module, context: Context) -> None:
        self._weights = list(weights(model))
        self._start = [value().detach().clone() for value, _ in self._weights]
        self._importance: list[Any] = [1.0] * len(self._start)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        import torch

        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            parts = [
                (importance * (value() - start).square()).sum()
                for (value, _), start, importance in zip(self._weights, self._start, self._importance, strict=True)
            ]
            return self.strength / 2 * torch.stack(parts).sum()


class EWC(L2SP):
    """Elastic weight consolidation: holds the weights that general text depends on, strength / 2 · Σ F (θ - θ₀)².

    F is the diagonal of the empirical Fisher information of the model before training: over `samples` passages of
    `text` (a task with a training split), the mean of the squared gradients of their log-likelihoods, divided by their
    mean length in tokens. To second order the sum is what the text loses in nats per token, and `strength` weighs it
    against the task's nats per answer token. θ as in l2sp: for an adapter, F is that of the base weight beside it (as
    in EWC-LoRA, Xiang et al. 2023, arXiv:2305.10626), which takes a full-size copy of each adapted layer.
    """

    name = "ewc"
    paper = "arXiv:1612.00796"
    space = {"strength": LogFloat(1e1, 1e5)}

    strength: float = 1000.0
    text: str = "book-text"
    samples: int = 32

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.samples < 1:
            yield f"samples is {self.samples}; it must be at least 1."

    def reads(self, task: str) -> tuple[str, ...]:
        return (self.text,)

    def prepare(self, model: nn.Module, context: Context) -> None:
        super().prepare(model, context)
        self._importance = fisher(model, [own for _, own in self._weights], context, self.text, self.samples)


def fisher(
    model: nn.Module, parameters: list[nn.Parameter], context: Context, text: str, samples: int
) -> list[torch.Tensor]:
    """Return the diagonal of the empirical Fisher information, a tensor for each of `parameters`: Σ of (∂ log p / ∂θ)²
    over `samples` passages of the task `text`, divided by the passages' tokens."""
    import torch

    asked = [value.requires_grad for value in parameters]
    for value in parameters:
        value.requires_grad_(True)
    found = [torch.zeros_like(value) for value in parameters]
    model.eval()
    tokens = 0
    for row in context.text_rows(model, text, samples):
        logits, targets, _ = context.answer_logits(model, **context.collate([row]))
        logs = torch.log_softmax(logits.float(), dim=-1).gather(1, targets.unsqueeze(1))
        gradients = torch.autograd.grad(logs.sum(), parameters, allow_unused=True)
        for total, gradient in zip(found, gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient)
        tokens += targets.numel()
    for value, before in zip(parameters, asked, strict=True):
        value.requires_grad_(before)
    return [total / tokens for total in found]


# (function that returns the weight as it is now, differentiable; parameter whose gradient is the weight's)
Weight = tuple[Callable[[], Any], Any]


def weights(model: nn.Module) -> Iterator[Weight]:
    """Yield (function that returns a weight as it is now, parameter whose gradient is the weight's) for all trained
    weights.

    A layer that peft wraps gives its effective weight; all other trained weights are given as they are.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    inside: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and any(value.requires_grad for value in module.parameters()):
            inside |= set(map(id, module.parameters()))
            yield effective(name, module)
    for value in model.parameters():
        if value.requires_grad and id(value) not in inside:
            yield partial(identity, value), value


def identity(value: Any) -> Any:
    """Return the value itself: the weight that no adapter changes."""
    return value


def effective(name: str, layer: Any) -> Weight:
    """Return the effective weight of a linear layer that peft wraps, as `weights` yields it. `name` is the layer's, for
    messages.

    It is the base weight plus the adapter's own change where the layer computes that; otherwise (DoRA, IA³, rotations)
    it is the layer's output for the unit vectors, which costs more. Raises ValueError for a layer that is not linear.
    """
    import torch

    base = layer.get_base_layer()
    if not isinstance(base, torch.nn.Linear):
        raise ValueError(f"{name} wraps a {type(base).__name__}; the weights of linear layers alone can be followed.")

    def multiplied() -> torch.Tensor:
        training = layer.training
        layer.eval()  # dropout is no part of a weight
        ones = torch.eye(base.in_features, device=base.weight.device)
        found = layer(ones) - layer(torch.zeros_like(ones[:1]))
        layer.train(training)
        return found.T

    def added() -> torch.Tensor:
        return base.weight + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)

    return (added if adds(layer, added, multiplied) else multiplied), base.weight


def adds(layer: Any, added: Callable[[], Any], multiplied: Callable[[], Any]) -> bool:
    """Return whether a layer computes its base weight plus the change that its adapter reports, and every trained part
    of the layer is in that change. `added` returns that sum, `multiplied` the weight read off the layer's outputs."""
    import torch

    try:
        found = added()
        trained = [value for value in layer.parameters() if value.requires_grad]
        reached = torch.autograd.grad(found.sum(), trained, allow_unused=True)
    except (AttributeError, KeyError, RuntimeError, TypeError):
        return False  # it gives none, or of another form
    whole = all(gradient is not None for gradient in reached)
    return whole and torch.allclose(found, multiplied(), rtol=1e-4, atol=1e-5)
