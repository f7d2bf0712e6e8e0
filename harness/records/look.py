"""A look: what was known of a suite at one moment while it was being decided, and what came next."""

from __future__ import annotations

from typing import TypedDict

from harness.records.reading import Count, Moment, Name, Seconds


class LookRecord(TypedDict):
    """A look at one model and task of a suite, as a line of a run's looks file holds it.

    `seconds` are since the run began, `time` is in ISO 8601. `sure` is the confidence that was asked for, `confidence`
    the one reached that nothing is better than the `answer` by more than the `margin` (None where none can be stated).
    `state` is "open" while cells are chosen, else why no more are: "settled", "out of reach", "exhausted" or "out of
    time". `chances` maps labels to the probability of being the best, `seeds` to how many seeds count, `out` maps
    labels that are shown to be worse to the label that shows it, `ruled_out` labels to the limit that they break.
    `reach` is the chance that the whole suite would settle it (None: not known yet). `cells` counts those that were
    done by then, `next` is the key of the cell that comes next ("" for none), with its expected seconds."""

    time: Moment
    seconds: Seconds
    suite: Name
    model: Name
    task: Name
    n_train: Count
    sure: float
    margin: float
    state: Name
    answer: str
    confidence: float | None
    chances: dict[str, float]
    seeds: dict[str, Count]
    out: dict[str, str]
    ruled_out: dict[str, str]
    reach: float | None
    cells: Count
    next: str
    next_seconds: Seconds
