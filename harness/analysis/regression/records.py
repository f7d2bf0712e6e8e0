"""What the comparison of two environments comes to, as frozen records: changes, and the pattern that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.stats.intervals import Interval
from harness.records import quantity

# "cannot run there": every attempt of one environment failed, so that there is no value.
Answer = Literal["same", "different", "cannot tell", "cannot run there"]
Level = Literal["cell", "label", "everything"]
# Whose attempts failed: those of the old environment, of the new one, or of both.
Side = Literal["old", "new", "both"]
Shape = Literal["nothing", "everything", "everything but", "only", "cannot tell"]

# Differences that do not matter, unless the caller names others: of a score, and relative ones of memory and time.
SCORE_MARGIN, MEMORY_MARGIN, TIME_MARGIN = 0.01, 0.02, 0.05


@dataclass(frozen=True)
class Change:
    """What the new environment is to the old one: for one cell, for a label (the mean of its cells), or for everything
    (the mean of the labels).

    `effect` is new minus old for a score, and for a cost how many times the new one is the old one (`relative`); None
    where nothing could be compared. `interval` is a 95% one, None where the spread is not known. `p` is corrected for
    all changes of one metric that are judged together, `p_alone` is not; `p_same` is that of "they differ by less than
    the margin". `better` says which way a change goes: None where neither direction is better or nothing changed.
    `identical`: every value is the same on both sides, which needs no test. `missing` says whose attempts failed.
    `cells` counts the cells behind it, `items` the items (0: no values of single items), `repeats` the pairs of
    repeats of a cost. `remarks` are sentences without a full stop.
    """

    level: Level
    name: str  # the cell's key, the label, or "" for everything
    metric: str
    answer: Answer
    margin: float
    label: str = ""
    where: str = ""  # a cell's task, model and size in words
    spec_digest: str = ""  # of a cell
    effect: float | None = None
    interval: Interval | None = None
    p: float = 1.0
    p_alone: float = 1.0
    p_same: float = 1.0
    better: bool | None = None
    relative: bool = False
    points: bool = False  # the score is a share, which is told in points of a hundred
    identical: bool = False
    missing: Side | None = None
    reason: str = ""
    cells: int = 0
    items: int = 0
    repeats: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether the new environment is shown to be worse: by a difference, or because it cannot run the cell."""
        if self.answer == "cannot run there":
            return self.missing == "new"
        return self.answer == "different" and self.better is False

    @property
    def negligible(self) -> bool:
        """Whether a difference is shown that is also shown to be smaller than the margin: the answer is "same"."""
        return self.answer == "same" and not self.identical and self.p < 0.05

    @property
    def effect_text(self) -> str:
        """The effect in words, such as "−1.7 points", "+0.031" or "1.2 ×"; "" where there is none."""
        return effect_text(self.effect, self.relative, self.points)


@dataclass(frozen=True)
class Pattern:
    """What moved, as a whole: the axis or single methods.

    `shape`: "everything" moved by a common `effect` (new - old, or a ratio), "everything but" the `labels` moved,
    "only" the `labels` moved, "nothing" moved (every label is the same), or "cannot tell". `sentence` says it in words,
    without a full stop. `down` and `up` count the labels by the direction of their values, whether shown or not.
    """

    shape: Shape
    sentence: str
    labels: tuple[str, ...] = ()
    effect: float | None = None
    interval: Interval | None = None
    p: float = 1.0
    down: int = 0
    up: int = 0


@dataclass(frozen=True)
class MetricChanges:
    """All that one metric, or one cost, says of two environments. `everything` pools the labels, and is None where
    fewer than two could be compared. P-values are corrected for all of `cells`, `labels` and `everything` together
    (`families.weighted_holm`). `role` is "task" or "retain" for scores, "cost" for costs; `timed`: a cost that the
    machine's speed changes."""

    metric: str
    role: str
    margin: float
    pattern: Pattern
    cells: tuple[Change, ...] = ()
    labels: tuple[Change, ...] = ()
    everything: Change | None = None
    timed: bool = False

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes: of everything, of labels, of cells."""
        return (*((self.everything,) if self.everything else ()), *self.labels, *self.cells)

    @property
    def worse(self) -> bool:
        """Whether anything is shown to be worse."""
        return any(change.worse for change in self.changes)


@dataclass(frozen=True)
class Regression:
    """The comparison of an `old` environment with a `new` one (their digests) over the cells of equal spec digest:
    scores and costs, a `MetricChanges` each. `only_old` and `only_new` are keys of cells that one alone attempted."""

    old: str
    new: str
    metrics: tuple[MetricChanges, ...] = ()
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether anything is shown to be worse."""
        return any(metric.worse for metric in self.metrics)

    @property
    def different(self) -> tuple[Change, ...]:
        """Every change that is shown, and every cell that one of the two cannot run."""
        return tuple(
            change
            for metric in self.metrics
            for change in metric.changes
            if change.answer in ("different", "cannot run there")
        )


def effect_text(effect: float | None, relative: bool, points: bool) -> str:
    """Returns an effect in words: in points of a hundred, as a difference, or as a ratio; "" for None."""
    if effect is None:
        return ""
    if relative:
        return f"{effect:.3g} ×"
    text = f"{100 * effect:+.1f} points" if points else f"{effect:+.3g}"
    return text.replace("-", "−")


def share_text(share: float) -> str:
    """Returns a relative difference in words: 0.05 is "5%"."""
    return quantity(share, "share")


def named(names: Sequence[str], most: int = 6) -> str:
    """Joins names to "a, b and c": the first `most` of them, then how many more there are."""
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def with_remarks(change: Change, *remarks: str) -> Change:
    """Returns a change with further remarks."""
    return replace(change, remarks=(*change.remarks, *filter(None, remarks)))
