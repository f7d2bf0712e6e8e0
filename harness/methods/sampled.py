"""Methods that train a random part of the weights at a time, and draw it again in the course of training.

Half fine-tuning: Hui et al. 2024, arXiv:2404.18466. LISA: Pan et al. 2024, arXiv:2403.17919.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from harness.methods.base import (
    Footprint,
    LayerParts,
    LogFloat,
    Method,
    Network,
    Options,
    decoder_layers,
    layer_parts,
    train_only,
)

if TYPE_CHECKING:
    from torch import nn


class Sampled(Method):
    """Methods that train some of the layers' weights at a time, and others in the next period.

    `learning_rate` is that of the weights that are trained at the time.
    """

    name = ""
    family = "selective"
    distributes = False  # fsdp puts other tensors in the place of those that were drawn

    learning_rate: float = 1e-4

    _lots: Random | None = None

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        self._steps = steps
        self._lots = self._lots or Random(seed)  # one sequence of draws for all stages of a curriculum
        self.draw()

    def after_step(self, model: nn.Module, step: int) -> None:
        if step < self._steps and self.period(step) != self.period(step - 1):
            self.draw()

    def period(self, step: int) -> int:
        """Return the number of the period that the next step belongs to, after `step` steps are done; weights are drawn
        anew when it changes."""
        raise NotImplementedError

    def draw(self) -> None:
        """Choose at random which weights are trained next."""
        raise NotImplementedError


class HFT(Sampled):
    """Half fine-tuning: a random half of each layer's matrices and norms is trained; the other half stays frozen.

    The half is drawn in each category separately, as in the paper: two of a layer's four attention matrices; two of
    the MLP's three in a random half of the layers and one in the others; one of two norms. (Of other families it is
    half of as many as a layer has.) `rounds` is how often the half is drawn, at equal distances; each stage of a
    curriculum has at least one round. With one round, half of the layers' weights stay those of the base model.
    `embeddings` trains embedding, output layer and final norm in every round; they are frozen by default. All
    weights of the layers are trainable and held by the optimiser (+ 2 vocabulary × hidden + hidden, less tied
    weights); each round trains about half of them.
    """

    name = "hft"
    paper = "arXiv:2404.18466"
    space = {"learning_rate": LogFloat(1e-6, 1e-3), "rounds": Options((1, 2, 4))}

    rounds: int = 1
    embeddings: bool = False

    def problems(self) -> Iterable[str]:
        if self.rounds < 1:
            yield f"rounds is {self.rounds}; it must be at least 1."

    def footprint(self, network: Network) -> Footprint | None:
        if self.embeddings:
            return Footprint(network.weights)
        return Footprint({name: network.weights[name] for layer in network.layers for name in layer.values()})

    def attach(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(self.embeddings)
        for layer in decoder_layers(model):
            layer.requires_grad_(True)
        self._lots = None
        self._layers = [categories(layer) for layer in layer_parts(model)]
        return model

    def period(self, step: int) -> int:
        return step * self.rounds // self._steps

    def draw(self) -> None:
        assert self._lots is not None
        active: list[nn.Parameter] = []
        for category in dict.fromkeys(category for layer in self._layers for category in layer):
            # Of an odd number, one more in half of the layers.
            more = set(self._lots.sample(range(len(self._layers)), len(self._layers) // 2))
            for place, layer in enumerate(self._layers):
                modules = layer.get(category, [])
                for module in self._lots.sample(modules, (len(modules) + (place in more)) // 2):
                    active += module
        train_only(active, (value for layer in self._layers for group in layer.values() for m in group for value in m))


class LISA(Sampled):
    """LISA: embedding, output layer and final norm are always trained, and a few random layers at a time.

    `layers` of them are trained at a time, and drawn again every `every` steps. All weights of the model are trainable
    and held by the optimiser.
    """

    name = "lisa"
    paper = "arXiv:2403.17919"
    space = {"learning_rate": LogFloat(1e-6, 1e-3), "layers": Options((2, 4, 8))}

    learning_rate: float = 3e-4
    layers: int = 2
    every: int = 5

    def problems(self) -> Iterable[str]:
        if self.layers < 1:
            yield f"layers is {self.layers}; it must be at least 1."
        if self.every < 1:
            yield f"every is {self.every}; it must be at least 1."

    def misfits(self, network: Network) -> Iterable[str]:
        if self.layers > len(network.layers):
            yield f"layers is {self.layers}, but there are {len(network.layers)}."

    def footprint(self, network: Network) -> Footprint | None:
        return Footprint(network.weights)

    def attach(self, model: nn.Module) -> nn.Module:
        layers = decoder_layers(model)
        if self.layers > len(layers):
            raise ValueError(f"layers is {self.layers}, but the model has {len(layers)}")
        model.requires_grad_(True)
        self._lots = None
        self._layers = [list(layer.parameters()) for layer in layers]
        return model

    def period(self, step: int) -> int:
        return step // self.every

    def draw(self) -> None:
        assert self._lots is not None
        active = [value for layer in self._lots.sample(self._layers, self.layers) for value in layer]
        train_only(active, (value for layer in self._layers for value in layer))


def categories(layer: LayerParts) -> dict[str, list[list[nn.Parameter]]]:
    """Return {category ("attention", "mlp" or "norm"): a layer's matrices or norms}; each is a list of its parameters
    (weight and bias). What mixes tokens without attention counts as attention, stacked experts as one matrix."""
    found: dict[str, list[list[nn.Parameter]]] = {}
    norms = set(map(id, layer.norms))
    mixing = [layer.mixing] if layer.mixing is not None else []
    for category, parts in (("norm", layer.norms), ("attention", mixing), ("mlp", layer.feeding)):
        for part in parts:
            for module in part.modules():
                values = list(module.parameters(recurse=False))
                if values and (category == "norm") is (id(module) in norms):
                    found.setdefault(category, []).append(values)
    return found
