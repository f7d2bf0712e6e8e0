"""The context of a cell: the data, models, encoding and training that the worker lends to its method, objectives and
curriculum.

Plug-ins are given it as `methods.base.Context`, which lists the parts that they may use; everything else here is the
worker's own. Not covered: the course of a cell (`cell.py`), and how it is trained (`training.py`) and scored
(`scoring.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.curricula import Curriculum, Single
from harness.data import Example, Render, mark, wrong_answers
from harness.methods import Answers, Method
from harness.records import PACKING, Job
from harness.suite import Recipe
from harness.worker.encoding import Encoding, Row
from harness.worker.examples import CellExamples
from harness.worker.findings import Findings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from harness.worker.evaluate import TunedLM


class Trains(Protocol):
    """Protocol of the object that trains the cell's model and to which a context passes on; `training.CellTraining`
    implements it."""

    def train(self, model: nn.Module, method: Method) -> nn.Module: ...
    def train_on(self, rows: list[Row], model: nn.Module, method: Method, changes: Mapping[str, Any]) -> nn.Module: ...
    def train_by(
        self,
        trainer: Callable[..., Any],
        config: Callable[..., Any],
        model: nn.Module,
        method: Method,
        changes: Mapping[str, Any],
    ) -> nn.Module: ...
    def callbacks(self) -> list[TrainerCallback]: ...


class CellContext:
    """The job, data, models and encoding of one cell, as its method, objectives and curriculum use them (see
    `methods.base.Context` for each function).

    `scratch` is a folder for what must not outlive the cell. `training` trains the cell's model: whoever runs the cell
    sets it. The context of a needed cell has none, as the needed model is trained already.
    """

    training: Trains

    def __init__(self, job: Job, scratch: Path, findings: Findings | None = None):
        self.job, self.scratch = job, scratch
        self.findings = findings or Findings()
        self.cell = cell = job.settled_cell
        self.recipe = Recipe.of(cell)
        self.models: Mapping[str, Path] = job.models
        self.needs: Mapping[str, Path] = job.needs
        self.base = job.models[cell.model]
        self.task, self.n_train, self.seed, self.settings = cell.task, cell.n_train, cell.run_seed, cell.train
        self.data = CellExamples(job, cell, self.findings, self._revised)
        self.encoding = Encoding(self.settings.max_length)

    @property
    def method(self) -> Method:
        """The cell's method, with its settings."""
        return self.recipe.method

    @cached_property
    def curriculum(self) -> Curriculum:
        """The cell's curriculum; where it has none, a single stage on the cell's task."""
        return self.recipe.curriculum or Single()

    # --- models ---

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the cell's base model."""
        from harness.models import load_tokenizer

        return load_tokenizer(self.base)

    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> nn.Module:
        """Returns the base model, or the full weights in another `folder`; with `quantize` (nf4, fp4, int8), packed."""
        from harness.models import load_model

        return load_model(folder or self.base, self.settings, quantize)

    def load_need(self, role: str, fold: bool = False) -> nn.Module:
        """Returns the model of the needed cell in this role, restored by that cell's method on its own base model; with
        `fold`, as plain weights."""
        needed = CellContext(self.job.of_need(role), self.scratch)
        model = needed.method.restore(needed, self.needs[role])
        return needed.method.fold(model) if fold else model

    def language_model(self, model: nn.Module, base: Path | None = None) -> TunedLM:
        """Returns an lm-eval model that scores `model`, with the tokenizer in the folder `base` or the cell's own."""
        from harness.models import load_tokenizer
        from harness.worker.evaluate import TunedLM

        tokenizer = load_tokenizer(base) if base else self.tokenizer
        return TunedLM(model, tokenizer, self.settings.eval_batch_size, self.settings.fast)

    # --- data ---

    def examples(
        self, split: str = "train", task: str | None = None, n: int | None = None, render: Render | None = None
    ) -> list[Example]:
        """Returns training examples of the cell's task or another, as many as the cell's data size or `n`; see
        `CellExamples.examples`."""
        return self.data.examples(split, task, n, render)

    def _revised(self, drawn: list[Example]) -> list[Example]:
        """Returns training examples as the objectives want them learned: a teacher, for instance, may answer them
        anew."""
        for objective in self.recipe.objectives:
            drawn = objective.examples(drawn, self)
        return drawn

    def wrong(self, example: Example) -> list[Example]:
        """Returns copies of a multiple-choice example of the cell's task, one with each wrong choice as its target."""
        return wrong_answers(self.data.tasks[self.task], example)

    def mark(self, example: Example, answer: str) -> float:
        """Returns the score that the cell's task gives a generated answer to an example; higher is better."""
        return mark(self.data.tasks[self.task], example, answer)

    def texts(self, task: str, n: int | None = None) -> list[str]:
        """Returns running text of a task's training split: `n` texts, or all."""
        return self.data.texts(task, n)

    # --- encoding ---

    def rows(self, model: nn.Module, found: list[Example]) -> list[Row]:
        """Encodes examples as {input_ids, labels} in the way of the cell's method."""
        return self.method.rows(model, found, self)

    def encode(self, model: nn.Module, found: list[Example]) -> list[Row]:
        """Encodes examples as {input_ids, labels} in the form that a language model learns, whatever the method."""
        return self.encoding.rows(self.language_model(model), found)

    def text_rows(self, model: nn.Module, task: str, n: int | None = None) -> list[Row]:
        """Encodes running text of a task's training split as {input_ids, labels}, behind the scorer's prefix token."""
        return self.encoding.text_rows(self.language_model(model), self.texts(task, n))

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Returns a right-padded batch {input_ids, labels, attention_mask}, each [rows, length], on this process's
        device."""
        import torch

        from harness.worker.train import Collator

        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        return {name: value.to(device) for name, value in Collator(pad=0)(rows).items()}

    def answer_logits(
        self, model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
    ) -> Answers:
        """Returns what a model predicts for the labels of a right-padded batch [rows, length]."""
        from harness.worker.answer_loss import Packing, answer_logits

        packing = Packing() if PACKING in self.settings.fast else None
        return answer_logits(model, input_ids, labels, attention_mask, packing)

    def padded_logits(
        self, model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
    ) -> Answers:
        """Returns the same as `answer_logits`, from a model that is run on the batch as it is."""
        from harness.worker.answer_loss import answer_logits

        return answer_logits(model, input_ids, labels, attention_mask)

    # --- training ---

    def train(self, model: nn.Module, method: Method) -> nn.Module:
        """Train the model on the stages of the cell's curriculum. Returns it as it is scored."""
        return self.training.train(model, method)

    def train_on(self, rows: list[Row], model: nn.Module, method: Method, changes: Mapping[str, Any]) -> nn.Module:
        """Train on encoded rows, with some of the cell's training settings changed. Returns the model."""
        return self.training.train_on(rows, model, method, changes)

    def train_by(
        self,
        trainer: Callable[..., Any],
        config: Callable[..., Any],
        model: nn.Module,
        method: Method,
        changes: Mapping[str, Any],
    ) -> nn.Module:
        """Train with a trainer of another library that is derived from transformers'. Returns the model."""
        return self.training.train_by(trainer, config, model, method, changes)

    def callbacks(self) -> list[TrainerCallback]:
        """Returns the callbacks for a method's own trainer; the first one measures it."""
        return self.training.callbacks()
