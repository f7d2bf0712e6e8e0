"""Reads figures off one stored cell, and joins figures of several seeds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from harness.analysis.stats import Reference
from harness.records import OWN_CHECK
from harness.store import CellRow, StoredScore

PEAK = "peak"
THROUGHOUT = ("process", "weights")
# Phase -> the parts of predicted memory that it adds to those of THROUGHOUT.
ADDED = {"load": ("loading",), "train": ("gradients", "optimizer", "activations"), "evaluate": ("scoring",)}


def headline(cell: CellRow, task: str, role: str, metric: str = "") -> StoredScore | None:
    """Returns the first score that a cell has on a task, or its score by `metric`; None where there is none, or it is
    not finite. `role` is "task" for a learned task and "retain" for a retained one: a learned task does not count as
    retained."""
    found = (score for score in cell.scores if score.task == task and score.role == role)
    score = next((score for score in found if not metric or score.metric == metric), None)
    return score if score and math.isfinite(score.value) else None


def average(cell: CellRow) -> float | None:
    """Returns the mean headline of all tasks that a cell learned; None for one task, or tasks of different metrics."""
    found = [score for task in cell.learn if (score := headline(cell, task, "task"))]
    if len(found) < 2 or len({score.metric for score in found}) > 1:
        return None
    return statistics.fmean(score.value for score in found)


def joint_stderr(values: Sequence[float], item_errors: Sequence[float | None]) -> float | None:
    """Returns the standard error of the mean of `values`, the scores of seeds on the same items, from the error of each
    over the items: sqrt(mean(item stderr²) + var(seeds) / seeds). None when an item error is unknown.

    Averaging over seeds shrinks the spread between seeds, but not the error that the shared items make.
    """
    known = [error for error in item_errors if error is not None]
    if len(known) < len(values) or not values:
        return None
    variance = statistics.fmean(error**2 for error in known)
    if len(values) > 1:
        variance += statistics.variance(values) / len(values)
    return math.sqrt(variance)


def score_interval(
    values: Sequence[float],
    item_errors: Sequence[float | None],
    items: int,
    share: bool,
    clusters: int | None = None,
) -> tuple[float, float] | None:
    """Returns the ends of the 95% interval of the mean of `values`, the scores of seeds on the same items (so many
    `items`), from the error of each over the items; None when one of these is unknown.

    `share`: each item is right or wrong. With one seed the interval is that of the items alone. `clusters` is how many
    the items come in, None where they are independent; the errors are then clustered.
    """
    known = [error for error in item_errors if error is not None]
    if len(known) < len(values) or not values:
        return None
    of_items, mean = statistics.fmean(error**2 for error in known), statistics.fmean(values)
    of_seeds = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
    seeds = ((of_seeds,), (len(values) - 1,)) if of_seeds else ((), ())
    drawn = clusters or items
    independent = items if 0 < mean < 1 else drawn  # where all are right, nothing tells items of a cluster apart
    return Reference(of_items, max(drawn - 1, 1), *seeds).around(mean, independent * len(values) if share else 0)


def tokens_per_second(cell: CellRow) -> float | None:
    """Returns training tokens per second: as measured without warm-up, else over the whole training phase; None where
    unknown."""
    phase = cell.phases.get("train", {})
    if "tokens_per_second" in cell.facts:
        return cell.facts["tokens_per_second"]
    return phase["tokens"] / phase["seconds"] if phase.get("tokens") and phase["seconds"] else None


def peak_bytes(cell: CellRow) -> float | None:
    """Returns the peak memory of training, in bytes: the device's on a GPU, else resident memory. Scoring, which has
    larger batches, is left out. None for a cell that was not trained."""
    phase = cell.phases.get("train", {})
    return next((float(phase[c]) for c in ("device_bytes", "rss_bytes") if phase.get(c) is not None), None)


def train_energy(cell: CellRow) -> float | None:
    """Returns the joules of a cell's training; None where they were not measured."""
    return cell.phases.get("train", {}).get("energy_j")


def trainable_share(cell: CellRow) -> float | None:
    """Returns the share of a cell's parameters that were trained, 0 to 1; None where their number is not known."""
    total = cell.facts.get("total_params")
    return cell.facts.get("trainable_params", 0.0) / total if total else None


def memory(cells: Sequence[CellRow]) -> dict[str, tuple[float, float]]:
    """Returns phase -> (predicted, measured) bytes of a row's finished cells; the highest measured over seeds. The
    phase PEAK is the highest of all but the phase in which tunebench checks its own work. Phases without a prediction
    are left out."""
    found: dict[str, tuple[float, float]] = {}
    for cell in cells:
        measured = {phase: value for phase, values in cell.phases.items() if (value := held(values)) is not None}
        if measured:
            own = {phase: value for phase, value in measured.items() if phase != OWN_CHECK}
            measured[PEAK] = max(own.values(), default=0.0)
        for phase, value in measured.items():
            predicted = prediction(cell.facts, phase)
            if predicted:
                found[phase] = (predicted, max(value, found.get(phase, (0.0, 0.0))[1]))
    return found


def held(phase: Mapping[str, float]) -> float | None:
    """Returns the bytes that a phase took: what torch allocated on a GPU, else resident memory; None where not
    measured."""
    return next((phase[kind] for kind in ("allocated_bytes", "rss_bytes") if phase.get(kind) is not None), None)


def prediction(facts: dict[str, float], phase: str) -> float | None:
    """Returns the predicted bytes of a phase (or of `PEAK`), from the facts of a cell; None where its parts are not
    known, as in results that are older than these facts."""
    if phase == PEAK:
        return facts.get("predicted_bytes")
    names = [f"predicted_{part}_bytes" for part in (*THROUGHOUT, *ADDED.get(phase, ()))]
    known = phase in ADDED and all(name in facts for name in names)
    return sum(facts[name] for name in names) if known else None


def mean_facts(cells: Sequence[CellRow]) -> dict[str, float]:
    """Returns fact -> its mean over the cells that have it."""
    names = dict.fromkeys(name for cell in cells for name in cell.facts)
    return {name: statistics.fmean(cell.facts[name] for cell in cells if name in cell.facts) for name in names}


def mean_curve(cells: Sequence[CellRow]) -> list[tuple[int, float]]:
    """Returns (step, cross-entropy of the training answers) for each step, averaged over seeds; steps without a finite
    value are left out."""
    by_step: dict[int, list[float]] = {}
    for cell in cells:
        for step, split, loss in cell.losses:
            if split == "train" and loss is not None and math.isfinite(loss):
                by_step.setdefault(step, []).append(loss)
    return [(step, statistics.fmean(losses)) for step, losses in sorted(by_step.items())]
