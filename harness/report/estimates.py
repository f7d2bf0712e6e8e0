"""Estimates the score of one row from its cells: the mean over seeds, its error, its change, and its interval. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis import RIGHT_OR_WRONG, ended, ended_badly, study_means
from harness.data import items_text
from harness.records import FailedSeeds
from harness.report.measurements import headline, joint_stderr, score_interval
from harness.store import CellRow


@dataclass(frozen=True)
class Estimate:
    """The mean of a score over seeds, and its difference from the base model's score (`gain`, None where that is not
    known), each with its standard error. `n` is the number of items."""

    value: float
    stderr: float | None
    gain: float | None
    metric: str
    higher_is_better: bool
    n: int
    gain_stderr: float | None = None
    ends: tuple[float, float] | None = None  # the ends of the 95% interval of `value`
    learned: bool = False  # the task is one that the row was trained on
    clusters: int | None = None  # of the `n` items; None where they are independent
    clustered_by: str = ""  # the column that names an item's cluster

    @property
    def clustering(self) -> str:
        """The number of items and clusters in words; "" where items are independent."""
        return items_text(self.n, self.clusters, self.clustered_by) if self.clusters else ""


def learned(cells: Sequence[CellRow], task: str) -> Estimate | None:
    """Returns the score of a task that the row was trained on, over its `cells`, marked as learned, to stand beside the
    retained tasks; None without a score."""
    found = estimate(cells, task, "task")
    return replace(found, learned=True) if found else None


def mean_change(cells: Sequence[CellRow], tasks: Sequence[str]) -> Estimate | None:
    """Returns the mean change of several retained tasks of one metric against the base model, over the `cells` of a
    row, a seed each. None where a task has no change (a row that learned it): a mean of the others would be no estimate
    of the same thing. Items of different tasks are independent, so that the variances of their changes add up."""
    gains, errors, first = [], [], None
    for cell in cells:
        scores = [score for task in tasks if (score := headline(cell, task, "retain"))]
        changes = [score.value - score.base_value for score in scores if score.base_value is not None]
        if len(changes) < len(tasks):
            return None
        first = first or scores[0]
        known = [score.change_stderr for score in scores if score.change_stderr is not None]
        gains.append(statistics.fmean(changes))
        errors.append(math.hypot(*known) / len(tasks) if len(known) == len(tasks) else None)
    if first is None:
        return None
    gains, errors = study_means(cells, gains), errors_by_study(cells, errors)
    mean, stderr = statistics.fmean(gains), joint_stderr(gains, errors)
    return Estimate(mean, stderr, mean, first.metric, first.higher_is_better, first.n, stderr)


def with_failed_seeds(
    found: Estimate | None, done: Sequence[CellRow], cells: Sequence[CellRow], how: FailedSeeds
) -> Estimate | None:
    """Returns `found`, the score over the `done` cells of a row, as it is over all seeds that ended: seeds among
    `cells` that ended badly count as the base model, or as wrong throughout (`how`; see `analysis.Fallback`). It is
    returned unchanged where no seed ended badly, or the base model's score is needed and not known."""
    well, of = ended(cells)
    scored = [(cell, score) for cell in done if (score := headline(cell, cell.task, "task"))]
    scores = [score for _, score in scored]
    bases = [score.base_value for score in scores if score.base_value is not None]
    share = bool(scores) and scores[0].metric in RIGHT_OR_WRONG
    if found is None or well == of or not scores or not (bases or (how == "worst" and share)):
        return found
    stand_in = 0.0 if how == "worst" and share else statistics.fmean(bases)
    bad = [cell for cell in cells if ended_badly(cell)]
    counted = [*(cell for cell, _ in scored), *bad]
    values = study_means(counted, [score.value for score in scores] + [stand_in] * len(bad))
    errors = [score.stderr for score in scores]
    errors += [max((error for error in errors if error is not None), default=None)] * len(bad)
    errors = errors_by_study(counted, errors)
    gains = [value - statistics.fmean(bases) for value in values] if bases else []
    return replace(
        found,
        value=statistics.fmean(values),
        stderr=joint_stderr(values, errors),
        gain=statistics.fmean(gains) if gains else None,
        gain_stderr=joint_stderr(gains, [found.gain_stderr] * len(gains)) if gains else None,
        ends=score_interval(values, errors, found.n, share, found.clusters),
    )


def estimate(cells: Sequence[CellRow], task: str, role: str, metric: str = "") -> Estimate | None:
    """Returns the headline score of a task over `cells`, a seed each, or its score by `metric`; None when no cell has
    one. `role` is "task" for a learned task, "retain" for a retained one."""
    scored = [(cell, score) for cell in cells if (score := headline(cell, task, role, metric))]
    if not scored:
        return None
    scores, own = [score for _, score in scored], [cell for cell, _ in scored]
    values = study_means(own, [score.value for score in scores])
    errors = errors_by_study(own, [score.stderr for score in scores])
    compared = [(cell, its) for cell, its in scored if its.base_value is not None and math.isfinite(its.base_value)]
    against = [cell for cell, _ in compared]
    gains = study_means(against, [its.value - (its.base_value or 0.0) for _, its in compared])
    return Estimate(
        value=statistics.fmean(values),
        stderr=joint_stderr(values, errors),
        gain=statistics.fmean(gains) if gains else None,
        metric=scores[0].metric,
        higher_is_better=scores[0].higher_is_better,
        n=scores[0].n,
        gain_stderr=joint_stderr(gains, errors_by_study(against, [its.change_stderr for _, its in compared])),
        ends=score_interval(values, errors, scores[0].n, scores[0].metric in RIGHT_OR_WRONG, scores[0].clusters),
        clusters=scores[0].clusters,
        clustered_by=scores[0].clustered_by,
    )


def errors_by_study(cells: Sequence[CellRow], errors: Sequence[float | None]) -> list[float | None]:
    """Returns the standard errors over items of the values that `study_means` makes of these cells; `errors` holds one
    for each cell. All are None where one of them is not known."""
    known = [error for error in errors if error is not None]
    means = study_means(cells, known if len(known) == len(errors) else [0.0] * len(errors))
    return [*means] if len(known) == len(errors) else [None] * len(means)
