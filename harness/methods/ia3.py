"""(IA)³: learned vectors that scale what is inside a layer (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import (
    Footprint,
    LogFloat,
    Method,
    Network,
    describe,
    is_transposed,
)

if TYPE_CHECKING:
    from torch import nn

# How families call the layers that give keys, values, or both (with the queries).
KEYS, VALUES = re.compile(r"k|k_proj|key|key_proj|wk|k_lin"), re.compile(r"v|v_proj|value|value_proj|wv|v_lin")
FUSED = re.compile(r"qkv|kv_proj|query_key_value|c_attn|in_proj|key_value", re.I)


class IA3(Method):
    """(IA)³: a learned vector scales the output of some linear layers; it starts at ones, and the base stays frozen.

    `targets` are the linear layers; those also named in `feedforward` have their input scaled instead of their
    output. Both are auto by default: the paper's choice, which is keys, values, and the input of the MLP's last
    layer. Where one layer gives queries, keys and values together, as in GPT-2, it is scaled as a whole; `tunebench
    check` says which layers are. It trains the outputs of the targets + the inputs of the feedforward ones (for a
    Llama layer: 2 keys + inner). `learning_rate` is far above LoRA's, because the numbers are few and near 1.
    """

    name = "ia3"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2205.05638"
    family = "additive"
    space = {"learning_rate": LogFloat(1e-3, 1e-1)}

    learning_rate: float = 1e-2
    targets: Literal["auto"] | list[str] = "auto"
    feedforward: Literal["auto"] | list[str] = "auto"

    def __init__(self, **settings: object):
        super().__init__(**settings)
        vars(self)["foldable"] = self.quantize is None  # peft cannot scale packed weights

    def problems(self) -> Iterable[str]:
        if not self.targets:
            yield "targets is empty. Name linear layers, such as [k_proj, v_proj, down_proj], or leave it out."
        if self.feedforward == "auto":
            return
        for name in self.feedforward:
            if self.targets == "auto":
                yield "feedforward is given without targets. Give both, or neither."
                return
            if name not in self.targets:
                yield f"feedforward names {name}, which is none of targets ({', '.join(self.targets)})."

    def misfits(self, network: Network) -> Iterable[str]:
        if self.targets != "auto":
            yield from network.unmatched(self.targets)
            return
        found = chosen(network)
        missing = [kind for kind, names in (("keys", found.keys), ("values", found.values)) if not names]
        missing += ["the MLP's last layer"] if not found.last else []
        if missing:
            why = ", whose experts are stacked into one tensor" if network.stacked() else ""
            some = [*found.keys, *found.values, *found.last] or network.linear_names()
            yield (
                f"ia3 scales keys, values and the MLP's last layer, and {' and '.join(missing)} cannot be found in "
                f"{network.kind}{why}. Name what it may scale: targets: [{', '.join(dict.fromkeys(some))}], "
                f"feedforward: [{', '.join(found.last)}]."
            )

    def matched(self, network: Network) -> Iterable[str]:
        if self.targets == "auto":
            targets, last = self._layers(network)
            yield f"ia3 scales what {', '.join(sorted({*targets} - {*last}))} give and what {', '.join(last)} is given"

    def _layers(self, network: Network) -> tuple[list[str], list[str]]:
        """Return (the ends of the names of all targets, those of them whose input is scaled) in a network."""
        if self.targets != "auto":
            # Without a word on them, what ends an MLP is one.
            ends = chosen(network).last if self.feedforward == "auto" else self.feedforward
            return list(self.targets), [name for name in ends if name in self.targets]
        found = chosen(network)
        return list(dict.fromkeys([*found.keys, *found.values, *found.last])), list(found.last)

    def footprint(self, network: Network) -> Footprint | None:
        targets, feedforward = self._layers(network)
        linears = network.linears(targets)
        fed = set(network.linears(feedforward)) if feedforward else set()
        scaled = {name: shape[name in fed] for name, shape in linears.items()}
        return Footprint(
            {f"{name}.ia3_l": (1, size) if name in fed else (size, 1) for name, size in scaled.items()},
            adapted=frozenset(linears),
            inputs_kept=False,
            per_token=scaled,  # what is scaled is kept for the vector's gradient
            fixed=scaled,  # and the vector, which peft multiplies by one first
        )

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import IA3Config, get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        targets, feedforward = self._layers(network_of(model))
        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=feedforward,
            fan_in_fan_out=is_transposed(model),
        )
        return get_peft_model(model, config)


def network_of(model: nn.Module) -> Network:
    """Return the network of a model, read off one of its kind without weights: nothing passes through the model itself,
    which would bring all its weights into memory."""
    import copy

    import torch

    plain: Any = model
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        made = describe(type(plain)(copy.deepcopy(plain.config)))
    return Network(plain.config.to_dict(), made.weights, 0, made)


@dataclass(frozen=True)
class Chosen:
    """The linear layers that (IA)³ scales in a network, by the ends of their names: those that give keys and values
    (the same where one gives both), and the last ones of the MLP."""

    keys: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


def chosen(network: Network) -> Chosen:
    """Return what the paper would scale in a network: keys, values and the MLP's last layer. A part that is missing in
    some layer counts as missing."""
    kinds: dict[str, dict[str, None]] = {"keys": {}, "values": {}, "last": {}}
    for layer in range(len(network.layers)):
        mixing = {ending(name): name.split(".")[-1] for name in network.mixing(layer)} if network.attends else {}
        fused = [short for short, name in mixing.items() if FUSED.search(name)]
        for kind, pattern in (("keys", KEYS), ("values", VALUES)):
            names = [short for short, name in mixing.items() if pattern.fullmatch(name)] or fused
            if not names:
                kinds[kind] = {}
                break
            kinds[kind] |= dict.fromkeys(names)
        last = network.last(layer, "feeding")
        if last and last in network.feeding(layer):
            kinds["last"][ending(last)] = None
    return Chosen(*(tuple(names) for names in kinds.values()))


def ending(name: str) -> str:
    """Return the end of a layer's name behind the number of its decoder layer: "mlp.c_proj" for
    "transformer.h.0.mlp.c_proj". It tells apart layers of one name in attention and MLP."""
    return re.split(r"\.\d+\.", name, maxsplit=1)[-1]
