"""One file adds a thing: the named classes in a package's modules."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any


def find_classes(package: str, path: Iterable[str], base: type) -> dict[str, Any]:
    """Name -> class, in order of name: every subclass of `base` with a non-empty `name`, where it is defined.

    `package` and `path` are a package's `__name__` and `__path__`; all its modules are imported.
    Raises RuntimeError when two classes have the same name.
    """
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__:
                name = getattr(value, "name", "")
                if name in found:
                    raise RuntimeError(f"two classes are named {name!r}: {found[name]} and {value}")
                if name:
                    found[name] = value
    return dict(sorted(found.items()))
