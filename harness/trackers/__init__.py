"""Reports a run to other experiment trackers as well. Each tracker is a file of this folder, found by walking it.

In: results of cells. Out: runs in MLflow, Weights & Biases, ….
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from harness.errors import UserError, unknown
from harness.plugin import find_classes
from harness.trackers.base import Tracker
from harness.trackers.process import TrackerGroup

__all__ = ["Tracker", "TrackerGroup", "all_trackers", "open_trackers"]


@cache
def all_trackers() -> dict[str, type[Tracker]]:
    """Returns every tracker class by name."""
    return find_classes(__name__, __path__, Tracker)


def open_trackers(names: Iterable[str], warn: Callable[[str], None]) -> TrackerGroup:
    """Returns the trackers of these names as one group, not begun yet; `warn` is called with a sentence when a tracker
    stops working, once for each.

    Raises UserError with every mistake at once: an unknown name, a client that is missing or too old.
    """
    known, kinds, problems = all_trackers(), [], []
    for name in dict.fromkeys(names):
        if name not in known:
            problems.append(unknown("tracker", name, known))
        elif reason := known[name].skip():
            problems.append(reason)
        else:
            kinds.append(known[name])
    if problems:
        raise UserError("\n".join(problems))
    return TrackerGroup(kinds, warn)
