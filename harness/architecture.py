"""Reads a model folder's architecture: the configuration, and the names and shapes of the weights.

Only `config.json` and the headers of the safetensors files are read, by json and struct alone; no weight is loaded. Not
covered: checkpoints of another form (`.bin`, GGUF), which have no such header.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import unknown

Shape = tuple[int, ...]
LAYER = re.compile(r"^(?:.*\.)?layers\.(\d+)\.(.+)$")
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HEADER_MOST = 100_000_000  # bytes: the format's own limit for a header


@dataclass(frozen=True)
class Network:
    """The names and shapes of a causal language model's weights, and its configuration.

    `weights` maps each parameter to its shape (tied weights once); `stored_bytes` is the size of the checkpoint's
    weights, whose dtype need not be the one that a cell computes in.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Shape]
    stored_bytes: int

    @cached_property
    def layers(self) -> tuple[dict[str, str], ...]:
        """For each decoder layer, from the bottom up: {name within the layer: name in `weights`}."""
        by_number: dict[int, dict[str, str]] = {}
        for name in self.weights:
            if match := LAYER.match(name):
                by_number.setdefault(int(match[1]), {})[match[2]] = name
        return tuple(by_number[number] for number in sorted(by_number))

    @cached_property
    def final_norm(self) -> str:
        """The name in `weights` of the norm above the last layer, or an empty string."""
        outside = (name for name in self.weights if not LAYER.match(name))
        return next((name for name in outside if name.endswith("norm.weight")), "")

    @cached_property
    def embedding(self) -> str:
        """The name in `weights` of the token embedding (vocabulary × hidden), or an empty string."""
        return next((name for name in self.weights if name.endswith("embed_tokens.weight")), "")

    @property
    def vocabulary(self) -> int:
        """The number of tokens in the vocabulary: the rows of the embedding."""
        return self.weights[self.embedding][0]

    @property
    def hidden(self) -> int:
        """The width of the hidden state: numbers for each token between two layers."""
        return self.weights[self.embedding][1]

    @property
    def heads(self) -> int:
        """The number of attention heads that a layer has for queries."""
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        """The number of attention heads that a layer has for keys, and for values: fewer than `heads` with grouped
        queries."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def max_length(self) -> int:
        """The most tokens of a sequence; 2048 where the configuration does not say."""
        return int(self.config.get("max_position_embeddings") or 2048)

    def parameters(self) -> int:
        """Return the number of parameters; tied weights count once."""
        return sum(map(math.prod, self.weights.values()))

    def linears(self, targets: str | Sequence[str] = "all-linear") -> dict[str, Shape]:
        """Return the linear layers inside the decoder (those named `…_proj`, without the output layer) as {name in
        `weights`: (out, in)}.

        `targets` chooses among them by peft's rules: "all-linear", a pattern for the whole name, or a list of the ends
        of names.
        """
        return {
            name: self.weights[name]
            for layer in self.layers
            for short, name in layer.items()
            if short.endswith("_proj.weight") and is_target(name.removesuffix(".weight"), targets)
        }

    def unmatched(self, targets: str | Sequence[str]) -> Iterator[str]:
        """Yield a message for each entry of `targets` (as for `linears`) that names no linear layer of this model. peft
        silently ignores such entries."""
        names = [name.removesuffix(".weight") for name in (*self.weights, "lm_head.weight")]
        linears = [name.removesuffix(".weight") for name in self.linears()]
        if isinstance(targets, str):
            if not any(is_target(name, targets) for name in names):
                yield f"targets is {targets!r}, which is the whole name of no layer, such as {linears[0]!r}."
            return
        for target in targets:
            if not any(is_target(name, [target]) for name in names):
                yield unknown("linear layer", target, sorted({name.split(".")[-1] for name in linears}))

    def is_counted(self) -> bool:
        """Return whether every layer has the form that `plan/memory.py` counts: attention and a gated MLP, as in
        Llama."""
        wanted = set(LINEARS)
        each = ({short.split(".")[-2] for short in layer if short.endswith("_proj.weight")} for layer in self.layers)
        return bool(self.embedding and self.layers and "num_attention_heads" in self.config) and all(
            found == wanted for found in each
        )


def sample(layers: int = 128) -> Network:
    """Return a small made-up network of Llama's form with this many decoder layers, to find out without any checkpoint
    which tensors a method trains."""
    weights: dict[str, Shape] = {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)}
    for place in range(layers):
        for part in LINEARS:
            block = "self_attn" if part in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            weights[f"model.layers.{place}.{block}.{part}.weight"] = (8, 8)
        weights |= {f"model.layers.{place}.{norm}_layernorm.weight": (8,) for norm in ("input", "post_attention")}
    return Network({"num_attention_heads": 1}, weights, 0)


def is_target(layer: str, targets: str | Sequence[str]) -> bool:
    """Return whether peft would adapt the linear layer of this name, such as "model.layers.0.mlp.up_proj". `targets` is
    "all-linear" (any layer), a pattern for the whole name, or a list of names that it may end with."""
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, layer) is not None
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def read_network(folder: Path) -> Network | None:
    """Return the network of a model folder, of a model that also sees or hears only with its text configuration; None
    where it has no readable config.json and safetensors headers."""
    try:
        config = json.loads((folder / "config.json").read_text())
        weights: dict[str, Shape] = {}
        stored = 0
        for file in sorted(folder.glob("*.safetensors")):
            for name, kind, shape in header(file):
                weights[name] = shape
                stored += math.prod(shape) * BYTES.get(kind, 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    if not weights or not isinstance(config, dict):
        return None
    if isinstance(config.get("text_config"), dict):  # of a model that also sees or hears
        config = {**config, **config["text_config"]}
    if config.get("tie_word_embeddings"):
        weights = {name: shape for name, shape in weights.items() if not name.endswith("lm_head.weight")}
    return Network(config, weights, stored)


def header(path: Path) -> Iterator[tuple[str, str, Shape]]:
    """Yield (name, dtype, shape) of each tensor of a safetensors file, from its header.

    The header is eight bytes of length (little-endian), then that much JSON
    (https://github.com/huggingface/safetensors#format). Raises ValueError for anything else.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_MOST:
            raise ValueError(f"{path}: a header of {length} bytes is too long for a safetensors file.")
        entries = json.loads(file.read(length))
    for name, entry in entries.items():
        if name != "__metadata__":
            yield name, str(entry["dtype"]), tuple(int(size) for size in entry["shape"])


SAMPLE = sample()
