"""Where cells run, a file each; found by walking this folder. `--executor NAME` names them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from harness.execute.executors.base import Executor


@cache
def all_executors() -> dict[str, type[Executor]]:
    """Every executor by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found: list[type[Executor]] = Executor.__subclasses__()
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.name)}


__all__ = ["Executor", "all_executors"]
