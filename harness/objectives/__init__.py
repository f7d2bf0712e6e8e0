"""What is minimised besides the task's loss, found by walking this folder: adding a file adds an objective."""

from __future__ import annotations

from functools import cache

from harness.discovery import find_classes
from harness.objectives.base import Batch, Objective

__all__ = ["Batch", "Objective", "all_objectives"]


@cache
def all_objectives() -> dict[str, type[Objective]]:
    """Every objective by name."""
    return find_classes(__name__, __path__, Objective)
