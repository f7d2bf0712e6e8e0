"""Replay: general text among the task's examples, against forgetting (Ibrahim et al. 2024, arXiv:2403.08763)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.curricula.base import Context, Curriculum, Options, Stage, aside, mixture, rows_of_steps

if TYPE_CHECKING:
    from torch import nn


class Replay(Curriculum):
    """Replay: rows of general text mixed into the task's rows, in every batch.

    `text` names the task whose training text is read; `share` is its share of the rows. The number of steps stays the
    same, so the task gets fewer of them; with epochs, all its examples are passed over and the text is added. A
    passage counts as much in the loss as an example, however many tokens it has.
    """

    name = "replay"
    paper = "arXiv:2403.08763"
    space = {"share": Options((0.1, 0.25, 0.5))}

    text: str = ""
    share: float = 0.25

    def problems(self) -> Iterable[str]:
        if not self.text:
            yield "text is missing: the task whose training text is replayed (text: book-text)."
        if not 0 < self.share < 1:
            yield f"share is {self.share}; it must be above 0 and below 1."

    def reads(self, task: str) -> tuple[str, ...]:
        return (self.text,)

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return one stage: the task's rows with general text mixed in. It is validated on the task alone."""
        rows = context.rows(model, context.examples())
        text = aside(context.text_rows(model, self.text))
        (count,) = rows_of_steps(context, [1.0], [len(rows) / (1 - self.share)])
        shares = {context.task: 1 - self.share, f"text {self.text}": self.share}
        mixed = mixture({context.task: rows, f"text {self.text}": text}, shares, count, context.seed)
        validation = context.rows(model, context.examples("validation")) if context.settings.eval_every else []
        return [Stage(f"{context.task}+{self.text}", mixed, validation, ordered=True)]
