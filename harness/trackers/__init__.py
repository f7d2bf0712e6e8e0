"""A run in other experiment trackers as well, a file each, found by walking this folder.

In: results of cells. Out: runs in MLflow, Weights & Biases, ….
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from harness.errors import UserError, unknown
from harness.plugin import find_classes
from harness.trackers.base import Mirror
from harness.trackers.process import Mirrors

__all__ = ["Mirror", "Mirrors", "all_mirrors", "open_mirrors"]


@cache
def all_mirrors() -> dict[str, type[Mirror]]:
    """Every mirror by name."""
    return find_classes(__name__, __path__, Mirror)


def open_mirrors(names: Iterable[str], warn: Callable[[str], None]) -> Mirrors:
    """The mirrors of these names, not begun yet. `warn` is told, once, of each that stops working.

    Raises UserError, with every mistake: a name that is unknown, a client that is missing or too old.
    """
    known, kinds, problems = all_mirrors(), [], []
    for name in dict.fromkeys(names):
        if name not in known:
            problems.append(unknown("mirror", name, known))
        elif reason := known[name].skip():
            problems.append(reason)
        else:
            kinds.append(known[name])
    if problems:
        raise UserError("\n".join(problems))
    return Mirrors(kinds, warn)
