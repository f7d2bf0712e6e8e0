"""An lm-eval task -> training examples. The same task object makes them and scores the result.

Not covered: scoring (`evaluate.py`), and where raw data comes from (`corpora.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.catalog import Catalog, TaskFacts, definition_files, keep_facts
from harness.corpora import interleave
from harness.errors import TaskError
from harness.records import digest

VALIDATION_SHARE = 0.1  # taken from train where a task has no validation split of its own
VALIDATION_MOST = 100
NUMBERS = frozenset({"idx", "index", "id", "_id", "guid", "uid", "doc_id", "ind"})


@dataclass(frozen=True)
class Example:
    """One training example: `target` continues `context` (it begins with the task's delimiter).

    `closed` says that the answer ends there, so that an end-of-text token is learned too. `choices` are the answers to
    choose from, beginning with the delimiter too; `generation` says how lm-eval asks where there are none.
    """

    context: str
    target: str
    closed: bool
    choices: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)


def load_task(path: Path) -> Any:
    """The lm-eval task of a YAML, with its documents. Raises TaskError with the reason.

    Relative data files and `file:` sources are relative to the YAML.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config = load_yaml(path)
        if "class" in config:
            raise TaskError("it is a Python class, not a YAML definition")
        for key in ("tag", "group", "task_list"):
            config.pop(key, None)
        options = dict(config.get("dataset_kwargs") or {})
        if "data_files" in options:
            options["data_files"] = absolute(options["data_files"], path.parent)
        if getattr(config.get("custom_dataset"), "__module__", "") == "harness.corpora":
            options["base"] = str(path.parent)
        config["dataset_kwargs"] = options or None
        return ConfigurableTask(config=config)
    except TaskError as error:
        raise TaskError(f"task {path.stem!r} ({path}): {error}") from error
    except Exception as error:  # a task's own code may raise anything
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise TaskError(f"task {path.stem!r} ({path}) cannot be loaded: {reason}") from error


def absolute(files: Any, folder: Path) -> Any:
    """Data files (a name, a list or a mapping of them) made absolute, unless they are addresses."""
    if isinstance(files, dict):
        return {key: absolute(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [absolute(value, folder) for value in files]
    return files if "://" in files else str((folder / files).resolve())


def prepare(catalog: Catalog, name: str) -> TaskFacts:
    """Load a task once, learn its facts, and keep them for `check` and `plan`. Raises TaskError."""
    known = catalog.task_facts(name)
    if known:
        return known
    path = catalog.task_path(name)
    task = load_task(path)
    train, validation = learning_docs(task)
    scored = list(task.eval_docs)
    check_targets(name, task, {"train": train, "validation": validation, "scored": scored})
    facts = TaskFacts(
        name=name,
        path=str(path),
        fingerprint=fingerprint(path, task, (train, validation, scored)),
        output_type=str(task.OUTPUT_TYPE),
        n_train=len(train),
        n_validation=len(validation),
        n_test=len(scored),
        unlearnable=unlearnable(task),
    )
    keep_facts(catalog.task_facts_path(name), facts)
    return facts


def check_targets(name: str, task: Any, splits: dict[str, list[Any]]) -> None:
    """Raise TaskError when an answer is none of its choices: lm-eval would count it as wrong, without a word."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return
    strange: Counter[str] = Counter()
    for split, documents in splits.items():
        for document in documents:
            target = task.doc_to_target(document)
            if not isinstance(target, list) and gold(task, document) is None:
                strange[f"{target!r} ({split})"] += 1
    if strange:
        shown = ", ".join(f"{what} {count} times" for what, count in strange.most_common(5))
        raise TaskError(
            f"task {name!r}: some answers are none of the choices in doc_to_choice: {shown}. "
            "Add the choice, or mend the data."
        )


def fingerprint(path: Path, task: Any, splits: Iterable[list[Any]]) -> str:
    """What a task is: its definition without paths, and every document of every split."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    for place in ("dataset_kwargs", "metadata", "tag"):
        config.pop(place, None)  # where the documents come from; what they are is counted below
    text = json.dumps(config, sort_keys=True, default=str).replace(str(path.parent.resolve()) + "/", "")
    code = [
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in definition_files(path)
        if file.suffix == ".py" and file.parent != Path(__file__).parent
    ]
    documents = [[document_hash(document) for document in split] for split in splits]
    return digest([text, code, documents, str(task.OUTPUT_TYPE)])


def document_hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(document: Any) -> str:
    """A document's hash without its number, so that the same text under two numbers counts as a repeat."""
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key.lower() not in NUMBERS}
    return document_hash(document)


def unlearnable(task: Any) -> str:
    """Why a task cannot be trained on, or ""."""
    if getattr(task, "MULTIMODAL", False):
        return "it has images or sound, and only text is learned here."
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "it is running text without questions and answers; it can be listed under retain."
    if not task.has_training_docs():
        return "it has no training split (training_split in its YAML)."
    document = next(iter(task.training_docs()), None)
    if document is None:
        return "its training split is empty."
    if isinstance(task.doc_to_text(document), int) or task.multiple_input:
        return (
            "its text is an index into several contexts (winogrande's form), so there is no one question "
            "whose answer could be learned."
        )
    target = task.doc_to_target(document)
    if isinstance(target, list):
        return f"its target is a list ({len(target)} answers), so there is no one answer to learn."
    return ""


def gold(task: Any, document: Any) -> int | None:
    """The index of the right choice of a multiple-choice document, or None when there is none."""
    choices, target = task.doc_to_choice(document), task.doc_to_target(document)
    if isinstance(target, int):
        return target if 0 <= target < len(choices) else None
    return choices.index(target) if target in choices else None


def learning_docs(task: Any) -> tuple[list[Any], list[Any]]:
    """(train, validation) documents. Validation is the task's own where it is not what is scored;
    otherwise a tenth of train (100 at most), chosen by document hash. Repeated documents, and those that are
    scored, are left out of both: they are never learned."""
    taken = {content_hash(document) for document in task.eval_docs}
    train = fresh(task.training_docs(), taken) if task.has_training_docs() else {}
    if task.has_test_docs() and task.has_validation_docs():
        validation = fresh(task.validation_docs(), taken)
        return [document for place, document in train.items() if place not in validation], [*validation.values()]
    ranked = [train[place] for place in sorted(train)]
    held = min(VALIDATION_MOST, int(len(ranked) * VALIDATION_SHARE))
    return ranked[held:], ranked[:held]


def fresh(documents: Iterable[Any], taken: set[str]) -> dict[str, Any]:
    """hash -> document, once each, without those that are scored."""
    hashed = {content_hash(document): document for document in documents}
    return {place: document for place, document in hashed.items() if place not in taken}


def examples(task: Any, split: str = "train", n: int | None = None, seed: int = 0) -> list[Example]:
    """Training examples of a task: "train" (the first `n` of the order drawn by `seed`) or "validation".

    Slices are nested (n=32 is the start of n=128 under the same seed) and class-balanced for multiple
    choice. Raises TaskError when the task cannot be learned or has fewer than `n`.
    """
    if reason := unlearnable(task):
        raise TaskError(f"task {task.config.task!r} cannot be learned: {reason}")
    train, validation = learning_docs(task)
    closed = task.OUTPUT_TYPE != "multiple_choice"
    if split == "validation":
        return [example(task, document, closed) for document in validation]
    if n is not None and n > len(train):
        raise TaskError(f"task {task.config.task!r} has {len(train)} training examples, {n} were asked for.")
    if n is None:
        n = len(train)
    # Only as much of each document as the order needs; the text is made for the chosen ones alone.
    rows = [
        {
            "hash": document_hash(document),
            "class": "" if closed else str(gold(task, document)),
            "place": str(place),
        }
        for place, document in enumerate(train)
    ]
    stable = [{"hash": row["hash"], "class": row["class"]} for row in rows]
    by_hash = {row["hash"]: int(row["place"]) for row in rows}
    drawn = interleave(stable, "class", salt=f"seed {seed} ")
    return [example(task, train[by_hash[row["hash"]]], closed) for row in drawn[:n]]


def texts(task: Any, n: int | None = None, seed: int = 0) -> list[str]:
    """Running text of a task's training split: the first `n` of the order drawn by `seed`, all without `n`.

    A task of running text gives its documents; any other its questions with their answers. Texts that are scored
    are not among them. Raises TaskError when there is no training split, or fewer than `n`.
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
    found = [example(task, document, False) for document in chosen]
    return [one.context + one.target for one in found]


def example(task: Any, document: Any, closed: bool) -> Example:
    """A document as lm-eval would ask it, with the right answer."""
    context = task.fewshot_context(document, num_fewshot=0, gen_prefix=task.doc_to_prefix(document))
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(document)
        answer = choices[gold(task, document)]
        answers = tuple(f"{task.config.target_delimiter}{choice}" for choice in choices)
        return Example(context, f"{task.config.target_delimiter}{answer}", closed, choices=answers)
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE == "generate_until" and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(document)[target]
    delimiter = "" if task.OUTPUT_TYPE == "loglikelihood" else task.config.target_delimiter
    return Example(context, f"{delimiter}{target}", closed, generation=dict(task.config.generation_kwargs or {}))


Encoder = Callable[[str, str], tuple[list[int], list[int]]]


def encode(found: list[Example], encoder: Encoder, end: int, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids and labels; the loss is on answer tokens only (labels elsewhere are -100).

    `encoder` is the scorer's own (context, continuation) -> ids, so that what is learned is what is scored.
    Contexts too long for `max_length` lose their start.
    """
    rows = []
    for one in found:
        context, answer = encoder(one.context, one.target)
        if one.closed:
            answer = [*answer, end]
        answer = answer[: max_length - 1]
        context = context[-(max_length - len(answer)) :]
        rows.append({"input_ids": context + answer, "labels": [-100] * len(context) + answer})
    return rows
