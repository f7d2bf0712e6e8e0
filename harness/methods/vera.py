"""VeRA: two trained vectors for each linear layer, around random matrices that all layers share (Kopiczko et al.
2023)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.methods.base import (
    Footprint,
    LogFloat,
    Method,
    Network,
    Options,
    is_transposed,
    seed_in_use,
)

if TYPE_CHECKING:
    from torch import nn


class VeRA(Method):
    """VeRA: frozen random A and B, shared by all layers; only two vectors beside each linear layer are trained.

    A weight W (out × in) is used as W + diag(b)·B·diag(d)·A, with A (`rank` × in) and B (out × `rank`) cut from the
    shared ones, d starting at `d_initial` and b at zero. It trains `rank` + out numbers for each of the `targets`
    (all-linear, a list of names, or a pattern). `dropout` applies to the update's input; both vectors learn at
    `learning_rate`. The cell's seed decides A and B. They are saved as well, so that the result does not depend on a
    random number generator.
    """

    name = "vera"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2310.11454"
    family = "reparameterised"
    space = {"learning_rate": LogFloat(1e-4, 1e-1), "rank": Options((64, 256, 1024))}

    learning_rate: float = 2e-2
    rank: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"

    def problems(self) -> Iterable[str]:
        if self.rank < 1:
            yield f"rank is {self.rank}; it must be at least 1."
        if not 0 <= self.dropout < 1:
            yield f"dropout is {self.dropout}; it must be at least 0 and below 1."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from network.unmatched(self.targets)

    def footprint(self, network: Network) -> Footprint | None:
        linears = network.linears(self.targets)
        trained: dict[str, tuple[int, ...]] = {}
        for name, (out, _) in linears.items():
            trained |= {f"{name}.vera_lambda_b": (out,), f"{name}.vera_lambda_d": (self.rank,)}
        return Footprint(
            trained,
            adapted=frozenset(linears),
            inputs_kept=False,  # A is frozen: only what it gives is needed again, and what B gives
            per_token={name: self.rank + out for name, (out, _) in linears.items()},
            frozen=self.rank * sum(max(shape[side] for shape in linears.values()) for side in (0, 1)) if linears else 0,
        )

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import VeraConfig, get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        config = VeraConfig(
            r=self.rank,
            d_initial=self.d_initial,
            vera_dropout=self.dropout,
            target_modules=self.targets,
            projection_prng_key=seed_in_use(),
            fan_in_fan_out=is_transposed(model),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)
