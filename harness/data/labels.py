"""Labels and choices: as which text a value of data counts, what a YAML has written, and whether answers are choices.

lm-eval takes a number for the place of a choice, counted from 0, and a text for the choice itself; a template that
renders digits gives a number. So a label "1" may be taught as the choice "0". Such tasks are refused here.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from harness.data.contamination import normalise
from harness.data.lm_eval_task import Document, Task
from harness.errors import TaskError, counted, unknown

SHOWN = 5  # of a kind, in a message
# A template that gives a value of the document as it is, by name, with filters or methods that leave it a value.
PLAIN = re.compile(r"\s*\{\{-?\s*[A-Za-z_]\w*(\.\w+(\(\))?|\[['\"]?\w+['\"]?\])*\s*(\|\s*\w+(\([^)]*\))?\s*)*-?\}\}\s*")


# --- values ---


def label_text(value: object) -> str:
    """Return the text that a value of data counts as: a text in NFC without blanks around it, a number or truth value
    as JSON writes it, a whole number without ".0"; "" for what is missing (None, NaN). So 1, 1.0 and "1" are one label,
    and so are true and "true", and an é of one sign or of two."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip())
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def met(text: str, choices: Sequence[str]) -> str:
    """Return the choice that a label's text stands for: the text itself in the Unicode form of the choices, or true and
    false as the choices write them, whatever the case."""
    if text in choices:
        return text
    if text.lower() not in ("true", "false"):
        return next((choice for choice in choices if unicodedata.normalize("NFC", choice) == text), text)
    return next((choice for choice in choices if choice.lower() == text.lower()), text)


def is_missing(value: object) -> bool:
    """Return whether a value of data is missing: None, NaN, a blank text, or a text that stands for NaN."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan", "<na>")
    return value is None or (isinstance(value, float) and math.isnan(value))


# --- what a YAML has written ---


def write_texts(config: dict[str, object], path: Path) -> None:
    """Replace, in the loaded `config` of the task YAML `path`, choices and the labels and columns of `documents` by the
    texts that the file has: YAML reads `yes` as true and `1` as a number. Lists and mappings of other things stay."""
    nodes = written_nodes(path, set())
    if isinstance(config.get("doc_to_choice"), list | dict):
        config["doc_to_choice"] = written(nodes.get("doc_to_choice"), config["doc_to_choice"])
    options = config.get("dataset_kwargs")
    if not isinstance(options, dict):
        return
    node = nodes.get("dataset_kwargs")
    inner = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    config["dataset_kwargs"] = {
        key: written(inner.get(key), value) if key in ("rename", "label", "unique") else value
        for key, value in options.items()
    }


def written_nodes(path: Path, seen: set[Path]) -> dict[str, yaml.Node]:
    """Return {key: node of its value} of a task's YAML and of what it includes; a key of the YAML itself counts before
    one that is included. `seen` holds the files that were read, and gets this one."""
    path = path.expanduser().resolve()
    if path in seen:
        return {}
    seen.add(path)
    root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return {}
    own = {key.value: value for key, value in root.value}
    merged: dict[str, yaml.Node] = {}
    included = own.get("include")
    if included is not None:
        for one in included.value if isinstance(included, yaml.SequenceNode) else [included]:
            merged |= written_nodes(path.parent / str(one.value), seen)
    return merged | own


def written(node: yaml.Node | None, value: object) -> object:
    """Return a value with each scalar in it as the text that its node of the YAML has; without a node, as
    `label_text` has it. Texts stay what they are."""
    if isinstance(value, list):
        parts = node.value if isinstance(node, yaml.SequenceNode) else [None] * len(value)
        return [written(part, inner) for part, inner in zip(parts, value, strict=True)]
    if isinstance(value, dict):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        if len(pairs) != len(value):
            return {written(None, key): written(None, inner) for key, inner in value.items()}
        return {
            written(one, key): written(other, inner)
            for (one, other), (key, inner) in zip(pairs, value.items(), strict=True)
        }
    if isinstance(value, str):
        return value
    return str(node.value) if isinstance(node, yaml.ScalarNode) else label_text(value)


def listed_choices(config: Mapping[str, object]) -> list[object]:
    """Return the choices that a task's YAML lists; none where they differ from document to document."""
    listed = config.get("doc_to_choice")
    return list(listed.values()) if isinstance(listed, dict) else list(listed) if isinstance(listed, list) else []


def asks_for_label(config: Mapping[str, object]) -> bool:
    """Return whether a task that `documents` divides asks for the label itself, among choices that its YAML lists."""
    options = config.get("dataset_kwargs")
    label = options.get("label") if isinstance(options, dict) else None
    whole = config.get("output_type") == "multiple_choice" and not config.get("process_docs")
    return bool(whole and label and config.get("doc_to_target") == label and listed_choices(config))


def check_choices(config: Mapping[str, object]) -> None:
    """Raise TaskError where the choices that a task's YAML lists cannot be chosen between: one alone, an empty one, two
    that are equal, or something other than a text."""
    choices = listed_choices(config)
    if not isinstance(config.get("doc_to_choice"), list | dict):
        return
    odd = next((choice for choice in choices if not isinstance(choice, str)), None)
    if odd is not None:
        raise TaskError(f"doc_to_choice holds {odd!r}, and a choice is a text. Write a list of texts.")
    if len(choices) < 2:
        raise TaskError(
            f"doc_to_choice has {counted(len(choices), 'choice')} ({', '.join(map(repr, choices)) or 'none'}), so that "
            "every answer is right, whatever is learned. List every class."
        )
    repeated = [choice for choice, count in Counter(choices).items() if count > 1]
    if "" in choices or repeated:
        what = "an empty choice" if "" in choices else f"the choice {repeated[0]!r} twice"
        raise TaskError(f"doc_to_choice has {what}. Give each class a text of its own.")


# --- answers among choices ---


def check_targets(name: str, task: Task, splits: Mapping[str, Sequence[Document]], rows: bool) -> None:
    """Raise TaskError where answers of the task `name` are none of its choices (lm-eval would silently count them as
    wrong), where they are numbers that can be read in two ways, or where there is nothing to choose. `splits` maps
    names to documents; with `rows` they are in the order of the user's file, and are named by number.

    Nothing is raised for lists of answers, nor for tasks without choices.
    """
    if task.config.doc_to_choice is None or task.multiple_input:
        return
    asked = [
        (split, number, task.doc_to_target(document), task.doc_to_choice(document))
        for split, documents in splits.items()
        for number, document in enumerate(documents, start=1)
    ]
    if problem := misread(task, [(target, choices) for _, _, target, choices in asked]):
        raise TaskError(f"task {name!r}: {problem}")
    if task.OUTPUT_TYPE != "multiple_choice" or not asked:
        return
    if all(len(choices) < 2 for _, _, _, choices in asked):
        raise TaskError(f"task {name!r}: every document has one choice, so that every answer is right. List them all.")
    wrong = [
        (target, f"{split} {number}" if rows else split)
        for split, number, target, choices in asked
        if not isinstance(target, list) and place_of(target, choices) is None
    ]
    if wrong:
        raise TaskError(
            f"task {name!r}: {no_choices(wrong, asked[0][3], config_keys(task), str(task.config.doc_to_target))}"
        )


def check_labels(raw: Mapping[str, Sequence[Document]], label: str, choices: Sequence[str]) -> None:
    """Raise TaskError, with row numbers, where a document's label (a text in the column `label`, or "" for none) is not
    among the `choices`. `raw` maps published splits to documents, "" the one split that there is."""
    wrong = [
        (document[label], f"{split} {number}".strip())
        for split, documents in raw.items()
        for number, document in enumerate(documents, start=1)
        if document[label] and document[label] not in choices
    ]
    if wrong:
        raise TaskError(no_choices(wrong, choices, (), label))


def no_choices(wrong: Sequence[tuple[object, str]], choices: Sequence[str], keys: Sequence[str], column: str) -> str:
    """Return the message for answers that are none of the `choices`. `wrong` has each of them with where it stands,
    `keys` those of a mapping of choices; `column` is the task's doc_to_target."""
    places: dict[str, list[str]] = {}
    for target, place in wrong:
        places.setdefault(repr(target), []).append(place)
    commonest = sorted(places.items(), key=lambda entry: -len(entry[1]))[:SHOWN]
    shown = "; ".join(f"{what} {len(found)} times ({where(found)})" for what, found in commonest)
    more = f"; and {len(places) - SHOWN} others" if len(places) > SHOWN else ""
    return f"some answers are none of the choices in doc_to_choice: {shown}{more}. " + advice(
        [target for target, _ in wrong], choices, keys, column
    )


def where(places: Sequence[str]) -> str:
    """Return the places of answers in words: row numbers, or names of splits."""
    distinct = list(dict.fromkeys(places))
    rows = "" if not distinct[0][-1:].isdigit() else "row " if len(distinct) == 1 else "rows "
    return rows + listing(distinct)


def config_keys(task: Task) -> list[str]:
    """Return the keys of a task's choices as texts, where its YAML gives a mapping; else nothing."""
    choices = task.config.doc_to_choice
    return [str(key) for key in choices] if isinstance(choices, dict) else []


def place_of(target: object, choices: Sequence[str]) -> int | None:
    """Return the place of the right choice, from 0, as lm-eval takes the target: a number is a place, a text one of the
    choices. None where it is neither, or a list."""
    if isinstance(target, int):
        return int(target) if 0 <= target < len(choices) else None
    return list(choices).index(target) if isinstance(target, str) and target in choices else None


def misread(task: Task, asked: Sequence[tuple[object, Sequence[str]]]) -> str:
    """Return why the numbers that a task gives as targets can be read in two ways, "" where they cannot. `asked` has
    each document's target and choices.

    They can where every one of them is the text of a choice, and some of another choice than the one at that place. A
    number that the YAML or a function gives, or that a template computes, is meant as a place.
    """
    target = task.config.doc_to_target
    column = isinstance(target, str) and target in task.features
    if not isinstance(target, str) or not (column or PLAIN.fullmatch(target)):
        return ""
    keys = config_keys(task)
    numbers = [(one, choices) for one, choices in asked if isinstance(one, int)]
    meant = [named_place(one, choices, keys) for one, choices in numbers]
    if not numbers or len(numbers) < len(asked) or None in meant:
        return ""
    for (number, choices), place in zip(numbers, meant, strict=True):
        if place is not None and place != int(number):
            taught = repr(choices[int(number)]) if 0 <= number < len(choices) else "no choice"
            named = f"{choices[place]!r}, for which the key {keys[place]} stands" if keys else repr(choices[place])
            return (
                f"doc_to_target ({target}) gives the number {number}, which lm-eval takes for a place in "
                f"doc_to_choice, counted from 0: {taught} would be taught, and not {named}. "
                + rewriting(task, target, column, sorted({int(one) for one, _ in numbers}), choices)
            )
    return ""


def named_place(number: int, choices: Sequence[str], keys: Sequence[str]) -> int | None:
    """Return the place of the choice whose text, or whose key in a mapping of choices, is this number; None where there
    is none. A truth value is looked for without regard to case."""
    texts = keys or choices
    wanted = str(number)
    for place, text in enumerate(texts):
        if text == wanted or (isinstance(number, bool) and text.lower() == wanted.lower()):
            return place
    return None


def rewriting(task: Task, target: str, column: bool, numbers: Sequence[int], choices: Sequence[str]) -> str:
    """Return how a task can be written so that its numbers are read in one way. `column`: the target is a column, not a
    template. `numbers` are those that occur."""
    ways = []
    name = re.sub(r"\W+", " ", target).split()[0]
    if not column and name in task.features and isinstance(next(iter(task.eval_docs))[name], str):
        ways.append(f"to teach the choice of that text, name the column: doc_to_target: {name}")
    elif numbers[0] >= 1 and [str(number) for number in numbers] == [str(choice) for choice in choices][: len(numbers)]:
        ways.append(f'to count from 1, write doc_to_target: "{{{{{name}|int - 1}}}}"')
    else:
        ways.append(
            "to teach the choice of that text, read the file with harness.data.splits.documents and "
            f"`label: {name}`, which keeps labels as texts, and write doc_to_target: {name}"
        )
    ordered = sorted(map(str, choices), key=lambda choice: (len(choice), choice))
    if ordered == [str(place) for place in range(len(choices))]:
        listed = ", ".join(f'"{choice}"' for choice in ordered)
        ways.append(f"or list the choices in the order of the numbers: doc_to_choice: [{listed}]")
    else:
        ways.append(f'or, if places are meant, say so: doc_to_target: "{{{{{name}|int + 0}}}}"')
    text = "; ".join(ways)
    return f"{text[:1].upper()}{text[1:]}."


def advice(values: Sequence[object], choices: Sequence[str], keys: Sequence[str], column: str) -> str:
    """Return what to do about answers (`values`) that are none of the `choices`; the other arguments are those of
    `no_choices`."""
    texts = [label_text(value) for value in values]
    if not any(texts):
        return (
            "They are empty: fill them, or leave those rows out. harness.data.splits.documents names the rows of an "
            "empty `label:`, and leaves them out with `drop_empty: true`."
        )
    several = [text for text in texts if len(labels_in(text, choices)) > 1]
    if several:
        return (
            f"{several[0]!r} holds several labels, and multi-label is not supported: give every document one label, or "
            "make a task for each label."
        )
    if keys and all(text in keys for text in texts):
        return "doc_to_choice is a mapping, of which lm-eval takes the values alone: name the values, or list the keys."
    if all(re.fullmatch(r"-?\d+", text) for text in texts):
        name = re.sub(r"\W+", " ", column).split() or ["label"]
        return (
            "The labels are numbers: list them as choices, name them with `rename: {0: …, 1: …}`, or, where they count "
            f'from 1, take doc_to_target: "{{{{{name[0]}|int - 1}}}}" as a place.'
        )
    alike = {normalise(choice): choice for choice in choices}
    for text in texts:
        if normalise(text) in alike and text != alike[normalise(text)]:
            known = alike[normalise(text)]
            return (
                f"{text!r} is written {known!r} among the choices: write `rename: {{{text}: {known}}}`, or correct it."
            )
    near = unknown("label", texts[0], choices) if texts[0] else ""
    return f"Add the choice, or correct the data. {near}".strip()


def labels_in(text: str, choices: Sequence[str]) -> list[str]:
    """Return the choices that a text lists ("a, b", "['a', 'b']", "a|b"); none where something else is in it."""
    parts = [part.strip(" []()'\"") for part in re.split(r"[,;|]", text)]
    known = [part for part in parts if part in choices]
    return known if len(known) == len([part for part in parts if part]) else []


def listing(places: Sequence[object]) -> str:
    """Return the first places of a list in words, and how many there are beyond."""
    shown = ", ".join(map(str, places[: 2 * SHOWN]))
    return shown + (f", … ({len(places)} in all)" if len(places) > 2 * SHOWN else "")


def missing_rows(documents: Sequence[Document], column: str) -> Iterator[int]:
    """Yield the number, from 1, of each document whose value in `column` is missing."""
    for number, document in enumerate(documents, start=1):
        if is_missing(document[column]):
            yield number
