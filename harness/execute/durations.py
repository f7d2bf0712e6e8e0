"""Estimates how many seconds a cell will take, from similar cells that have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from harness.records import Cell


class Durations:
    """Expected seconds of cells, from the mean of the most similar finished attempts.

    `history` has (method, model, task, n_train, mean seconds) of finished attempts.
    """

    def __init__(self, history: Iterable[tuple[str, str, str, int, float]] = ()):
        seconds_by_likeness: dict[tuple[object, ...], list[float]] = defaultdict(list)
        for method, model, task, n_train, seconds in history:
            for like in self._like(method, model, task, n_train):
                seconds_by_likeness[like].append(seconds)
        self.means = {like: fmean(values) for like, values in seconds_by_likeness.items()}

    def seconds(self, cell: Cell) -> float | None:
        """Returns the mean seconds of the most similar cells (same method, model, task and size, else the same in fewer
        of these); None where no cell of the method has finished."""
        for like in self._like(cell.method, cell.model, cell.task, cell.n_train)[:-1]:
            if like in self.means:
                return self.means[like]
        return None

    def sort_key(self, cell: Cell) -> float:
        """Returns expected seconds to sort cells by. Where no cell of the method has finished, it is the mean of all
        cells (1 without any), halved for cells that are scored without training."""
        known = self.seconds(cell)
        if known is not None:
            return known
        return self.means.get((), 1.0) * (1.0 if cell.n_train else 0.5)

    @staticmethod
    def _like(method: str, model: str, task: str, n_train: int) -> list[tuple[object, ...]]:
        """Returns what cells are looked up by, from most to least similar; the last stands for any cell at all."""
        return [(method, model, task, n_train), (method, model, task), (method, model), (method,), ()]
