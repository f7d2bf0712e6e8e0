"""Model merging: experts trained apart, then combined into one model's weights, through mergekit.

Linear: Wortsman et al. 2022, arXiv:2203.05482. SLERP: Shoemake 1985. Task arithmetic: Ilharco et al. 2022,
arXiv:2212.04089. TIES: Yadav et al. 2023, arXiv:2306.01708. DARE: Yu et al. 2023, arXiv:2311.03099. DELLA: Deep et al.
2024, arXiv:2406.11617. Model stock: Jang et al. 2024, arXiv:2403.19522. Passthrough: Kim et al. 2023, arXiv:2312.15166.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import (
    LAYER_COUNTS,
    Context,
    Expert,
    Method,
    Network,
    Options,
    read_config,
    read_network,
)
from harness.methods.wrappers import OfExperts, task_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Way:
    """The settings that one way of merging takes. `weight` is the default weight of each expert's change or, with
    `joint`, of the merged change; None where the way takes no weight. `weights`, `density` and `epsilon` say whether it
    takes the setting of that name; `least` and `most` are numbers of experts."""

    weight: float | None = None
    joint: bool = False
    weights: bool = False
    density: bool = False
    epsilon: bool = False
    base: bool = True  # it merges changes against the base model, not weights
    least: int = 1
    most: int | None = None
    called: str = ""  # mergekit's name, where it is another


WAYS = {
    "linear": Way(weights=True, base=False),
    "slerp": Way(weights=True, base=False, least=2, most=2),
    "task_arithmetic": Way(0.5, weights=True),
    "ties": Way(1.0, joint=True, weights=True, density=True),
    "dare_ties": Way(1.0, joint=True, weights=True, density=True),
    "dare_linear": Way(0.5, weights=True, density=True),
    "della": Way(1.0, joint=True, weights=True, density=True, epsilon=True),
    "della_linear": Way(0.5, weights=True, density=True, epsilon=True),
    "model_stock": Way(least=2),
    "soup": Way(base=False, called="linear"),
    "passthrough": Way(base=False),
}


class Merge(OfExperts):
    """Merging: experts combined into one model without training (linear, SLERP, TIES, DARE, DELLA, soup, …).

    `how` is the way of merging. With t the change (expert - base) of a weight, and every expert folded into full
    weights:

    - linear: the mean of the experts; slerp: the point between two of them on the arc from one to the other.
    - task_arithmetic: base + sum of weight × t. dare_linear and della_linear: the same after dropping changes.
    - ties, dare_ties, della: base + weight × the mean, for each number separately, over the experts that agree with
      the sign of the sum of the kept changes.
    - model_stock: base + s × (mean - base), with s = kc / (1 + (k - 1)c) from the mean cosine c between k changes.
    - soup: the mean of experts of the cell's one task, on the same examples, trained with each of `seeds`.
    - passthrough: layers stacked as they are: `slices` is a list of [task, first layer, layer after the last].

    `weight` scales the change: each expert's (0.5 by default), or with ties, dare_ties and della the joint one (1).
    `weights` is a number for each task's expert: its share (linear, slerp), in place of `weight` in a sum, and its
    weight in the mean of the others. `density` is the share of each expert's changes that is kept (0.5): the largest
    (ties) or a random draw, scaled up to the same total (dare); with della the chance of a change grows with its size,
    by `epsilon` (0.15) on either side of density.
    """

    name = "merge"
    instead_of_quantized = "mergekit combines full weights: drop quantize."
    paper = "arXiv:2212.04089"
    packages = ("mergekit",)
    space = {"weight": Options((0.3, 0.5, 0.7, 1.0)), "density": Options((0.2, 0.5, 0.8))}

    how: Literal[
        "linear", "slerp", "task_arithmetic", "ties", "dare_ties", "dare_linear", "della", "della_linear",
        "model_stock", "soup", "passthrough",
    ] = "ties"  # fmt: skip
    weight: float | None = None
    weights: dict[str, float] = {}
    density: float | None = None
    epsilon: float | None = None
    seeds: list[int] = []
    slices: list[tuple[str, int, int]] = []

    def __init__(self, **settings: object):
        super().__init__(**settings)
        takes = {"weight": self.way.weight is not None and not self.weights, "density": self.way.density}
        vars(self).update(space={key: value for key, value in type(self).space.items() if takes[key]})

    @property
    def instruments(self) -> tuple[str, ...]:
        return (*super().instruments, "merge_of_one")

    @property
    def way(self) -> Way:
        """The settings that the way of merging takes which `how` names."""
        return WAYS[self.how]

    def problems(self) -> Iterable[str]:
        way = self.way
        if self.how == "soup":
            yield from self._soup_problems()
        else:
            yield from self.expert_problems(way.least, way.most)
            if self.seeds:
                yield f"seeds has no effect on how: {self.how}: the suite's seeds are those of its experts. Drop it."
        yield from self._idle("weight", self.weight is not None, way.weight is not None)
        yield from self._idle("weights", bool(self.weights), way.weights)
        yield from self._idle("density", self.density is not None, way.density)
        yield from self._idle("epsilon", self.epsilon is not None, way.epsilon)
        yield from self._idle("slices", bool(self.slices), self.how == "passthrough")
        if way.weights:
            yield from self.weight_problems(self.weights)
            if self.weights and not sum(self.weights.values()) > 0:
                yield "weights are all 0. Give at least one expert a number above 0."
            if self.weights and self.weight is not None and not way.joint:
                yield f"weight and weights are both given, and how: {self.how} takes one of them. Keep one."
        if self.density is not None and not 0 < self.density <= 1:
            yield f"density is {self.density}; it must be above 0 and at most 1."
        elif way.epsilon and self.kept < 1 and not self.spread < self.kept < 1 - self.spread:
            yield f"density {self.kept} ± epsilon {self.spread} leaves 0 to 1, between which both must lie. Change one."
        if self.how == "passthrough":
            yield from self._slice_problems()

    def _idle(self, key: str, given: bool, taken: bool) -> Iterable[str]:
        if given and not taken:
            having = [how for how, way in WAYS.items() if getattr(way, key, how == "passthrough") not in (None, False)]
            what = ", the plain average" if self.how == "linear" else ""
            yield f"{key} has no effect on how: {self.how}{what}. Drop it, or use {', '.join(having)}."

    def _soup_problems(self) -> Iterable[str]:
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            yield f"seeds is {self.seeds}; a soup wants two or more different seeds, at least 0: seeds: [0, 1, 2]."
        if "learn" in self.experts:
            yield "a soup's experts all learn the task of the cell. Drop experts.learn."
        if not isinstance(self.experts.get("method"), str):
            yield "experts.method is missing: the method that trains each expert (experts: {method: lora, …})."

    def _slice_problems(self) -> Iterable[str]:
        if not self.slices:
            yield "slices is empty: a list of [task, first layer, layer after the last], such as [[bbc-topic, 0, 20]]."
        for task, first, after in self.slices:
            if task not in self.learn:
                yield f"slices names {task!r}, which is no expert. The experts are {', '.join(self.learn)}."
            if not 0 <= first < after:
                yield f"slices: layers {first} to {after} of {task} are none. The second number is one past the last."

    @property
    def strength(self) -> float:
        """The setting `weight`, or its default for this way of merging."""
        return (self.way.weight or 1.0) if self.weight is None else self.weight

    @property
    def kept(self) -> float:
        """The share of each expert's changes that is kept: the setting `density`, or its default."""
        return 0.5 if self.density is None else self.density

    @property
    def spread(self) -> float:
        """How far the chance of a change to be kept may lie from `density`, on either side: the setting `epsilon`, or
        its default."""
        return 0.15 if self.epsilon is None else self.epsilon

    def refuses(self, expert: Method) -> Iterable[str]:
        yield from super().refuses(expert)
        if not (expert.trains and expert.foldable and expert.is_language_model):
            yield f"{expert.name} leaves no weights that can be merged."
        if expert.quantize:
            yield f"{expert.name} leaves {expert.quantize} weights, and mergekit combines full ones. Use lora instead."

    def learns(self, task: str) -> tuple[str, ...]:
        return (task,) if self.how == "soup" else super().learns(task)

    def wants(self, task: str) -> Iterable[Expert]:
        if self.how != "soup":
            yield from super().wants(task)
            return
        settings = {key: value for key, value in self.experts.items() if key != "method"}
        for seed in self.seeds:
            yield Expert(f"expert:seed-{seed}", self.experts["method"], settings, task, seed=seed)

    def misfits(self, network: Network) -> Iterable[str]:
        for task, _, after in self.slices:
            if after > len(network.layers):
                yield f"slices asks for layers of {task} up to {after}, but there are {len(network.layers)}."

    # --- working ---

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        from huggingface_hub.errors import StrictDataclassClassValidationError
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        check_layers(context.base, [after for _, _, after in self.slices])
        folders = {task_of(role): plain_weights(context, role) for role in context.needs}
        merged = context.scratch / "merged"
        stacks = self.how == "passthrough"
        # The last thing that mergekit writes is a configuration; for stacked layers it is written below.
        with suppress(*([StrictDataclassClassValidationError] if stacks else [])):
            run_merge(
                MergeConfiguration.model_validate(self.recipe(context.base, folders)),
                out_path=str(merged),
                options=MergeOptions(
                    copy_tokenizer=False, random_seed=context.seed, quiet=True, write_model_card=False
                ),
            )
        if stacks:
            stack_configuration(context.base, merged, [(first, after) for _, first, after in self.slices])
        return context.load_model(merged)

    def recipe(self, base: Path, folders: dict[str, Path]) -> dict[str, Any]:
        """Return mergekit's configuration for merging experts. `folders` maps what each expert stands for (its task; in
        a soup "seed-" and its seed) to the folder of its weights; the order is that of the merge."""
        way = self.way
        # In doubles base + (expert - base) rounds to the expert itself: one expert at weight 1 comes back bit for bit.
        recipe: dict[str, Any] = {
            "merge_method": way.called or self.how, "dtype": "float64", "out_dtype": "float32", "parameters": {},
        }  # fmt: skip
        if self.how == "passthrough":
            recipe["slices"] = [
                {"sources": [{"model": str(folders[task]), "layer_range": list(span)}]} for task, *span in self.slices
            ]
            return recipe
        each = dict.fromkeys(folders, 1.0 if way.joint or way.weight is None else self.strength) | self.weights
        models = []
        for task, folder in folders.items():
            own: dict[str, float] = {"weight": each[task]}
            own |= {"density": self.kept} if way.density else {}
            own |= {"epsilon": self.spread} if way.epsilon and self.kept < 1 else {}
            models.append({"model": str(folder), "parameters": own if way.weights or self.how == "soup" else {}})
        recipe["models"] = models
        if way.base:
            recipe["base_model"] = str(base)
        if way.joint:
            # The mean over the experts that agree in sign, times lambda: equal weights would cancel in it.
            recipe["parameters"] = {"normalize": True, "lambda": self.strength}
        if self.how == "slerp":  # mergekit goes from the first, which it calls the base, to the second
            recipe["base_model"] = models[0]["model"]
            recipe["parameters"] = {"t": list(each.values())[1] / sum(each.values())}
            recipe["models"] = [{"model": model["model"]} for model in models]
        return recipe


def plain_weights(context: Context, role: str) -> Path:
    """Return a folder with the full weights of the expert in this role; an adapter is folded into the base model first.

    Raises ValueError where the weights have other names or shapes than the base model's.
    """
    folder = context.needs[role]
    if not (folder / "config.json").exists():
        folder = context.scratch / role.replace(":", "-")
        context.load_need(role, fold=True).save_pretrained(folder)  # type: ignore[operator]
    base, expert = read_network(context.base), read_network(folder)
    if base and expert and base.weights != expert.weights:
        other = sorted(name for name in {*base.weights, *expert.weights}
                       if base.weights.get(name) != expert.weights.get(name))  # fmt: skip
        raise ValueError(f"the {role} has other weights than the base model, such as {other[0]}: they cannot be merged")
    return folder


def check_layers(base: Path, ends: list[int]) -> None:
    """Raise ValueError where a slice ends beyond the last layer of the model in the folder `base`. `ends` has, for each
    slice, the number after its last layer."""
    config = read_config(base)
    available = next((int(config[key]) for key in LAYER_COUNTS if config.get(key)), max(ends, default=0))
    if ends and max(ends) > available:
        raise ValueError(f"slices asks for layers up to {max(ends)}, but the model has {available}")


def stack_configuration(base: Path, merged: Path, spans: list[tuple[int, int]]) -> None:
    """Write the configuration of a model of stacked layers into the folder `merged`: the base model's, with the number
    of layers, and for each layer what the base model's own lists (such as the kind of attention) say of it.

    mergekit keeps the base model's lists, which transformers then refuses. `spans` has, for each slice, (its first
    layer, the number after its last).
    """
    config = json.loads((base / "config.json").read_text())
    chosen = [place for first, after in spans for place in range(first, after)]
    for part in (config, config.get("text_config")):
        key = next((key for key in LAYER_COUNTS if isinstance(part, dict) and part.get(key)), None)
        if not key:
            continue
        available = part[key]
        for name, value in part.items():
            if isinstance(value, list) and len(value) == available and name != "architectures":
                part[name] = [value[place] for place in chosen]
        if kinds := part.get("attention_layers"):  # GPT-Neo gives them twice
            part["attention_types"] = [[[kind], 1] for kind in kinds]
        part[key] = len(chosen)
    (merged / "config.json").write_text(json.dumps(config, indent=1))
