"""Reads one entry of a suite's `methods:` into a `Variant`, or lists every mistake in it.

First its form is checked (`VariantFile`), then the method, objectives and curriculum that it names, with checked and
coerced settings, and whether these can be combined. Not covered: the rest of a suite (`load.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from harness.curricula import all_curricula
from harness.errors import Problem
from harness.methods import Method
from harness.objectives import all_objectives
from harness.records import TrainSettings
from harness.suite.instantiate import build_composed, build_method, build_parts, check_needs
from harness.suite.recipe import Recipe
from harness.suite.train_settings import (
    check_checkpoints,
    check_devices,
    check_optimizer,
    check_train,
    explain,
    merge_train,
)
from harness.suite.yaml_lines import Keys, Lines

BASE = "base"
BASE_IS_BARE = (
    "base is the base model, with no settings: every gain is measured from it. "
    "Give the other row a name of its own (base-nf4: {method: base, quantize: nf4})."
)


def mapping(wanted: str) -> BeforeValidator:
    """Return a validator that accepts a mapping, and turns an empty value into {}; `wanted` is what its message asks
    for."""

    def check(value: Any) -> Any:
        if value is not None and not isinstance(value, dict):
            raise PydanticCustomError("wanted", f"Input should be {wanted}")
        return value or {}

    return BeforeValidator(check)


def named(value: Any) -> Any:
    """Turn a bare name into {name: {}}; return anything else unchanged."""
    return {value: {}} if isinstance(value, str) else value


def true_or_false(value: Any) -> Any:
    """Return a boolean as it is; raise a validation error for anything else."""
    if not isinstance(value, bool):
        raise PydanticCustomError("wanted", "Input should be true or false; how is told once, in the suite's own tune")
    return value


Settings = Annotated[dict[str, Any], mapping("settings or {}")]
Parts = Annotated[dict[str, Settings], mapping("a name, or name: {settings}"), BeforeValidator(named)]


class VariantFile(pydantic.BaseModel):
    """One entry of `methods:` as written. Keys that are not fields here are settings of the method or, with several
    methods, blocks of settings under the name of each."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: Any = Field(None, description="the method, or a list of two or more; without it, the label names it")
    train: Annotated[dict[str, Any], mapping("settings")] = Field({}, description="over the suite's train")
    tune: Annotated[bool, BeforeValidator(true_or_false)] = Field(True, description="false: the suite's tune leaves it")
    space: Annotated[dict[str, Any], mapping("setting: [values]")] = Field(
        {}, description="setting: values or {low, high}, in place of what its method says may move"
    )
    objectives: Parts = Field({}, description="what is minimised beside the task's loss")
    curriculum: Parts = Field({}, description="on which data, in which order")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the method: the keys of the entry that are not fields of this class."""
        return dict(self.model_extra or {})

    def names_given(self) -> frozenset[str]:
        """Return the names of all settings that the entry sets itself, as the keys of `searchable_settings`; tuning
        leaves these alone."""
        blocks = {part: block for part, block in self.settings.items() if isinstance(block, dict)}
        inner = {f"{part}.{key}" for part, block in {**blocks, **self.objectives}.items() for key in block}
        beside = {key for key in ("objectives", "curriculum") if key in self.model_fields_set}
        return frozenset(map(str, {*self.settings, *inner, *self.train, *beside}))


@dataclass(frozen=True)
class Variant:
    """A row of the report: a label's name, its recipe (method, objectives, curriculum), and its training settings,
    those of the suite overridden by its own."""

    name: str
    recipe: Recipe
    train: TrainSettings
    tuned: bool = True  # False: not tuned, even where the suite tunes
    space: Mapping[str, Any] = field(default_factory=dict, compare=False)  # the label's own search ranges
    given: frozenset[str] = field(default=frozenset(), compare=False)  # what the suite sets, which tuning leaves alone

    @property
    def method(self) -> Method:
        """The recipe's method."""
        return self.recipe.method


def read_variant(
    name: str, entry: Any, suite_train: dict[str, Any], lines: Lines
) -> tuple[Variant | None, list[Problem]]:
    """Read the entry of the label `name` under `methods:`, as YAML reads it; return (variant, mistakes). The variant is
    None where the mistakes leave nothing usable. `suite_train` is the suite's `train:` block."""
    where: Keys = ("methods", name)
    if entry is not None and not isinstance(entry, dict):
        return None, [lines.problem(f"label {name!r}: got {entry!r}, wanted settings or {{}}.", *where)]
    file, problems = read_form(entry or {}, lines, where)
    objectives, found = build_parts(file.objectives, all_objectives(), lines, (*where, "objectives"))
    problems += found
    for part in objectives:
        problems += check_needs(part.wants("?"), part.refuses_need, lines, (*where, "objectives", part.name))
    curricula, found = build_parts(file.curriculum, all_curricula(), lines, (*where, "curriculum"))
    problems += found
    if curricula[1:]:
        problems.append(lines.problem("a label has one curriculum. Keep one.", *where, "curriculum"))
    incomplete = bool(problems)
    method, found = read_method(name, file, lines, where)
    problems += found
    problems += check_train(file.train, lines, (*where, "train"), suite_train)
    try:
        train = TrainSettings.model_validate(merge_train(suite_train, file.train))
    except pydantic.ValidationError:
        return None, problems  # already reported, at the block it stands in
    if method is None or incomplete:
        return None, problems
    recipe = Recipe(method, tuple(objectives), curricula[0] if curricula else None)
    problems += check_together(name, recipe, train, file.train, suite_train, lines)
    return Variant(name, recipe, train, file.tune, file.space, file.names_given()), problems


def read_form(entry: dict[str, Any], lines: Lines, where: Keys) -> tuple[VariantFile, list[Problem]]:
    """Check the keys of one entry of `methods:`, to which the keys `where` lead; return (entry, mistakes). Wrong keys
    are left out of the entry."""
    odd = [key for key in entry if not isinstance(key, str)]
    problems = [
        lines.problem(f"key {key!r}: a setting's name is a text. Quote it, or remove it.", *where) for key in odd
    ]
    entry = {key: value for key, value in entry.items() if isinstance(key, str)}
    try:
        return VariantFile.model_validate(entry), problems
    except pydantic.ValidationError as error:
        problems += [explain(item, lines, VariantFile, where) for item in error.errors()]
        wrong = {item["loc"][0] for item in error.errors()}
        return VariantFile.model_validate({key: value for key, value in entry.items() if key not in wrong}), problems


def read_method(name: str, file: VariantFile, lines: Lines, where: Keys) -> tuple[Method | None, list[Problem]]:
    """Build the method that an entry names, or that its label `name` names where it has no `method:`; return (method,
    []), or (None, mistakes). `where` are the keys that lead to the entry."""
    method_name = name if file.method is None else file.method
    if isinstance(method_name, list):
        return build_composed(method_name, file.settings, lines, where)
    if name == BASE and (method_name != BASE or file.model_fields_set - {"method", "tune"}):
        return None, [lines.problem(BASE_IS_BARE, *where)]
    hint = "" if method_name != name else f"A label of your own names its method: {name}: {{method: lora}}."
    return build_method(method_name, file.settings, lines, where, hint)


def check_together(
    name: str,
    recipe: Recipe,
    train: TrainSettings,
    own_train: dict[str, Any],
    suite_train: dict[str, Any],
    lines: Lines,
) -> Iterator[Problem]:
    """Yield a problem for each combination in the label `name` that cannot run, at the line of the training setting
    that asks for it.

    `train` are the settings that it is trained with; `own_train` and `suite_train`, the `train:` blocks of label and
    suite, are only searched for that line.
    """
    where: Keys = ("methods", name)

    def line_of(*keys: str) -> Keys:
        blocks = (((*where, "train"), own_train), (("train",), suite_train))
        return next(((*path, key) for path, block in blocks for key in keys if key in block), where)

    checks = (
        (check_devices(recipe.method, train), line_of("strategy", "devices")),
        (check_optimizer(recipe.method, train), line_of("optimizer")),
        (check_checkpoints(recipe.method, train), line_of("checkpoints")),
        (recipe.refusals(train), where),
    )
    for messages, place in checks:
        for message in messages:
            yield lines.problem(f"label {name!r}: {message}", *place)
