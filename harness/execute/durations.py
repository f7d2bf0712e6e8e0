"""Estimates how many seconds a cell will take, from similar cells that have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

from harness.records import Cell

Kind = tuple[str, str, str, int]  # method, model, task, number of training examples
START_SECONDS = 4.0  # of a cell that no model makes longer: its process, its data (measured on two CPU cores)


def kind_of(cell: Cell) -> Kind:
    """Returns what the duration of a cell goes by."""
    return cell.method, cell.model, cell.task, cell.n_train


class Durations:
    """Expected seconds of cells, from the mean of the most similar finished attempts.

    `history` has (method, model, task, n_train, mean seconds) of finished attempts. `parameters` maps models to their
    numbers of parameters: where nothing of a model was measured, the seconds of others are scaled by them.
    """

    def __init__(
        self,
        history: Iterable[tuple[str, str, str, int, float]] = (),
        parameters: Mapping[str, float] | None = None,
    ):
        self.history = list(history)
        self.parameters = dict(parameters or {})
        seconds_by_likeness: dict[tuple[object, ...], list[float]] = defaultdict(list)
        self.by_method: dict[str, list[tuple[str, float]]] = defaultdict(list)  # method -> (model, seconds)
        for method, model, task, n_train, seconds in self.history:
            self.by_method[method].append((model, seconds))
            for like in self._like(method, model, task, n_train):
                seconds_by_likeness[like].append(seconds)
        self.means = {like: fmean(values) for like, values in seconds_by_likeness.items()}

    def seconds(self, cell: Cell) -> float | None:
        """Returns the mean seconds of the most similar cells (same method, model, task and size, else the same in fewer
        of these, scaled to the model's size where it is another one); None where no cell of the method has finished."""
        return self.seconds_of(kind_of(cell))

    def seconds_of(self, kind: Kind) -> float | None:
        """Returns the expected seconds of a cell of this kind, as `seconds` does."""
        for like in self._like(*kind)[:3]:
            if like in self.means:
                return self.means[like]
        method, model, *_ = kind
        if method not in self.by_method:
            return None
        return fmean(self.scaled(seconds, other, model) for other, seconds in self.by_method[method])

    def scaled(self, seconds: float, of: str, to: str) -> float:
        """Returns the seconds that a cell of the model `of` took, for the model `to`: in proportion to their
        parameters, but for the start, which all cells have. As they are where either size is not known."""
        if not (self.parameters.get(of) and self.parameters.get(to)):
            return seconds
        start = min(seconds, START_SECONDS)
        return start + (seconds - start) * self.parameters[to] / self.parameters[of]

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
