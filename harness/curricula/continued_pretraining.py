"""Continued pre-training: a domain's plain text first, then its task (Gururangan et al. 2020, arXiv:2004.10964)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.curricula.base import (
    Context,
    Curriculum,
    Method,
    Options,
    Stage,
    TrainSettings,
    aside,
    mixture,
    rows_of_steps,
)

if TYPE_CHECKING:
    from torch import nn


class ContinuedPretraining(Curriculum):
    """Continued pre-training: text without answers first, with the loss on every token, then the task.

    `text` names the task whose training text is read (for a task with questions, these with their answers). `share` is
    its share of the cell's steps. With epochs, the task's examples are passed over as often as without it, and the
    text is added in that proportion. Both stages rise to the same learning rate.
    """

    name = "continued_pretraining"
    paper = "arXiv:2004.10964"
    space = {"share": Options((0.25, 0.5, 0.75))}

    text: str = ""
    share: float = 0.5

    def problems(self) -> Iterable[str]:
        if not self.text:
            yield "text is missing: the task whose training text is learned first (text: book-text)."
        if not 0 < self.share < 1:
            yield f"share is {self.share}; it must be above 0 and below 1."

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        yield from super().refuses(method, train)
        if train.devices > 1 and train.strategy != "ddp":
            yield (
                f"{train.strategy} leaves the weights on one device after a stage, and {self.name} has two. "
                "Use strategy: ddp."
            )

    def clashes(self, task: str, train: TrainSettings) -> Iterable[str]:
        if train.steps and not 0 < round(train.steps * self.share) < train.steps:
            yield f"of {train.steps} steps, a share of {self.share} leaves none for a stage. Raise steps."

    def reads(self, task: str) -> tuple[str, ...]:
        return (self.text,)

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return two stages: the text without validation, then the task."""
        rows, text = context.rows(model, context.examples()), aside(context.text_rows(model, self.text))
        passes = [len(rows) * self.share / (1 - self.share), float(len(rows))]
        first, second = rows_of_steps(context, [self.share, 1 - self.share], passes)
        validation = context.rows(model, context.examples("validation")) if context.settings.eval_every else []
        return [
            Stage(self.text, mixture({"text": text}, {"text": 1.0}, first, context.seed), validation=[], ordered=True),
            Stage(
                context.task,
                mixture({context.task: rows}, {context.task: 1.0}, second, context.seed),
                validation,
                ordered=True,
            ),
        ]
