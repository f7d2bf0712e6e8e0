"""Flags on generated answers as such: mostly empty, scored otherwise without white space, or all scored 0.

Each of them says more often that a task or its metric is wrong than that a model is bad, so the base model's cell has
them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from harness.data import first_metric
from harness.records import Flag

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

EMPTY = 0.5  # the share of answers without a word from which it is said
MOVED = 0.01  # the change of the score, on its own scale, that white space may make: an item of a hundred
Evidence = dict[str, dict[str, float | str]]  # by task


def odd_answers(tasks: Mapping[str, ConfigurableTask]) -> list[Flag]:
    """Returns the flags on the answers that were just scored of `tasks` (name -> task), each with the evidence of every
    task that it is about. Only tasks whose answers are generated are looked at.

    `empty_answers`: half of the answers or more have nothing but white space. `white_space_counts`: the headline
    changes by more than 0.01 where white space is taken off the answers' ends. `all_scored_zero`: the headline of every
    item is 0, and higher would be better.
    """
    evidence: dict[str, Evidence] = {"empty_answers": {}, "white_space_counts": {}, "all_scored_zero": {}}
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        answers = [(request, text) for request in task.instances if (text := answer_of(request)) is not None]
        if not answers:
            continue
        empty = sum(not text.strip() for _, text in answers) / len(answers)
        if empty >= EMPTY:
            evidence["empty_answers"][name] = {"share": empty, "n": len(answers)}
        metric, before, after = scored_twice(task, answers)
        if not before:
            continue
        scores = sum(before) / len(before), sum(after) / len(after)
        if abs(scores[1] - scores[0]) > MOVED:
            evidence["white_space_counts"][name] = {"metric": metric, "as_it_is": scores[0], "without": scores[1]}
        if not any(before) and task.higher_is_better().get(metric, True):
            example = next((text for _, text in answers if text.strip()), answers[0][1])
            evidence["all_scored_zero"][name] = {"metric": metric, "n": len(before), "an_answer": example[:80]}
    return [Flag(flag, by_task) for flag, by_task in evidence.items() if by_task]


def answer_of(request: Instance) -> str | None:
    """Returns the answer that was scored of a request, after the task's first filter; None where that is no text."""
    text = next(iter(request.filtered_resps.values()), None)
    return text if isinstance(text, str) else None


def scored_twice(
    task: ConfigurableTask, answers: Iterable[tuple[Instance, str]]
) -> tuple[str, list[float], list[float]]:
    """Returns (headline, its values of the answers as they are, its values without white space at their ends). Items
    are left out whose value is no number, as metrics of a whole set have none for an item."""
    metric, before, after = "", [], []
    for request, text in answers:
        with suppress(Exception):  # the task's own code, on a text that it was not written for: no reason to end a cell
            values = task.process_results(request.doc, [text])
            metric = metric or first_metric(task, values)
            bare = text.strip()
            stripped = values if bare == text else task.process_results(request.doc, [bare])
            pair = values[metric], stripped[metric]
            if all(isinstance(value, int | float) for value in pair):
                before.append(float(pair[0]))
                after.append(float(pair[1]))
    return metric, before, after
