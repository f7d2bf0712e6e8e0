"""Joint training on several tasks at once (Caruana 1997, Multitask Learning)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.curricula.base import Context, Curriculum, Stage, TrainSettings, mixture, rows_of_steps, weight_problems

if TYPE_CHECKING:
    from torch import nn


class MultiTask(Curriculum):
    """Multi-task: several tasks learned at once, mixed in every batch.

    `tasks` are learned beside the suite's own, each from as many examples as the cell has. `weights` gives the share
    of each task in the mixture (1 by default; all are divided by their sum). The tasks share the cell's steps, so each
    of two tasks gets half of them; an epoch passes over the examples of all tasks. Every example counts the same in
    the loss, however long its answer.
    """

    name = "multi_task"
    paper = "Caruana 1997"

    tasks: list[str] = []
    weights: dict[str, float] = {}

    def problems(self) -> Iterable[str]:
        if not self.tasks:
            yield "tasks is empty. Name what is learned beside the suite's task: tasks: [reuters-r8]."

    def clashes(self, task: str, train: TrainSettings) -> Iterable[str]:
        learned = self.learns(task)
        if len(learned) == 1:
            yield f"{self.name} names {task!r} alone, the suite's own task. Name another one in tasks."
        yield from weight_problems(self.weights, learned)

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([task, *self.tasks]))

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return one stage: the learned tasks, mixed by their weights."""
        parts = {name: context.rows(model, context.examples(task=name)) for name in self.learns(context.task)}
        (count,) = rows_of_steps(context, [1.0], [sum(map(len, parts.values()))])
        shares = {name: self.weights.get(name, 1.0) for name in parts}
        validation = []
        if context.settings.eval_every:
            validation = [row for name in parts for row in context.rows(model, context.examples("validation", name))]
        return [Stage("+".join(parts), mixture(parts, shares, count, context.seed), validation, ordered=True)]
