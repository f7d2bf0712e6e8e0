"""Joint training on several tasks at once (Caruana 1997, Multitask Learning)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.curricula.base import Curriculum, Job, Stage, mixture, rows_of_steps, weight_problems

if TYPE_CHECKING:
    from torch import nn


class MultiTask(Curriculum):
    """Multi-task: several tasks learned at once, mixed in every batch.

    `tasks` are learned beside the suite's own, each from as many examples as the cell has. `weights` says how much of
    the mixture each is (1 where it says nothing; all are divided by their sum). The cell's steps are shared, so each
    of two tasks gets half of them; with epochs, all of their examples are what is passed over. Every example counts
    the same in the loss, however long its answer.
    """

    name = "multi_task"
    paper = "Caruana 1997"

    tasks: list[str] = []
    weights: dict[str, float] = {}

    def problems(self) -> Iterable[str]:
        if not self.tasks:
            yield "tasks is empty. Name what is learned beside the suite's task: tasks: [reuters-r8]."

    def clashes(self, task: str, train: Any) -> Iterable[str]:
        learned = self.learns(task)
        if len(learned) == 1:
            yield f"{self.name} names {task!r} alone, the suite's own task. Name another one in tasks."
        yield from weight_problems(self.weights, learned)

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([task, *self.tasks]))

    def stages(self, model: nn.Module, job: Job) -> list[Stage]:
        parts = {name: job.rows(model, job.examples(task=name)) for name in self.learns(job.task)}
        (count,) = rows_of_steps(job, [1.0], [sum(map(len, parts.values()))])
        shares = {name: self.weights.get(name, 1.0) for name in parts}
        validation = []
        if job.settings.eval_every:
            validation = [row for name in parts for row in job.rows(model, job.examples("validation", name))]
        return [Stage("+".join(parts), mixture(parts, shares, count, job.seed), validation, ordered=True)]
