"""Counts faults of a task's data before anything is trained: leaked test items, empty examples, answers in questions.

Counted once, at `fetch`, on the texts that a model sees. Whether a suite may run is decided in `plan/feasibility.py`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from weakref import WeakKeyDictionary

from harness.data.catalog import Catalog, keep_facts
from harness.data.contamination import copies, matches, normalise, words
from harness.data.facts import DataFacts, OverlapFacts, TaskFacts
from harness.data.hashes import content_hash
from harness.data.lm_eval_task import Document, Task
from harness.data.tasks import Example, example, gold, learning_docs, opened, unlearnable
from harness.errors import TaskError

SHOWN = 5  # items that are named
EXCERPT = 80  # characters of each
SEVERAL = 3  # answers with which a question is learned: from here on it is a greeting, not an item


def prepare_data(catalog: Catalog, task: TaskFacts) -> DataFacts:
    """Count the faults in a task's documents, cache them for `check` and `plan`, and return them. Raises TaskError
    where the task cannot be loaded."""
    facts = examine(task.name, opened(task))
    keep_facts(catalog.data_facts_path(task), facts)
    return facts


def prepare_overlap(catalog: Catalog, learned: TaskFacts, scored: TaskFacts) -> OverlapFacts:
    """Count the scored items of the task `scored` that are in the learned text of the task `learned` (which may be the
    same), cache the result and return it. Raises TaskError where a task cannot be loaded."""
    facts = overlap(learned.name, scored.name, opened(learned), opened(scored))
    keep_facts(catalog.overlap_facts_path(learned, scored), facts)
    return facts


# --- one task ---


def examine(name: str, task: Task) -> DataFacts:
    """Count a task's empty examples by split, the share of questions that contain their answer and no other choice, and
    the training questions with contradicting answers. `name` is the task's, for the facts."""
    asked = asked_by_split(task)
    empty: dict[str, int] = {}
    for split, documents in splits_of(task).items():
        pairs = zip(asked[split], documents, strict=True)
        empty[split] = sum(1 for one, document in pairs if is_empty(one.target, document))
    count, shown = contradictions(task, asked.get("train", []))
    copied = scored_copies(task, asked["scored"])
    return DataFacts(
        name, empty, share_given_away(task), count, shown,
        known_validation=known_validation(task, asked), copies=len(copied), copied=tuple(copied[:SHOWN]),
    )  # fmt: skip


def is_empty(answer: str, document: Document) -> bool:
    """Return whether an example has no answer, or running text no text. A template writes a missing field as "None"."""
    return not answer.strip() or (answer.strip() == "None" and None in document.values())


def share_given_away(task: Task) -> float | None:
    """Return the share of scored items whose question contains the right choice and no other.

    None for tasks without choices, or whose choices differ from item to item.
    """
    documents = list(task.eval_docs)
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or not documents:
        return None
    choices = task.doc_to_choice(documents[0])
    if any(task.doc_to_choice(document) != choices for document in documents):
        return None
    questions = without_template([one.context for one in asked_by_split(task)["scored"]])
    told = [spaced(choice) for choice in choices]
    count = 0
    for document, question in zip(documents, questions, strict=True):
        padded = spaced(question)
        count += [word for word in told if word in padded] == [told[gold(task, document) or 0]]
    return count / len(documents)


def spaced(text: str) -> str:
    """Return the parts of a text with blanks between and around them, so that whole words are found in it."""
    return f" {' '.join(words(text))} "


def contradictions(task: Task, asked: Sequence[Example]) -> tuple[int, tuple[str, ...]]:
    """Return (how many questions of a task stand among those `asked` with different right choices, the beginnings of a
    few of them). None for tasks without choices."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return 0, ()
    answers: dict[str, set[str]] = defaultdict(set)
    for one in asked:
        if one.target:
            answers[normalise(f"{one.context} {' '.join(one.choices)}")].add(one.target)
    odd = sorted(text for text, given in answers.items() if len(given) > 1)
    return len(odd), tuple(text[:EXCERPT] for text in without_template(odd)[:SHOWN])


def scored_copies(task: Task, asked: Sequence[Example]) -> list[str]:
    """Return the beginnings of those scored items that stand in another scored item, in full or nearly, with the same
    right choice. `asked` are all scored items."""
    questions = without_template([one.context for one in asked])
    texts = scored_texts(task, asked, questions, [])
    found = copies(texts)
    alike = [place for place, other in found.items() if not are_apart(asked[place], asked[other])]
    return [(questions[place] or texts[place])[:EXCERPT] for place in sorted(alike)]


def known_validation(task: Task, asked: Mapping[str, Sequence[Example]]) -> int:
    """Return how many validation items of a task stand in its training text, in full or nearly. `asked` are its
    documents by published split."""
    if unlearnable(task):
        return 0
    train, validation = learning_docs(task)
    published = {split: documents for split, documents in splits_of(task).items() if split != "scored"}
    examples = {
        content_hash(document): one
        for split, documents in published.items()
        for document, one in zip(documents, asked[split], strict=True)
    }
    known = [examples[content_hash(document)] for document in train]
    held = [examples[content_hash(document)] for document in validation]
    questions, learned_questions = bare_questions(held, known, same=True)
    texts = scored_texts(task, held, questions, list(zip(learned_questions, known, strict=True)))
    found = matches(texts, learned_texts(known, learned_questions))
    return len({one for one, place, share in found if share == 1.0 or not are_apart(held[one], known[place])})


def are_apart(one: Example, other: Example) -> bool:
    """Return whether two examples have choices, and different right ones: "… 👍" and "… 👎" are two items."""
    return bool(one.choices and other.choices) and one.target != other.target


# --- two splits ---


def overlap(learned: str, scored: str, source: Task, target: Task) -> OverlapFacts:
    """Count the scored items of the task `target` that are contained in the training or validation text of `source`.
    `learned` and `scored` are the names of `source` and `target`, for the facts.

    An item that is there but for a few words, with another right choice, is none (`are_apart`).
    """
    asked = asked_by_split(target)["scored"]
    known = [one for split, several in asked_by_split(source).items() if split != "scored" for one in several]
    questions, learned_questions = bare_questions(asked, known, same=learned == scored)
    texts = scored_texts(target, asked, questions, list(zip(learned_questions, known, strict=True)))
    shares: dict[int, float] = {}
    for one, place, share in matches(texts, learned_texts(known, learned_questions)):
        if share == 1.0 or not are_apart(asked[one], known[place]):
            shares[one] = max(share, shares.get(one, 0.0))
    exact = sum(1 for share in shares.values() if share == 1.0)
    ranked = sorted(shares, key=lambda place: -shares[place])[:SHOWN]
    return OverlapFacts(
        learned, scored, len(asked), exact, len(shares) - exact, tuple(texts[place][:EXCERPT] for place in ranked)
    )


def splits_of(task: Task) -> dict[str, list[Document]]:
    """Return {split: its documents as published}: "scored" are those that lm-eval scores, "train" and "validation"
    those that may be learned. Either of these is left out where the task has none, and "validation" also where it is
    scored itself."""
    splits: dict[str, list[Document]] = {"scored": list(task.eval_docs)}
    if not unlearnable(task) or task.has_training_docs():
        splits["train"] = list(task.training_docs()) if task.has_training_docs() else []
    if task.has_test_docs() and task.has_validation_docs():
        splits["validation"] = list(task.validation_docs())
    return splits


def bare_questions(asked: Sequence[Example], known: Sequence[Example], same: bool) -> tuple[list[str], list[str]]:
    """Return the questions of scored items and of learned documents without the words of their template. `same`: they
    are of one task, so that what all items have and no learned document is no template."""
    scored, learned = [one.context for one in asked], [one.context for one in known]
    if not same:
        return without_template(scored), without_template(learned)
    both = without_template([*scored, *learned])
    return both[: len(scored)], both[len(scored) :]


def scored_texts(
    task: Task, asked: Sequence[Example], questions: Sequence[str], learned: Sequence[tuple[str, Example]]
) -> list[str]:
    """Return the texts of scored items to search for: their bare `questions`, with the answer where the question says
    too little of the item, or running text as it is. `learned` has the bare question and the example of each learned
    document.

    It says too little where other items ask the same, or where it is learned with several answers, as a chat's "Hello!"
    is.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return [one.target for one in asked]
    times = Counter(map(normalise, questions))
    answers: dict[str, set[str]] = defaultdict(set)
    for question, one in learned:
        answers[normalise(question)].add(one.target)
    return [
        f"{question} {one.target}"
        if times[normalise(question)] > 1 or len(answers[normalise(question)]) >= SEVERAL
        else question
        for question, one in zip(questions, asked, strict=True)
    ]


def learned_texts(known: Sequence[Example], questions: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the texts of learned documents to search in, each in three forms: the bare question alone (a short one
    matches only an equal text), the bare question with its answer, and the whole."""
    return [
        (question, f"{question} {one.target}", f"{one.context} {one.target}")
        for question, one in zip(questions, known, strict=True)
    ]


ASKED: WeakKeyDictionary[Task, dict[str, list[Example]]] = WeakKeyDictionary()
MOST_KEPT = 50_000  # documents of a task, of about a kilobyte each


def asked_by_split(task: Task) -> dict[str, list[Example]]:
    """Return {split: its documents as questions and answers}, in the order of `splits_of`. Each search through a task
    asks for all of them: those of a task that is not too large are kept as long as it is loaded."""
    if task in ASKED:
        return ASKED[task]
    asked = {split: [ask(task, document) for document in documents] for split, documents in splits_of(task).items()}
    if sum(map(len, asked.values())) <= MOST_KEPT:
        ASKED[task] = asked
    return asked


def ask(task: Task, document: Document) -> Example:
    """Return a document as question and answer; running text is an answer without a question. An answer that is not one
    text (a list, an index into contexts) is left empty."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return Example("", str(task.doc_to_target(document)), True)
    try:
        return example(task, document, False)
    except (TypeError, KeyError, IndexError, AttributeError, TaskError):
        text = task.doc_to_text(document)
        return Example(text if isinstance(text, str) else str(task.doc_to_choice(document)), "", False)


def without_template(texts: Sequence[str]) -> list[str]:
    """Return the texts without the words that all of them begin with and the words that all of them end with."""
    if len(texts) < 2:
        return list(texts)
    words = [re.findall(r"\S+", text) for text in texts]
    start = shared_start(words)
    stop = shared_start([one[start:][::-1] for one in words])
    return [" ".join(one[start : len(one) - stop]) for one in words]


def shared_start(lists: Sequence[Sequence[str]]) -> int:
    """Return how many words all the lists begin with in common; each list holds the words of a text."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*lists, strict=False)))
