"""Holds what is known of each label while a suite is being decided: scores of single items, seed by seed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness.analysis.stats.contrast import Arm
from harness.analysis.stats.p_best import Runner
from harness.data import independent_units

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array


@dataclass(frozen=True)
class LabelEvidence:
    """The scores of one label so far. `values` are [seeds][items], in the order in which the suite lists its seeds, for
    as many of the first seeds as have ended; empty before the first. All labels share their items.

    `most` is how many seeds the suite has for the label. Without `seeded` the label scores the same again and is known
    after one cell. `ruled_out` says which limit it breaks; it can then be neither the answer nor a rival.
    """

    label: str
    values: Sequence[Sequence[float]] = ()
    most: int = 1
    seeded: bool = True
    ruled_out: str = ""

    @cached_property
    def array(self) -> Array:
        """The values [seeds, items]."""
        import numpy

        return numpy.asarray(self.values, dtype=float)

    @cached_property
    def mean(self) -> float:
        """The mean score over the seeds that have ended; of a tried label."""
        return float(self.array.mean())

    @property
    def seeds(self) -> int:
        """The number of seeds that have ended; for a label that does not vary with its seed, `most` after one."""
        return len(self.values) if self.seeded or not self.values else self.most

    @property
    def repeated(self) -> bool:
        """Whether its spread between seeds is known: two seeds or more, or none needed."""
        return bool(self.values) and (not self.seeded or len(self.values) > 1)

    @property
    def open(self) -> bool:
        """Whether the suite has a further cell of it that may change what is known."""
        return not self.ruled_out and (not self.values or (self.seeded and len(self.values) < self.most))


@dataclass(frozen=True)
class Evidence:
    """What is known of all labels of a suite, for one model, task and size. `clusters` are those of the items, () where
    items are independent. `margin` is the difference of scores that does not matter."""

    labels: tuple[LabelEvidence, ...]
    margin: float
    higher_is_better: bool = True
    clusters: tuple[str, ...] = ()

    @cached_property
    def fitting(self) -> tuple[LabelEvidence, ...]:
        """The labels that no limit rules out."""
        return tuple(each for each in self.labels if not each.ruled_out)

    @cached_property
    def tried(self) -> tuple[LabelEvidence, ...]:
        """The fitting labels of which at least one cell has been scored."""
        return tuple(each for each in self.fitting if each.values)

    @cached_property
    def most(self) -> int:
        """The largest number of seeds that a label may have."""
        return max((each.most for each in self.labels if each.seeded), default=1)

    @cached_property
    def runners(self) -> dict[str, Runner]:
        """The tried labels as `p_best.leads` takes them."""
        runners = {}
        for each in self.tried:
            arm = Arm(each.values, each.seeded, tuple(range(len(each.values))), self.clusters)
            runners[each.label] = Runner(self.merit(each), arm, None, self.higher_is_better, each.repeated)
        return runners

    @cached_property
    def floor(self) -> float:
        """The lowest score of any seed of any label, ruled out or not, signed so that more is better."""

        sign = 1.0 if self.higher_is_better else -1.0
        return min(
            (float((sign * each.array.mean(axis=1)).min()) for each in self.labels if each.values),
            default=float("inf"),
        )  # fmt: skip

    def merit(self, one: LabelEvidence) -> float:
        """Returns the mean score of a tried label, signed so that more is better."""
        return one.mean if self.higher_is_better else -one.mean

    @cached_property
    def bounded(self) -> bool:
        """Whether all values of the tried labels lie between 0 and 1."""
        return all(each.array.min() >= 0 and each.array.max() <= 1 for each in self.tried)

    def rows(self, one: LabelEvidence, seeds: int) -> Array:
        """Returns the values [seeds, units] of the first `seeds` seeds of a label, signed so that more is better; units
        are items, or clusters where items come in these. A label without seeds has the same row for each."""
        import numpy

        rows = one.array[:seeds] if one.seeded else numpy.repeat(one.array[:1], seeds, axis=0)
        rows = rows if self.higher_is_better else -rows
        return numpy.asarray(independent_units(rows, self.clusters) if self.clusters else rows, dtype=float)
