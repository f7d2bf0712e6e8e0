"""AdaLoRA: low-rank updates whose ranks are shared out among the layers while they are trained.

Zhang et al. 2023, arXiv:2303.10512.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from harness.methods.base import (
    Context,
    Footprint,
    LogFloat,
    Method,
    Network,
    Options,
    is_transposed,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

ADAPTER = "default"  # peft's name for a model's only adapter
UNKNOWN_STEPS = 10**6  # until training begins


class AdaLoRA(Method):
    """AdaLoRA: a low-rank update in SVD form beside each linear layer; ranks go to the layers that need them.

    A weight W (out × in) is used as W + s·P·Λ·Q, with Q (`start_rank` × in), a diagonal Λ, P (out × `start_rank`) and
    s = `alpha` / `start_rank`. It trains `start_rank` · (in + out + 1) numbers for each of the `targets` (all-linear,
    a list of names, or a pattern). After a share `tinit` of the steps the least important entries of all Λ are set to
    zero, step by step, until `rank` of them are left for each layer on average; the last share `tfinal` of the steps
    trains these. `orth_reg` weighs the penalty that keeps P and Q orthogonal, the mean over both of ‖PᵀP - I‖.
    `dropout` applies to the update's input. P, Λ and Q learn at `learning_rate`.
    """

    name = "adalora"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2303.10512"
    family = "reparameterised"
    alone = "its matrices end with other shapes than they had"
    distributes = False  # importance is read off whole gradients of one process
    space = {"learning_rate": LogFloat(1e-4, 1e-1), "rank": Options((4, 8, 16))}

    learning_rate: float = 5e-3
    rank: int = 8
    start_rank: int = 12
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    tinit: float = 0.1
    tfinal: float = 0.3
    orth_reg: float = 0.1

    def __init__(self, **settings: object):
        super().__init__(**settings)
        self.declare(foldable=self.quantize is None)  # peft has no merging into quantised weights for it

    def problems(self) -> Iterable[str]:
        if not 1 <= self.rank < self.start_rank:
            yield f"rank is {self.rank}; it must be at least 1 and below start_rank, which is {self.start_rank}."
        if not 0 <= self.dropout < 1:
            yield f"dropout is {self.dropout}; it must be at least 0 and below 1."
        if self.tinit < 0 or self.tfinal < 0 or self.tinit + self.tfinal >= 1:
            yield f"tinit is {self.tinit:g} and tfinal {self.tfinal:g}: shares of the steps, together below 1."
        if self.orth_reg < 0:
            yield f"orth_reg is {self.orth_reg:g}; it must be at least 0."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from network.unmatched(self.targets)

    def footprint(self, network: Network) -> Footprint | None:
        linears, rank = network.linears(self.targets), self.start_rank
        trained: dict[str, tuple[int, ...]] = {}
        for name, (out, into) in linears.items():
            shapes = {"lora_A": (rank, into), "lora_E": (rank, 1), "lora_B": (out, rank)}
            trained |= {f"{name}.{part}": shape for part, shape in shapes.items()}
        return Footprint(
            trained,
            adapted=frozenset(linears),
            inputs_kept=not self.dropout,
            per_token={name: rank + (2 * into if self.dropout else 0) for name, (_, into) in linears.items()},
            fixed={name: rank * into + 1 for name, (_, into) in linears.items()},  # Λ·Q, and its divisor
            state=3,  # importance, and the moving averages of it and of how uncertain it is
        )

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import AdaLoraConfig, get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        config = AdaLoraConfig(
            init_r=self.start_rank,
            target_r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            fan_in_fan_out=is_transposed(model),
            deltaT=1,
            total_step=UNKNOWN_STEPS,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        config: Any = model.peft_config[ADAPTER]  # type: ignore[index]
        config.total_step = steps
        # peft wants a step that shows what matters before the one that settles the ranks.
        config.tfinal = max(0, min(round(self.tfinal * steps), steps - 2))
        config.tinit = max(0, min(round(self.tinit * steps), steps - config.tfinal - 1))

    def after_step(self, model: nn.Module, step: int) -> None:
        base, config = cast(Any, model.base_model), cast(Any, model.peft_config)[ADAPTER]
        if config.total_step > 1:  # a single one settles nothing
            base.update_and_allocate(step)

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        import torch

        if not self.orth_reg:
            return None
        terms = []
        for name, value in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = value @ value.T if "lora_A" in name else value.T @ value
                terms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.orth_reg * torch.stack(terms).mean()

    def snapshot(self, model: nn.Module) -> dict[str, list[bool]] | None:
        """Return the rank pattern: for each adapted layer, which entries of Λ are in use; None before ranks are
        pruned."""
        pattern: dict[str, list[bool]] | None = cast(Any, model.peft_config)[ADAPTER].rank_pattern
        return pattern and {name: list(used) for name, used in pattern.items()}

    def go_back(self, model: nn.Module, snapshot: dict[str, list[bool]] | None) -> None:
        cast(Any, model.peft_config)[ADAPTER].rank_pattern = snapshot

    def finish(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the model without the ranks that were set to zero, as it is saved."""
        config: Any = model.peft_config[ADAPTER]  # type: ignore[index]
        if config.rank_pattern:
            divisors = {name: value.clone() for name, value in model.named_parameters() if "ranknum" in name}
            base: Any = model.base_model
            base.resize_modules_by_rank_pattern(config.rank_pattern, ADAPTER)
            for name, value in divisors.items():
                model.get_parameter(name).data.copy_(value)  # peft leaves that of an empty layer at random
        return model
