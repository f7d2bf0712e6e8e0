"""Curricula: on which data a model is trained, in which order; a file each, found by walking this folder.

In: a cell's tasks. Out: stages of training, with encoded rows.
"""

from __future__ import annotations

from functools import cache

from harness.curricula.base import ASIDE, Curriculum, Stage
from harness.curricula.single import Single
from harness.plugin import find_classes

__all__ = ["ASIDE", "Curriculum", "Single", "Stage", "all_curricula"]


@cache
def all_curricula() -> dict[str, type[Curriculum]]:
    """Return {name: class} for every curriculum."""
    return find_classes(__name__, __path__, Curriculum)
