"""Instruction tuning: tasks as messages in the model's chat template (Wei et al. 2021, arXiv:2109.01652)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.curricula.base import (
    Context,
    Curriculum,
    Method,
    Stage,
    TrainSettings,
    mixture,
    rows_of_steps,
    weight_problems,
)

if TYPE_CHECKING:
    from torch import nn


class Instruction(Curriculum):
    """Instruction: mixed tasks, asked and answered through the model's chat template.

    `tasks` are learned beside the suite's own, each from as many examples as the cell has; with none, the suite's task
    alone is learned in this form. `weights` gives the share of each task in the mixture, as in multi_task. Learned
    tasks are also scored through the template, token for token the same. The base model and retention tasks are scored
    plainly, so a gain is that of the form and of training together.
    """

    name = "instruction"
    paper = "arXiv:2109.01652"
    chat = True

    tasks: list[str] = []
    weights: dict[str, float] = {}

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        yield from super().refuses(method, train)
        for part in getattr(method, "parts", [method]):
            if type(part).predictor is not Method.predictor and part.is_language_model:
                yield f"{part.name} asks in a form of its own, and {self.name} in the chat template's. Drop one."

    def clashes(self, task: str, train: TrainSettings) -> Iterable[str]:
        return weight_problems(self.weights, self.learns(task))

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([task, *self.tasks]))

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return one stage: the learned tasks in the model's chat template, mixed by their weights."""
        render = context.language_model(model).apply_chat_template
        names = self.learns(context.task)
        parts = {name: context.rows(model, context.examples(task=name, render=render)) for name in names}
        (count,) = rows_of_steps(context, [1.0], [sum(map(len, parts.values()))])
        shares = {name: self.weights.get(name, 1.0) for name in names}
        validation = []
        if context.settings.eval_every:
            found = [context.examples("validation", name, render=render) for name in names]
            validation = [row for part in found for row in context.rows(model, part)]
        return [Stage("+".join(names), mixture(parts, shares, count, context.seed), validation, ordered=True)]
