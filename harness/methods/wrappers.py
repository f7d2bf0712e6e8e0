"""Base classes of methods that are made of other methods: methods that combine experts, and methods that train, in
their own way, what another method makes trainable.

The search for methods in this folder does not find these classes, because they have no name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.methods.base import Context, Expert, Footprint, Group, Method, Network, Row, Settings, TrainSettings

if TYPE_CHECKING:
    from pathlib import Path

    from lm_eval.api.model import LM
    from torch import nn

    from harness.data import Example


class OfExperts(Method):
    """A method that combines experts without training. Experts are cells of the same plan, with costs of their own.

    `experts` is {method, learn: [tasks], and that method's settings}: one expert for each task.
    """

    family = "merging"
    trains = True  # its experts do: a merge has their data size and seed
    own_trainer = True
    distributes = False  # its experts do: merging itself is one process's work

    experts: Settings = {}

    @property
    def learn(self) -> list[str]:
        """The tasks that `experts` lists under `learn`; empty where that is no list."""
        found = self.experts.get("learn")
        return list(map(str, found)) if isinstance(found, list) else []

    def expert_problems(self, least: int = 1, most: int | None = None) -> Iterable[str]:
        """Yield what is wrong with `experts`; this method takes at least `least` of them and, with `most`, no more than
        that."""
        found = self.experts.get("learn")
        count = len(self.learn)
        if not isinstance(found, list) or not least <= count <= (most or count) or len(set(self.learn)) < count:
            wanted = f"{least} or more" if most is None else str(least)
            yield (
                f"experts.learn is {found!r}; {self.name} wants a list of {wanted} different tasks: "
                "experts: {method: lora, learn: [bbc-topic, reuters-r8]}."
            )
        if not isinstance(self.experts.get("method"), str):
            yield "experts.method is missing: the method that trains each expert (experts: {method: lora, …})."

    def weight_problems(self, weights: Mapping[str, float]) -> Iterable[str]:
        """Yield what is wrong with the setting `weights`, which maps the task of each expert to a number: names that
        are no expert's, numbers below 0, and experts without one."""
        for name, weight in weights.items():
            if name not in self.learn:
                yield f"weights names {name!r}, which is no expert. The experts are {', '.join(self.learn)}."
            elif not 0 <= weight < float("inf"):
                yield f"the weight of {name!r} is {weight}; it must be a finite number, at least 0."
        missing = [name for name in self.learn if weights and name not in weights]
        if missing:
            yield f"weights says nothing of {', '.join(missing)}. Give each expert its number, or drop weights."

    def wants(self, task: str) -> Iterable[Expert]:
        settings = {key: value for key, value in self.experts.items() if key not in ("method", "learn")}
        for learned in self.learns(task):
            yield Expert(f"expert:{learned}", self.experts["method"], settings, learned)

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([task, *self.learn]))

    def refuses(self, expert: Method) -> Iterable[str]:
        if any(True for _ in expert.wants("?")):
            yield f"{expert.name} needs cells of its own, which an expert cannot have."

    def attach(self, model: nn.Module) -> nn.Module:
        return model.requires_grad_(False)  # nothing is trained here


def task_of(role: str) -> str:
    """Return what the role of an expert names behind "expert:": the task that it has learned or, in a soup, "seed-" and
    its seed."""
    return role.removeprefix("expert:")


class Around(Method):
    """A method that trains, in its own way, what another method makes trainable.

    `train_with` is the other method: {method, and its settings}; it also decides what is saved. `sft_share` is the
    share of the steps that first train on the right answers, at the other method's learning rate; `learning_rate` is
    that of the steps after them.
    """

    # Hooks of the other method that are not forwarded, and why.
    NOT_FORWARDED: ClassVar[dict[str, str]] = {
        "variants": "this method has none",
        "space": "what is searched are this method's own settings",
        "trains": "one that trains nothing is refused",
        "own_trainer": "one with a trainer of its own is refused",
        "is_language_model": "one that leaves no language model is refused",
        "penalty": "one with a term of its own in the loss is refused",
        "wants": "one that needs other cells is refused",
        "refuses": "one that needs other cells is refused",
        "inner": "one with another method inside has a trainer of its own, and is refused",
        "distributes": "another library's trainer runs on one device",
        "wants_choices": "this method says what it learns from",
        "instead_of_quantized": "the other method says it",
    }

    inner = "train_with"
    family = "preference"
    own_trainer = True
    distributes = False

    learning_rate: float = 1e-4
    train_with: Settings = {"method": "lora"}
    sft_share: float = 0.0

    def __init__(self, **settings: object):
        super().__init__(**settings)
        self.part = method_named(**self.train_with)
        vars(self.part).update(quantize=self.quantize or self.part.quantize)
        vars(self).update(
            quantize=self.part.quantize,
            foldable=self.part.foldable,
            wraps=self.part.wraps,
            starts_at_base=self.part.starts_at_base,
            alone=self.part.alone,
            trains_quantized=self.part.trains_quantized,
        )

    @property
    def settings(self) -> Settings:
        own = dict(self.part.settings)
        if not self.sft_share:
            own.pop("learning_rate", None)  # it has no effect, so it is no part of what a cell is
        return {**super().settings, "train_with": {"method": self.part.name, **own}}

    def problems(self) -> Iterable[str]:
        part = self.part
        alone = part.own_trainer or not part.is_language_model or any(True for _ in part.wants("?"))
        if alone or not part.trains or "learning_rate" not in part.fields():
            yield f"train_with: {self.name} cannot train {part.name}. Use lora, full, or another that trains weights."
        if type(part).penalty is not Method.penalty:
            yield f"train_with: {part.name} adds a term of its own to its loss, and {self.name} has another. Use lora."
        if "learning_rate" in self.train_with and not self.sft_share:
            yield f"train_with: learning_rate is that of sft_share's steps, and there are none. Give it to {self.name}."
        if not 0 <= self.sft_share < 1:
            yield f"sft_share is {self.sft_share}; it must be at least 0 and below 1."
        yield from part.mistakes()

    def mistakes(self) -> Iterable[str]:
        return self.problems()  # the other method says what quantised weights are to it

    def cannot_train(self, train: TrainSettings) -> Iterable[str]:
        yield from self.part.cannot_train(train)
        if train.eval_every:
            yield (
                f"{self.name} has no validation loss that could be compared with others. Drop eval_every, or give this "
                "label train: {eval_every: null, early_stopping: null}."
            )
        if train.steps == 1 and self.sft_share:
            yield "steps is 1, which sft_share cannot divide. Raise steps, or drop sft_share."

    @property
    def extras(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*super().extras, *self.part.extras]))

    @property
    def serves(self) -> tuple[str, ...]:
        return self.part.serves

    @property
    def uses_data(self) -> bool:
        return self.part.uses_data

    @property
    def prepares(self) -> bool:
        return self.part.prepares

    @property
    def served_folded(self) -> bool:
        return self.part.served_folded

    @property
    def adds_up(self) -> bool:
        return self.part.adds_up

    def own_model(self) -> str | None:
        return self.part.own_model()

    def reads(self, task: str) -> tuple[str, ...]:
        return self.part.reads(task)

    def borrows(self) -> tuple[str, ...]:
        return self.part.borrows()

    def learns(self, task: str) -> tuple[str, ...]:
        return self.part.learns(task)

    def skip(self) -> str | None:
        return super().skip() or self.part.skip()

    def misfits(self, network: Network) -> Iterable[str]:
        return self.part.misfits(network)

    def matched(self, network: Network) -> Iterable[str]:
        return self.part.matched(network)

    @property
    def instruments(self) -> tuple[str, ...]:
        return self.part.instruments

    def footprint(self, network: Network) -> Footprint | None:
        return self.part.footprint(network)

    def tokens_before(self, network: Network, length: Callable[[str], int]) -> int:
        return self.part.tokens_before(network, length)

    def load(self, context: Context) -> nn.Module:
        return self.part.load(context)

    def attach(self, model: nn.Module) -> nn.Module:
        return self.part.attach(model)

    def parameter_groups(self, model: nn.Module) -> list[Group] | None:
        own = self.part.learning_rate  # type: ignore[attr-defined]
        vars(self.part).update(learning_rate=self.learning_rate)
        try:
            return self.part.parameter_groups(model)
        finally:
            vars(self.part).update(learning_rate=own)

    def rows(self, model: nn.Module, found: list[Example], context: Context) -> list[Row]:
        return self.part.rows(model, found, context)

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        self.prepare(model, context)
        return self.finish(self.pursue(model, context), context)

    def prepare(self, model: nn.Module, context: Context) -> None:
        self.part.prepare(model, context)

    def finish(self, model: nn.Module, context: Context) -> nn.Module:
        return self.part.finish(model, context)

    def pursue(self, model: nn.Module, context: Context) -> nn.Module:
        """Train what the other method has made trainable, towards this method's own goal (such as preferences), and
        return the model."""
        raise NotImplementedError

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        self.part.before_training(model, steps, seed)

    def after_step(self, model: nn.Module, step: int) -> None:
        self.part.after_step(model, step)

    def snapshot(self, model: nn.Module) -> Any:
        return self.part.snapshot(model)

    def go_back(self, model: nn.Module, snapshot: Any) -> None:
        self.part.go_back(model, snapshot)

    def predictor(self, model: nn.Module, context: Context) -> LM:
        return self.part.predictor(model, context)

    def save(self, model: nn.Module, folder: Path) -> None:
        self.part.save(model, folder)

    def restore(self, context: Context, folder: Path) -> nn.Module:
        return self.part.restore(context, folder)

    def recall(self, context: Context, folder: Path) -> None:
        self.part.recall(context, folder)

    def fold(self, model: nn.Module) -> nn.Module:
        return self.part.fold(model)

    def warmed_up(self, model: nn.Module, context: Context) -> tuple[nn.Module, dict[str, Any]]:
        """Train on the right answers for `sft_share` of the steps. Returns (the model, the training setting with what
        is left: {"steps": n} or {"epochs": x})."""
        key = "steps" if context.settings.steps else "epochs"
        whole = getattr(context.settings, key)
        first = whole * self.sft_share
        if key == "steps":
            first = min(whole - 1, max(1, round(first))) if first else 0
        if first:
            model = context.train_on(context.rows(model, context.examples()), model, self.part, {key: first})
        return model, {key: whole - first}


def method_named(method: str, **settings: object) -> Method:
    """Make a method by its name. Raises KeyError for an unknown name, and ValueError for an unknown setting."""
    from harness.methods import all_methods  # found by walking the folder of which this file is part

    made: Method = all_methods()[method](**settings)
    return made
