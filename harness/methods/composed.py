"""Combines several methods in one label: `method: [layerwise, prefix_tuning]`, with settings under each method's name.

A composition has no name of its own, so the search for methods in this folder does not find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from harness.methods.base import (
    Context,
    Expert,
    Footprint,
    Group,
    Method,
    Network,
    Row,
    Settings,
    TrainSettings,
    load_trained,
    save_trained,
)

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from lm_eval.api.model import LM
    from torch import nn

    from harness.data import Example

JOIN = "+"


class Composed(Method):
    """Several methods used at once: each makes its own weights trainable, and trains them at its own learning rate.

    Some hooks can have one form only for the whole cell: how answers are found (retrieval on top of a tuned model), how
    examples are encoded, how the base model is loaded. The one part that overrides such a hook decides; two such parts
    are refused. All other hooks are called for every part.
    """

    # Hooks that one part alone can have, and what two of them would do.
    ONE_OWNER: ClassVar[dict[str, str]] = {
        "load": "load the base model in their own way",
        "rows": "encode examples in their own way",
        "predictor": "decide how answers are found",
    }
    # Hooks that a composition does not forward, and why.
    NOT_FORWARDED: ClassVar[dict[str, str]] = {
        "variants": "a composition is not listed",
        "space": "each part's settings are searched under its name",
        "inner": "a part with another method inside has a trainer of its own, and is refused",
        "own_trainer": "such a part is refused",
        "is_language_model": "a part that leaves no language model is refused",
        "alone": "such a part is refused beside another that trains",
        "adds_up": "what a composition changes is more than one adapter's product",
        "instead_of_quantized": "each part says its own",
    }

    def __init__(self, parts: Sequence[Method]):
        self.parts = list(parts)
        quantize = next((part.quantize for part in parts if part.quantize), None)
        vars(self).update(
            name=JOIN.join(part.name for part in parts),
            family="hybrid",
            quantize=quantize,
            trains=any(part.trains for part in parts),
            foldable=all(part.foldable for part in parts),
            distributes=all(part.distributes for part in parts),
            wraps=any(part.wraps for part in parts),
            wants_choices=any(part.wants_choices for part in parts),
            trains_quantized=all(part.trains_quantized for part in parts if part.trains),
            starts_at_base="; ".join(filter(None, (part.starts_at_base for part in parts))),
        )
        self._groups: list[dict[str, Any]] = []

    @property
    def settings(self) -> Settings:
        return {part.name: part.settings for part in self.parts}

    @property
    def identity(self) -> Settings:
        return {part.name: part.identity for part in self.parts}

    @property
    def uses_data(self) -> bool:
        return any(part.uses_data for part in self.parts)

    @property
    def extras(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.extras))

    @property
    def serves(self) -> tuple[str, ...]:
        return tuple(
            part
            for part in dict.fromkeys(part for one in self.parts for part in one.serves)
            if part != "base model" or all(part in one.serves for one in self.parts)
        )

    @property
    def served_folded(self) -> bool:
        """Whether the trained parts' changes are folded into the weights before serving. Parts that only put text
        before the question change no weights, so they do not prevent it."""
        return self.quantize is None and all(part.served_folded for part in self.trained)

    @property
    def instruments(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.instruments))

    def matched(self, network: Network) -> Iterable[str]:
        for part in self.parts:
            yield from part.matched(network)

    @property
    def prepares(self) -> bool:
        return any(part.prepares for part in self.parts)

    @property
    def trained(self) -> list[Method]:
        """The parts that train weights, in the order in which they are attached: peft comes last, as it wraps the
        model."""
        return sorted(
            (part for part in self.parts if part.trains), key=lambda part: (part.wraps, part.family != "selective")
        )

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first part that trains weights; 0 where no part does. Each part trains at its own
        (`parameter_groups`)."""
        return float(getattr(self.trained[0], "learning_rate", 0.0)) if self.trained else 0.0

    def problems(self) -> Iterable[str]:
        names = [part.name for part in self.parts]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{name} is listed twice. Remove one."
        alone = [part.name for part in self.parts if part.own_trainer or not part.is_language_model]
        if alone:
            yield f"{' and '.join(alone)} cannot be combined with other methods. Give it a label of its own."
        wrapped = [part.name for part in self.parts if part.wraps]
        if wrapped[1:]:
            yield f"{' and '.join(wrapped)} are both peft's, which holds one at a time. Keep one."
        for part in self.trained:
            if part.alone and len(self.trained) > 1:
                yield f"{part.name} cannot be trained beside another method: {part.alone}."
        for hook, does in self.ONE_OWNER.items():
            owners = [part.name for part in self.parts if overrides(part, hook)]
            if owners[1:]:
                yield f"{' and '.join(owners)} both {does}. Keep one."
        for part in self.parts:
            if self.quantize and part.quantize is None and part.trains and not part.trains_quantized:
                yield f"{part.name} cannot train {self.quantize} weights. Drop it, or quantize."
            yield from part.mistakes()

    def mistakes(self) -> Iterable[str]:
        return self.problems()  # the parts say what quantised weights are to them

    def owner(self, hook: str) -> Method | None:
        """Return the part that overrides the hook of this name, one of `ONE_OWNER`; None where no part does."""
        return next((part for part in self.parts if overrides(part, hook)), None)

    def own_model(self) -> str | None:
        return next((name for part in self.parts if (name := part.own_model())), None)

    def wants(self, task: str) -> Iterable[Expert]:
        for part in self.parts:
            yield from part.wants(task)

    def reads(self, task: str) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.reads(task))

    def borrows(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.borrows())

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.learns(task)))

    def refuses(self, expert: Method) -> Iterable[str]:
        for part in self.parts:
            yield from part.refuses(expert)

    def cannot_train(self, train: TrainSettings) -> Iterable[str]:
        for part in self.parts:
            yield from part.cannot_train(train)

    def misfits(self, network: Network) -> Iterable[str]:
        for part in self.parts:
            yield from part.misfits(network)

    def skip(self) -> str | None:
        return next((reason for part in self.parts if (reason := part.skip())), None)

    def footprint(self, network: Network) -> Footprint | None:
        found = [part.footprint(network) for part in self.trained]
        if not found or any(one is None for one in found):
            return super().footprint(network)
        return reduce(both, [one for one in found if one])

    def tokens_before(self, network: Network, length: Callable[[str], int]) -> int:
        return sum(part.tokens_before(network, length) for part in self.parts)

    # --- working ---

    def load(self, context: Context) -> nn.Module:
        owner = self.owner("load")
        return owner.load(context) if owner else super().load(context)

    def rows(self, model: nn.Module, found: list[Example], context: Context) -> list[Row]:
        owner = self.owner("rows")
        return owner.rows(model, found, context) if owner else super().rows(model, found, context)

    def attach(self, model: nn.Module) -> nn.Module:
        owned: list[Any] = []
        self._groups = []
        for part in self.trained:
            model = part.attach(model)
            seen = set(map(id, owned))
            own = [value for value in model.parameters() if value.requires_grad and id(value) not in seen]
            rate = float(getattr(part, "learning_rate", 0.0))
            for group in part.parameter_groups(model) or [{"params": own, "lr": rate}]:
                self._groups.append({**group, "params": [value for value in group["params"] if id(value) not in seen]})
            owned += own
        for value in owned:
            value.requires_grad_(True)  # a later part froze what an earlier one trains
        return model

    def parameter_groups(self, model: nn.Module) -> list[Group] | None:
        return self._groups

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        model = super().fit(model, context)
        for part in self.parts:
            if not part.trains:
                model = part.fit(model, context)
        return model

    def prepare(self, model: nn.Module, context: Context) -> None:
        for part in self.trained:
            part.prepare(model, context)

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        for part in self.trained:
            part.before_training(model, steps, seed)

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        terms = [term for part in self.trained if (term := part.penalty(model)) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def after_step(self, model: nn.Module, step: int) -> None:
        for part in self.trained:
            part.after_step(model, step)

    def snapshot(self, model: nn.Module) -> Any:
        return [part.snapshot(model) for part in self.trained]

    def go_back(self, model: nn.Module, snapshot: Any) -> None:
        for part, own in zip(self.trained, snapshot, strict=True):
            part.go_back(model, own)

    def finish(self, model: nn.Module, context: Context) -> nn.Module:
        for part in self.trained:
            model = part.finish(model, context)
        return model

    def predictor(self, model: nn.Module, context: Context) -> LM:
        owner = self.owner("predictor")
        return owner.predictor(model, context) if owner else super().predictor(model, context)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write one trained part as it would be saved alone; with several, the trained tensors by name. What a part
        without training keeps (examples, an index) goes into a folder of the part's name."""
        if len(self.trained) == 1:
            self.trained[0].save(model, folder)
        elif self.trained:
            save_trained(model, folder)
        for part in self.parts:
            if not part.trains and part.prepares:
                part.save(model, folder / part.name)

    def restore(self, context: Context, folder: Path) -> nn.Module:
        self.recall(context, folder)
        if len(self.trained) == 1:
            return self.trained[0].restore(context, folder)
        model = self.load(context)
        if not self.trained:
            return model.eval()
        import torch

        # Frozen random weights of a part were not saved: they are drawn again from the same seed.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            return load_trained(self.attach(model), folder)

    def recall(self, context: Context, folder: Path) -> None:
        for part in self.parts:
            alone = part.trains and len(self.trained) == 1  # then its files lie where it would have put them alone
            part.recall(context, folder if alone else folder / part.name)

    def fold(self, model: nn.Module) -> nn.Module:
        for part in reversed(self.trained):
            model = part.fold(model)
        return model


def overrides(part: Method, hook: str) -> bool:
    """Return whether a method's class overrides the hook of this name of the base class."""
    return getattr(type(part), hook) is not getattr(Method, hook)


def both(one: Footprint, other: Footprint) -> Footprint:
    """Return the footprint of two methods that train together, given those of each."""
    return Footprint(
        {**one.trained, **other.trained},
        lowest=min(one.lowest, other.lowest),
        adapted=one.adapted | other.adapted,
        inputs_kept=one.inputs_kept and other.inputs_kept,
        per_token={**one.per_token, **other.per_token},
        fixed={**one.fixed, **other.fixed},
        virtual_tokens=one.virtual_tokens + other.virtual_tokens,
        prefix_tokens=one.prefix_tokens + other.prefix_tokens,
        frozen=one.frozen + other.frozen,
        state=max(one.state, other.state),
    )
