"""Objectives: terms that are minimised besides the task's loss, a file each, found by walking this folder.

In: a batch and the model's outputs. Out: terms of the loss.
"""

from __future__ import annotations

from functools import cache

from harness.objectives.base import Batch, Objective
from harness.plugin import find_classes

__all__ = ["Batch", "Objective", "all_objectives"]


@cache
def all_objectives() -> dict[str, type[Objective]]:
    """Return {name in suites: class} for every objective in this folder."""
    return find_classes(__name__, __path__, Objective)
