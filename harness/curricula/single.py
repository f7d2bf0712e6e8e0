"""Training on one task, in one stage: what is done where a suite names no curriculum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.curricula.base import Context, Curriculum, Method, Stage, TrainSettings

if TYPE_CHECKING:
    from torch import nn


class Single(Curriculum):
    """The cell's task alone, in one stage."""

    name = "single"

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        return ()

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return one stage: the cell's own task."""
        rows = context.rows(model, context.examples())
        validation = context.rows(model, context.examples("validation")) if context.settings.eval_every else []
        return [Stage(context.task, rows, validation)]
