"""Expected seconds of a cell, from similar ones that have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from harness.records import Cell


class Durations:
    """Expected seconds of a cell, from the mean of the most similar finished attempts.

    `history`: (method, model, task, n_train, mean seconds) of those.
    """

    def __init__(self, history: Iterable[tuple[str, str, str, int, float]] = ()):
        seconds_by_likeness: dict[tuple[object, ...], list[float]] = defaultdict(list)
        for method, model, task, n_train, seconds in history:
            for like in self._like(method, model, task, n_train):
                seconds_by_likeness[like].append(seconds)
        self.means = {like: fmean(values) for like, values in seconds_by_likeness.items()}

    def seconds(self, cell: Cell) -> float | None:
        """Mean seconds of the most similar cells: same method, model, task and size, else fewer of these; or None."""
        for like in self._like(cell.method, cell.model, cell.task, cell.n_train)[:-1]:
            if like in self.means:
                return self.means[like]
        return None

    def sort_key(self, cell: Cell) -> float:
        """Seconds to sort by; where nothing is known, training is taken to be longer than scoring alone."""
        known = self.seconds(cell)
        if known is not None:
            return known
        return self.means.get((), 1.0) * (1.0 if cell.n_train else 0.5)

    @staticmethod
    def _like(method: str, model: str, task: str, n_train: int) -> list[tuple[object, ...]]:
        """From near to far: the last is any cell at all."""
        return [(method, model, task, n_train), (method, model, task), (method, model), (method,), ()]
