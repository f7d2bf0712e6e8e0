"""Helpers of methods: saving and loading what was trained, choosing what is trained next, remembering what a library
said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

TRAINED = "trained.safetensors"
Settings = dict[str, Any]  # a plug-in's settings, as a suite's file gives them


def seed_in_use() -> int:
    """Return the seed of this process's random numbers, which is set to the cell's seed before its model is loaded.

    For libraries that draw with a generator of their own, which would give every cell the same numbers.
    """
    import torch

    return torch.initial_seed() % 2**31


def remembered(name: str, find_out: Callable[[], Settings]) -> Settings:
    """Return what `find_out` returns, as JSON stores it; computed once and read from the cache after that.

    `name` is the cache file's name, and must contain everything that the answer depends on, such as a library's
    version. A file that cannot be read is made anew; where none can be written, the answer is computed each time.
    """
    import json
    from contextlib import suppress

    from harness.data import cache_root

    path = cache_root() / "facts" / f"{name}.json"
    with suppress(OSError, ValueError):
        if isinstance(known := json.loads(path.read_text(encoding="utf-8")), dict):
            return known
    text = json.dumps(find_out(), default=str)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    answer: Settings = json.loads(text)
    return answer


def train_only(active: Iterable[nn.Parameter], held: Iterable[nn.Parameter]) -> None:
    """Of the weights in `held` (all that the optimiser holds), train only the `active` ones from now on.

    The others get no gradient at all, so that they do not move; with a gradient of zero, an optimiser's momentum and
    weight decay would still move them.
    """
    wanted = set(map(id, active))
    for value in held:
        value.requires_grad_(id(value) in wanted)
        if not value.requires_grad:
            value.grad = None


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write the trainable weights by name into `folder`: what must be shipped beside the base model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value for name, value in model.named_parameters() if value.requires_grad}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TRAINED)


def load_trained(model: nn.Module, folder: Path) -> nn.Module:
    """Load the weights that `save_trained` wrote into an attached model, and return it ready to score. Raises
    ValueError for weights that the model does not have."""
    from safetensors.torch import load_file

    _, unknown = model.load_state_dict(load_file(folder / TRAINED), strict=False)
    if unknown:
        raise ValueError(f"{folder} holds weights that the model does not have, such as {unknown[0]}.")
    return model.eval()
