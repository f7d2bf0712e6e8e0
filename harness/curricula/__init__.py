"""On which data a model is trained, in which order; found by walking this folder: adding a file adds a curriculum."""

from __future__ import annotations

from functools import cache

from harness.curricula.base import Curriculum, Stage
from harness.discovery import find_classes

__all__ = ["Curriculum", "Stage", "all_curricula"]


@cache
def all_curricula() -> dict[str, type[Curriculum]]:
    """Every curriculum by name."""
    return find_classes(__name__, __path__, Curriculum)
