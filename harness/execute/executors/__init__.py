"""Where cells run, a file each; found by walking this folder. `--executor NAME` names them."""

from __future__ import annotations

from functools import cache

from harness.discovery import find_classes
from harness.execute.executors.base import Executor

__all__ = ["Executor", "all_executors"]


@cache
def all_executors() -> dict[str, type[Executor]]:
    """Every executor by name."""
    return find_classes(__name__, __path__, Executor)
