"""How a suite has its labels tuned: what is searched, by which sampler, for how long. Pure.

In: a suite's `tune:` block and its labels. Out: what a study's cell says (`Cell.study`), and the cells of its trials.

A study is the tuning of one label × model × task × data size; it has no seed of its own, and the cells of all seeds
need it. Its trials are cells too: drawn with seed 0, and scored on the validation split alone. Not covered: which
setting is tried next (`tune.py`), and how trials are run (`execute/studies.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import ConfigDict, Field

from harness.build import build
from harness.errors import unknown
from harness.identity import spec_digest, what
from harness.lines import Lines
from harness.methods import JOIN, LogFloat, Method, Options, make_method
from harness.records import Cell, digest
from harness.settings import TrainSettings

if TYPE_CHECKING:
    from harness.labels import Label

SEED = 0  # draws a trial's examples and its training: a study has no seed of its own
TRAIN, OBJECTIVES = "train", "objectives"
# Training settings that may be searched; the others say what is measured, or on what.
TUNABLE = (
    "steps", "epochs", "batch_size", "gradient_accumulation", "warmup", "schedule", "weight_decay", "dropout",
    "max_grad_norm",
)  # fmt: skip
FACTOR = 30.0  # a learning rate without a range is searched this far below and above its default
EDGE = 0.05  # share of a range (of its logarithm) that counts as its edge

Range = dict[str, float] | list[Any]  # {"low", "high"} on a log scale, or a list of values


class TuneSettings(pydantic.BaseModel):
    """A suite's `tune:` block: the same budget for every label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int | None = Field(None, ge=1, description="settings that each study tries; the label's own is the first")
    seconds: float | None = Field(None, gt=0, description="of a study's trials: none is begun when they are used up")
    tokens: int | None = Field(None, gt=0, description="that a study's trials train on: none is begun after so many")
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = Field("tpe", description="Optuna's")
    batch: int = Field(4, ge=1, description="trials asked for at a time, from the results of those before")
    pruner: Literal["none", "asha", "hyperband", "median", "wilcoxon"] = Field(
        "none", description="what ends a trial that lags behind, by its validation scores on the way"
    )
    rungs: int = Field(2, ge=1, le=8, description="how often a trial is scored on its way, where there is a pruner")
    goals: tuple[Literal["score", "retention", "memory"], ...] = Field(
        ("score",), min_length=1, description="what is sought; with a second goal the front of both is kept"
    )
    metric: str | None = Field(None, description="of the task, for the goal score; None: its headline")
    warm_start: bool = Field(False, description="begin with the best setting of the next smaller size, or model")
    points: int = Field(5, ge=2, description="sampler grid: values of each range")
    space: dict[str, Any] = Field({}, description="setting: [values] or {low, high}, for every label that has it")

    def complaints(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) with this combination."""
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


@dataclass(frozen=True)
class Setting:
    """A setting that may be searched: its full name, its value in the label, and its kind's own range (if any)."""

    name: str
    default: Any
    range: Range | None = None


def as_range(value: Any) -> Range:
    """A method's own `LogFloat` or `Options` as a study keeps it."""
    if isinstance(value, LogFloat):
        return {"low": value.low, "high": value.high}
    assert isinstance(value, Options)
    return list(value.values)


def short(name: str) -> str:
    """A setting's name as a suite writes it: without the block that it stands in."""
    return name.removeprefix(f"{TRAIN}.").removeprefix(f"{OBJECTIVES}.")


def settings_of(label: Label) -> dict[str, Setting]:
    """Every setting of a label that may be searched, by the name that a suite gives it."""
    found: list[Setting] = []

    def of_method(method: Method, prefix: str = "") -> None:
        for key, value in method.settings.items():
            own = method.space.get(key)
            if key == "learning_rate" and own is None and key not in type(method).space and value:
                own = LogFloat(value / FACTOR, value * FACTOR)
            found.append(Setting(prefix + key, value, as_range(own) if own else None))

    if JOIN in label.method.name:
        for part in label.method.parts:  # type: ignore[attr-defined]
            of_method(part, f"{part.name}.")
    else:
        of_method(label.method)
    for objective in label.recipe.objectives:
        for key, value in objective.settings.items():
            own = objective.space.get(key)
            found.append(Setting(f"{OBJECTIVES}.{objective.name}.{key}", value, as_range(own) if own else None))
    if label.method.trains:
        found += [Setting(f"{TRAIN}.{key}", getattr(label.train, key)) for key in TUNABLE]
    return {short(setting.name): setting for setting in found}


def space_of(label: Label, tune: TuneSettings) -> tuple[dict[str, Range], list[tuple[str, str]]]:
    """What is searched for a label, {full name: range}, and (setting, what is wrong) of the label's own `space:`.

    Its method's own ranges, without what the label sets itself (the learning rate is searched nevertheless); then those
    of the suite's `space:` for settings that it has; then those of its own. `null` takes a setting out.
    """
    known = settings_of(label)
    wrong: list[tuple[str, str]] = []
    chosen: dict[str, Range] = {}
    for key, setting in known.items():
        given = key in label.given and not key.endswith("learning_rate")
        if setting.range is not None and not given and not any(clashes(label, setting.name, setting.range)):
            chosen[key] = setting.range
    for block, own in ((tune.space, False), (label.space, True)):
        for key, value in block.items():
            if key not in known:
                if own:
                    wrong.append((key, unknown(f"setting to search of {label.method.name}", key, known)))
                continue
            if value is None:
                chosen.pop(key, None)
                continue
            if message := malformed(value):
                wrong.append((key, f"{key}: {message}"))
                continue
            if messages := list(clashes(label, known[key].name, value)):
                wrong.append((key, f"{key}: {messages[0]}"))
                continue
            chosen[key] = value
    return {known[key].name: chosen[key] for key in known if key in chosen}, wrong


def malformed(value: Any) -> str:
    """Why a range is none, or ""."""
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


def clashes(label: Label, name: str, values: Range) -> Iterator[str]:
    """Why some value of a range cannot be given to a label."""
    for value in values if isinstance(values, list) else (float(values["low"]), float(values["high"])):
        head, _, rest = name.partition(".")
        if head == TRAIN:
            try:
                changed = TrainSettings.model_validate(with_train(label.train.model_dump(), rest, value))
            except pydantic.ValidationError as error:
                yield f"got {value!r}, {error.errors()[0]['msg'].replace('Input should be', 'wanted')}."
            else:
                yield from label.recipe.refusals(changed)
            continue
        if head == OBJECTIVES:
            owner, _, key = rest.partition(".")
            thing: Any = next(one for one in label.recipe.objectives if one.name == owner)
        elif JOIN in label.method.name:
            key = rest
            thing = next(part for part in label.method.parts if part.name == head)  # type: ignore[attr-defined]
        else:
            thing, key = label.method, name
        _, problems = build(type(thing), {**thing.settings, key: value}, Lines(), (label.name,))
        yield from (problem.message for problem in problems)


def with_train(train: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Training settings with one changed; steps and epochs displace each other."""
    other = {"steps": "epochs", "epochs": "steps"}.get(key)
    return {**train, key: value, **({other: None} if other else {})}


def with_settings(cell: Cell, params: Mapping[str, Any]) -> Cell:
    """A cell with some settings (by full name) changed; its identity stays that of the cell as it was planned."""
    settings, train, objectives = dict(cell.settings), dict(cell.train), dict(cell.objectives)
    for name, value in params.items():
        head, _, rest = name.partition(".")
        if head == TRAIN:
            train = with_train(train, rest, value)
        elif head == OBJECTIVES:
            owner, _, key = rest.partition(".")
            objectives[owner] = {**objectives[owner], key: value}
        elif rest:
            settings[head] = {**settings[head], rest: value}
        else:
            settings[name] = value
    return replace(cell, settings=settings, train=train, objectives=objectives)


def study_of(label: Label, tune: TuneSettings, cell: Cell) -> Cell | None:
    """The study that a label's cell (of seed `SEED`) needs, or None where there is nothing to search.

    `search` names what is searched and how, not for how long: the sampler is seeded by it, so a study with a larger
    budget begins with the trials of the smaller one.
    """
    space, _ = space_of(label, tune)
    if not space:
        return None
    defaults = {setting.name: setting.default for setting in settings_of(label).values()}
    how: dict[str, Any] = {
        "space": coerced(space),
        "default": {name: defaults[name] for name in space},
        "goals": list(tune.goals),
        "metric": tune.metric,
        **tune.model_dump(include={"sampler", "batch", "pruner", "rungs", "points"}),
    }
    retain = cell.retain if "retention" in tune.goals else ()
    key = f"{cell.key}/study"
    study = replace(cell, key=key, seed=None, baseline="", retain=retain[:1], study=how, spec_digest="")
    names = {*study.learn, *study.retain, *study.reads, "model", *(f"model:{name}" for name in study.borrows)}
    study = replace(study, fingerprints={name: value for name, value in study.fingerprints.items() if name in names})
    budget = tune.model_dump(include={"trials", "seconds", "tokens"})
    study = replace(study, study={**how, "search": digest(what(study)), **budget})
    return replace(study, spec_digest=spec_digest(study))


def coerced(space: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges with their bounds as numbers: YAML reads `1e-4` as text. Of a list, what looks like a number is one."""

    def number(value: Any) -> Any:
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    return {
        name: [number(value) for value in found]
        if isinstance(found, list)
        else {key: float(value) for key, value in found.items()}
        for name, found in space.items()
    }


def trial_of(study: Cell, number: int, params: Mapping[str, Any]) -> Cell:
    """The cell of a trial. It is what its settings are, so that the same setting is run once; where trials are ended
    early by comparing them with others, it is the trial of its study."""
    how = study.study
    pruned = {} if how["pruner"] == "none" else {**{k: how[k] for k in ("search", "pruner", "rungs")}, "number": number}
    cell = with_settings(study, params)
    cell = replace(
        cell,
        key=f"{study.key}/t{number:02d}",
        seed=SEED if make_method(cell.method, cell.settings).uses_data else None,
        needs=study.loads,
        study={},
        trial={"scored": "validation", "goals": how["goals"], "metric": how["metric"], **pruned},
    )
    return replace(cell, spec_digest=spec_digest(cell))


def at_edge(value: Any, space: Range) -> str:
    """At which end of its range a chosen value lies, low or high, beyond which the best may be; empty at none."""
    if isinstance(space, list):
        numbers = sorted(one for one in space if isinstance(one, int | float) and not isinstance(one, bool))
        if len(numbers) < 3 or len(numbers) < len(space) or value not in numbers:
            return ""
        return "low" if value == numbers[0] else "high" if value == numbers[-1] else ""
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        return ""
    place = math.log(value / space["low"]) / math.log(space["high"] / space["low"])
    return "low" if place < EDGE else "high" if place > 1 - EDGE else ""
