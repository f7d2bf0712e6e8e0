"""Knowledge retention: on general text, the model is trained to predict what the base model predicts.

Learning without Forgetting: Li & Hoiem 2016, arXiv:1606.09282, here on text that is not the task's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

from harness.objectives.base import Batch, Context, LogFloat, Objective

if TYPE_CHECKING:
    import torch
    from torch import nn


class Retain(Objective):
    """Knowledge retention: on general text the model stays near the base model, strength · KL(base || tuned) per token.

    Each step reads the next `batch` passages of `text` (a task with a training split), in an order that the seed
    decides; `strength` weighs their nats per token against the task's nats per answer token. The base model is kept in
    memory, as it is before any adapter or quantisation, and runs beside the tuned one, because the whole distribution
    counts, and stored logits would be larger than the model.
    """

    name = "retain"
    paper = "arXiv:1606.09282"
    once_a_step = True
    space = {"strength": LogFloat(1e-1, 1e2)}

    strength: float = 1.0
    text: str = "book-text"
    batch: int = 4

    def problems(self) -> Iterable[str]:
        if self.strength < 0:
            yield f"strength is {self.strength}; it must be at least 0."
        if self.batch < 1:
            yield f"batch is {self.batch}; it must be at least 1."

    def reads(self, task: str) -> tuple[str, ...]:
        return (self.text,)

    def prepare(self, model: nn.Module, context: Context) -> None:
        self._context = context
        self._base = context.load_model().requires_grad_(False)
        self._rows: Iterator[Any] = cycle(context.text_rows(model, self.text))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax

        rows = self._context.collate([next(self._rows) for _ in range(self.batch)])
        with torch.no_grad():
            base = self._context.answer_logits(self._base, **rows)
            wanted = log_softmax(base.logits.float()[base.targets != -100], dim=-1)
        answers = self._context.answer_logits(model, **rows)
        logs = log_softmax(answers.logits.float()[answers.targets != -100], dim=-1)
        return self.strength * kl_div(logs, wanted, reduction="sum", log_target=True) / len(logs)
