"""What a suite's `tune:` block asks for: which settings of each label are searched, by which sampler, for how long.
Pure.

In: a suite's `tune:` block and its labels. Out: the range of every setting that is searched, or the mistakes in it.

A study is the tuning of one label × model × task × data size. By default there is one, of seed 0, and the cells of all
seeds need it; with `studies: N` it is repeated with the suite's first N seeds, which share its cells among them. Its
trials are cells too: drawn and trained with the study's seed, and scored on the validation split alone. Not covered:
the cells of studies and trials (`plan/studies.py`), which setting is tried next (`plan/search.py`), and how trials are
run (`execute/studies.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import pydantic
from pydantic import ConfigDict, Field

from harness.errors import unknown
from harness.methods import JOIN, LogFloat, Method, Options
from harness.records import OBJECTIVES, TRAIN, TrainSettings
from harness.suite.instantiate import build
from harness.suite.yaml_lines import Lines

if TYPE_CHECKING:
    from harness.objectives import Objective
    from harness.suite.variants import Variant

# Training settings that may be searched; the others say what is measured, or on what.
TUNABLE = (
    "steps", "epochs", "batch_size", "gradient_accumulation", "warmup", "schedule", "weight_decay", "dropout",
    "max_grad_norm",
)  # fmt: skip
FACTOR = 30.0  # a learning rate without a range is searched this far below and above its default

# {"low", "high"} on a log scale (of whole numbers, where both ends are), or a list of values
Range = dict[str, float] | list[Any]
MOST_TRIALS = 100  # of a study whose budget is in seconds or tokens
STUDY_SEED = 0  # of a label's only study


class TuneSettings(pydantic.BaseModel):
    """A suite's `tune:` block: the same budget for every label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int | None = Field(None, ge=1, description="settings that each study tries; the label's own is the first")
    seconds: float | None = Field(
        None, gt=0, description="of all trials of a study; no trial starts when they are used up"
    )
    tokens: int | None = Field(
        None, gt=0, description="trained on in all trials of a study; no trial starts after that"
    )
    studies: int = Field(
        1, ge=1, description="how often each label is tuned, each time with another seed; 3 or more compare procedures"
    )
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = Field(
        "tpe", description="which Optuna sampler proposes settings; grid is tunebench's own"
    )
    batch: int = Field(4, ge=1, description="trials proposed at a time, from the results of the batches before")
    pruner: Literal["none", "asha", "hyperband", "median", "wilcoxon"] = Field(
        "none", description="what ends a trial that lags, by its validation scores during training"
    )
    rungs: int = Field(
        2, ge=1, le=8, description="how often a trial is scored during training, where there is a pruner"
    )
    goals: tuple[Literal["score", "retention", "memory"], ...] = Field(
        ("score",),
        min_length=1,
        description="what is searched for; with a second goal the Pareto front of both is kept",
    )
    metric: str | None = Field(None, description="the task's metric for the goal score; null: its headline")
    warm_start: bool = Field(
        False, description="begin with the best setting of the next smaller size, or of the model before"
    )
    points: int = Field(5, ge=2, description="sampler grid: values of each range")
    space: dict[str, Any] = Field(
        {}, description="setting: [values] or {low, high}, for every label that has the setting"
    )

    def complaints(self) -> Iterator[tuple[str, str]]:
        """Yield (key of `tune:`, what is wrong with its value) for settings of the block that contradict each other."""
        if self.trials is None and self.seconds is None and self.tokens is None:
            yield "trials", "tune has no budget. Give it trials, seconds or tokens."
        if len(set(self.goals)) < len(self.goals):
            yield "goals", "goals lists one twice. Remove one."
        if self.goals[0] != "score":
            yield "goals", "the first goal is score: the final setting is one of those with the best. Put it first."
        if self.goals[1:] and self.pruner != "none":
            yield "pruner", f"pruner {self.pruner} compares one score, and there are {len(self.goals)} goals. Drop it."
        if self.goals[1:] and self.sampler == "cmaes":
            yield "sampler", "cmaes seeks one goal. Take tpe, gp, random or grid."

    def study_seeds(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """Return the seed of each study of a label that learns from examples; `seeds` are the suite's. Several studies
        take the first of these, a single one `STUDY_SEED`."""
        return tuple(seeds[: self.studies]) if self.studies > 1 else (STUDY_SEED,)

    def study_seed_of(self, seed: int, seeds: Sequence[int]) -> int:
        """Return the seed of the study that chooses the setting of the cells with `seed`. The suite's `seeds` are dealt
        to its studies in turn: of three studies the first gets the first seed, the fourth, …"""
        own = self.study_seeds(seeds)
        return own[seeds.index(seed) % len(own)]

    def misfits(self, label: Variant) -> Iterator[tuple[str, str]]:
        """Yield (key of `tune:`, why this label cannot be tuned with its value) for each such key."""
        method, train = label.method, label.train
        if self.trials is None and self.seconds is None and not method.trains:
            yield "tokens", f"{method.name} trains on no tokens: a budget of tokens alone has no end. Give trials too."
        if "retention" in self.goals and not method.is_language_model:
            yield "goals", f"{method.name} is no language model and retains nothing. Give it tune: false, or one goal."
        if self.pruner != "none" and method.trains and train.devices > 1:
            yield "pruner", f"trials are scored on their way by one process, and devices is {train.devices}. Drop it."
        if self.pruner != "none" and method.trains and train.early_stopping:
            yield "pruner", "rungs are points on the way to the last step, and early_stopping keeps one. Drop either."


@dataclass(frozen=True)
class Setting:
    """A setting that may be searched: its full name ("train.steps"), its value in the label, the range that its method
    or objective suggests (None if it suggests none), and whether it takes whole numbers only."""

    name: str
    default: Any
    range: Range | None = None
    whole: bool = False


def is_whole(annotation: Any) -> bool:
    """Return whether a setting of this type takes whole numbers only."""
    kinds = set(get_args(annotation)) or {annotation}
    return int in kinds and not kinds & {float, str}


def range_of(value: LogFloat | Options) -> Range:
    """Return the range that a method or objective suggests in the form that a study stores: {"low", "high"} or a
    list."""
    if isinstance(value, LogFloat):
        return {"low": value.low, "high": value.high}
    return list(value.values)


def setting_name(name: str) -> str:
    """Return a setting's name as a suite writes it: the full name without `train.` or `objectives.` in front."""
    return name.removeprefix(f"{TRAIN}.").removeprefix(f"{OBJECTIVES}.")


def searchable_settings(label: Variant) -> dict[str, Setting]:
    """Return every setting of a label that may be searched, as {name in the suite: setting}: all of its method and
    objectives and, where the method trains, the training settings of TUNABLE."""
    found: list[Setting] = []

    def of_method(method: Method, prefix: str = "") -> None:
        for key, value in method.settings.items():
            own = method.space.get(key)
            if key == "learning_rate" and own is None and key not in type(method).space and value:
                own = LogFloat(value / FACTOR, value * FACTOR)
            whole = is_whole(method.annotations().get(key))
            found.append(Setting(prefix + key, value, range_of(own) if own else None, whole))

    if JOIN in label.method.name:
        for part in label.method.parts:  # type: ignore[attr-defined]
            of_method(part, f"{part.name}.")
    else:
        of_method(label.method)
    for objective in label.recipe.objectives:
        for key, value in objective.settings.items():
            own, whole = objective.space.get(key), is_whole(objective.annotations().get(key))
            found.append(Setting(f"{OBJECTIVES}.{objective.name}.{key}", value, range_of(own) if own else None, whole))
    if label.method.trains:
        fields = TrainSettings.model_fields
        found += [
            Setting(f"{TRAIN}.{key}", getattr(label.train, key), whole=is_whole(fields[key].annotation))
            for key in TUNABLE
        ]
    return {setting_name(setting.name): setting for setting in found}


def searched_space(label: Variant, tune: TuneSettings) -> tuple[dict[str, Range], list[tuple[str, str]]]:
    """Return what is searched for a label: ({full name: range}, [(setting, what is wrong with its range)]).

    Ranges come from three places, and later ones win: the method's own, except for settings that the label sets itself
    (the learning rate is searched nevertheless); the suite's `space:`, for settings that the label has; and the label's
    own `space:`. `null` takes a setting out of the search. A range of the method's that the label cannot take is left
    out silently.
    """
    known = searchable_settings(label)
    wrong: list[tuple[str, str]] = []
    chosen: dict[str, Range] = {}
    for key, setting in known.items():
        given = key in label.given and not key.endswith("learning_rate")
        if setting.range is not None and not given:
            found, message = checked(label, setting, setting.range)
            if not message:
                chosen[key] = found
    for block, own in ((tune.space, False), (label.space, True)):
        for key, value in block.items():
            if key not in known:
                if own:
                    wrong.append((key, unknown(f"setting to search of {label.method.name}", key, known)))
                continue
            if value is None:
                chosen.pop(key, None)
                continue
            found, message = checked(label, known[key], value)
            if message:
                wrong.append((key, f"{key}: {message}"))
            else:
                chosen[key] = found
    if {"steps", "epochs"} <= chosen.keys():
        wrong.append(("epochs", "steps and epochs are both searched, and they displace each other. Keep one."))
    return {known[key].name: chosen[key] for key in known if key in chosen}, wrong


def malformed(value: object) -> str:
    """Return what is wrong with the form of a range (a list of values, or {low, high}), or an empty string."""
    if isinstance(value, list):
        if not value:
            return "an empty list of values. Give at least one, or null."
        return "a value is listed twice. Remove one." if len({repr(one) for one in value}) < len(value) else ""
    if not isinstance(value, dict) or set(value) != {"low", "high"}:
        return f"got {value!r}, wanted a list of values, {{low: 1e-5, high: 1e-2}}, or null."
    try:
        low, high = float(value["low"]), float(value["high"])
    except (TypeError, ValueError):
        return f"got {value!r}, wanted numbers."
    if not 0 < low < high < math.inf:
        return f"low {low:g} and high {high:g}: a range on a log scale needs 0 < low < high."
    return ""


def checked(label: Variant, setting: Setting, values: Any) -> tuple[Range, str]:
    """Return (range, what is wrong with it): the range with its values coerced by the setting's type and "", or [] and
    a message. `values` is a list or {low, high}, as a suite gives it. Coercion is needed because YAML reads 1e-4 as
    text."""
    if message := malformed(values):
        return [], message
    asked = values if isinstance(values, list) else [values["low"], values["high"]]
    if not isinstance(values, list) and setting.whole and any(float(value) % 1 for value in asked):
        return [], f"got {values!r}, wanted whole numbers."
    found = []
    for value in asked:
        ends = setting.whole and not isinstance(values, list)
        made, message = taken(label, setting.name, int(float(value)) if ends else value)
        if message:
            return [], message
        found.append(made)
    if isinstance(values, list):
        return found, malformed(found)
    number: Callable[[Any], float] = int if setting.whole else float
    return {"low": number(found[0]), "high": number(found[1])}, ""


def taken(label: Variant, name: str, value: Any) -> tuple[Any, str]:
    """Return (value coerced by the type of a label's setting, why the label cannot take it); the second is "" where it
    can. `name` is the setting's full name."""
    head, _, rest = name.partition(".")
    if head == TRAIN:
        try:
            changed = label.train.changed({rest: value})
        except pydantic.ValidationError as error:
            return None, f"got {value!r}, {error.errors()[0]['msg'].replace('Input should be', 'wanted')}."
        return getattr(changed, rest), next(iter(label.recipe.refusals(changed)), "")
    if head == OBJECTIVES:
        owner, _, key = rest.partition(".")
        thing: Method | Objective = next(one for one in label.recipe.objectives if one.name == owner)
    elif JOIN in label.method.name:
        key = rest
        thing = next(part for part in label.method.parts if part.name == head)  # type: ignore[attr-defined]
    else:
        thing, key = label.method, name
    made, problems = build(type(thing), {**thing.settings, key: value}, Lines(), (label.name,))
    if made is None:
        return None, problems[0].message
    if isinstance(made, Method) and isinstance(thing, Method) and made.uses_data and not thing.uses_data:
        return None, f"with {value!r} it would learn from examples, and without it does not. Give a label of its own."
    return getattr(made, key), ""
