"""Says at which of two ends a measurement between them is: as in the old environment, or as in the new one. Pure.

A measurement is projected on the way from the old end's mean to the new end's. Packages that make half of a difference
each are on the old side alone and on the new side together, so that both are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from harness.analysis.delta_debugging import Toggled

# A median between these shares of the way is on neither side: chance, or another package's part.
UNDECIDED = (0.4, 0.6)
Array = NDArray[np.float64]


def side(old: Iterable[Array], between: Iterable[Array], new: Iterable[Array]) -> Toggled:
    """Returns on which side measurements `between` two environments are; "unresolved" where that is not clear, or where
    the two ends do not differ. A measurement is a vector: the values of items, or the logarithm of one cost."""
    first, second = mean(old), mean(new)
    middle = list(between)
    if first is None or second is None or not middle or any(one.shape != first.shape for one in (second, *middle)):
        return Toggled.UNRESOLVED
    way = second - first
    length = float(way @ way)
    if not length > 0 or not math.isfinite(length):
        return Toggled.UNRESOLVED
    share = float(np.median([(one - first) @ way / length for one in middle]))
    if math.isnan(share) or UNDECIDED[0] < share < UNDECIDED[1]:
        return Toggled.UNRESOLVED
    return Toggled.NEW if share > 0.5 else Toggled.OLD


def mean(vectors: Iterable[Array]) -> Array | None:
    """Returns the mean of vectors; None of none, or of such as have different lengths."""
    several = list(vectors)
    if not several or len({one.shape for one in several}) > 1:
        return None
    return np.asarray(np.mean(several, axis=0), dtype=np.float64)
