"""Makes training examples from an lm-eval task. The same task object scores the result.

Not covered: scoring (`worker/evaluate.py`), and where raw data comes from (`splits.py`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from harness.data import splits, task_functions, trust
from harness.data.answer_room import answer_tokens
from harness.data.answers import answer_of, delimiter_of, unscorable, written_score
from harness.data.catalog import Catalog, keep_facts
from harness.data.clusters import cluster_column, cluster_problem, count_clusters
from harness.data.counts import kept_by_class, row_counts
from harness.data.division import class_sizes, pick
from harness.data.facts import TaskFacts
from harness.data.few_shot import try_shots
from harness.data.hashes import content_hash, document_hash, fresh
from harness.data.labels import (
    asks_for_label,
    check_choices,
    check_targets,
    listed_choices,
    listing,
    place_of,
    write_texts,
)
from harness.data.lm_eval_task import Document, Render, Task
from harness.data.open_tasks import keep_task, kept_task
from harness.data.plain_files import strange
from harness.data.task_code import Definition, definition_files, own_code, read_definition
from harness.data.templates import use_sandbox
from harness.errors import TaskError, unknown
from harness.records import digest

VALIDATION_SHARE = 0.1  # taken from train where a task has no validation split of its own
VALIDATION_MOST = 100


Files: TypeAlias = "str | list[Files] | dict[str, Files]"  # as `data_files` in a task YAML names them


@dataclass(frozen=True)
class Example:
    """One training example: `context` is the question, and `target` the answer that continues it, beginning with the
    task's delimiter.

    `closed`: the answer ends there, so an end-of-text token is learned too. `choices` are the answers to choose from,
    each with the delimiter; `generation` holds lm-eval's `generation_kwargs` where there are no choices. `document` is
    the task's item. `written`: the model writes the answer, beginning with `delimiter`; otherwise its likelihood is
    scored.
    """

    context: str
    target: str
    closed: bool
    choices: tuple[str, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict, hash=False)
    document: Document = field(default_factory=dict, repr=False, compare=False)
    delimiter: str = ""
    written: bool = False


def load_task(path: Path) -> Task:
    """Load the lm-eval task of a YAML, with its documents. Raises TaskError with the reason.

    Relative data files and `file:` sources are relative to the YAML. Code that it names must be trusted (`trust.py`).
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    from harness.data.heard_task import HeardTask, UnknownName

    use_sandbox()
    try:
        definition = read_definition(path)
        task_functions.check_names((function.name, function.yaml) for function in definition.functions)
        trust.require(path)
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
            options["metadata"] = list(config.get("metadata") or ())
        config["dataset_kwargs"] = options or None
        write_texts(config, path)
        check_choices(config)
        if config.get("custom_dataset") is splits.documents and asks_for_label(config):
            config["dataset_kwargs"]["choices"] = listed_choices(config)
        return cast(Task, HeardTask(config=config))
    except TaskError as error:
        raise TaskError(f"task {path.stem!r} ({path}): {error}") from error
    except UnknownName as error:
        raise TaskError(without_column(definition, error.name, error.columns, str(error))) from error
    except Exception as error:  # a task's own code may raise anything
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise TaskError(f"task {path.stem!r} ({path}) cannot be loaded: {reason}") from error


def without_column(definition: Definition, name: str, columns: list[str], reason: str) -> str:
    """Return the message for a template of a task that names what a document does not have: the line, and the nearest
    of the documents' columns. `reason` is what Jinja says."""

    def told(place: str) -> str:
        if columns:
            return f"{place}: {unknown('column', name, columns)}"
        return f"task {definition.files[0].stem!r} ({place}): {reason}."

    for file in definition.files:
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), start=1):
            if name and "{" in line and re.search(rf"\b{re.escape(name)}\b", line):
                return told(f"{file}:{number}")
    return told(str(definition.files[0]))


def opened(facts: TaskFacts) -> Task:
    """Return a fetched task with its documents. The last few tasks stay in memory. Raises TaskError where it cannot be
    loaded."""
    known = kept_task(facts.path, facts.fingerprint)
    return keep_task(facts.path, facts.fingerprint, known or load_task(Path(facts.path)))


def absolute(files: Files, folder: Path) -> Files:
    """Return data files (a name, or a list or mapping of names) with absolute paths, relative ones starting at
    `folder`; URLs stay as they are. Raises TaskError for what is no plain file or folder."""
    if isinstance(files, dict):
        return {key: absolute(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [absolute(value, folder) for value in files]
    if "://" in files:
        return files
    if reason := strange(folder / files):
        raise TaskError(f"dataset_kwargs: data_files: {files} {reason}.")
    return str((folder / files).resolve())


def prepare(catalog: Catalog, name: str) -> TaskFacts:
    """Return the facts of the task of this name; where they are not cached, load the task and cache them for `check`
    and `plan`. Raises TaskError where it cannot be loaded, or where some answers are none of its choices."""
    known = catalog.task_facts(name)
    if known:
        return known
    path = catalog.task_path(name)
    task = load_task(path)
    made = splits.counts_of(task.dataset)
    raw = raw_splits(task)
    check_targets(name, task, raw, rows=made is None)
    train, validation = learning_docs(task)
    scored = raw["test"]
    used = {"train": train, "validation": validation, "scored": scored}
    kept = {split: classes(task, documents) for split, documents in used.items()}
    counts = row_counts(made, raw, used)
    shots = try_shots(task, scored)
    cluster = cluster_column(task.config.metadata)
    problem = cluster_problem(path, cluster, scored)
    facts = TaskFacts(
        name=name,
        path=str(path),
        fingerprint=fingerprint(path, task, (train, validation, scored)),
        output_type=str(task.OUTPUT_TYPE),
        n_train=len(train),
        n_validation=len(validation),
        n_test=len(scored),
        unlearnable=unlearnable(task) or unscorable(task, used) or one_class(task, kept),
        classes=kept["train"],
        metric=next(iter(task.aggregation()), ""),
        learned_from=sources_of(path, "training_split"),
        scored_from=sources_of(path, "test_split", "validation_split"),
        cluster=cluster,
        clusters=count_clusters(cluster, scored),
        cluster_problem=(problem.message, problem.file, problem.line) if problem else (),
        rows_read=counts.read,
        dropped=dict(counts.dropped),
        kept=kept_by_class(counts, used, kept if has_shared_choices(task) else {}),
        remarks=(*counts.remarks, *unused_choices(task, kept), *shots),
        described=bool(task.config.description),
        answer_tokens=answer_tokens(task.config.generation_kwargs) if task.OUTPUT_TYPE == "generate_until" else 0,
    )
    keep_facts(catalog.task_facts_path(name), facts)
    catalog.keep_fetched(name)
    keep_task(facts.path, facts.fingerprint, task)
    return facts


def sources_of(path: Path, *keys: str) -> tuple[str, ...]:
    """Return where the documents of one split of the task YAML `path` come from: sources, files by absolute path, data
    sets by name.

    `keys` are keys of the YAML that name a split (`training_split`); the split is that of the first one that the YAML
    has.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    options = config.get("dataset_kwargs") or {}
    split = next((config[key] for key in keys if config.get(key)), "")
    files = [f"file:{text}" for text in leaves(options.get("data_files"), split)]
    listed = [options.get("source"), *(entry.get("source") for entry in options.get("texts") or ())]
    data_set = "/".join(filter(None, (config.get("dataset_path"), config.get("dataset_name"))))
    found = [*files, *leaves(listed, split), *([data_set] if data_set and not files else [])]
    base = path.parent
    return tuple(
        dict.fromkeys(f"file:{absolute(text[5:], base)}" if text.startswith("file:") else text for text in found)
    )


def leaves(value: object, split: str) -> list[str]:
    """Return every text in a text, a list or a mapping; of a mapping that has `split` as a key, only the texts under
    it."""
    if isinstance(value, dict):
        kept = [value[split]] if split in value else value.values()
        return [text for inner in kept for text in leaves(inner, split)]
    if isinstance(value, list):
        return [text for inner in value for text in leaves(inner, split)]
    return [str(value)] if value else []


def raw_splits(task: Task) -> dict[str, list[Document]]:
    """Return a task's documents as its data has them, by split; "test" are those that are scored."""
    return {
        "train": list(task.training_docs()) if task.has_training_docs() else [],
        "validation": list(task.validation_docs()) if task.has_test_docs() and task.has_validation_docs() else [],
        "test": list(task.eval_docs),
    }


def unused_choices(task: Task, kept: Mapping[str, dict[str, int]]) -> tuple[str, ...]:
    """Return a remark on the choices that are no document's answer, or nothing. Labels that count from 1, taken for
    places that count from 0, leave the first choice unused."""
    listed = task.config.doc_to_choice
    choices = list(listed.values()) if isinstance(listed, dict) else listed
    if not has_shared_choices(task) or not isinstance(choices, list):
        return ()
    unused = [str(choice) for choice in choices if not any(sizes.get(str(choice)) for sizes in kept.values())]
    if not unused or not any(kept.values()):
        return ()
    return (f"no row has the answer {listing(unused)}, which doc_to_choice lists",)


def one_class(task: Task, kept: Mapping[str, dict[str, int]]) -> str:
    """Return the reason why a task cannot be learned whose documents, in all splits, are of one class, or ""."""
    names = {name for sizes in kept.values() for name in sizes}
    if not has_shared_choices(task) or len(names) != 1 or not kept["train"]:
        return ""
    return f"all its documents are of the class {names.pop()!r}, so there is nothing to tell apart."


def classes(task: Task, documents: list[Document]) -> dict[str, int]:
    """Return {class: number of its documents}, sorted by class; empty for tasks whose answers are not classes.
    Documents without a right choice are not counted."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return {}
    counts = Counter(class_of(task, document) for document in documents if gold(task, document) is not None)
    return dict(sorted(counts.items()))


def fingerprint(path: Path, task: Task, splits: Iterable[list[Document]]) -> str:
    """Return the SHA-256 of a task's definition without paths, the code of users' functions, and every document of
    `splits`. Of the metadata the cluster column alone counts: it changes what is stored of an item, and every standard
    error.

    Functions of this package count by their last name, not by their module: what `custom_dataset` returns are the
    documents, and a change in what another function does raises `RESULT_VERSION`.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path, resolve_func=False)
    for place in ("dataset_kwargs", "metadata", "tag"):
        config.pop(place, None)  # where the documents come from; what they are is counted below
    text = json.dumps(task_functions.canonical(config), sort_keys=True, default=str)
    for folder in sorted({str(file.parent.resolve()) for file in definition_files(path)}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    code = own_code(path)
    documents = [[document_hash(document) for document in split] for split in splits]
    cluster = cluster_column(task.config.metadata)
    return digest([text, code, documents, str(task.OUTPUT_TYPE), *([{"cluster": cluster}] if cluster else [])])


def unlearnable(task: Task) -> str:
    """Return the reason why a task cannot be trained on, or an empty string. The form of its answers is judged by the
    first training document."""
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
        return (
            f"its target is a list ({len(target)} answers), so there is no one answer to learn. Several labels for one "
            "document (multi-label) are not supported."
        )
    return ""


def gold(task: Task, document: Document) -> int | None:
    """Return the index of the right choice of a multiple-choice document, or None where its target is none of the
    choices, or a list."""
    return place_of(task.doc_to_target(document), task.doc_to_choice(document))


def class_of(task: Task, document: Document, answer: int | None = None) -> str:
    """Return the class of a document's right choice (or of choice `answer`): the choice's text, or its index where
    choices differ from item to item."""
    index = gold(task, document) if answer is None else answer
    return str(task.doc_to_choice(document)[index] if has_shared_choices(task) and index is not None else index)


def has_shared_choices(task: Task) -> bool:
    """Return whether every document of a task has the same choices, the classes."""
    return task.OUTPUT_TYPE == "multiple_choice" and isinstance(task.config.doc_to_choice, list | dict)


def learning_docs(task: Task) -> tuple[list[Document], list[Document]]:
    """Return the (train, validation) documents of a task.

    Validation is the task's own split where that is not scored, else a tenth of train (at most 100), chosen by document
    hash, with every class that can be in both. Repeated documents and scored ones are left out of both.
    """
    taken = {content_hash(document) for document in task.eval_docs}
    train = fresh(task.training_docs(), taken) if task.has_training_docs() else {}
    if task.has_test_docs() and task.has_validation_docs():
        validation = fresh(task.validation_docs(), taken)
        return [document for key, document in train.items() if key not in validation], [*validation.values()]
    ranked = [train[key] for key in sorted(train)]
    sorted_by_class = has_shared_choices(task) and not task.multiple_input
    rows = [{"class": class_of(task, document) if sorted_by_class else ""} for document in ranked]
    back = {name: (max(1, count // 2), 1) for name, count in class_sizes(rows, "class").items()}
    held = pick(rows, min(VALIDATION_MOST, int(len(ranked) * VALIDATION_SHARE)), "class", back)
    return (
        [document for place, document in enumerate(ranked) if place not in held],
        [document for place, document in enumerate(ranked) if place in held],
    )


def for_validation(task: Task) -> Task:
    """Return a copy of a task that scores its validation documents and cannot reach its test documents. Its few-shot
    examples are neither of both.

    lm-eval scores a task's test split by default; the choice of a setting must not see it. Raises TaskError where there
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

        def test_docs(self) -> list[Document]:
            raise TaskError("a trial must not look at test items")

        def validation_docs(self) -> list[Document]:
            return validation

    derived: Task = copy(task)
    derived.__class__ = Validation
    derived.task_docs = validation
    if task.config.num_fewshot:
        # Few-shot examples must be neither test items nor validation items.
        taken = {content_hash(document) for document in (*task.eval_docs, *validation)}
        derived.sampler = copy(task.sampler)
        shown = [document for document in task.sampler.df if content_hash(document) not in taken]
        derived.sampler.df = shown or learning_docs(task)[0]
    return derived


def example(
    task: Task, document: Document, closed: bool, render: Render | None = None, answer: int | None = None
) -> Example:
    """Return a document as lm-eval asks it (with `render`, in a chat template) with its right answer, or with choice
    number `answer`. `closed`: an end-of-text token is learned after the answer. Raises TypeError for multiple choice
    without a right choice, TaskError where the answer to write is missing or a list."""
    prefix = task.doc_to_prefix(document)
    context = task.fewshot_context(
        document, num_fewshot=0, apply_chat_template=bool(render), chat_template=render, gen_prefix=prefix
    )
    if task.OUTPUT_TYPE == "multiple_choice":
        # The requests of the choices, so that the delimiter is the scorer's in either form.
        requests = task.construct_requests(
            document, context, metadata=(task.config.task, 0, 1), apply_chat_template=bool(render)
        )
        choices = tuple(request.args[1] for request in requests)
        choices = choices[: len(task.doc_to_choice(document))]  # some metrics ask for the choices alone as well
        chosen = gold(task, document) if answer is None else answer
        if chosen is None:
            raise TypeError(f"a document of task {task.config.task!r} has no right choice")
        return Example(context, choices[chosen], closed, choices, document=document)
    delimiter = delimiter_of(task, document, bool(render))
    return Example(
        context,
        f"{delimiter}{answer_of(task, document)}",
        closed,
        generation=dict(task.config.generation_kwargs or {}),
        document=document,
        delimiter=delimiter,
        written=task.OUTPUT_TYPE == "generate_until",
    )


def wrong_answers(task: Task, one: Example) -> list[Example]:
    """Return copies of a multiple-choice example, one with each wrong choice as its target; none for an example without
    choices."""
    return [replace(one, target=choice) for choice in one.choices if choice != one.target]


def mark(task: Task, one: Example, answer: str) -> float:
    """Return the score of a generated answer to an example; higher is better.

    Generated text: the task's headline metric, negated where lower is better. Any other task: 1 if the answer begins
    with the target and with no longer choice, else 0. Raises TaskError where the metric has no value for one item.
    """
    given, wanted = answer.strip(), one.target.strip()
    if task.OUTPUT_TYPE != "generate_until":
        known = task.doc_to_choice(one.document) if task.OUTPUT_TYPE == "multiple_choice" else [wanted]
        begun = [choice.strip() for choice in known if given.startswith(choice.strip())]
        return float(max(begun, key=len, default="") == wanted) if begun else 0.0
    metric, value = written_score(task, one.document, answer, one.delimiter)
    if not isinstance(value, int | float):
        raise TaskError(
            f"task {task.config.task!r}: {metric} has no value for a single item, so it cannot be a reward."
        )
    return float(value) if task.higher_is_better().get(metric, True) else -float(value)


Encoder = Callable[[str, str], tuple[list[int], list[int]]]


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many token ids `one` and `other` have in common at their start."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
                min(len(one), len(other)))  # fmt: skip


def cut_left(ids: Sequence[int], most: int, openings: Iterable[Sequence[int]]) -> list[int]:
    """Return the last token ids of a text, after the ids that open it, `most` ids in all.

    `openings` are token ids that may stand at the start of every text, such as the beginning-of-text token: a model
    without it is in a state that it was never trained for.
    """
    if len(ids) <= most:
        return list(ids)
    opened = max((alike(ids, opening) for opening in openings), default=0)
    kept = min(opened, most)
    return [*ids[:kept], *ids[len(ids) - (most - kept) :]]


def encode(
    examples: Sequence[Example],
    encoder: Encoder,
    end: int,
    max_length: int,
    writer: Encoder | None = None,
    openings: Sequence[Sequence[int]] = (),
) -> tuple[list[dict[str, list[int]]], list[int]]:
    """Encode examples; return (rows {input_ids, labels}, number of tokens cut from each row).

    Labels are -100 outside the answer, so that the loss is on answer tokens only. `encoder` is the scorer's own
    function (context, continuation) -> token ids of each, so that training and scoring see the same tokens; `writer` is
    the one for answers that the model writes (by default the same). A context too long for `max_length` tokens loses
    its start, except for what opens every text (`openings`, see `cut_left`); an answer that is too long by itself loses
    its end. `end` is the end-of-text token.
    """
    rows, cut = [], []
    for given in examples:
        context, answer = (writer or encoder if given.written else encoder)(given.context, given.target)
        if given.closed:
            answer = [*answer, end]
        whole = len(context) + len(answer)
        answer = answer[: max_length - 1]
        context = cut_left(context, max_length - len(answer), openings)
        rows.append({"input_ids": context + answer, "labels": [-100] * len(context) + answer})
        cut.append(whole - len(context) - len(answer))
    return rows, cut
