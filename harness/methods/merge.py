"""Model merging: experts trained on one task each, then combined without training, through mergekit.

Task arithmetic: Ilharco et al. 2022, arXiv:2212.04089. TIES: Yadav et al. 2023, arXiv:2306.01708.
DARE: Yu et al. 2023, arXiv:2311.03099.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Expert, Job, Method, Options

if TYPE_CHECKING:
    from torch import nn


class Merge(Method):
    """Merging: experts of several tasks combined into one model (linear, task arithmetic, TIES, DARE).

    `experts` is {method, learn: [tasks], and that method's settings}: one expert a task, a cell of the
    same plan, with costs of its own (a merge's are those of merging). Adapters are folded into full
    weights first. `weight` scales the change: each expert's (task_arithmetic and dare_linear, 0.5 by
    default) or that of the joint one (ties and dare_ties, 1). `density` is the share of each expert's
    changes that TIES and DARE keep.
    """

    name = "merge"
    family = "merging"
    trains = True  # its experts do: a merge has their data size and seed
    own_trainer = True
    distributes = False  # its experts do: merging itself is one process's work
    space = {"weight": Options((0.3, 0.5, 0.7, 1.0)), "density": Options((0.2, 0.5, 0.8))}

    how: Literal["linear", "task_arithmetic", "ties", "dare_ties", "dare_linear"] = "ties"
    weight: float | None = None
    density: float = 0.5
    experts: dict[str, Any] = {}

    def problems(self) -> Iterable[str]:
        learn = self.experts.get("learn")
        if not isinstance(learn, list) or len(learn) < 2 or len(set(map(str, learn))) < len(learn):
            yield (
                f"experts.learn is {learn!r}; a merge wants a list of two or more different tasks: "
                "experts: {method: lora, learn: [bbc-topic, reuters-r8]}."
            )
        if not isinstance(self.experts.get("method"), str):
            yield "experts.method is missing: the method that trains each expert (experts: {method: lora, …})."
        if not 0 < self.density <= 1:
            yield f"density is {self.density}; it must be above 0 and at most 1."
        if self.how == "linear" and self.weight is not None:
            yield "weight has no effect on how: linear, the plain average. Drop it, or use task_arithmetic."
        if self.quantize:
            yield "quantize does not go with merge: mergekit combines full weights. Drop it."

    @property
    def strength(self) -> float:
        """`weight`, or its default for this way of merging."""
        default = 1.0 if self.how in ("ties", "dare_ties") else 0.5
        return default if self.weight is None else self.weight

    def refuses(self, expert: Method) -> Iterable[str]:
        if not (expert.trains and expert.foldable):
            yield f"{expert.name} leaves no weights that can be merged."

    def wants(self, task: str) -> Iterable[Expert]:
        settings = {key: value for key, value in self.experts.items() if key not in ("method", "learn")}
        for learned in self.learns(task):
            yield Expert(f"expert:{learned}", self.experts["method"], settings, learned)

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([task, *self.experts["learn"]]))

    def attach(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(False)  # nothing is trained here

    def fit(self, model: nn.Module, job: Job) -> nn.Module:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        consensus = self.how in ("ties", "dare_ties")
        each: dict[str, float] = {"weight": 1.0 if consensus or self.how == "linear" else self.strength}
        if self.how in ("ties", "dare_ties", "dare_linear"):
            each["density"] = self.density
        recipe: dict[str, Any] = {
            "merge_method": self.how,
            "dtype": "float32",
            "models": [{"model": str(plain_weights(job, role)), "parameters": each} for role in job.needs],
        }
        if self.how != "linear":
            recipe["base_model"] = str(job.base)
        if consensus:
            # The mean over the experts that agree in sign, times lambda: equal weights would cancel in it.
            recipe["parameters"] = {"normalize": True, "lambda": self.strength}
        merged = job.scratch / "merged"
        run_merge(
            MergeConfiguration.model_validate(recipe),
            out_path=str(merged),
            options=MergeOptions(copy_tokenizer=False, random_seed=job.seed, quiet=True),
        )
        return job.load_model(merged)


def plain_weights(job: Job, role: str) -> Path:
    """A folder of an expert's full weights: its own, or what it is when folded into the base."""
    saved = job.needs[role]
    if (saved / "config.json").exists():
        return saved
    folder = job.scratch / role.replace(":", "-")
    job.load_need(role, fold=True).save_pretrained(folder)  # type: ignore[operator]
    return folder
