"""Training the model's own weights: all of them, or only some layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.methods.base import Footprint, LogFloat, Method, Network, Options

if TYPE_CHECKING:
    from torch import nn


class Full(Method):
    """Full fine-tuning: every weight is trained."""

    name = "full"
    family = "selective"
    space = {"learning_rate": LogFloat(1e-6, 1e-3)}

    learning_rate: float = 1e-4

    def problems(self) -> Iterable[str]:
        if self.quantize:
            yield f"{self.name} cannot train {self.quantize} weights. Use method qlora, or drop quantize."

    def footprint(self, network: Network) -> Footprint | None:
        return Footprint(network.weights)


class Layerwise(Full):
    """Layer-wise fine-tuning: only the top layers and the final norm are trained.

    `layers` counts them, or `fraction` is their share (a third by default). With `layer_decay` below 1,
    each layer learns that much slower than the one above it (ULMFiT's discriminative rates,
    Howard & Ruder 2018, arXiv:1801.06146).
    """

    name = "layerwise"
    space = {"learning_rate": LogFloat(1e-6, 1e-3), "fraction": Options((0.1, 0.33, 0.66))}

    layers: int | None = None
    fraction: float | None = None
    layer_decay: float = 1.0

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.layers is not None and self.fraction is not None:
            yield "layers and fraction are both given. Keep one."
        if self.layers is not None and self.layers < 1:
            yield f"layers is {self.layers}; it must be at least 1."
        if self.fraction is not None and not 0 < self.fraction <= 1:
            yield f"fraction is {self.fraction}; it must be above 0 and at most 1."
        if not 0 < self.layer_decay <= 1:
            yield f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1."

    def footprint(self, network: Network) -> Footprint | None:
        count = self._count(len(network.layers))
        names = [network.final_norm, *(name for layer in network.layers[-count:] for name in layer.values())]
        return Footprint({name: network.weights[name] for name in names}, lowest=len(network.layers) - count)

    def attach(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        for part in self._trained(model):
            part.requires_grad_(True)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        if self.layer_decay == 1.0:
            return None
        return [
            {"params": list(part.parameters()), "lr": self.learning_rate * self.layer_decay**depth}
            for depth, part in enumerate(self._trained(model))
            if any(True for _ in part.parameters())
        ]

    def _trained(self, model: nn.Module) -> list[nn.Module]:
        """The final norm and the trained layers, from the top down."""
        decoder = model.get_decoder()  # type: ignore[operator]
        layers = list(decoder.layers)
        if self.layers is not None and self.layers > len(layers):
            raise ValueError(f"layers is {self.layers}, but the model has {len(layers)}")
        return [decoder.norm, *reversed(layers[-self._count(len(layers)) :])]

    def _count(self, available: int) -> int:
        """How many layers are trained of those that there are."""
        share = 1 / 3 if self.fraction is None else self.fraction
        return self.layers if self.layers is not None else max(1, round(share * available))
