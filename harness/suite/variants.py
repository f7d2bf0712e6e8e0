"""One entry of a suite's `methods:` -> a `Label`, or every mistake in it: methods, objectives and curricula with
checked and coerced settings.

Not covered: the rest of a suite (`suite.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pydantic

from harness.curricula import all_curricula
from harness.errors import Problem, unknown
from harness.methods import JOIN, Composed, Expert, Method, all_methods, make_method
from harness.objectives import all_objectives
from harness.plugin import Configurable
from harness.records import TrainSettings
from harness.suite.instantiate import build
from harness.suite.recipe import Recipe
from harness.suite.train_settings import check_checkpoints, check_devices, check_optimizer, check_train, merge_train
from harness.suite.yaml_lines import Lines

BASE = "base"


@dataclass(frozen=True)
class Label:
    """A row of the report: a recipe with a name, and how it is trained."""

    name: str
    recipe: Recipe
    train: TrainSettings
    tuned: bool = True  # where the suite tunes: False leaves this one as it is
    space: Mapping[str, Any] = field(default_factory=dict, compare=False)  # its own ranges: what tuning may move
    given: frozenset[str] = field(default=frozenset(), compare=False)  # what the suite sets, which tuning leaves alone

    @property
    def method(self) -> Method:
        return self.recipe.method


def read_label(
    name: str, settings: Any, suite_train: dict[str, Any], lines: Lines
) -> tuple[Label | None, list[Problem]]:
    """One entry of `methods:`: {method, train, objectives, curriculum, and the method's own settings}."""
    where = ("methods", name)
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        return None, [lines.problem(f"label {name!r}: got {settings!r}, wanted settings or {{}}.", *where)]
    settings = dict(settings)
    method_name = settings.pop("method", name)
    own_train = settings.pop("train", {}) or {}
    tuned, space = settings.pop("tune", True), settings.pop("space", None) or {}
    given = names_given(settings, own_train)
    objectives, problems = read_parts(settings.pop("objectives", None), all_objectives(), lines, (*where, "objectives"))
    for part in objectives:
        problems += check_needs(part.wants("?"), part.refuses_need, lines, (*where, "objectives", part.name))
    curricula, found = read_parts(settings.pop("curriculum", None), all_curricula(), lines, (*where, "curriculum"))
    problems += found
    if curricula[1:]:
        problems.append(lines.problem("a label has one curriculum. Keep one.", *where, "curriculum"))
    if not isinstance(tuned, bool):
        how = "how is told once, in the suite's own tune"
        problems.append(lines.problem(f"tune: got {tuned!r}, wanted true or false; {how}.", *where, "tune"))
    if not isinstance(space, dict):
        problems.append(lines.problem(f"space: got {space!r}, wanted setting: [values].", *where, "space"))
    incomplete = bool(problems)
    if isinstance(method_name, list):
        method, found = build_composed(method_name, settings, lines, where)
    elif method_name not in all_methods():
        hint = "" if method_name != name else f"A label of your own names its method: {name}: {{method: lora}}."
        return None, [*problems, lines.problem(unknown("method", method_name, all_methods(), hint), *where, "method")]
    elif name == BASE and (method_name != BASE or settings or own_train or objectives or curricula or space):
        return None, [
            lines.problem("base is the untouched model, with no settings: every gain is measured from it. "
                          "Give the other row a name of its own (base-nf4: {method: base, quantize: nf4}).", *where)
        ]  # fmt: skip
    else:
        method, found = build_method(method_name, settings, lines, where)
    problems += found
    if not isinstance(own_train, dict):
        problems.append(lines.problem(f"train: got {own_train!r}, wanted settings.", *where, "train"))
        own_train = {}
    problems += check_train(own_train, lines, (*where, "train"), suite_train)
    train = None
    try:
        train = TrainSettings.model_validate(merge_train(suite_train, own_train))
    except pydantic.ValidationError:
        pass  # already reported, at the block it stands in
    if not (method and train) or incomplete:
        return None, problems
    place = next(((*path, key) for path, block in (((*where, "train"), own_train), (("train",), suite_train))
                  for key in ("strategy", "devices") if key in block), where)  # fmt: skip
    problems += [
        lines.problem(f"label {name!r}: {message}", *(where if place[0] == "train" else place))
        for message in check_devices(method, train)
    ]
    block = (*where, "train") if "optimizer" in own_train else ("train",)
    problems += [
        lines.problem(f"label {name!r}: {message}", *block, "optimizer") for message in check_optimizer(method, train)
    ]
    block = (*where, "train") if "checkpoints" in own_train else ("train",)
    problems += [
        lines.problem(f"label {name!r}: {message}", *block, "checkpoints")
        for message in check_checkpoints(method, train)
    ]
    recipe = Recipe(method, tuple(objectives), curricula[0] if curricula else None)
    problems += [lines.problem(f"label {name!r}: {message}", *where) for message in recipe.refusals(train)]
    return Label(name, recipe, train, tuned, space, given), problems


def names_given(settings: Mapping[str, Any], train: Any) -> frozenset[str]:
    """The names, as `tuning.settings_of` knows them, of what an entry sets itself."""
    inner = {f"{part}.{key}" for part, block in settings.items() if isinstance(block, dict) for key in block}
    beside = settings.get("objectives")
    for name, block in beside.items() if isinstance(beside, dict) else ():
        inner |= {f"{name}.{key}" for key in (block if isinstance(block, dict) else ())}
    return frozenset(map(str, [*settings, *inner, *(train if isinstance(train, dict) else ())]))


T = TypeVar("T", bound=Configurable)


def read_parts(
    block: Any, known: dict[str, type[T]], lines: Lines, where: tuple[Any, ...]
) -> tuple[list[T], list[Problem]]:
    """Objectives or a curriculum: a name, or {name: settings}."""
    if block is None:
        return [], []
    if isinstance(block, str):
        block = {block: {}}
    if not isinstance(block, dict):
        return [], [lines.problem(f"{where[-1]}: got {block!r}, wanted a name, or name: {{settings}}.", *where)]
    made, problems = [], []
    for name, settings in block.items():
        if name not in known:
            problems.append(lines.problem(unknown(where[-1].removesuffix("s"), name, known), *where, name))
        elif settings is not None and not isinstance(settings, dict):
            problems.append(lines.problem(f"{name}: got {settings!r}, wanted settings or {{}}.", *where, name))
        else:
            part, found = build(known[name], settings or {}, lines, (*where, name))
            problems += found
            made += [part] if part else []
    return made, problems


def build_composed(
    names: list[Any], settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[Method | None, list[Problem]]:
    """Several methods at once: `method: [layerwise, prefix_tuning]`, with settings under each one's name."""
    known, problems, parts = all_methods(), [], []
    for place, name in enumerate(names):
        if name not in known:
            problems.append(lines.problem(unknown("method", name, known), *where, "method", place))
    for name, value in settings.items():
        if name not in names:
            problems.append(lines.problem(unknown("part of the method", name, list(map(str, names))), *where, name))
        elif not isinstance(value, dict):
            problems.append(lines.problem(f"{name}: got {value!r}, wanted settings or {{}}.", *where, name))
    if len(names) < 2:
        problems.append(lines.problem(f"method: got {names!r}, wanted a name, or two or more.", *where, "method"))
    if problems:
        return None, problems
    for name in names:
        part, found = build(known[name], settings.get(name, {}), lines, (*where, name))
        problems += found
        parts += [part] if part else []
    if problems:
        return None, problems
    method = Composed(parts)
    problems = [lines.problem(f"label {where[-1]!r}: {message}", *where) for message in method.mistakes()]
    return (None if problems else method), problems


def build_method(
    name: str, settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[Method | None, list[Problem]]:
    """A method with checked and coerced settings, or what is wrong with them and with the experts it asks for."""
    if JOIN in name:
        return make_method(name, settings), []  # of a label that has been checked
    settings, problems = with_inner(all_methods()[name], settings, lines, where)
    if problems:
        return None, problems
    method, problems = build(all_methods()[name], settings, lines, where)
    if method is None:
        return None, problems
    problems = check_needs(method.wants("?"), method.refuses, lines, (*where, "experts"))
    return (None if problems else method), problems


def check_needs(
    wanted: Iterable[Expert],
    refuses: Callable[[Method], Iterable[str]],
    lines: Lines,
    where: tuple[Any, ...],
) -> list[Problem]:
    """What is wrong with the cells that a method or an objective asks for."""
    problems: list[Problem] = []
    for expert in wanted:
        if expert.method not in all_methods():
            problems.append(lines.problem(unknown("method", expert.method, all_methods()), *where))
            continue
        given, found = with_inner(all_methods()[expert.method], expert.settings, lines, where)
        made = None
        if not found:
            made, found = build(all_methods()[expert.method], given, lines, where)
        refused = refuses(made) if made else ()
        problems += [*found, *(lines.problem(message, *where) for message in refused)]
    return list(dict.fromkeys(problems))


def with_inner(
    kind: type[Method], settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[dict[str, Any], list[Problem]]:
    """A method's settings with those of the method inside it checked and coerced, or what is wrong with these."""
    block = settings.get(kind.inner)
    if not isinstance(block, dict):
        return settings, []
    place = (*where, kind.inner)
    name = block.get("method")
    if name not in all_methods():
        hint = f"The method that {kind.name} trains is named so: {kind.inner}: {{method: lora}}."
        return settings, [lines.problem(unknown("method", name, all_methods(), hint), *place)]
    given = {key: value for key, value in block.items() if key != "method"}
    made, problems = build(all_methods()[name], given, lines, place)
    if made is None:
        return settings, problems
    return {**settings, kind.inner: {"method": name, **{key: made.settings[key] for key in given}}}, []
