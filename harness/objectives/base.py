"""What every objective is: a term added to the task's loss, whatever the method trains.

An objective is one class in one file of this folder. It imports this base alone, and third-party packages inside
functions, so that planning never loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.methods import Context, Expert, LogFloat, Method, Options, Settings, Space
from harness.plugin import Configurable
from harness.records import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.data import Example

__all__ = ["Batch", "Context", "Expert", "LogFloat", "Method", "Objective", "Options", "Settings", "TrainSettings"]


@dataclass(frozen=True)
class Batch:
    """One forward pass of training: a right-padded batch, and what the model said of its answers.

    input_ids, labels and attention_mask: [batch, length]; labels are -100 where nothing is learned. logits:
    [batch, places, vocabulary] at the places that predict some row's answer; targets: [batch, places], the tokens
    wanted there (-100 in rows that have none).
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor


class Objective(Configurable):
    """A term added to the task's loss. Annotated public fields are the YAML keys, with their defaults.

    The loss of a step is `task_weight` × cross-entropy + the objectives' terms. However many forward passes a step is
    split into, they are those of one: a term of each pass counts by that pass's share of the step's answer tokens, and
    a term `once_a_step` is asked for once, in the last pass.
    """

    kind = "objective"
    space: ClassVar[Space] = {}  # what tuning may move
    once_a_step: ClassVar[bool] = False  # True: its term does not depend on the batch

    @property
    def task_weight(self) -> float:
        """The share of the task's own loss that is kept."""
        return 1.0

    # --- planning: pure, no torch ---

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        """Why it does not go with a method or with training settings (`settings.TrainSettings`)."""
        if not method.is_language_model:
            yield f"{self.name} needs a language model's own loss, and {method.name} has none. Drop it."
        if train.devices > 1:
            yield f"{self.name} is computed on one device, and devices is {train.devices}. Give it devices: 1."

    def refuses_need(self, expert: Method) -> Iterable[str]:
        """Why a cell of that method, which this one asks for, cannot serve it."""
        return ()

    def wants(self, task: str) -> Iterable[Expert]:
        """Cells that must be done before this one (a teacher)."""
        return ()

    def reads(self, task: str) -> tuple[str, ...]:
        """Other tasks whose training text it reads, without being scored on them."""
        return ()

    def borrows(self) -> tuple[str, ...]:
        """Models that it uses beside the cell's own, by name."""
        return ()

    # --- working: inside the worker's process ---

    def prepare(self, model: nn.Module, context: Context) -> None:
        """Called once, when the model is attached and before it is trained; its time counts as training."""

    def examples(self, found: list[Example], context: Context) -> list[Any]:
        """The training examples, before they are encoded: a teacher may answer them anew."""
        return found

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The term, a scalar on the model's device: of one forward pass, a mean over its answer tokens; or of a whole
        step (`once_a_step`). `model` is in training mode."""
        raise NotImplementedError
