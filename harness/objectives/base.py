"""The base class of every objective: a term added to the task's loss, whatever the method trains.

An objective is one class in one file of this folder. It imports this base alone, and third-party packages inside
functions, so that planning never loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.architecture import decoder_layers as decoder_layers  # objectives import this file alone
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
    """One forward pass of training: a right-padded batch, and the model's predictions of its answers.

    input_ids, labels and attention_mask: [batch, length]; labels are -100 where nothing is learned. logits: [answers,
    vocabulary], one row's answers after the other's; targets: [answers], the tokens wanted there (-100 where there is
    no answer after all).
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
    space: ClassVar[Space] = {}  # the settings that tuning may search
    once_a_step: ClassVar[bool] = False  # True: its term does not depend on the batch

    @property
    def reads_states(self) -> bool:
        """Whether it reads what the model computes inside for the padded batch, which must then be run as it is."""
        return False

    @property
    def task_weight(self) -> float:
        """The factor on the task's own loss (cross-entropy) in the loss that is minimised."""
        return 1.0

    # --- planning: pure, no torch ---

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        """Yield why the objective cannot be used with a method or with training settings, a sentence each; nothing
        where it can."""
        if not method.is_language_model:
            yield f"{self.name} needs a language model's own loss, and {method.name} has none. Drop it."
        if train.devices > 1:
            yield f"{self.name} is computed on one device, and devices is {train.devices}. Give it devices: 1."

    def refuses_need(self, expert: Method) -> Iterable[str]:
        """Return why `expert`, the method of a cell that this objective asks for (a teacher), cannot be used, a
        sentence each; empty where it can."""
        return ()

    def wants(self, task: str) -> Iterable[Expert]:
        """Return the further cells, such as a teacher, that must be done before a cell that learns `task` with this
        objective."""
        return ()

    def reads(self, task: str) -> tuple[str, ...]:
        """Return the names of further tasks whose training text the objective uses when `task` is the one the suite
        learns. Reading a task does not score it; the suite may also retain it."""
        return ()

    def borrows(self) -> tuple[str, ...]:
        """Return the names of models that the objective uses beside the cell's own."""
        return ()

    # --- working: inside the worker's process ---

    def prepare(self, model: nn.Module, context: Context) -> None:
        """Hook called once, when the method has put what it trains on the model and before the first step; its time
        counts as training."""

    def examples(self, found: list[Example], context: Context) -> list[Any]:
        """Return the training examples to learn in place of `found`, those that were drawn for the cell; a teacher may
        replace their answers. Called before they are encoded."""
        return found

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the objective's term of the loss, a scalar on the model's device. `model` is in training mode.

        It is a mean over the answer tokens of one forward pass or, with `once_a_step`, a term of the whole step.
        """
        raise NotImplementedError
