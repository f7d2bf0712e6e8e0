"""What planning knows of a causal language model: its configuration, names and shapes of its weights, its layers.

`Structure` is read off the model itself, once, when it is fetched (`parts.py`), and holds for every family. Without it,
names are guessed from the headers of the weights' files: right for Llama and its kin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from harness.errors import unknown

Shape = tuple[int, ...]
LAYER = re.compile(r"^(?:.*\.)?layers\.(\d+)\.(.+)$")
NUMBERED = re.compile(
    r"^((?:[^.]+\.)*?[^.0-9][^.]*)\.(\d+)\.(.+)$"
)  # of a name, the outermost list: (list, number, rest)
SIGHT = re.compile(r"vision|visual|audio|encoder\.", re.I)  # lists that are no decoder's
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# How configurations call the number of places that a model has, and the numbers of heads.
PLACES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
MAMBAS = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")  # as peft lists them
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")


@dataclass(frozen=True)
class Structure:
    """What a model is made of, as the loaded model says.

    `weights` maps each parameter to its shape, tied ones once; `kinds` maps each module with weights of its own to
    linear, conv1d (linear, stored transposed), norm, embedding, experts or other. `layers`, `final_norm`,
    `embedding` and `head` are names of modules, "" where there is none. For each layer, from the bottom up,
    `mixing` and `feeding` name the linear layers of attention (or what stands for it) and of the MLP, `attends`
    says whether it has attention, and `last` names the modules whose output the two add to the residual sum.
    `attention` are the kernels that transformers has for it; `bypassed` are linear layers of which it uses the
    weight without running the layer. `stateful`: it carries a state from token to token, where others cache keys
    and values.
    """

    weights: Mapping[str, Shape]
    kinds: Mapping[str, str]
    layers: str = ""
    final_norm: str = ""
    embedding: str = ""
    head: str = ""
    attends: tuple[bool, ...] = ()
    mixing: tuple[tuple[str, ...], ...] = ()
    feeding: tuple[tuple[str, ...], ...] = ()
    last: tuple[Mapping[str, str], ...] = ()
    attention: tuple[str, ...] = ()
    checkpointing: bool = True
    stateful: bool = False
    bypassed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the structure in the form that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Structure:
        """Return the structure that `as_json` gave. Raises TypeError, KeyError or ValueError for other content."""
        made = dict(stored)
        made["weights"] = {str(name): tuple(int(n) for n in shape) for name, shape in stored["weights"].items()}
        for key in ("mixing", "feeding"):
            made[key] = tuple(tuple(names) for names in stored[key])
        for key in ("attends", "last", "attention", "bypassed"):
            made[key] = tuple(stored[key])
        return cls(**made)


@dataclass(frozen=True)
class Network:
    """The names and shapes of a causal language model's weights, and its configuration.

    `weights` maps each parameter to its shape (tied weights once); `stored_bytes` is the size of the checkpoint's
    weights, whose dtype need not be the one that a cell computes in.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Shape]
    stored_bytes: int
    structure: Structure | None = field(default=None, compare=False)

    @cached_property
    def kind(self) -> str:
        """The family, as transformers names it in the configuration: "llama", "gpt2"; or "model"."""
        return str(self.config.get("model_type") or "model")

    @cached_property
    def layers_name(self) -> str:
        """The name of the list of decoder layers, such as "model.layers"; "" where there is none."""
        if self.structure:
            return self.structure.layers
        lists: dict[str, set[str]] = {}
        for name in self.weights:
            if (match := NUMBERED.match(name)) and not SIGHT.search(match[1]):
                lists.setdefault(match[1], set()).add(match[2])
        return max(lists, key=lambda name: len(lists[name]), default="")

    @cached_property
    def layers(self) -> tuple[dict[str, str], ...]:
        """For each decoder layer, from the bottom up: {name within the layer: name in `weights`}."""
        by_number: dict[int, dict[str, str]] = {}
        prefix = f"{self.layers_name}."
        for name in self.weights if self.layers_name else ():
            if name.startswith(prefix):
                number, _, rest = name.removeprefix(prefix).partition(".")
                by_number.setdefault(int(number), {})[rest] = name
        return tuple(by_number[number] for number in sorted(by_number))

    @cached_property
    def final_norm(self) -> tuple[str, ...]:
        """The names in `weights` of the norm above the last layer: its weight, and where it has one its bias."""
        if self.structure:
            return self._of(self.structure.final_norm) if self.structure.final_norm else ()
        prefix = f"{self.layers_name}."
        outside = [name for name in self.weights if not name.startswith(prefix)]
        norm = next((name for name in outside if re.search(r"(norm|ln_f|norm_f)\.weight$", name)), "")
        return self._of(norm.removesuffix(".weight")) if norm else ()

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """The names in `weights` of what all norms hold."""
        if self.structure:
            modules = [name for name, kind in self.structure.kinds.items() if kind == "norm"]
            return tuple(name for module in modules for name in self._of(module))
        return tuple(name for name in self.weights if "norm" in name.split(".")[-2])

    def _of(self, module: str) -> tuple[str, ...]:
        """Return the names in `weights` of what a module itself holds, such as its weight and bias."""
        return tuple(name for name in self.weights if name.rpartition(".")[0] == module)

    @cached_property
    def embedding(self) -> str:
        """The name in `weights` of the token embedding (vocabulary × hidden), or an empty string."""
        if self.structure:
            name = f"{self.structure.embedding}.weight"
            return name if name in self.weights else ""
        endings = (
            "embed_tokens.weight",
            "wte.weight",
            "embed_in.weight",
            "word_embeddings.weight",
            "embeddings.weight",
        )
        return next((name for name in self.weights if name.endswith(endings)), "")

    @property
    def vocabulary(self) -> int:
        """The number of tokens in the vocabulary: the rows of the embedding."""
        return self.weights[self.embedding][0]

    @property
    def hidden(self) -> int:
        """The width of the hidden state: numbers for each token between two layers. (The embedding may be narrower, as
        in OPT 350M.)"""
        wide = next((self.config[key] for key in WIDTHS if isinstance(self.config.get(key), int)), 0)
        return int(wide or self.weights[self.embedding][1])

    @property
    def heads(self) -> int:
        """The number of attention heads that a layer has for queries; 0 where the configuration does not say."""
        return int(next((self.config[key] for key in HEADS if self.config.get(key)), 0))

    @property
    def key_heads(self) -> int:
        """The number of attention heads that a layer has for keys, and for values: fewer than `heads` with grouped
        queries."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def max_length(self) -> int:
        """The most tokens of a sequence; 2048 where the configuration does not say."""
        return context_length(self.config) or 2048

    def parameters(self) -> int:
        """Return the number of parameters; tied weights count once."""
        return sum(map(math.prod, self.weights.values()))

    @cached_property
    def modules(self) -> Mapping[str, str]:
        """The kind of each module that an adapter can stand beside: {name: linear, conv1d or embedding}."""
        if self.structure:
            return {
                name: kind for name, kind in self.structure.kinds.items() if kind in ("linear", "conv1d", "embedding")
            }
        linear = "conv1d" if self.kind == "gpt2" else "linear"
        prefix = f"{self.layers_name}."
        found = {"lm_head": "linear"}
        for name, shape in self.weights.items():
            module, _, last = name.rpartition(".")
            if last != "weight" or len(shape) != 2:
                continue
            inside = self.layers_name and name.startswith(prefix)
            found[module] = linear if inside else "linear" if module.endswith("lm_head") else "embedding"
        return found

    @cached_property
    def head(self) -> str:
        """The name of the output layer, such as "lm_head"; it has no weight of its own where that is tied."""
        return self.structure.head if self.structure else "lm_head"

    def linears(self, targets: str | Sequence[str] = "all-linear") -> dict[str, Shape]:
        """Return the linear layers, without the output layer, as {name in `weights`: (out, in)}.

        `targets` chooses among them by peft's rules: "all-linear", a pattern for the whole name, or a list of the ends
        of names; only by a name or a pattern is the output layer among them.
        """
        found: dict[str, Shape] = {}
        for module, kind in self.modules.items():
            name = f"{module}.weight"
            if kind not in ("linear", "conv1d") or not is_target(module, targets):
                continue
            if module == self.head:
                if targets == "all-linear":
                    continue
                found[name] = self.weights.get(name) or self.weights.get(self.embedding, (0, 0))
            elif name in self.weights:
                shape = self.weights[name]
                found[name] = (shape[1], shape[0]) if kind == "conv1d" else shape
        return found

    def unmatched(self, targets: str | Sequence[str]) -> Iterator[str]:
        """Yield a message for each entry of `targets` (as for `linears`) that names no layer of this model which an
        adapter can stand beside. peft silently ignores such entries, or fails."""
        names = list(self.modules)
        linears = [name.removesuffix(".weight") for name in self.linears()]
        if not linears:
            yield f"{self.kind} has no linear layers to put an adapter beside."
            return
        if isinstance(targets, str):
            if targets != "all-linear" and not any(is_target(name, targets) for name in names):
                yield f"targets is {targets!r}, which is the whole name of no layer, such as {linears[0]!r}."
                return
        else:
            missing = [target for target in targets if not any(is_target(name, [target]) for name in names)]
            for target in missing:
                yield unknown("linear layer", target, sorted({name.split(".")[-1] for name in linears}))
            if missing:
                return
        closed = [name for name in self.closed if is_target(name, targets)]
        if closed:
            ends = dict.fromkeys(name.split(".")[-1] for name in closed)
            yield (
                f"{', '.join(ends)} of {self.kind} cannot take an adapter: the model uses the weight and does not run "
                f"the layer. Name the others: targets: [{', '.join(self.linear_names())}]."
            )

    @cached_property
    def closed(self) -> tuple[str, ...]:
        """The names of linear layers that no adapter can stand beside: those that are bypassed and, in models with a
        state space, those whose weight its fast kernels use (peft refuses them)."""
        bypassed = self.structure.bypassed if self.structure else ()
        kernels = [name for name in self.modules if self.kind in MAMBAS and name.endswith("out_proj")]
        return tuple(dict.fromkeys([*bypassed, *kernels]))

    def is_transposed(self, weight: str) -> bool:
        """Return whether a weight is that of a linear layer which stores it as (in, out), as GPT-2's do."""
        return self.modules.get(weight.removesuffix(".weight")) == "conv1d"

    def linear_names(self) -> list[str]:
        """Return the last parts of the names of the linear layers that can take an adapter, such as "q_proj": what
        `targets` can list."""
        names = [name.removesuffix(".weight") for name in self.linears()]
        return list(dict.fromkeys(name.split(".")[-1] for name in names if name not in self.closed))

    def reached(self, targets: str | Sequence[str]) -> list[str]:
        """Return the names of stacked experts that peft's LoRA puts an update beside too: with "all-linear" those of
        every model that has them."""
        return self.stacked() if targets == "all-linear" else []

    # --- the parts of layers ---

    def mixing(self, layer: int) -> tuple[str, ...]:
        """Return the names of the linear layers of attention, or of what stands for it, in layer number `layer`."""
        if self.structure:
            return self.structure.mixing[layer]
        return self._guessed(layer, True)

    def feeding(self, layer: int) -> tuple[str, ...]:
        """Return the names of the linear layers of the MLP in layer number `layer`; none where its experts are stacked
        into one tensor."""
        if self.structure:
            return self.structure.feeding[layer]
        return self._guessed(layer, False)

    def _guessed(self, layer: int, attends: bool) -> tuple[str, ...]:
        """Return the linear layers of attention (`attends`) or of the others in a layer, by their names."""
        return tuple(
            name.removesuffix(".weight")
            for short, name in self.layers[layer].items()
            if name.removesuffix(".weight") in self.modules and bool(re.search("attn|attention", short)) is attends
        )

    def last(self, layer: int, part: str) -> str:
        """Return the name of the module whose output is that of "mixing" or "feeding" in a layer; "" where the layer
        has no such part."""
        if self.structure:
            return self.structure.last[layer].get(part, "")
        names = self.mixing(layer) if part == "mixing" else self.feeding(layer)
        usual = [name for name in names if re.search(r"(o_proj|out_proj|dense|down_proj|c_proj|fc2|fc_out)$", name)]
        return (usual or list(names) or [""])[-1]

    @property
    def attends(self) -> bool:
        """Whether every layer has attention, so that keys and values can stand before it."""
        return all(self.structure.attends) and bool(self.structure.attends) if self.structure else True

    @property
    def stateful(self) -> bool:
        """Whether the model carries a state from token to token instead of caching keys and values."""
        return self.structure.stateful if self.structure else self.kind in ("mamba", "mamba2", "falcon_mamba", "rwkv")

    def stacked(self) -> list[str]:
        """Return the names in `weights` of experts that are stacked into one tensor: no adapter for matrices fits."""
        return [name for name, shape in self.weights.items() if len(shape) == 3 and "conv" not in name]

    def uncounted(self) -> str:
        """Return why the memory of a model of this form is not predicted; "" where it is. What `plan/memory.py` counts
        is attention with four matrices, and an MLP with a gate, as in Llama."""
        if not self.embedding or not self.layers or not self.heads:
            return f"{self.kind} has no attention, or names it in no known way"
        if stacked := self.stacked():
            return f"{self.kind} has experts ({stacked[0]}), of which a token passes through some"
        if self.structure and self.config.get("attn_logit_softcapping"):
            return f"{self.kind} caps what attention gives, which keeps more than is counted"
        for layer in self.layers:
            found = {name.split(".")[-2] for name in layer if name.endswith("_proj.weight")}
            others = self.structure and {name.split(".")[-1] for name in (*self.mixing(0), *self.feeding(0))} - found
            if found != set(LINEARS) or others:
                return f"the layers of {self.kind} have other matrices than {', '.join(LINEARS)}"
        return ""

    def is_counted(self) -> bool:
        """Return whether the memory of a model of this form is predicted (`uncounted`)."""
        return not self.uncounted()


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


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens of a sequence that a model's configuration allows; None where it sets no bound, as in
    BLOOM and Mamba."""
    found = next((config[key] for key in PLACES if isinstance(config.get(key), int) and config[key] > 0), None)
    return int(found) if found is not None else None


def is_target(layer: str, targets: str | Sequence[str]) -> bool:
    """Return whether peft would adapt the linear layer of this name, such as "model.layers.0.mlp.up_proj". `targets` is
    "all-linear" (any layer), a pattern for the whole name, or a list of names that it may end with."""
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, layer) is not None
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


SAMPLE = sample()
