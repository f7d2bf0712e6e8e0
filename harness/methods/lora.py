"""LoRA and its close kin: a low-rank update beside each linear layer.

LoRA: Hu et al. 2021, arXiv:2106.09685. rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.
DoRA: Liu et al. 2024, arXiv:2402.09353. QLoRA: Dettmers et al. 2023, arXiv:2305.14314.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from harness.methods.base import Footprint, LogFloat, Method, Network, Options

if TYPE_CHECKING:
    from torch import nn


class LoRA(Method):
    """LoRA: a trained low-rank update beside each linear layer; the base stays frozen."""

    name = "lora"
    wraps = True
    paper = "arXiv:2106.09685"
    family = "reparameterised"
    space = {"learning_rate": LogFloat(1e-5, 1e-2), "rank": Options((4, 8, 16, 32))}
    use_dora = False

    learning_rate: float = 1e-3
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    rslora: bool = False

    def problems(self) -> Iterable[str]:
        if self.rank < 1:
            yield f"rank is {self.rank}; it must be at least 1."
        if not 0 <= self.dropout < 1:
            yield f"dropout is {self.dropout}; it must be at least 0 and below 1."

    def footprint(self, network: Network) -> Footprint | None:
        linears = {name: shape for name, shape in network.linears().items() if self._adapts(name)}
        trained: dict[str, tuple[int, ...]] = {}
        for name, (out, into) in linears.items():
            trained |= {f"{name}.lora_A": (self.rank, into), f"{name}.lora_B": (out, self.rank)}
            if self.use_dora:
                trained[f"{name}.magnitude"] = (out,)
        per_token = {
            # With dropout, each adapter has a masked input of its own, and keeps the mask. DoRA keeps both results.
            name: self.rank + (2 * into if self.dropout else 0) + (2 * out if self.use_dora else 0)
            for name, (out, into) in linears.items()
        }
        # DoRA multiplies A and B out by sending a unit matrix through them, and divides by the norms of the result.
        dora = {name: into * (into + self.rank) + 3 * out for name, (out, into) in linears.items()}
        return Footprint(
            trained,
            adapted=frozenset(linears),
            inputs_kept=not self.dropout,
            per_token=per_token,
            fixed=dora if self.use_dora else {},
        )

    @property
    def adds_up(self) -> bool:
        return not (self.use_dora or self.starts_at_base)

    def _adapts(self, name: str) -> bool:
        """Whether a linear layer of the decoder (its weight's name) gets an adapter, by peft's rules for names."""
        layer = name.removesuffix(".weight")
        if self.targets == "all-linear":
            return True
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, layer) is not None
        return any(layer == target or layer.endswith(f".{target}") for target in self.targets)

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            # Checkpointing is the suite's choice (`train: gradient_checkpointing`), not the quantiser's.
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            use_rslora=self.rslora,
            use_dora=self.use_dora,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)


class DoRA(LoRA):
    """DoRA: LoRA for a weight's direction, with its magnitude trained apart."""

    name = "dora"
    paper = "arXiv:2402.09353"
    use_dora = True


class QLoRA(LoRA):
    """QLoRA: LoRA on a base held in 4 bits (NF4 with double quantisation)."""

    name = "qlora"
    paper = "arXiv:2305.14314"

    quantize: Literal["nf4", "fp4", "int8"] | None = "nf4"
