"""Says what a task of generated text teaches as an answer, and scores a generated answer.

A trained model writes what it was taught: the task's delimiter, then the answer. The delimiter is therefore taken off
again before the task's filters and metric see the text: in scoring, in rewards and in the check of the task alike. Not
covered: tasks of multiple choice, whose answers are not written but chosen (`tasks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from harness.data.lm_eval_task import Document, Task
from harness.errors import TaskError

CHECKED = 2000  # documents of a split, evenly spaced, whose answers are scored when a task is prepared
COMPARED = 20  # of the checked documents, how many have their answers compared with other texts
CLOSE = 1e-6  # a difference from the best value that is rounding
SHOWN = 60  # characters of a text in a message
# The value of a perfect answer, of metrics whose names tell it. Some have two scales: then the nearer one counts.
ONE = ("exact_match", "em", "acc", "accuracy", "f1", "rouge", "rouge1", "rouge2", "rougel", "rougelsum", "rouge_l")
HUNDRED = ("bleu", "chrf", "sacrebleu")
NONE = ("ter", "wer", "cer")


def delimiter_of(task: Task, document: Document, chat: bool = False) -> str:
    """Return the text, such as a space, that a trained model writes between a document's question and its answer.

    It is empty for a task that scores the answer's likelihood alone, and with `chat` (questions are asked through a
    chat template): such a template ends where the answer begins. A prefix that the task puts there and that ends in no
    space still needs the delimiter.
    """
    if task.OUTPUT_TYPE == "loglikelihood":
        return ""
    prefix = task.doc_to_prefix(document)
    apart = not chat or bool(prefix and not prefix[-1:].isspace())
    return task.config.target_delimiter if apart else ""


def answer_of(task: Task, document: Document) -> str:
    """Return the right answer of a document whose answer is written. Raises TaskError where it is missing, a list of
    answers or, in a task of generated text with `doc_to_choice`, no number of a choice."""
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE == "generate_until" and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(document)
        if not isinstance(target, int) or not 0 <= target < len(choices):
            raise TaskError(
                f"doc_to_target is {target!r}, and with doc_to_choice lm-eval takes it for the number of a choice "
                f"(0 to {len(choices) - 1}) where answers are written. Drop doc_to_choice, or give the number."
            )
        target = choices[target]
    if isinstance(target, list):
        raise TaskError(f"a target is a list ({len(target)} answers), so there is no one answer to learn.")
    if target is None:
        raise TaskError("doc_to_target is empty (None) for a document: there is no answer to learn or to be scored by.")
    return str(target)


def heard(text: str, delimiter: str) -> str:
    """Return a generated text without the `delimiter` that a trained model puts before its answer; a text that does not
    begin with it stays as it is."""
    return text.removeprefix(delimiter)


def first_metric(task: Task, values: Mapping[str, object]) -> str:
    """Return the name of the headline metric among the metrics in `values`: the first that the task's YAML names.

    lm-eval returns them in an order of its own. Where it splits the YAML's metric into several (such as `pass@1`), the
    first of these is returned.
    """
    return next((name for name in task.aggregation() if name in values), next(iter(values)))


def filtered(task: Task, document: Document, text: str, delimiter: str) -> tuple[str, list[object]]:
    """Return (a generated text up to its first stop sequence, the responses that the task's first filters make of it).
    `delimiter` is taken off the text before the filters see it."""
    from lm_eval.models.utils import postprocess_generated_text

    generation = task.config.generation_kwargs or {}
    stopped = postprocess_generated_text(text, generation.get("until"), None)
    responses: list[object] = [[heard(stopped, delimiter)] * (task.config.repeats or 1)]
    for step in task._filters[0].filters:
        responses = list(step().apply(cast("list[list[str]]", responses), [document]))
    return stopped, responses


def written_score(task: Task, document: Document, text: str, delimiter: str) -> tuple[str, object]:
    """Return (name of the task's headline metric, its value) for a generated text, as scoring computes it. `delimiter`
    is taken off the text first."""
    values = task.process_results(document, filtered(task, document, text, delimiter)[1])
    metric = first_metric(task, values)
    return metric, values[metric]


@dataclass(frozen=True)
class Taught:
    """A document's right answer as a trained model would write it (`text`: the delimiter and the `answer`), and what
    scoring makes of it: the text up to the first stop sequence, the filtered responses, and the headline metric with
    its value."""

    document: Document
    answer: str
    text: str
    stopped: str
    responses: list[object]
    metric: str
    value: object


def unscorable(task: Task, splits: Mapping[str, Sequence[Document]]) -> str:
    """Return the reason why a model that learned a task of generated text perfectly would not score best, or an empty
    string; always empty for other tasks. `splits` maps "scored" and the names of other splits to documents.

    Each document's right answer, written as it is taught, goes through the stop sequences, the filters and the metric.
    Of a large split some 2,000 documents are tried, evenly spaced; scored ones with several right answers are left out.
    """
    if task.OUTPUT_TYPE != "generate_until":
        return ""
    taught: list[Taught] = []
    for name, split in splits.items():
        for document in split[:: max(1, -(-len(split) // CHECKED))]:
            if name == "scored" and isinstance(task.doc_to_target(document), list):
                continue  # any of several answers is right, and none of them is taught
            try:
                taught.append(as_taught(task, document))
            except TaskError as error:
                return str(error)
            except Exception as error:  # a metric or filter may raise anything
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                return f"its own right answer {short(str(task.doc_to_target(document)))} cannot be scored: {reason}"
    if not taught:
        return ""
    metric, better = taught[0].metric, task.higher_is_better().get(taught[0].metric, True)
    if not all(isinstance(one.value, int | float) for one in taught):
        return unscorable_together(task, metric, taught)
    best = best_value(metric, [cast(float, one.value) for one in taught], better)
    # `not … <= …`, so that NaN counts as missed too.
    missed = [one for one in taught if best is not None and not abs(cast(float, one.value) - best) <= CLOSE]
    if missed:
        return complaint(task, missed[0], f"{best:g}", len(missed), len(taught))
    for place, one in enumerate(taught[:COMPARED] if best is None else ()):
        others = [other.text for other in (taught[place - 1], taught[(place + 1) % len(taught)])]
        if reason := outdone(task, one, others, better):
            return reason
    return ""


def as_taught(task: Task, document: Document) -> Taught:
    """Return a document's right answer together with what stop sequences, filters and the headline metric make of it.
    Raises TaskError where it has no answer or several, and whatever the task's own filters and metric raise."""
    answer, delimiter = answer_of(task, document), delimiter_of(task, document)
    text = f"{delimiter}{answer}"
    stopped, responses = filtered(task, document, text, delimiter)
    values = task.process_results(document, responses)
    metric = first_metric(task, values)
    return Taught(document, answer, text, stopped, responses, metric, values[metric])


def best_value(metric: str, values: Sequence[float], higher: bool) -> float | None:
    """Return the value that a perfect answer gets, derived from the metric's name or from `values`, which right answers
    got; None where neither settles it. `higher`: whether higher is better."""
    name = metric.lower().partition(",")[0]
    if not higher:
        return 0.0 if name in NONE or min(values) == 0 else None
    if name in (*ONE, *HUNDRED) or max(values) in (1.0, 100.0):
        return 100.0 if max(values) > 1 or (name in HUNDRED and max(values) <= 0) else 1.0
    return None


def unscorable_together(task: Task, metric: str, taught: Sequence[Taught]) -> str:
    """Return the reason, as `unscorable` does, for a metric that has no value for one document, only for all together;
    empty where its value for `taught`, all right answers, is the best or no number."""
    aggregate = task.aggregation().get(metric)
    if not callable(aggregate):
        return ""
    value = aggregate([one.value for one in taught])
    if not isinstance(value, int | float):
        return ""
    higher = task.higher_is_better().get(metric, True)
    best = best_value(metric, [value], higher)
    if best is None or abs(value - best) <= CLOSE:
        return ""
    odd = [one for one in taught if [one.answer] != one.responses]
    worst = (odd or list(taught))[0]
    return complaint(task, worst, f"{best:g}", len(odd) or len(taught), len(taught), f"{value:g}, all taken together,")


def outdone(task: Task, one: Taught, others: Sequence[str], higher: bool) -> str:
    """Return the reason why the right answer `one` does not score best for its document, or an empty string. For
    metrics whose best value is not known.

    The reason is that another text of the document scores higher, or that `others`, answers of other documents, score
    no less. `higher`: whether higher is better.
    """
    sign = 1.0 if higher else -1.0
    own = sign * cast(float, one.value)
    texts = {"the answer as it stands in the data": one.answer, "the answer without blanks": one.answer.strip()}
    texts |= {f"the column {name!r}": value for name, value in one.document.items() if isinstance(value, str)}
    for name, text in texts.items():
        try:
            value = task.process_results(one.document, [text])[one.metric]
        except Exception:  # other texts may be of a form that the metric cannot take
            continue
        if isinstance(value, int | float) and sign * value > own + CLOSE:
            return complaint(task, one, f"{value:g}", 1, 1, hint=f"{name} scores {value:g}. ")
    for text in others:
        if text == one.text:
            continue
        _, value = written_score(task, one.document, text, delimiter_of(task, one.document))
        if isinstance(value, int | float) and sign * value < own - CLOSE:
            return ""
        if isinstance(value, int | float) and own <= CLOSE:
            return complaint(task, one, "more", 1, 1, hint=f"a wrong answer, {short(text)}, scores {value:g} too. ")
    return ""


def complaint(task: Task, one: Taught, best: str, count: int, total: int, value: str = "", hint: str = "") -> str:
    """Return the message for a task whose right answer `one` does not score best: the document, what was got, what was
    wanted, what to change. It happens in `count` of `total` documents. `best` is the value that it should get, `value`
    what it got, where that is not its own; `hint` is a sentence before the advice."""
    got = one.responses[0] if len(one.responses) == 1 else one.responses
    where = f"in {count} of {total} documents that were tried" if total > 1 else "in a document that was tried"
    until = (task.config.generation_kwargs or {}).get("until") or []
    stops = [until] if isinstance(until, str) else list(until)
    stop = next((stop for stop in stops if stop and stop in one.text), None)
    shown = value or (f"{one.value:g}" if isinstance(one.value, int | float) else short(str(one.value)))
    if stop is not None:
        change = (
            f"The answer as it is taught, {short(one.text)}, holds the stop sequence {stop!r}: take it out of "
            "generation_kwargs.until, or out of target_delimiter and doc_to_target."
        )
    elif str(got).strip() != one.answer.strip():
        change = "The filters change it: mend filter_list, or let doc_to_target be what they look for."
    else:
        change = "Let doc_to_target be what the metric compares with, or mend process_results or metric_list."
    return (
        f"its own right answer does not score best, {where}: {short(str(task.doc_to_text(one.document)))} is taught "
        f"{short(one.text)}; scoring got {short(str(got))} and wanted {short(one.answer)}, which gives {one.metric} "
        f"{shown} where the best is {best}. {hint[:1].upper()}{hint[1:]}{change}"
    )


def short(text: str) -> str:
    """Return a text in quotes for a message; of a long text only its last 60 characters."""
    return repr(text if len(text) <= SHOWN else f"…{text[-SHOWN:]}")
