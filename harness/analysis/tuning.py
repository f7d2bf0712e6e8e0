"""Says what a tuned label stands for: the one setting that its study chose, or, with several studies, the procedure.

A study chooses by noisy validation scores, so another one may choose another setting. Cells of several seeds that were
trained with the choice of one study show nothing of that: they are repeats of this setting. Where each of several
studies has a seed of its own, the spread between the seeds holds the spread between the studies, and the label is
compared as a procedure. Seeds that share one of several studies count once, by their mean. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.store import CellRow
from harness.suite import setting_name

STUDY_FAILED = "failed"  # the status of a study of which no trial ended well
MOST_SETTINGS = 3  # named in a sentence; the others are counted


@dataclass(frozen=True)
class Tuning:
    """How a label was tuned. `studies` is the number of studies that its cells were trained by, 0 where it was not
    tuned; `setting` names what the only study chose, such as "learning_rate 0.0013", "" with several studies."""

    studies: int = 0
    setting: str = ""

    @property
    def few(self) -> bool:
        """Whether there are two studies, which may choose alike by chance: their spread says nothing of others."""
        return self.studies == 2

    def name(self, label: str) -> str:
        """Returns a label as a sentence on its score names it: "lora as tuned (learning_rate 0.0013)" where there is
        one study, else the label itself."""
        if self.studies != 1:
            return label
        return f"{label} as tuned" + (f" ({self.setting})" if self.setting else "")

    def remark(self, label: str) -> str:
        """Says, in a sentence without its full stop, what a verdict on a tuned label holds for; "" without tuning."""
        if self.studies == 1:
            return f"{self.name(label)}: this setting, one study; another study may choose another"
        return f"{label}: the tuned procedure, over {self.studies} studies" if self.studies else ""


UNTUNED = Tuning()


def tuning_of(cells: Iterable[CellRow]) -> Tuning:
    """Returns how a label was tuned, from its cells in one table. A study counts that has chosen for a cell, or has
    failed; cells that wait for theirs count for nothing."""
    known = {cell.study: cell.tuned for cell in cells if cell.study and (cell.tuned or failed_study(cell))}
    return Tuning(len(known), setting_text(next(iter(known.values()))) if len(known) == 1 else "")


def failed_study(cell: CellRow) -> bool:
    """Whether no trial of a cell's study ended well, so that the cell could not be trained."""
    return cell.status == "skipped" and cell.study_status == STUDY_FAILED


def setting_text(params: Mapping[str, object]) -> str:
    """Returns settings by full name as text, the learning rate first: "learning_rate 0.0013, rank 8". Beyond
    `MOST_SETTINGS` they are only counted; those with the value None are left out."""
    names = sorted(params, key=lambda name: not name.endswith("learning_rate"))
    told = [f"{setting_name(name)} {value_text(params[name])}" for name in names if params[name] is not None]
    more = len(told) - MOST_SETTINGS
    return ", ".join([*told[:MOST_SETTINGS], *([f"and {more} more"] if more > 0 else [])])


def value_text(value: object) -> str:
    """Returns the value of a setting as text, a float with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def study_groups(cells: Sequence[CellRow]) -> list[list[int]]:
    """Groups the places (indices) of a label's cells that count as one in a comparison: those trained with the choice
    of the same study, where there are several studies; else each cell by itself."""
    by_study: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        by_study.setdefault(cell.study, []).append(place)
    known = len(by_study) > 1 and "" not in by_study
    return list(by_study.values()) if known else [[place] for place in range(len(cells))]


def study_means(cells: Sequence[CellRow], values: Sequence[float]) -> list[float]:
    """Returns `values`, one for each of a label's cells, as they count in a comparison: those of cells that share one
    of several studies are averaged, all others stay as they are."""
    return [math.fsum(values[place] for place in group) / len(group) for group in study_groups(cells)]
