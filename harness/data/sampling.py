"""Chooses which of a task's documents are learned: how many, in which order, in which quality.

Not covered: how a document becomes an example (`tasks.py`), and what the kinds of quality are (`quality.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from harness.data.division import interleave
from harness.data.hashes import document_hash
from harness.data.lm_eval_task import Document, Render, Task
from harness.data.quality import CLEAN, POOL, Ask, Quality, flipped, hardest, imbalanced, repeated, spread, truncated
from harness.data.tasks import Example, class_of, example, gold, has_shared_choices, learning_docs, unlearnable
from harness.errors import TaskError

Judge = Callable[[list[Example]], list[float]]


def examples(
    task: Task, split: str = "train", n: int | None = None, seed: int = 0, render: Render | None = None
) -> list[Example]:
    """Return examples of a task's split "train" (the first `n` in the order of `seed`) or "validation" (all of them,
    whatever `n` and `seed`).

    With `render` they are asked in a chat template. Slices are nested (n=32 is the start of n=128 under the same seed)
    and class-balanced for multiple choice. Raises TaskError when the task cannot be learned or has fewer than `n`.
    """
    if split == "train":
        return draw(task, n, seed, render=render)[0]
    if reason := unlearnable(task):
        raise TaskError(f"task {task.config.task!r} cannot be learned: {reason}")
    closed = task.OUTPUT_TYPE != "multiple_choice"
    return [example(task, document, closed, render) for document in learning_docs(task)[1]]


def draw(
    task: Task,
    n: int | None = None,
    seed: int = 0,
    quality: Quality = CLEAN,
    judge: Judge | None = None,
    render: Render | None = None,
) -> tuple[list[Example], dict[str, float]]:
    """Return (`n` training examples of the given quality in the order of `seed`, {name: count} of what was changed in
    them, of the classes taught, and of those that are missing); all without `n`. For clean data only missing classes
    are counted.

    Documents are chosen from clean data; then some are repeated, then labels are flipped, then texts truncated. `judge`
    returns the base model's loss of each example, for the selection "hard"; with `render` they are asked in a chat
    template. Raises TaskError as `examples` does, and when the data cannot be corrupted in that way.
    """
    if reason := unlearnable(task):
        raise TaskError(f"task {task.config.task!r} cannot be learned: {reason}")
    train, _ = learning_docs(task)
    closed = task.OUTPUT_TYPE != "multiple_choice"
    if n is not None and n > len(train):
        raise TaskError(f"task {task.config.task!r} has {len(train)} training examples, {n} were asked for.")
    if n is None:
        n = len(train)
    corrupt = quality.corrupt
    chosen = choose(task, train, n - quality.repeats(n), n, seed, quality, judge)
    documents = [train[chosen[number]] for number in repeated(n, corrupt.duplicates, seed)]
    wrong: dict[int, int] = {}
    if corrupt.labels:
        answers = [(gold(task, document) or 0, len(task.doc_to_choice(document))) for document in documents]
        wrong = flipped(answers, corrupt.labels, seed)
    gone = 0
    if corrupt.truncate:
        cut = [truncated(document, corrupt.truncate, asked(task)) for document in documents]
        documents, gone = [document for document, _ in cut], sum(lost for _, lost in cut)
        if not gone:
            raise TaskError(
                f"truncate {corrupt.truncate:g}: no text of {task.config.task!r} lost a word. Its questions show "
                "none of a document's own fields of several words, or the share is too small."
            )
    drawn = [example(task, document, closed, render, wrong.get(place)) for place, document in enumerate(documents)]
    record: dict[str, float] = {}
    if has_shared_choices(task):
        held = {class_of(task, document, wrong.get(place)) for place, document in enumerate(documents)}
        lost = {class_of(task, document) for document in train} - held
        record |= {"missing_classes": float(len(lost))} if lost else {}
    if quality != CLEAN:
        done = {"flipped_labels": len(wrong), "duplicate_examples": n - len(chosen), "truncated_words": gone}
        record |= {name: float(count) for name, count in done.items() if count}
    if quality != CLEAN and not closed:
        taught = [class_of(task, document, wrong.get(place)) for place, document in enumerate(documents)]
        record |= {f"class:{name}": float(count) for name, count in sorted(Counter(taught).items())}
    return drawn, record


def choose(
    task: Task, train: list[Document], count: int, n: int, seed: int, quality: Quality, judge: Judge | None
) -> list[int]:
    """Return the numbers of `count` documents of `train`, in the order of `seed`, selected as `quality` says. `n` is
    the size of the slice with its repeats; `judge` returns the base model's loss of each example, for the selection
    "hard"."""
    closed = task.OUTPUT_TYPE != "multiple_choice"
    # The order needs only hash and class of each document; texts are made for the chosen documents alone.
    rows = [
        {"hash": document_hash(document), "class": "" if closed else str(gold(task, document))} for document in train
    ]
    places = {row["hash"]: place for place, row in enumerate(rows)}
    by = "" if quality.select in ("random", "diverse") else "class"
    order = [places[row["hash"]] for row in interleave(rows, by, salt=f"seed {seed} ")]
    ratio = quality.corrupt.imbalance
    if quality.select == "diverse":
        wanted = len(order) if ratio > 1 else count
        order = [order[place] for place in spread([str(task.doc_to_text(train[p])) for p in order], wanted)]
    if quality.select == "hard":
        assert judge is not None
        order = order[: POOL * n]
        losses = judge([example(task, train[place], closed) for place in order])
        order = [order[place] for place in hardest(losses)]
    if ratio > 1:
        order = imbalanced(order, [class_of(task, document) for document in train], count, ratio, seed)
        if len(order) < count:
            raise TaskError(
                f"imbalance {ratio:g}: task {task.config.task!r} has too few examples of its most frequent class for "
                f"{n} in all. Lower the size or the imbalance."
            )
    return order[:count]


def asked(task: Task) -> Ask:
    """Return a function that maps a document to its (question, answer), for `quality.truncated`."""
    choices = task.config.doc_to_choice is not None
    return lambda document: (
        task.doc_to_text(document),
        (task.doc_to_target(document), task.doc_to_choice(document) if choices else None),
    )


def texts(task: Task, n: int | None = None, seed: int = 0) -> list[str]:
    """Return running text of a task's training split: the first `n` texts in the order of `seed`, all without `n`.

    A task of questions gives each question with its answer. Scored texts are left out. Raises TaskError when there is
    no training split, or when it has fewer than `n` texts.
    """
    name = task.config.task
    if not task.has_training_docs():
        raise TaskError(f"task {name!r} has no training split (training_split in its YAML), so no text to learn from.")
    running = task.OUTPUT_TYPE == "loglikelihood_rolling"
    train, _ = learning_docs(task)
    if n is not None and n > len(train):
        raise TaskError(f"task {name!r} has {len(train)} training texts, {n} were asked for.")
    rows = [{"hash": document_hash(document), "place": str(place)} for place, document in enumerate(train)]
    by_hash = {row["hash"]: int(row["place"]) for row in rows}
    drawn = interleave([{"hash": row["hash"]} for row in rows], "", salt=f"seed {seed} ")
    chosen = [train[by_hash[row["hash"]]] for row in drawn[:n]]
    if running:
        return [str(task.doc_to_target(document)) for document in chosen]
    learned = [example(task, document, False) for document in chosen]
    return [one.context + one.target for one in learned]
