"""Lets methods be probed under an older peft, whose configurations lack settings that a newer one has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import wraps
from typing import Any

DROPPED = "settings that this version does not know"


def drop_unknown_settings() -> None:
    """Make every configuration of the installed peft leave out settings that it does not know, instead of failing, and
    note their names. For probes alone: a cell has to have the settings that its suite names."""
    from peft import PeftConfig

    kinds: set[type[Any]] = {PeftConfig, *descendants(PeftConfig)}
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and "__init__" in vars(kind):
            make_tolerant(kind)


def descendants(kind: type[Any]) -> Iterator[type[Any]]:
    """Yield every class that is derived from a class, at any depth."""
    for below in kind.__subclasses__():
        yield below
        yield from descendants(below)


def make_tolerant(kind: type[Any]) -> None:
    """Let one configuration's class leave out what it does not know."""
    known = {one.name for one in dataclasses.fields(kind)}
    init: Any = kind.__init__

    @wraps(init)
    def tolerant(self: Any, *values: Any, **settings: Any) -> None:
        init(self, *values, **{name: value for name, value in settings.items() if name in known})
        vars(self)[DROPPED] = sorted(settings.keys() - known)

    kind.__init__ = tolerant


def dropped_by(config: Any) -> list[str]:
    """Returns the names of the settings that a configuration has left out."""
    return list(vars(config).get(DROPPED, ()))
