"""What is wrong with a task's data, before anything is trained on it: scored items that are also learned, empty
examples, answers that stand in the question.

Counted once, at `fetch`, on what a model would see. Whether a suite may run with it is decided in `misfits.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from harness.data.catalog import Catalog, keep_facts
from harness.data.contamination import contained, normalise
from harness.data.facts import DataFacts, OverlapFacts, TaskFacts
from harness.data.tasks import Example, example, gold, opened, unlearnable

SHOWN = 5  # items that are named
EXCERPT = 80  # characters of each


def prepare_data(catalog: Catalog, task: TaskFacts) -> DataFacts:
    """Look through a task's documents, and keep what was found for `check` and `plan`. Raises TaskError."""
    facts = examine(task.name, opened(task))
    keep_facts(catalog.data_facts_path(task), facts)
    return facts


def prepare_overlap(catalog: Catalog, learned: TaskFacts, scored: TaskFacts) -> OverlapFacts:
    """Look for one task's scored items in another's (or its own) learned text, and keep what was found."""
    facts = overlap(learned.name, scored.name, opened(learned), opened(scored))
    keep_facts(catalog.overlap_facts_path(learned, scored), facts)
    return facts


# --- one task ---


def examine(name: str, task: Any) -> DataFacts:
    """Empty texts of every split; and how often the answer, and no other, stands in the question."""
    empty: dict[str, int] = {}
    for split, documents in splits_of(task).items():
        empty[split] = sum(1 for document in documents if is_empty(ask(task, document).target, document))
    return DataFacts(name, empty, told(task))


def is_empty(answer: str, document: Any) -> bool:
    """Whether an example has no answer, or running text no text. A template writes a missing field as None."""
    return not answer.strip() or (answer.strip() == "None" and None in document.values())


def told(task: Any) -> float | None:
    """The share of scored items whose right choice is the only one that stands in the question.

    None for tasks without choices, or whose choices differ from item to item.
    """
    documents = list(task.eval_docs)
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or not documents:
        return None
    choices = task.doc_to_choice(documents[0])
    if any(task.doc_to_choice(document) != choices for document in documents):
        return None
    questions = without_template([ask(task, document).context for document in documents])
    words = [normalise(choice) for choice in choices]
    count = 0
    for document, question in zip(documents, questions, strict=True):
        padded = f" {normalise(question)} "
        count += [word for word in words if f" {word} " in padded] == [words[gold(task, document) or 0]]
    return count / len(documents)


# --- two splits ---


def overlap(learned: str, scored: str, source: Any, target: Any) -> OverlapFacts:
    """The scored items of the task `target` that stand in the training or validation text of `source`."""
    score = list(target.eval_docs)
    texts = scored_texts(target, score)
    learn = [document for split, found in splits_of(source).items() if split != "scored" for document in found]
    found = contained(texts, learned_texts(source, learn))
    exact = sum(1 for share in found.values() if share == 1.0)
    ranked = sorted(found, key=lambda place: -found[place])[:SHOWN]
    return OverlapFacts(
        learned, scored, len(score), exact, len(found) - exact, tuple(texts[place][:EXCERPT] for place in ranked)
    )


def splits_of(task: Any) -> dict[str, list[Any]]:
    """The documents of each split as they are published; "scored" is what lm-eval scores."""
    found: dict[str, list[Any]] = {"scored": list(task.eval_docs)}
    if not unlearnable(task) or task.has_training_docs():
        found["train"] = list(task.training_docs()) if task.has_training_docs() else []
    if task.has_test_docs() and task.has_validation_docs():
        found["validation"] = list(task.validation_docs())
    return found


def scored_texts(task: Any, documents: Sequence[Any]) -> list[str]:
    """What is asked without the template's own words, with answers where questions repeat; running text as it is."""
    found = [ask(task, document) for document in documents]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return [one.target for one in found]
    questions = without_template([one.context for one in found])
    if len(set(questions)) == len(questions):
        return questions
    return [f"{question} {one.target}" for question, one in zip(questions, found, strict=True)]


def learned_texts(task: Any, documents: Sequence[Any]) -> list[str]:
    """What is learned: questions alone (a short one counts only when it is equal), and with their answers."""
    found = [ask(task, document) for document in documents]
    questions = without_template([one.context for one in found])
    return [*questions, *(f"{one.context} {one.target}" for one in found)]


def ask(task: Any, document: Any) -> Example:
    """A document as question and answer; a target that is not one text (a list, an index into contexts) is left out."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return Example("", str(task.doc_to_target(document)), True)
    try:
        return example(task, document, False)
    except (TypeError, KeyError, IndexError, AttributeError):
        text = task.doc_to_text(document)
        return Example(text if isinstance(text, str) else str(task.doc_to_choice(document)), "", False)


def without_template(texts: Sequence[str]) -> list[str]:
    """Texts without the words that all of them begin and end with."""
    if len(texts) < 2:
        return list(texts)
    words = [re.findall(r"\S+", text) for text in texts]
    start = shared_start(words)
    stop = shared_start([one[start:][::-1] for one in words])
    return [" ".join(one[start : len(one) - stop]) for one in words]


def shared_start(lists: Sequence[Sequence[str]]) -> int:
    """How many words all lists begin with."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False)))
