"""What every curriculum is: stages of training, each on rows of its own.

A curriculum is one class in one file of this folder; without one, a cell is trained on its task, in one stage
(`single.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from harness.configurable import Configurable
from harness.methods.base import Job, LogFloat, Method, Options

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Curriculum", "Job", "LogFloat", "Method", "Options", "Stage"]

Row = dict[str, list[int]]


@dataclass(frozen=True)
class Stage:
    """One training after another: rows to learn, rows to validate on, and the share of the cell's steps it takes."""

    name: str
    rows: list[Row] = field(repr=False)
    validation: list[Row] = field(default_factory=list, repr=False)
    share: float = 1.0


class Curriculum(Configurable):
    """On which data, in which order. Annotated public fields are the YAML keys, with their defaults."""

    kind = "curriculum"
    space: ClassVar[dict[str, Any]] = {}  # what tuning may move
    scores_stages: ClassVar[bool] = False  # True: every learned task is scored after each stage

    # --- planning: pure, no torch ---

    def refuses(self, method: Method, train: Any) -> Iterable[str]:
        """Why it does not go with a method or with training settings (`settings.TrainSettings`)."""
        return ()

    def learns(self, task: str) -> tuple[str, ...]:
        """The tasks that are learned, and scored in the end; the first is the suite's."""
        return (task,)

    def reads(self, task: str) -> tuple[str, ...]:
        """Other tasks whose training text it reads, without being scored on them."""
        return ()

    # --- working: inside the worker's process ---

    def stages(self, model: nn.Module, job: Job) -> list[Stage]:
        """The stages, in order, with encoded rows. `model` is attached; it says how its scorer encodes."""
        raise NotImplementedError
