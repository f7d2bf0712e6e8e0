"""The executors, which run cells on this machine or a cluster: a file or folder each, found by walking this folder.
`--executor NAME` names them."""

from __future__ import annotations

from functools import cache
from typing import Any

from harness.execute.executors.base import Executor
from harness.execute.running import Progress, Running
from harness.plugin import find_classes

__all__ = ["Executor", "Progress", "Running", "all_executors"]


@cache
def all_executors() -> dict[str, type[Executor[Any, Any]]]:
    """Returns every executor class by name."""
    return find_classes(__name__, __path__, Executor)  # type: ignore[type-abstract]
