"""Runs a causal language model on many inputs and yields the logits at the end of each.

Inputs are laid out as prefix trees (`models/forest.py`) where that is less work and the model gives the same logits so;
else they are padded, the longest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from harness.models import Forest, forest_logits, layer_width, logits_at, most_nodes, plant_many, runs_forests

Tokens = tuple[int, ...]


def last_logits(
    model: nn.Module, wanted: Mapping[Tokens, int], size: int, device: torch.device | str, packed: bool
) -> Iterator[tuple[Tokens, torch.Tensor]]:
    """Yields (input, logits [places, vocabulary] of its last places) for each input (token ids), in any order; `wanted`
    has the number of places of each. At once, as many tokens are run as `size` of the longest inputs have."""
    if packed and len(wanted) > 1:
        ranked = sorted(wanted)  # what begins alike stands together
        places = [range(len(tokens) - wanted[tokens], len(tokens)) for tokens in ranked]
        forests = plant_many(ranked, places, size, layer_width(model), most_nodes(model))
        if forests is not None and runs_forests(model, ranked, device):
            yield from of_forests(model, ranked, wanted, forests, device)
            return
    ranked = sorted(wanted, key=lambda tokens: (-len(tokens), tokens))
    for start in range(0, len(ranked), size):
        yield from of_padded(model, ranked[start : start + size], wanted, device)


def of_forests(
    model: nn.Module,
    ranked: Sequence[Tokens],
    wanted: Mapping[Tokens, int],
    forests: Iterator[Forest],
    device: torch.device | str,
) -> Iterator[tuple[Tokens, torch.Tensor]]:
    """Yields what `last_logits` does for the inputs in `ranked`, of which `forests` hold one stretch after the
    other."""
    number = 0
    for forest in forests:
        logits = forest_logits(model, forest, device)
        start = 0
        while start < len(logits):
            tokens = ranked[number]
            yield tokens, logits[start : start + wanted[tokens]]
            start += wanted[tokens]
            number += 1


def of_padded(
    model: nn.Module, batch: Sequence[Tokens], wanted: Mapping[Tokens, int], device: torch.device | str
) -> Iterator[tuple[Tokens, torch.Tensor]]:
    """Yields what `last_logits` does for the inputs of one batch, the longest first, padded on the right."""
    length = len(batch[0])
    places = sorted({place - length for tokens in batch for place in range(len(tokens) - wanted[tokens], len(tokens))})
    column = {place: rank for rank, place in enumerate(places)}
    padded = torch.tensor([[*tokens, *[0] * (length - len(tokens))] for tokens in batch], device=device)
    logits = logits_at(model, padded, torch.tensor(places, device=device))
    for row, tokens in enumerate(batch):
        first = len(tokens) - wanted[tokens] - length
        yield tokens, logits[row, [column[place] for place in range(first, first + wanted[tokens])]]
