"""Finds the differences between two environments that cells can show again, and reads on which side of each a
combination of packages is. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.cost_ratios import value_of
from harness.analysis.delta_debugging import Toggled
from harness.analysis.ends import Array, side
from harness.analysis.regression.records import Change, Regression
from harness.analysis.regression.scores import Values, headlines_of
from harness.store import CellRow


@dataclass(frozen=True)
class Difference:
    """A difference between two environments that cells can show again: of a `label`, in a `metric` (a score or a cost),
    measured on the cells with the digests `specs`. `timed`: the machine's speed changes it, so that it is measured by
    turns. `failure`: the cells end well in one environment alone."""

    label: str
    metric: str
    specs: tuple[str, ...]
    cost: bool = False
    timed: bool = False
    failure: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What differs, of what."""
        return self.label, self.metric


def differences(results: Regression) -> list[Difference]:
    """Returns the differences that are shown between two environments, each on one cell that shows it best: of every
    label that moved by itself, and of what all labels share on the label that shows it most clearly."""
    found: dict[tuple[str, str, bool], Difference] = {}
    for metric in results.metrics:
        cost = metric.role == "cost"
        moved = [change for change in metric.labels if change.answer == "different"]
        if metric.pattern.shape == "everything" or (not moved and shown(metric.everything)):
            moved = sorted(metric.labels, key=lambda change: change.p_alone)[:1]
        for change in moved:
            own = [cell for cell in metric.cells if cell.label == change.name and cell.missing is None]
            if own:
                best = min(own, key=lambda cell: cell.p_alone)
                one = Difference(change.name, metric.metric, (best.spec_digest,), cost, metric.timed)
                found.setdefault((*one.key, False), one)
        for cell in metric.cells:
            if cell.answer == "cannot run there" and cell.missing in ("old", "new"):
                one = Difference(cell.label, "ends well", (cell.spec_digest,), failure=True)
                found.setdefault((cell.label, "", True), one)
    return list(found.values())


def shown(change: Change | None) -> bool:
    """Returns whether a difference is shown."""
    return change is not None and change.answer == "different"


def side_of(difference: Difference, rows: Sequence[Sequence[CellRow]], values: Values) -> Toggled:
    """Returns on which side of a difference a combination is. `rows` are the attempts of (the old environment, the
    combination, the new environment), `values` the items of their headline scores."""
    own = [[row for row in each if row.spec_digest in difference.specs] for each in rows]
    done = [[row for row in each if row.status == "done"] for each in own]
    if difference.failure:
        if not own[1]:
            return Toggled.UNRESOLVED
        old, now = bool(done[0]), bool(done[1])
        return Toggled.OLD if old == now else Toggled.NEW
    return side(*([vector for row in each if (vector := vector_of(difference, row, values)) is not None]
                  for each in done))  # fmt: skip


def vector_of(difference: Difference, row: CellRow, values: Values) -> Array | None:
    """Returns an attempt's measurement of what differs, as a vector; None where it has none."""
    if difference.cost:
        value = value_of(row, difference.metric)
        return None if value is None or value <= 0 else np.array([math.log(value)])
    numbers: list[float] = []
    for score in headlines_of(row):
        if score.metric == difference.metric:
            items: Mapping[str, float] = values.get((row.attempt_id, score.task, score.metric), {})
            numbers += [items[doc] for doc in sorted(items)] or [score.value]
    return np.array(numbers) if numbers else None
