"""The documents of a cell's tasks: which of them are learned, in which quality, and which are scored.

Not covered: how an example becomes token ids (`encoding.py`), and how documents are chosen (`harness.data`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from harness.data import Example, Quality, Render, draw, examples, for_validation, load_task, texts
from harness.records import Cell, Fact, Job
from harness.worker.findings import Findings

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

UNITS = {"truncated_words": "words", "selection_seconds": "s"}  # of facts about drawn data; the others are examples


class CellExamples:
    """The training and test data of one cell; each set of examples is drawn once. What was done to training data
    becomes facts in `findings`.

    `revise` changes training examples before they are learned, as the cell's objectives ask.
    """

    def __init__(
        self, job: Job, cell: Cell, findings: Findings, revise: Callable[[list[Example]], list[Example]] = list
    ):
        self.job, self.cell, self.findings, self.revise = job, cell, findings, revise
        self.drawn: dict[tuple[str, str, int, bool], list[Example]] = {}  # (task, split, size, in a chat template)

    @cached_property
    def tasks(self) -> dict[str, ConfigurableTask]:
        """Task name -> lm-eval task with its documents, of all tasks of the cell."""
        return {name: load_task(path) for name, path in self.job.tasks.items()}

    @cached_property
    def scored_tasks(self) -> dict[str, ConfigurableTask]:
        """Task name -> the task that is scored: for a trial, one that holds the validation items alone."""
        if not self.cell.trial:
            return self.tasks
        return {name: for_validation(self.tasks[name]) for name in (*self.cell.learn, *self.cell.retain)}

    @property
    def seed(self) -> int:
        """The seed that draws the training examples."""
        return self.cell.run_seed if self.cell.draw is None else self.cell.draw

    def examples(
        self, split: str = "train", task: str | None = None, n: int | None = None, render: Render | None = None
    ) -> list[Example]:
        """Returns the first `n` training examples of a task, by default the cell's own and as many as its data size.
        Those of a task that the cell learns have the cell's quality; the objectives may change any. `split`
        "validation" gives all of that split, unchanged. With `render` they are asked in a chat template."""
        name, count = task or self.cell.task, self.cell.n_train if n is None else n
        key = name, split, count, render is not None
        if key not in self.drawn:
            if split == "train" and self.cell.data and name in self.cell.learn:
                drawn = self.spoilt(name, count, render)
            else:
                drawn = examples(self.tasks[name], split, count, self.seed, render)
            self.drawn[key] = self.revise(drawn) if split == "train" else drawn
        return self.drawn[key]

    def learned(self) -> list[Example]:
        """Returns every training example that was drawn so far, of all tasks."""
        return [example for (_, split, *_), drawn in self.drawn.items() if split == "train" for example in drawn]

    def spoilt(self, name: str, n: int, render: Render | None) -> list[Example]:
        """Returns `n` training examples of the task `name`, corrupted and selected as the cell's `data` asks. How many
        were changed, and how long selecting took, become facts."""
        started = time.perf_counter()
        drawn, record = draw(self.tasks[name], n, self.seed, Quality.of(self.cell.data), self.base_losses, render)
        if "select" in self.cell.data:
            record["selection_seconds"] = time.perf_counter() - started
        known = {fact.name for fact in self.findings.facts}
        for what, value in record.items():
            fact = what if name == self.cell.task else f"{what}:{name}"
            if fact not in known:
                self.findings.facts.append(Fact(fact, value, UNITS.get(what, "examples")))
        return drawn

    def base_losses(self, pool: Sequence[Example]) -> list[float]:
        """Returns the loss of each example of `pool`, in nats per answer token, under the base model or the model that
        `judge` in the cell's `data` names: the loss at which training would begin.

        The weights are plain even where a method would quantise them, so that every method gets the same examples.
        """
        from harness.models import load_model, load_tokenizer
        from harness.worker.encoding import encoded
        from harness.worker.evaluate import TunedLM

        settings = self.cell.train
        folder = self.job.models[self.cell.data.get("judge", self.cell.model)]
        lm = TunedLM(load_model(folder, settings), load_tokenizer(folder), settings.eval_batch_size, settings.fast)
        rows, _ = encoded(lm, pool, min(settings.max_length, lm.max_length))
        requests = []
        for row in rows:
            answer = [label for label in row["labels"] if label != -100]
            requests.append((None, row["input_ids"][: -len(answer)], answer))
        answers = lm._loglikelihood_tokens(requests)
        return [-value / len(answer) for (value, _), (_, _, answer) in zip(answers, requests, strict=True)]

    def texts(self, task: str, n: int | None = None) -> list[str]:
        """Returns running text of a task's training split: `n` texts in the order of the cell's seed, or all. A task of
        questions gives them with their answers."""
        return texts(self.tasks[task], n, self.cell.run_seed)
