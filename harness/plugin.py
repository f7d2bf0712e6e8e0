"""The base class of everything that a suite names and gives settings: methods, objectives and curricula.

A class's annotated public fields are its YAML keys, with their defaults; `suite/instantiate.py` checks and coerces the
values by the annotations before an object is made.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from copy import copy
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar, TypeVar, get_type_hints

from harness.errors import unknown

Settings = dict[str, Any]  # YAML key -> its value, its default or its type
Found = TypeVar("Found")


@cache
def annotations_of(kind: type) -> Settings:
    """Return {field: type} of a class's annotated public fields, inherited ones too; a ClassVar is no field. Cached,
    because a plan needs it for each of its cells."""
    return {
        key: hint
        for key, hint in get_type_hints(kind).items()
        if not key.startswith("_") and getattr(hint, "__origin__", None) is not ClassVar
    }


class Configurable:
    """Base of methods, objectives and curricula: a named thing whose annotated public fields are its settings, given to
    the constructor by keyword. An unknown setting raises ValueError. The docstring's first line is what listings and
    the report show."""

    name: ClassVar[str] = ""
    kind: ClassVar[str] = "thing"  # as messages call it: method, objective, curriculum
    paper: ClassVar[str] = ""  # where it was published: an arXiv number, or author and year
    packages: ClassVar[tuple[str, ...]] = ()  # optional modules that it needs
    later: ClassVar[tuple[str, ...]] = ()  # settings added after results had been stored with their defaults

    def __init__(self, **settings: object):
        fields = self.fields()
        for key in settings:
            if key not in fields:
                raise ValueError(unknown(f"setting of {self.name}", key, fields))
        for key, default in fields.items():
            setattr(self, key, settings.get(key, copy(default)))

    @classmethod
    def annotations(cls) -> Settings:
        """Return {YAML key: type}, the base class's keys first."""
        return annotations_of(cls)  # type: ignore[arg-type]  # a class is hashable

    @classmethod
    def fields(cls) -> Settings:
        """Return {YAML key: default value}."""
        return {key: getattr(cls, key) for key in cls.annotations()}

    @property
    def settings(self) -> Settings:
        """The value of every setting of this object, as {YAML key: value}."""
        return {key: getattr(self, key) for key in self.fields()}

    @property
    def identity(self) -> Settings:
        """The settings that are part of a cell's identity, as {YAML key: value}.

        Settings of `later` at their defaults are left out, so that results from before them are still found.
        """
        fields = self.fields()
        return {k: value for k, value in self.settings.items() if k not in self.later or value != fields[k]}

    def problems(self) -> Iterable[str]:
        """Return a message for each thing that is wrong with this combination of settings, beyond their types;
        subclasses override it."""
        return ()

    def mistakes(self) -> Iterable[str]:
        """Return a message for everything that is wrong with these settings: `problems`, and what the base class checks
        for every kind."""
        return self.problems()

    def skip(self) -> str | None:
        """Return the reason why this object cannot run on this machine, or None. Called before a process is started;
        loads nothing."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            return f"{self.name} needs the package{'s' if missing[1:] else ''} {', '.join(missing)}"
        return None


def inside(kind: type, module: str) -> bool:
    """Return whether a class is defined in the module of this dotted name, or in a module of the package of that
    name."""
    return f"{kind.__module__}.".startswith(f"{module}.")


def find_classes(package: str, path: Iterable[str], base: type[Found]) -> dict[str, type[Found]]:
    """Return {name: class}, sorted by name, of every subclass of `base` with a non-empty `name` that the package
    defines.

    `package` and `path` are a package's `__name__` and `__path__`; all its modules are imported. Raises RuntimeError
    when two classes have the same name.
    """
    classes: dict[str, type[Found]] = {}
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, base) and inside(value, module.__name__):
                name = getattr(value, "name", "")
                if name in classes:
                    raise RuntimeError(f"two classes are named {name!r}: {classes[name]} and {value}")
                if name:
                    classes[name] = value
    return dict(sorted(classes.items()))
