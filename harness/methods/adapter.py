"""Bottleneck adapters: small trained networks behind a layer's parts.

Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247. The `adapters` library has them too, but
pins an older transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import (
    Context,
    Footprint,
    LogFloat,
    Method,
    Network,
    Options,
    layer_parts,
    load_trained,
    save_trained,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

SETTINGS = "adapter.json"
# placement -> the parts of a decoder layer that an adapter stands behind: what mixes tokens, and the MLP
BEHIND = {"houlsby": ("mixing", "feeding"), "pfeiffer": ("feeding",)}


class Adapter(Method):
    """Bottleneck adapters: x + up(activation(down(x))) behind attention and MLP; the base model stays frozen.

    `placement` is houlsby (behind attention and behind the MLP) or pfeiffer (behind the MLP only); both act before the
    layer's residual sum. `bottleneck` is the width between down and up, `activation` the function between them. up
    starts at zero, so the untrained model is the base model. Both learn at `learning_rate`. Not foldable, because the
    activation is not linear. It trains 2 · hidden · bottleneck + bottleneck + hidden numbers for each adapter.
    """

    name = "adapter"
    trains_quantized = True
    paper = "arXiv:1902.00751"
    family = "additive"
    foldable = False
    space = {"learning_rate": LogFloat(1e-4, 1e-2), "bottleneck": Options((16, 32, 64))}

    learning_rate: float = 3e-4
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    bottleneck: int = 32
    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"

    def problems(self) -> Iterable[str]:
        if self.bottleneck < 1:
            yield f"bottleneck is {self.bottleneck}; it must be at least 1."

    def misfits(self, network: Network) -> Iterable[str]:
        if not any(network.last(number, part) for number in range(len(network.layers)) for part in self._parts):
            yield (
                f"placement {self.placement} puts adapters behind the MLP, and {network.kind} has none. Use placement: "
                "houlsby."
            )

    @property
    def _parts(self) -> tuple[str, ...]:
        return BEHIND[self.placement]

    def footprint(self, network: Network) -> Footprint | None:
        hidden, narrow = network.hidden, self.bottleneck
        trained: dict[str, tuple[int, ...]] = {}
        per_token: dict[str, int] = {}
        for number in range(len(network.layers)):
            for part in self._parts:
                behind = network.last(number, part)
                if not behind:
                    continue
                name = f"{behind}.adapter"
                trained |= {f"{name}.down.weight": (narrow, hidden), f"{name}.down.bias": (narrow,)}
                trained |= {f"{name}.up.weight": (hidden, narrow), f"{name}.up.bias": (hidden,)}
                # Kept: the inputs of down and of up; and the activation's, unless what it gives says its gradient.
                kept = hidden + narrow * (1 if self.activation in ("relu", "tanh") else 2)
                per_token[f"{behind}.weight"] = kept
        return Footprint(trained, adapted=frozenset(per_token), inputs_kept=False, per_token=per_token)

    def attach(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        wide = model.config.get_text_config().hidden_size  # type: ignore
        for layer in layer_parts(model):
            for name in self._parts:
                if (part := layer.last.get(name)) is not None:
                    device = next(part.parameters()).device
                    part.adapter = bottleneck(wide, self.bottleneck, self.activation).to(device)
                    part.register_forward_hook(through_adapter)
        return model

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "adapter")

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapters' weights by name, and the settings that they were made with."""
        save_trained(model, folder)
        (folder / SETTINGS).write_text(json.dumps(self.settings, indent=1))

    def restore(self, context: Context, folder: Path) -> nn.Module:
        made = type(self)(**json.loads((folder / SETTINGS).read_text()))
        return load_trained(made.attach(made.load(context)), folder)


def bottleneck(wide: int, narrow: int, activation: str) -> nn.Module:
    """Return an untrained adapter network, [..., wide] -> [..., wide] by way of `narrow` numbers, whose output is
    zero."""
    from torch import nn
    from transformers.activations import ACT2FN

    module = nn.Module()
    module.down, module.act, module.up = nn.Linear(wide, narrow), ACT2FN[activation], nn.Linear(narrow, wide)
    nn.init.zeros_(module.up.weight)
    nn.init.zeros_(module.up.bias)
    return module


def through_adapter(part: Any, _: Any, given: Any) -> Any:
    """Forward hook of the module that gives a part's output: returns that output `given` (a tensor, or a tuple that
    begins with it) with the output of its adapter added."""
    hidden = given[0] if isinstance(given, tuple) else given
    hidden = hidden + part.adapter.up(part.adapter.act(part.adapter.down(hidden)))
    return (hidden, *given[1:]) if isinstance(given, tuple) else hidden
