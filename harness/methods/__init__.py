"""The methods, found by walking this folder: adding a file adds a method."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from harness.methods.base import Expert, Footprint, Job, LogFloat, Method, Options

__all__ = ["Expert", "Footprint", "Job", "LogFloat", "Method", "Options", "all_methods"]


@cache
def all_methods() -> dict[str, type[Method]]:
    """Name -> class, for every named subclass of Method in this folder's files, in order of name."""
    found: dict[str, type[Method]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
                if not value.name:
                    continue
                if value.name in found:
                    raise RuntimeError(f"two methods are named {value.name!r}: {found[value.name]} and {value}")
                found[value.name] = value
    return dict(sorted(found.items()))
