"""An lm-eval task -> training examples. The same task object makes them and scores the result.

Not covered: scoring (`evaluate.py`), and where raw data comes from (`corpora.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.data import task_functions
from harness.data.catalog import Catalog, definition_files, keep_facts
from harness.data.facts import TaskFacts
from harness.errors import TaskError
from harness.records import digest

VALIDATION_SHARE = 0.1  # taken from train where a task has no validation split of its own
VALIDATION_MOST = 100
NUMBERS = frozenset({"idx", "index", "id", "_id", "guid", "uid", "doc_id", "ind"})


Render = Callable[..., str]  # an LM's apply_chat_template: messages -> the text that it is asked


@dataclass(frozen=True)
class Example:
    """One training example: `target` continues `context` (it begins with the task's delimiter).

    `closed` says that the answer ends there, so that an end-of-text token is learned too. `choices` are the answers to
    choose from, beginning with the delimiter too; `generation` says how lm-eval asks where there are none. `document`
    is what it was made of.
    """

    context: str
    target: str
    closed: bool
    choices: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict, hash=False)
    document: Any = field(default=None, repr=False, compare=False)


def load_task(path: Path) -> Any:
    """The lm-eval task of a YAML, with its documents. Raises TaskError with the reason.

    Relative data files and `file:` sources are relative to the YAML.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        task_functions.check_names(definition_files(path))
        task_functions.resolve_former_names()
        config = load_yaml(path)
        if "class" in config:
            raise TaskError("it is a Python class, not a YAML definition")
        for key in ("tag", "group", "task_list"):
            config.pop(key, None)
        options = dict(config.get("dataset_kwargs") or {})
        if "data_files" in options:
            options["data_files"] = absolute(options["data_files"], path.parent)
        if config.get("custom_dataset") in task_functions.PUBLIC.values():
            options["base"] = str(path.parent)
        config["dataset_kwargs"] = options or None
        return ConfigurableTask(config=config)
    except TaskError as error:
        raise TaskError(f"task {path.stem!r} ({path}): {error}") from error
    except Exception as error:  # a task's own code may raise anything
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise TaskError(f"task {path.stem!r} ({path}) cannot be loaded: {reason}") from error


def opened(facts: TaskFacts) -> Any:
    """A fetched task with its documents, kept while a few others are asked for. Raises TaskError."""
    return _opened(facts.path, facts.fingerprint)


@lru_cache(maxsize=4)
def _opened(path: str, fingerprint: str) -> Any:
    return load_task(Path(path))


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
        classes=classes(task, train),
        metric=next(iter(task.aggregation()), ""),
    )
    keep_facts(catalog.task_facts_path(name), facts)
    return facts


def classes(task: Any, documents: list[Any]) -> dict[str, int]:
    """How many documents each class has; nothing where answers are no classes."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return {}
    found = Counter(class_of(task, document) for document in documents if gold(task, document) is not None)
    return dict(sorted(found.items()))


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
    """SHA-256 of what a task is: its definition without paths, users' functions by their code, and every document.

    Functions of this package count by their last name, not by the module that they lie in: what `custom_dataset` gives
    are the documents, and a change of what another one does is a new `RESULT_VERSION`.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    for place in ("dataset_kwargs", "metadata", "tag"):
        config.pop(place, None)  # where the documents come from; what they are is counted below
    text = json.dumps(task_functions.canonical(config), sort_keys=True, default=str)
    for folder in sorted({str(file.parent.resolve()) for file in definition_files(path)}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
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


def class_of(task: Any, document: Any, answer: int | None = None) -> str:
    """The class of a document, or of another answer to it: the answer's text, its number where choices differ."""
    place = gold(task, document) if answer is None else answer
    shared = isinstance(task.config.doc_to_choice, list)
    return str(task.doc_to_choice(document)[place] if shared else place)


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


def for_validation(task: Any) -> Any:
    """A task that scores the validation documents, and can reach no scored one; of the same definition otherwise.

    lm-eval scores a task's test split by default; what chooses a setting must not see it. Raises TaskError where there
    are no validation documents.
    """
    _, validation = learning_docs(task)
    if not validation:
        raise TaskError(f"task {task.config.task!r} has no validation documents to choose a setting by.")

    class Validation(type(task)):  # type: ignore[misc]  # whatever class the task has
        def has_test_docs(self) -> bool:
            return False

        def has_validation_docs(self) -> bool:
            return True

        def test_docs(self) -> Any:
            raise TaskError("a trial must not look at test items")

        def validation_docs(self) -> Any:
            return validation

    derived = copy(task)
    derived.__class__ = Validation
    derived.task_docs = validation
    if task.config.num_fewshot:
        # Its examples of how to answer are neither what is scored in the end nor what is scored now.
        taken = {content_hash(document) for document in (*task.eval_docs, *validation)}
        derived.sampler = copy(task.sampler)
        shown = [document for document in task.sampler.df if content_hash(document) not in taken]
        derived.sampler.df = shown or learning_docs(task)[0]
    return derived


def fresh(documents: Iterable[Any], taken: set[str]) -> dict[str, Any]:
    """hash -> document, once each, without those that are scored."""
    hashed = {content_hash(document): document for document in documents}
    return {place: document for place, document in hashed.items() if place not in taken}


def example(task: Any, document: Any, closed: bool, render: Render | None = None, answer: int | None = None) -> Example:
    """A document as lm-eval would ask it (with `render`, in a chat template), with the right answer, or with the choice
    number `answer`."""
    prefix = task.doc_to_prefix(document)
    context = task.fewshot_context(
        document, num_fewshot=0, apply_chat_template=bool(render), chat_template=render, gen_prefix=prefix
    )
    if task.OUTPUT_TYPE == "multiple_choice":
        # The requests of the choices, so that the delimiter is the scorer's in either form.
        about = {"metadata": (task.config.task, 0, 1), "apply_chat_template": bool(render)}
        choices = tuple(request.args[1] for request in task.construct_requests(document, context, **about))
        choices = choices[: len(task.doc_to_choice(document))]  # some metrics ask for the choices alone as well
        chosen: Any = gold(task, document) if answer is None else answer
        return Example(context, choices[chosen], closed, choices, document=document)
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE == "generate_until" and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(document)[target]
    # The template ends where the answer begins; a prefix that the task puts there stays apart from the answer.
    parted = task.OUTPUT_TYPE != "loglikelihood" and (not render or (prefix and not prefix[-1:].isspace()))
    delimiter, generation = task.config.target_delimiter if parted else "", dict(task.config.generation_kwargs or {})
    return Example(context, f"{delimiter}{target}", closed, generation=generation, document=document)


def wrong_answers(task: Any, one: Example) -> list[Example]:
    """A multiple-choice example with each of the choices that are not its target."""
    return [replace(one, target=choice) for choice in one.choices if choice != one.target]


def mark(task: Any, one: Example, answer: str) -> float:
    """What a task makes of a generated answer to an example.

    Of multiple choice, 1 if the answer begins with the target, and with no longer choice; of text that is generated,
    the task's first metric (lower is better: its negative). Raises TaskError where an item has no metric of its own.
    """
    from lm_eval.models.utils import postprocess_generated_text

    said, wanted = answer.strip(), one.target.strip()
    if task.OUTPUT_TYPE != "generate_until":
        known = task.doc_to_choice(one.document) if task.OUTPUT_TYPE == "multiple_choice" else [wanted]
        found = [choice.strip() for choice in known if said.startswith(choice.strip())]
        return float(max(found, key=len, default=None) == wanted)
    found = [[postprocess_generated_text(answer, task.config.generation_kwargs.get("until"), None)]]
    for step in task._filters[0].filters:
        found = list(step().apply(found, [one.document]))
    metric, value = next(iter(task.process_results(one.document, found).items()))
    if not isinstance(value, int | float):
        raise TaskError(f"task {task.config.task!r}: {metric} is no number for each item, so it cannot be a reward.")
    return float(value) if task.higher_is_better().get(metric, True) else -float(value)


Encoder = Callable[[str, str], tuple[list[int], list[int]]]


def encode(
    found: list[Example], encoder: Encoder, end: int, max_length: int
) -> tuple[list[dict[str, list[int]]], list[int]]:
    """(rows of token ids and labels, how many tokens each lost); the loss is on answer tokens only (labels elsewhere
    are -100).

    `encoder` is the scorer's own (context, continuation) -> ids, so that what is learned is what is scored.
    Contexts too long for `max_length` lose their start.
    """
    rows, cut = [], []
    for one in found:
        context, answer = encoder(one.context, one.target)
        if one.closed:
            answer = [*answer, end]
        whole = len(context) + len(answer)
        answer = answer[: max_length - 1]
        context = context[-(max_length - len(answer)) :]
        rows.append({"input_ids": context + answer, "labels": [-100] * len(context) + answer})
        cut.append(whole - len(context) - len(answer))
    return rows, cut
