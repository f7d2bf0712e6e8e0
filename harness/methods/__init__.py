"""Ways of adapting a model, a file each, found by walking this folder.

In: a base model and what the worker lends. Out: an adapted model, and what lm-eval scores of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from harness.methods.base import (
    Answers,
    Context,
    Expert,
    Footprint,
    LogFloat,
    Method,
    Options,
    Row,
    Settings,
    Space,
)
from harness.methods.composed import JOIN, Composed
from harness.plugin import find_classes

__all__ = [
    "JOIN",
    "Answers",
    "Composed",
    "Context",
    "Expert",
    "Footprint",
    "LogFloat",
    "Method",
    "Options",
    "Row",
    "Settings",
    "Space",
    "all_methods",
    "make_method",
]


@cache
def all_methods() -> dict[str, type[Method]]:
    """Return {name in suites: class} for every method in this folder."""
    return find_classes(__name__, __path__, Method)


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Make a method with settings, as a cell names it; "layerwise+prefix_tuning" is composed of two methods.

    Raises KeyError for an unknown name, and ValueError for an unknown setting.
    """
    if JOIN in name:
        return Composed([make_method(part, settings[part]) for part in name.split(JOIN)])
    return all_methods()[name](**settings)
