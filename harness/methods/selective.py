"""Training the model's own weights: all of them, or only some layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from harness.methods.base import (
    Context,
    Footprint,
    Group,
    LogFloat,
    Method,
    Network,
    Options,
    decoder_layers,
    final_norm,
    load_trained,
    save_trained,
    train_only,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class Full(Method):
    """Full fine-tuning: every weight is trained, at `learning_rate`."""

    name = "full"
    drafted_for = {"classification": "{}", "generation": "{}", "chat": "{}"}
    family = "selective"
    space = {"learning_rate": LogFloat(1e-6, 1e-3)}

    learning_rate: float = 1e-4

    def footprint(self, network: Network) -> Footprint | None:
        return Footprint(network.weights)


class Layerwise(Full):
    """Layer-wise fine-tuning: only some layers are trained, by default the top third with the final norm.

    `which` says where they lie: top, bottom, middle, or a list of their numbers, counted from 0 at the bottom.
    `layers` is their number, or `fraction` their share (a third by default). The final norm belongs to the top. It
    trains the weights of those layers (+ hidden, at the top).

    With `layer_decay` below 1, each trained layer learns that much slower than the one above it (discriminative
    learning rates): the topmost trained layer, and with it the final norm, at `learning_rate`, the next at
    `layer_decay` times that, and so on. (BEiT and ELECTRA count a new head as the topmost layer; here there is none.)
    `gradual` is the share of the steps in which layers are unfrozen one after another, from the top; 0: all are trained
    from the start. Both come from ULMFiT (Howard & Ruder 2018).
    """

    name = "layerwise"
    paper = "arXiv:1801.06146"
    space = {
        "learning_rate": LogFloat(1e-6, 1e-3),
        "fraction": Options((0.1, 0.33, 0.66)),
        "layer_decay": Options((0.8, 0.9, 1.0)),
        "gradual": Options((0.0, 0.5)),
    }

    which: Literal["top", "bottom", "middle"] | list[int] = "top"
    layers: int | None = None
    fraction: float | None = None
    layer_decay: float = 1.0
    gradual: float = 0.0

    def __init__(self, **settings: object):
        super().__init__(**settings)
        # fsdp puts other tensors in the place of a layer's, and would train the frozen ones.
        vars(self)["distributes"] = not self.gradual

    def problems(self) -> Iterable[str]:
        if self.layers is not None and self.fraction is not None:
            yield "layers and fraction are both given. Keep one."
        if self.layers is not None and self.layers < 1:
            yield f"layers is {self.layers}; it must be at least 1."
        if self.fraction is not None and not 0 < self.fraction <= 1:
            yield f"fraction is {self.fraction}; it must be above 0 and at most 1."
        if not 0 < self.layer_decay <= 1:
            yield f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1."
        if not 0 <= self.gradual <= 1:
            yield f"gradual is {self.gradual}; it must be at least 0 and at most 1."
        if isinstance(self.which, list):
            if not self.which or min(self.which) < 0 or len(set(self.which)) < len(self.which):
                yield f"which is {self.which}; a list names different layers, counted from 0 at the bottom."
            if self.layers is not None or self.fraction is not None:
                yield "which lists the layers, so layers and fraction have no effect. Drop them."

    def misfits(self, network: Network) -> Iterable[str]:
        available = len(network.layers)
        if self.layers is not None and self.layers > available:
            yield f"layers is {self.layers}, but there are {available}."
        elif self._numbers(available)[0] >= available:
            yield f"which names layer {self._numbers(available)[0]}, but there are those from 0 to {available - 1}."

    def footprint(self, network: Network) -> Footprint | None:
        if any(True for _ in self.misfits(network)):
            return None
        numbers = self._numbers(len(network.layers))
        names = [name for number in numbers for name in network.layers[number].values()]
        if self.which == "top":
            names += network.final_norm
        return Footprint({name: network.weights[name] for name in names}, lowest=numbers[-1])

    def attach(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        for part in self._trained(model):
            part.requires_grad_(True)
        self._weights = [list(part.parameters()) for part in self._trained(model)]
        return model

    def parameter_groups(self, model: nn.Module) -> list[Group] | None:
        if self.layer_decay == 1.0:
            return None
        return [
            {"params": list(part.parameters()), "lr": self.learning_rate * self.layer_decay ** max(0, depth)}
            for depth, part in enumerate(self._trained(model), start=-self._norms(model))
            if any(True for _ in part.parameters())
        ]

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        self._steps = max(1, round(steps * self.gradual))
        self.after_step(model, 0)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Unfreeze layers from the top: in step s of S, counted from 1, the topmost ceil(s L / S) of L layers are
        trained."""
        if not self.gradual or step >= self._steps:
            return
        norms = self._norms(model)
        layers = len(self._weights) - norms
        open_ = norms + -(-(step + 1) * layers // self._steps)
        train_only(
            [value for part in self._weights[:open_] for value in part],
            [value for part in self._weights for value in part],
        )

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "changed weights")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the weights of the chosen layers only, also of layers that are still frozen at the end of a gradual
        training."""
        for part in self._trained(model):
            part.requires_grad_(True)
        save_trained(model, folder)

    def restore(self, context: Context, folder: Path) -> nn.Module:
        return load_trained(self.attach(self.load(context)), folder)

    def _norms(self, model: nn.Module) -> int:
        """Return how many norms above the layers are trained: 1 or 0."""
        return int(self.which == "top" and final_norm(model) is not None)

    def _trained(self, model: nn.Module) -> list[nn.Module]:
        """Return the final norm, where it is trained, and the trained layers, from the top down."""
        layers, norm = decoder_layers(model), final_norm(model)
        numbers = self._numbers(len(layers))
        if self.layers is not None and self.layers > len(layers):
            raise ValueError(f"layers is {self.layers}, but the model has {len(layers)}")
        if numbers[0] >= len(layers):
            raise ValueError(f"which names layer {numbers[0]}, but the model has those from 0 to {len(layers) - 1}")
        above = [norm] if self.which == "top" and norm is not None else []
        return [*above, *(layers[number] for number in numbers)]

    def _numbers(self, available: int) -> list[int]:
        """Return the numbers of the trained layers, from the top down; `available` is how many layers the model has."""
        if isinstance(self.which, list):
            return sorted(self.which, reverse=True)
        share = 1 / 3 if self.fraction is None else self.fraction
        count = self.layers if self.layers is not None else max(1, round(share * available))
        lowest = {"top": available - count, "bottom": 0, "middle": (available - count) // 2}[self.which]
        return list(reversed(range(lowest, lowest + count)))
