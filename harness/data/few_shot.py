"""Tries the few-shot examples that a task puts before its questions, before anything is trained or scored."""

from __future__ import annotations

from collections.abc import Sequence

from harness.data.lm_eval_task import Document, Task
from harness.errors import TaskError, counted

SEED = 1234  # of the examples, as lm-eval's own command draws them
TRIED = 20  # questions


def draw_shots(task: Task) -> int:
    """Return how many examples a task puts before a scored question, and let them be drawn from the same seed each
    time."""
    shots = task.config.num_fewshot or 0
    if shots:
        task.set_fewshot_seed(seed=SEED)
    return shots


def try_shots(task: Task, scored: Sequence[Document]) -> tuple[str, ...]:
    """Return what a user should know of a task's few-shot examples: a remark without a full stop, or nothing where
    there are none. Raises TaskError where they cannot be put before the scored documents."""
    shots = draw_shots(task)
    if not shots or not scored or task.OUTPUT_TYPE == "loglikelihood_rolling":
        return ()
    try:
        for document in scored[:TRIED]:
            task.fewshot_context(document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document))
    except Exception as error:  # a task's own code may raise anything
        pool = getattr(getattr(task, "sampler", None), "df", ())
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        few = f" There are {counted(len(pool), 'document')} to draw them from." if len(pool) <= shots else ""
        raise TaskError(
            f"task {task.config.task!r}: num_fewshot: {shots} examples cannot stand before a question ({reason}).{few} "
            "Lower num_fewshot, name a larger fewshot_split, or mend fewshot_config."
        ) from error
    return (f"{counted(shots, 'example')} before each scored question (num_fewshot); training examples carry none",)
