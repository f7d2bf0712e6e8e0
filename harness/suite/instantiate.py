"""Builds methods, objectives and curricula from the names and settings of a suite file, or lists every mistake in them.
Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, create_model

from harness.errors import Problem, unknown
from harness.methods import JOIN, Composed, Expert, Method, all_methods, make_method
from harness.plugin import Configurable
from harness.records import JsonObject
from harness.suite.train_settings import accepts_bool, explain
from harness.suite.yaml_lines import Keys, Lines

T = TypeVar("T", bound=Configurable)
V = TypeVar("V")


@cache
def model_of(kind: type[Configurable]) -> type[pydantic.BaseModel]:
    """Return the pydantic model that checks and coerces the settings of a class of methods, objectives or curricula.
    Cached: a suite that tunes checks every value of every search space with it."""
    fields: dict[str, Any] = {key: (annotation, getattr(kind, key)) for key, annotation in kind.annotations().items()}
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def build(kind: type[T], settings: JsonObject, lines: Lines, where: Keys) -> tuple[T | None, list[Problem]]:
    """Build a method, objective or curriculum of the class `kind` with checked and coerced settings; return (object,
    []), or (None, mistakes).

    `where` are the keys that lead to the settings in the file; mistakes carry the line that `lines` gives for them.
    """
    model = model_of(kind)  # type: ignore[arg-type]  # a class is hashable
    fields = kind.annotations()
    problems = [
        lines.problem(f"{key}: got {value!r}, wanted a number.", *where, key)
        for key, value in settings.items()
        if isinstance(value, bool) and key in fields and not accepts_bool(fields[key])
    ]
    try:
        checked = model.model_validate(settings)
    except pydantic.ValidationError as error:
        problems += [explain(item, lines, model, where, f"setting of {kind.name}") for item in error.errors()]
    if problems:
        return None, problems
    made = kind(**{key: getattr(checked, key) for key in fields})
    for key, value in made.settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(lines.problem(f"{key}: got {value}, wanted a finite number.", *where, key))
        elif key == "learning_rate" and value <= 0:
            problems.append(lines.problem(f"learning_rate: got {value}, wanted a number above 0.", *where, key))
    label = where[1] if len(where) > 1 else where[0]
    problems += [lines.problem(f"label {label!r}: {message}", *where) for message in made.mistakes()]
    return (None if problems else made), problems


def look_up(
    what: str, name: Any, known: Mapping[str, V], lines: Lines, where: Keys, hint: str = ""
) -> tuple[V | None, list[Problem]]:
    """Look a name up in `known`; return (entry, []), or (None, [mistake]) for an unknown name. `what` is the kind of
    thing that is named and `hint` a last sentence, both for the message; `where` are the keys that lead to the name in
    the file."""
    if isinstance(name, str) and name in known:
        return known[name], []
    return None, [lines.problem(unknown(what, name, known, hint), *where)]


def build_parts(
    block: dict[str, dict[str, Any]], known: Mapping[str, type[T]], lines: Lines, where: Keys
) -> tuple[list[T], list[Problem]]:
    """Build the objectives or the curriculum of a label from {name: settings}; return (those without mistakes,
    mistakes). `known` maps each name to its class; the last of the keys `where`, "objectives" or "curriculum", says
    which of the two it is."""
    parts, problems = [], []
    for name, settings in block.items():
        kind, wrong = look_up(str(where[-1]).removesuffix("s"), name, known, lines, (*where, name))
        part, mistakes = build(kind, settings, lines, (*where, name)) if kind else (None, [])
        problems += [*wrong, *mistakes]
        parts += [part] if part else []
    return parts, problems


def build_method(
    name: Any, settings: dict[str, Any], lines: Lines, where: Keys, hint: str = ""
) -> tuple[Method | None, list[Problem]]:
    """Build the method of this name with checked and coerced settings; return (method, []), or (None, mistakes in its
    name, in its settings and in the experts that it asks for). `where` are the keys that lead to its label in the file;
    `hint` ends the message for an unknown name."""
    kind, problems = look_up("method", name, all_methods(), lines, (*where, "method"), hint)
    if kind is None:
        return None, problems
    method, problems = build_around(kind, settings, lines, where)
    if method is None:
        return None, problems
    problems = check_needs(method.wants("?"), method.refuses, lines, (*where, "experts"))
    return (None if problems else method), problems


def build_composed(
    names: list[Any], settings: dict[str, Any], lines: Lines, where: Keys
) -> tuple[Method | None, list[Problem]]:
    """Build several methods that one label uses at once, as in `method: [layerwise, prefix_tuning]`; return (method,
    []), or (None, mistakes). `settings` holds a block of settings under the name of each method; `where` are the keys
    that lead to the label."""
    kinds, problems = [], []
    for place, name in enumerate(names):
        kind, wrong = look_up("method", name, all_methods(), lines, (*where, "method", place))
        problems += wrong
        kinds += [kind] if kind else []
    named = {str(name): name for name in names}
    for name, value in settings.items():
        problems += look_up("part of the method", name, named, lines, (*where, name))[1]
        if name in named and not isinstance(value, dict):
            problems.append(lines.problem(f"{name}: got {value!r}, wanted settings or {{}}.", *where, name))
    if len(names) < 2:
        problems.append(lines.problem(f"method: got {names!r}, wanted a name, or two or more.", *where, "method"))
    if problems:
        return None, problems
    parts = []
    for kind in kinds:
        part, mistakes = build(kind, settings.get(kind.name, {}), lines, (*where, kind.name))
        problems += mistakes
        parts += [part] if part else []
    if problems:
        return None, problems
    method = Composed(parts)
    problems = [lines.problem(f"label {where[-1]!r}: {message}", *where) for message in method.mistakes()]
    return (None if problems else method), problems


def check_needs(
    wanted: Iterable[Expert], refuses: Callable[[Method], Iterable[str]], lines: Lines, where: Keys
) -> list[Problem]:
    """Return the mistakes in the other cells (experts, teachers) that a method or an objective asks for, at the line of
    the keys `where`: unknown methods, wrong settings, and the messages of `refuses`, which is called with the method of
    each of these cells."""
    problems: list[Problem] = []
    for expert in wanted:
        kind, wrong = look_up("method", expert.method, all_methods(), lines, where)
        method, mistakes = build_around(kind, expert.settings, lines, where) if kind else (None, [])
        refused = refuses(method) if method else ()
        problems += [*wrong, *mistakes, *(lines.problem(message, *where) for message in refused)]
    return list(dict.fromkeys(problems))


def build_around(
    kind: type[Method], settings: dict[str, Any], lines: Lines, where: Keys
) -> tuple[Method | None, list[Problem]]:
    """Build a method of class `kind`, after checking the settings of the method that it trains
    (`settings[kind.inner]`), if it has one; return (method, []), or (None, mistakes)."""
    block = settings.get(kind.inner)
    if not isinstance(block, dict):
        return build(kind, settings, lines, where)
    place = (*where, kind.inner)
    hint = f"The method that {kind.name} trains is named so: {kind.inner}: {{method: lora}}."
    inner, problems = look_up("method", block.get("method"), all_methods(), lines, place, hint)
    if inner is None:
        return None, problems
    given = {key: value for key, value in block.items() if key != "method"}
    method, problems = build(inner, given, lines, place)
    if method is None:
        return None, problems
    coerced = {key: method.settings[key] for key in given}
    return build(kind, {**settings, kind.inner: {"method": inner.name, **coerced}}, lines, where)


def build_expert(expert: Expert, lines: Lines, where: Keys) -> Method | None:
    """Build the method of a cell that another cell needs (an expert, a teacher); None where it has a mistake, which the
    check of the suite reports."""
    if JOIN in expert.method:
        return make_method(expert.method, expert.settings)  # a label's own method, whose settings are coerced already
    return build_method(expert.method, expert.settings, lines, where)[0]
