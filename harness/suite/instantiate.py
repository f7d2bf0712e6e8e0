"""Settings from a file -> a method, objective or curriculum, or every mistake in them. Pure."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, create_model

from harness.errors import Problem
from harness.plugin import Configurable
from harness.records import JsonObject
from harness.suite.train_settings import accepts_bool, explain
from harness.suite.yaml_lines import Keys, Lines

T = TypeVar("T", bound=Configurable)


@cache
def model_of(kind: type[Configurable]) -> type[pydantic.BaseModel]:
    """What checks and coerces the settings of a kind. Cached: a suite that tunes asks for each value of each space."""
    fields: dict[str, Any] = {key: (annotation, getattr(kind, key)) for key, annotation in kind.annotations().items()}
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def build(kind: type[T], settings: JsonObject, lines: Lines, where: Keys) -> tuple[T | None, list[Problem]]:
    """A method, objective or curriculum with checked and coerced settings, or what is wrong with them."""
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
