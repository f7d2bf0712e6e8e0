"""Remembers what the layers below the lowest trained one make of a text, for the length of a training.

They are frozen, so a text that comes again, in the next epoch, comes out of them as it did before; only the layers from
the lowest trained one upwards are run. What is remembered is a vector for each token, as it enters that layer.

Not used where something below is trained too (a soft prompt, an embedding that the output layer shares), or begins to
be; nor for batches that are padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from harness.architecture import decoder_layers, final_norm
from harness.models import Forest, forest_logits, same_logits

MOST_BYTES = 1 << 28  # of remembered vectors; texts beyond it are run as usual


class FrozenLayers:
    """The layers of a model below the lowest trained one: `lowest` is its number. `texts` maps token ids to a vector
    for each token, [tokens, width]."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], lowest: int):
        self.layers = list(layers[:lowest])
        trained_above = {id(value) for layer in layers[lowest:] for value in layer.parameters()}
        self.below = [
            value for value in model.parameters() if not value.requires_grad and id(value) not in trained_above
        ]
        self.versions = self.counted()
        self.texts: dict[tuple[int, ...], torch.Tensor] = {}
        self.bytes = 0
        self.replays = 0  # batches of which these layers were not run
        self.replayed: torch.Tensor | None = None  # what the uppermost of them gives without being run
        self.seen: torch.Tensor | None = None  # what it gave when it was run
        self.wraps = False  # whether it gives a tuple
        self.is_trusted: bool | None = None  # whether the model gives the same logits so; None: not asked yet

    def counted(self) -> int:
        """Return how often the weights below have been written to, in all; optimisers that write to many at once are
        not counted."""
        return sum(value._version for value in self.below)

    @property
    def is_frozen(self) -> bool:
        """Whether nothing below has been trained or is about to be."""
        return self.counted() == self.versions and not any(value.requires_grad for value in self.below)

    def logits(
        self, model: nn.Module, forest: Forest, texts: Sequence[tuple[int, ...]], device: torch.device | str
    ) -> torch.Tensor:
        """Return what `forest_logits` does for a forest of these texts. The model is asked once whether it gives the
        same logits from what is remembered: some have layers that look at what lower ones have computed."""
        if self.is_trusted is None and self.is_frozen and all(text in self.texts for text in texts):
            with torch.no_grad():
                wanted = forest_logits(model, forest, device)
                with self.over(forest, texts):
                    self.is_trusted = same_logits(forest_logits(model, forest, device), wanted)
            self.replays = 0
        if self.is_trusted is False:
            return forest_logits(model, forest, device)
        with self.over(forest, texts):
            return forest_logits(model, forest, device)

    @contextmanager
    def over(self, forest: Forest, texts: Sequence[tuple[int, ...]]) -> Iterator[None]:
        """Run the forward pass of the block over a forest of these texts, from what is remembered of them or to
        remember it."""
        if not self.is_frozen:
            self.texts.clear()
            self.bytes = 0
            yield
            self.seen = None
            return
        known = all(text in self.texts for text in texts)
        trees, nodes = forest.tokens.shape
        if known:
            first = self.texts[texts[0]]
            states = first.new_zeros(trees * nodes, first.shape[-1])
            for text, path in zip(texts, forest.paths, strict=True):
                states[path] = self.texts[text]
            self.replayed = states.view(trees, nodes, -1)
            self.replays += 1
        try:
            yield
        finally:
            self.replayed = None
        if not known and self.seen is not None and self.seen.shape[:2] == forest.tokens.shape:
            states = self.seen.flatten(0, 1)
            for text, path in zip(texts, forest.paths, strict=True):
                if text not in self.texts and self.bytes < MOST_BYTES:
                    self.texts[text] = states[path].clone()
                    self.bytes += self.texts[text].nbytes
        self.seen = None

    @contextmanager
    def watched(self) -> Iterator[FrozenLayers]:
        """Replace the layers' forward passes for the length of the block."""
        for number, layer in enumerate(self.layers):
            vars(layer)["forward"] = self.forward_of(layer, is_last=number == len(self.layers) - 1)
        try:
            yield self
        finally:
            for layer in self.layers:
                vars(layer).pop("forward", None)
            self.texts.clear()

    def forward_of(self, layer: nn.Module, is_last: bool) -> Any:
        """Return what replaces a layer's forward pass: the pass itself, unless what comes out in the end is known."""
        usual: Any = layer.forward

        def forward(hidden_states: torch.Tensor, *args: Any, **options: Any) -> Any:
            if self.replayed is None:
                result = usual(hidden_states, *args, **options)
                if is_last:
                    self.wraps = isinstance(result, tuple)
                    self.seen = (result[0] if self.wraps else result).detach()
                return result
            passed = self.replayed if is_last else hidden_states
            return (passed,) if self.wraps else passed

        return forward


@contextmanager
def frozen_layers(model: nn.Module, wanted: bool = True) -> Iterator[FrozenLayers | None]:
    """Remember what the layers below the lowest trained one give, for the length of the block, where `wanted` and there
    are such layers; yields None where there are none."""
    found = below_the_trained(model) if wanted else None
    if found is None:
        yield None
        return
    with found.watched():
        yield found


def below_the_trained(model: nn.Module) -> FrozenLayers | None:
    """Return the layers of a model below the lowest trained one; None where there are none, or something that is
    trained comes before them."""
    try:
        layers = list(decoder_layers(model))
    except ValueError:
        return None
    trained = {id(value) for value in model.parameters() if value.requires_grad}
    numbers = [number for number, layer in enumerate(layers) if trained & {id(value) for value in layer.parameters()}]
    if not numbers or numbers[0] == 0 or any("forward" in vars(layer) for layer in layers):
        return None
    inside = {id(value) for layer in layers for value in layer.parameters()}
    above = behind(model, layers)
    return FrozenLayers(model, layers, numbers[0]) if trained <= inside | above else None


def behind(model: nn.Module, layers: Sequence[nn.Module]) -> set[int]:
    """Return the ids of the weights that come after the layers: those of the final norm and of an output layer of its
    own."""
    norm: Any = final_norm(model)
    text: Any = model
    core = text.get_base_model() if hasattr(text, "get_base_model") else text
    embedding = {id(value) for value in core.get_input_embeddings().parameters()}
    head = core.get_output_embeddings()
    found = {id(value) for part in (norm, head) if part is not None for value in part.parameters()}
    return found - embedding
