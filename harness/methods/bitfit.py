"""Methods that train only the smallest parts of a model: its biases, or the weights of its norms.

BitFit: Ben Zaken et al. 2021, arXiv:2106.10199. Norms: Zhao et al. 2023, arXiv:2312.11420.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.methods.base import (
    Context,
    Footprint,
    LogFloat,
    Method,
    Network,
    decoder_layers,
    is_norm,
    load_trained,
    save_trained,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class BitFit(Method):
    """BitFit: only biases are trained; a model that has none (Llama) gets one on each linear layer of its decoder.

    Added biases start at zero, so the untrained model is the base model. They are not part of the base model's
    architecture, so the result cannot be folded; the biases alone are saved. It trains the sum of the outputs of the
    linear layers (for a Llama layer: 2 hidden + hidden + 2 keys + 2 inner, with as many queries as hidden), or the
    existing biases. `learning_rate` is far above that of full fine-tuning, as in the paper.
    """

    name = "bitfit"
    paper = "arXiv:2106.10199"
    family = "selective"
    foldable = False
    space = {"learning_rate": LogFloat(1e-4, 1e-1)}

    learning_rate: float = 1e-3

    def footprint(self, network: Network) -> Footprint | None:
        own = {name: shape for name, shape in network.weights.items() if name.endswith("bias")}
        inside = {name for layer in network.layers for name in layer.values()}
        linears = {name: shape for name, shape in network.linears().items() if name in inside}
        added = {f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in linears.items()}
        return Footprint(own or added)

    def attach(self, model: nn.Module) -> nn.Module:
        import torch
        from torch import nn

        model.requires_grad_(False)
        if not any(name.endswith("bias") for name, _ in model.named_parameters()):
            for layer in (part for one in decoder_layers(model) for part in one.modules()):
                if isinstance(layer, nn.Linear):
                    layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]))
        for name, value in model.named_parameters():
            value.requires_grad_(name.endswith("bias"))
        return model

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "changed weights")

    def save(self, model: nn.Module, folder: Path) -> None:
        save_trained(model, folder)

    def restore(self, context: Context, folder: Path) -> nn.Module:
        return load_trained(self.attach(self.load(context)), folder)


class LayerNorm(Method):
    """Norm tuning: only the weights of the norms are trained (RMSNorm and LayerNorm alike).

    For Llama it trains (2 layers + 1) · hidden numbers, and saves these alone. `learning_rate` is far above that of
    full fine-tuning, because norms are few and near 1.
    """

    name = "layernorm"
    paper = "arXiv:2312.11420"
    family = "selective"
    space = {"learning_rate": LogFloat(1e-4, 1e-1)}

    learning_rate: float = 1e-3

    def footprint(self, network: Network) -> Footprint | None:
        return Footprint({name: network.weights[name] for name in network.norms})

    def misfits(self, network: Network) -> Iterable[str]:
        if not network.norms:
            yield f"layernorm trains norms, and {network.kind} has none with weights. Use bitfit or lora."

    def attach(self, model: nn.Module) -> nn.Module:
        model.requires_grad_(False)
        for part in model.modules():
            if is_norm(part):
                part.requires_grad_(True)
        return model

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "changed weights")

    def save(self, model: nn.Module, folder: Path) -> None:
        save_trained(model, folder)

    def restore(self, context: Context, folder: Path) -> nn.Module:
        return load_trained(self.attach(self.load(context)), folder)
