"""Scores a cell's model on the tasks that it learns and retains, and measures how fast it answers and how far it has
moved.

Not covered: what a score is (`evaluate.py`, `base_kl.py`), and how latency is measured (`latency.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.errors import Diverged
from harness.records import Fact, Flag, Item, Role, Score
from harness.worker.context import CellContext
from harness.worker.evaluate import Evaluation, evaluate
from harness.worker.profiling.meter import Meter, StepRecorder, free_bytes
from harness.worker.request_progress import RequestProgress

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import nn


class Scorer:
    """Scores the model of one cell, as often as it is asked to in the course of the cell."""

    def __init__(self, context: CellContext, meter: Meter, recorder: StepRecorder):
        self.context, self.meter, self.recorder = context, meter, recorder
        self.lm: LM | None = None  # what was scored last
        self.truncated: int | None = None  # sequences that were scored without their beginnings, when last scored

    def score(self, model: nn.Module, names: Iterable[str]) -> Evaluation:
        """Score `model` on the tasks of these names, which the cell learns or retains, and return scores, items and
        texts. For a trial, validation items are scored. Raises Diverged where a score is no finite number."""
        context, cell = self.context, self.context.cell
        roles: dict[str, Role] = {**dict.fromkeys(cell.retain, "retain"), **dict.fromkeys(cell.learn, "task")}
        lm = context.method.predictor(model, context)
        chat = cell.learn if context.curriculum.chat else ()
        tasks = {name: context.data.scored_tasks[name] for name in names}
        if (progress := progress_of(lm)) is not None:
            progress.tell = self.tell
        evaluation = evaluate(lm, tasks, roles, chat)
        check_numbers(evaluation.scores)
        self.meter.count(tokens=getattr(lm, "scored_tokens", None), samples=len(evaluation.documents))
        self.truncated, self.lm = getattr(lm, "truncated", None), lm
        return evaluation

    def tell(self, task: str, answered: int, asked: int) -> None:
        """Tell whoever watches how many of a task's requests are answered."""
        self.recorder.announce(task=task, answered=answered, asked=asked)

    def latency(self, model: nn.Module) -> list[Fact]:
        """Returns facts of the weights' bytes in memory, and of how fast the last scored model answers the first task
        that it learned, asked as in scoring.

        Adapters that can be folded into the base's weights are measured folded, as they would be served, and unfolded
        before that. Folding changes the model: it must have been saved.
        """
        from harness.worker.latency import inference_facts, unfolded_facts

        assert self.lm is not None
        context, lm, facts = self.context, self.lm, list[Fact]()
        requests = context.data.tasks[context.cell.learn[0]].instances
        if context.method.served_folded and hasattr(model, "merge_and_unload"):
            facts = unfolded_facts(lm, requests)
            model = context.method.fold(model).eval()
            lm = context.method.predictor(model, context)
            if opening := getattr(getattr(self.lm, "inner", None), "opening", ()):
                lm.inner.open_with(opening)
        facts.append(Fact("served_bytes", bytes_of_weights(model), "B", False))
        return facts + inference_facts(lm, requests, context.settings.eval_batch_size)

    def distance_from_base(self, model: nn.Module, evaluation: Evaluation) -> tuple[list[Score], list[Item]]:
        """Returns (scores, items) of the KL divergence of `model` from the untouched base model, on the running texts
        that the cell retains; both empty where it retains none. `evaluation` is that of `model`, from which the texts
        are taken. It is a phase of its own, as both models are in memory.

        The base model has plain fp32 weights, whatever the method loads. The comparison is left out, with the flag
        `not_compared`, where there is no room for a second model.
        """
        from harness.plan import ROLLING

        context = self.context
        texts = [name for name in context.cell.retain if context.data.tasks[name].OUTPUT_TYPE == ROLLING]
        if not texts:
            return [], []
        with self.meter.phase("compare"):
            self.recorder.announce(phase="compare")
            return self._distance(model, evaluation, texts)

    def _distance(self, model: nn.Module, evaluation: Evaluation, texts: list[str]) -> tuple[list[Score], list[Item]]:
        import torch

        from harness.plan import room_to_compare
        from harness.worker.base_kl import compare

        context, trained = self.context, bool(self.context.cell.baseline)
        parameters = context.findings.fact("total_params") or 0.0
        needed, free = room_to_compare(parameters, len(context.tokenizer)), free_bytes(context.job.memory_limit)
        try:
            if trained and needed > free:
                raise torch.OutOfMemoryError
            base = context.load_model() if trained else model  # the base model is its own base
            tuned, untouched = context.language_model(model), context.language_model(base)
            clusters = {(item.task, item.doc_id): item.cluster for item in evaluation.items if item.cluster is not None}
            scores, items, tokens = compare(tuned, untouched, evaluation.documents, texts, clusters)
        except torch.OutOfMemoryError:
            context.findings.flags.append(Flag("not_compared", {"needed_bytes": needed, "free_bytes": free}))
            return [], []
        check_numbers(scores)
        self.meter.count(tokens=2 * tokens, samples=len(items))
        return scores, items


def progress_of(lm: LM) -> RequestProgress | None:
    """Returns what counts the answered requests of an LM, or of the one inside it; None where nothing does."""
    inner: object = lm
    while not hasattr(inner, "progress") and hasattr(inner, "inner"):
        inner = inner.inner
    return getattr(inner, "progress", None)


def bytes_of_weights(model: nn.Module) -> int:
    """Returns the bytes of a network's weights in memory, each weight counted once."""
    body: nn.Module = getattr(model, "model_body", model)  # SetFit wraps its encoder
    return sum(value.numel() * value.element_size() for value in body.parameters())


def check_numbers(scores: Iterable[Score]) -> None:
    """Raise Diverged where a score, or its standard error, is not a finite number."""
    for score in scores:
        if not (math.isfinite(score.value) and math.isfinite(score.stderr or 0.0)):
            raise Diverged(f"the score {score.metric} of {score.task} is {score.value}")
