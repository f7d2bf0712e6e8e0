"""Where cells run, a file or folder each; found by walking this folder. `--executor NAME` names them."""

from __future__ import annotations

from functools import cache

from harness.execute.executors.base import Executor, Progress, Running
from harness.plugin import find_classes

__all__ = ["Executor", "Progress", "Running", "all_executors"]


@cache
def all_executors() -> dict[str, type[Executor]]:
    """Every executor by name."""
    return find_classes(__name__, __path__, Executor)
