"""Combines the low-rank updates of several experts into one adapter, through peft.

Concatenation and SVD: peft's `add_weighted_adapter`. TIES: Yadav et al. 2023, arXiv:2306.01708. DARE: Yu et al. 2023,
arXiv:2311.03099.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Context, Method, Network, Options
from harness.methods.wrappers import OfExperts, task_of

if TYPE_CHECKING:
    from torch import nn

MERGED = "default"  # the one name whose adapter peft saves into a folder itself, not below it
SPARSE = ("ties", "dare", "magnitude")


class AdapterMerge(OfExperts):
    """Adapter merging: low-rank updates of several tasks combined into one adapter, which peft loads like any other.

    `how` is the way of merging. With the update BA of each expert (its scaling included), weighted by w:

    - cat: the matrices side by side, ranks added: exactly the sum of w × BA.
    - linear: (sum of √w B)(sum of √w A), of the experts' own rank; it has products across experts.
    - svd: the sum of w × BA, cut to `rank` (by default the experts' own) by its singular values.
    - ties, dare_linear, dare_ties, magnitude_prune: the same after dropping numbers of each A and B; with the ending
      _svd, after dropping numbers of each BA, and then cut to `rank`.

    `weight` is w for every expert; `weights` gives one for each task. `density` is the share of numbers that is kept
    (0.5): the largest ones or, with dare_, a random draw, scaled up to the same mean.
    """

    name = "adapter_merge"
    trains_quantized = True
    paper = "arXiv:2306.01708"
    packages = ("peft",)
    space = {"weight": Options((0.3, 0.5, 0.7, 1.0)), "density": Options((0.2, 0.5, 0.8))}

    how: Literal[
        "cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd",
        "magnitude_prune", "magnitude_prune_svd",
    ] = "cat"  # fmt: skip
    weight: float | None = None
    weights: dict[str, float] = {}
    density: float | None = None
    rank: int | None = None

    def __init__(self, **settings: object):
        super().__init__(**settings)
        takes = {"weight": not self.weights, "density": self.drops}
        vars(self).update(space={key: value for key, value in type(self).space.items() if takes[key]})

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "adapter")

    @property
    def drops(self) -> bool:
        """Whether the way of merging drops numbers, so that it takes a `density`."""
        return self.how.startswith(SPARSE)

    def problems(self) -> Iterable[str]:
        yield from self.expert_problems()
        yield from self.weight_problems(self.weights)
        if self.weight is not None and self.weights:
            yield "weight and weights are both given. Keep one."
        if self.weight is not None and not 0 < self.weight < float("inf"):
            yield f"weight is {self.weight}; it must be above 0."
        if self.density is not None and not self.drops:
            yield f"density has no effect on how: {self.how}, which drops nothing. Drop it, or use ties."
        elif self.density is not None and not 0 < self.density <= 1:
            yield f"density is {self.density}; it must be above 0 and at most 1."
        if self.rank is not None and not self.how.endswith("svd"):
            yield f"rank has no effect on how: {self.how}. Drop it, or use svd."
        elif self.rank is not None and self.rank < 1:
            yield f"rank is {self.rank}; it must be at least 1."

    def misfits(self, network: Network) -> Iterable[str]:
        if reached := network.reached(self.experts.get("targets", "all-linear")):
            yield (
                f"peft cannot add up updates of experts that are stacked into one tensor ({reached[0]}), as those of "
                f"{network.kind} are. Give experts the linear layers alone: targets: "
                f"[{', '.join(network.linear_names())}]."
            )

    def refuses(self, expert: Method) -> Iterable[str]:
        yield from super().refuses(expert)
        if not expert.adds_up:
            yield f"{expert.name} leaves no low-rank update that could be added to another. Use lora, or merge."
        if expert.quantize != self.quantize:
            yield (
                f"{expert.name} is trained on {expert.quantize or 'full'} weights, and its adapter would be put on "
                f"{self.quantize or 'full'} ones. Give both the same quantize."
            )

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        import torch
        from peft import PeftModel

        tasks = [task_of(role) for role in context.needs]
        made: Any = None
        for task, folder in zip(tasks, context.needs.values(), strict=True):
            check_adapter(task, folder)
            if made is None:
                made = PeftModel.from_pretrained(model, str(folder), adapter_name=of(task))
            else:
                made.load_adapter(str(folder), adapter_name=of(task))
        # peft gives the merged adapter the first one's configuration; its scaling must be 1, also of rsLoRA's.
        made.peft_config[of(tasks[0])].use_rslora = False
        torch.manual_seed(context.seed)  # of what DARE drops
        weight = 0.5 if self.weight is None else self.weight
        made.base_model.add_weighted_adapter(
            [of(task) for task in tasks],
            [self.weights.get(task, weight) for task in tasks],
            MERGED,
            combination_type=self.how,
            svd_rank=self.rank,
            svd_full_matrices=False,
            density=(0.5 if self.density is None else self.density) if self.drops else None,
        )
        made.set_adapter(MERGED)
        for task in tasks:
            made.delete_adapter(of(task))
        merged: nn.Module = made.requires_grad_(False).eval()
        return merged


def of(task: str) -> str:
    """Return the name under which peft holds the adapter of a task's expert; a module's name may hold no dot."""
    return f"expert-{task.replace('.', '-')}"


def check_adapter(task: str, folder: Path) -> None:
    """Raise ValueError where the expert of `task` left, in `folder`, an adapter that is no LoRA update: peft would load
    it and add up something else."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        found = "DoRA" if config.get("use_dora") else config.get("peft_type", "no adapter")
        raise ValueError(f"the expert of {task} left {found}: only LoRA updates can be added up")
