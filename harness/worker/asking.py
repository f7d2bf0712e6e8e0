"""Asks a finished cell questions that are none of its items, in the words and by the path in which it was scored.

Not covered: which cells are asked (`cli/asking.py`), and how fast they answer under load (`latency.py`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import load_task, template_columns
from harness.errors import UserError, unknown
from harness.worker.exporting import restored

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask

    from harness.records import Job
    from harness.worker.context import CellContext

Question = str | Mapping[str, Any]  # a text, or the columns of a document


@dataclass(frozen=True)
class Reply:
    """A model's reply to one question: the `prompt` as it was asked, the `text` of its answer, and the `seconds` that
    it took alone. `probabilities` are those of the choices (choice -> share of 1); empty where it is written."""

    prompt: str
    text: str
    seconds: float
    probabilities: Mapping[str, float] = field(default_factory=dict)


def ask(attempt: Path, job: Job, questions: Sequence[Question], raw: bool = False) -> list[Reply]:
    """Returns the reply of the result in an attempt's folder to each question, asked as the cell's task asks.

    A text stands for the one column that the task's question shows; a mapping has the columns by name. `raw`: a text is
    the whole prompt as it stands. Raises UserError where the weights were deleted, or a question lacks a column.
    """
    from harness.worker.context import CellContext

    with tempfile.TemporaryDirectory() as scratch:
        context = CellContext(job, Path(scratch))
        task = load_task(job.tasks[context.task])
        task.set_fewshot_seed(seed=1234)  # as in scoring
        documents = [document_of(task, question, raw) for question in questions]
        model = restored(context, attempt)
        lm = context.method.predictor(model, context)
        asked = [
            (document, str(question) if raw else prompt_of(task, document, lm, context.curriculum.chat))
            for question, document in zip(questions, documents, strict=True)
        ]
        with getattr(lm, "ready", nullcontext)():
            if asked:
                reply(lm, task, *asked[0], context)  # the first pass of a process warms up
            return [reply(lm, task, document, prompt, context) for document, prompt in asked]


def document_of(task: ConfigurableTask, question: Question, raw: bool) -> dict[str, Any]:
    """Returns a question as a document of the task. Columns that its template does not show are those of some test
    item: nothing of them is asked. Raises UserError for a question that lacks a column, or a text where the task shows
    several."""
    like: dict[str, Any] = dict(task.eval_docs[0])
    if raw:
        return like
    shown = shown_columns(task, like)
    if isinstance(question, str):
        if len(shown) != 1:
            what = f"shows {', '.join(sorted(shown))}" if shown else "is made by a function"
            raise UserError(
                f"the question of task {task.config.task!r} {what}, so one text does not say it. Give rows with the "
                f"columns {', '.join(sorted(shown or like))} by --file (JSONL, CSV), or the whole prompt by --raw."
            )
        return like | {next(iter(shown)): question}
    missing = sorted(column for column in shown or like if column not in question)
    if missing:
        raise UserError(
            f"task {task.config.task!r}: {unknown('column', missing[0], list(question), 'Its question shows it.')}"
        )
    return like | dict(question)


def shown_columns(task: ConfigurableTask, document: Mapping[str, Any]) -> set[str]:
    """Returns the columns that a task's question, and choices that differ from item to item, show; none where a
    function makes the question."""
    templates = [task.config.doc_to_text]
    templates += [task.config.doc_to_choice] if isinstance(task.config.doc_to_choice, str) else []
    found: set[str] = set()
    for template in templates:
        if not isinstance(template, str):
            return set()
        found |= {template} if template in document else template_columns(template)
    return found


def prompt_of(task: ConfigurableTask, document: Mapping[str, Any], lm: LM, chat: bool) -> str:
    """Returns a document as lm-eval asks it; with `chat`, in the model's chat template."""
    return str(
        task.fewshot_context(
            document, num_fewshot=task.config.num_fewshot or 0, apply_chat_template=chat,
            chat_template=lm.apply_chat_template if chat else None, gen_prefix=task.doc_to_prefix(document),
        )
    )  # fmt: skip


def reply(lm: LM, task: ConfigurableTask, document: Mapping[str, Any], prompt: str, context: CellContext) -> Reply:
    """Returns the reply to one prompt, timed."""
    made = task.construct_requests(
        doc=document, ctx=prompt, metadata=(context.task, 0, 1), apply_chat_template=context.curriculum.chat
    )
    requests = made if isinstance(made, list) else [made]
    started = time.perf_counter()
    if task.OUTPUT_TYPE != "multiple_choice":
        for request, text in zip(requests, lm.generate_until(requests), strict=True):
            request.resps.append(text)
        seconds = time.perf_counter() - started
        task._instances = requests
        task.apply_filters()
        return Reply(prompt, str(next(iter(requests[0].filtered_resps.values()))), seconds)
    from scipy.special import softmax

    choices = [str(choice) for choice in task.doc_to_choice(document)]
    logs = [float(value) for value, _ in lm.loglikelihood(requests[: len(choices)])]
    seconds = time.perf_counter() - started
    shares = softmax(logs).tolist()
    return Reply(prompt, choices[logs.index(max(logs))], seconds, dict(zip(choices, shares, strict=True)))
