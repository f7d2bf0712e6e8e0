"""Divides raw documents into train, validation and test: without repeats, and with every class in every split. Pure.

What is dropped is counted by reason (`counts.py`). Splits depend on the documents alone, never on their order in a
file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.data import counts as reasons
from harness.data.contamination import matches, normalise
from harness.data.counts import Counts, sizes_text
from harness.data.labels import is_missing, label_text, listing, missing_rows
from harness.data.lm_eval_task import Document
from harness.errors import TaskError, counted, unknown

Key = tuple[str, ...]  # columns whose values together may not repeat
CONFLICTS = ("majority", "drop", "refuse")
EXAMPLES = 3  # texts that a remark names
EXCERPT = 60  # characters of each
FEW = 10  # times fewer rows in train than in all: worth a remark


@dataclass(frozen=True)
class Wanted:
    """How documents are to be divided. `keys`: groups of columns whose values, taken together, may not repeat. `label`:
    the column of the class, "" without classes. The other fields are arguments of `splits.documents`; without
    `conflicts` labels may contradict each other."""

    keys: tuple[Key, ...]
    label: str = ""
    test: int = 0
    validation: int = 0
    balanced: bool = True
    shown: int = 0
    conflicts: str = "majority"
    drop_empty: bool = False
    drop_rare: bool = False
    answer: str = ""


@dataclass
class Division:
    """Documents by split, and what became of the others."""

    splits: dict[str, list[Document]] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)


def divide(raw: Mapping[str, Sequence[Document]], wanted: Wanted) -> Division:
    """Deduplicate and divide documents. `raw` has one entry "" or one for each published split; labels are texts.

    Raises TaskError, with counts, where nothing would be left to learn from, where a class cannot be in every split,
    and for empty labels that are not to be dropped.
    """
    counts = Counts(read={split: len(documents) for split, documents in raw.items()})
    filled = with_values(raw, wanted, counts)
    settled = {split: settle(documents, wanted, counts) for split, documents in filled.items()}
    seen: dict[Key, set[str]] = {key: set() for key in wanted.keys}

    def fresh(documents: Iterable[Document]) -> list[Document]:
        """Return the documents of which no key was seen before, in the order of their hashes."""
        kept = []
        total = 0
        for document in sorted(documents, key=order):
            total += 1
            texts = {key: key_text(document, key) for key in wanted.keys}
            if not any(texts[key] in seen[key] for key in wanted.keys):
                kept.append(document)
                for key in wanted.keys:
                    seen[key].add(texts[key])
        counts.drop(reasons.REPEATS, total - len(kept))
        return kept

    def ranked(documents: list[Document]) -> list[Document]:
        return interleave(documents, wanted.label if wanted.balanced else "")

    result: dict[str, list[Document]] = {"train": [], "validation": []}
    if "" in raw:
        pool = without_rare(fresh(settled[""]), wanted, counts)
        back = kept_back(class_sizes(pool, wanted.label), wanted.test, wanted.validation)
        result["test"], rest = take(ranked(pool), "test", wanted, back.test)
        result["validation"], result["train"] = take(rest, "validation", wanted, back.validation)
    else:
        result["test"], beyond = take(ranked(fresh(settled.get("test", []))), "test", wanted)
        counts.drop(reasons.BEYOND, len(beyond))
        if "validation" in raw:
            published = ranked(fresh(settled["validation"]))
            result["validation"], beyond = take(published, "validation", wanted)
            counts.drop(reasons.BEYOND_VALIDATION, len(beyond))
            result["train"] = fresh(settled.get("train", []))
        elif "train" in raw:
            rest = fresh(settled["train"])
            if len(rest) <= wanted.validation:
                raise too_few(rest, wanted, counts)
            back = kept_back(class_sizes(rest, wanted.label), 0, wanted.validation)
            result["validation"], result["train"] = take(ranked(rest), "validation", wanted, back.validation)
    drop_copies(result, wanted, counts)
    remark_on(result, wanted, counts, published="" not in raw)
    return Division({split: result[split] for split in ("train", "validation", "test")}, counts)


# --- what is dropped ---


def with_values(raw: Mapping[str, Sequence[Document]], wanted: Wanted, counts: Counts) -> dict[str, list[Document]]:
    """Return the documents that have text in every key, and a label. Raises TaskError, with row numbers, for empty
    labels that are not to be dropped, and for several labels in one."""
    kept: dict[str, list[Document]] = {}
    empty: list[str] = []
    for split, documents in raw.items():
        unlabelled = set(missing_rows(documents, wanted.label)) if wanted.label else set()
        kept[split] = []
        for number, document in enumerate(documents, start=1):
            if not all(key_text(document, key).strip() for key in wanted.keys):
                counts.drop(reasons.NO_TEXT, 1)
            elif wanted.answer and lacks_answer(document.get(wanted.answer)):
                counts.drop(reasons.NO_ANSWER, 1)
            elif number in unlabelled:
                counts.drop(reasons.NO_LABEL, 1)
                empty.append(f"{split} {number}".strip())
            else:
                kept[split].append(document)
    if empty and not wanted.drop_empty:
        rows = f"{counted(len(empty), 'row')} of {sum(counts.read.values())}"
        raise TaskError(
            f"{rows} without a label in the column {wanted.label!r}: {'row' if len(empty) == 1 else 'rows'} "
            f"{listing(empty)}, counted from 1 without the header. Fill them, or write drop_empty: true under "
            "dataset_kwargs to leave them out."
        )
    return kept


def lacks_answer(value: object) -> bool:
    """Return whether a document has no answer: its value is missing, an empty list, or an object whose texts are one,
    as SQuAD has questions without an answer."""
    if isinstance(value, dict):
        return not value or value.get("text") == []
    return value == [] or is_missing(value)


def settle(documents: Sequence[Document], wanted: Wanted, counts: Counts) -> list[Document]:
    """Return the documents without those whose text stands there with another label too. With "majority" the label of
    most copies is kept (none, where no label leads), with "drop" none; with "refuse" a TaskError is raised."""
    if not wanted.label or not wanted.conflicts:
        return list(documents)
    lost: set[int] = set()
    texts = 0
    shown: list[str] = []
    for key in wanted.keys:
        copies: dict[str, list[int]] = defaultdict(list)
        for place, document in enumerate(documents):
            copies[key_text(document, key)].append(place)
        for text in sorted(copies):
            labels = Counter(str(documents[place][wanted.label]) for place in copies[text])
            if len(labels) < 2:
                continue
            texts += 1
            (first, most), (_, second) = labels.most_common(2)
            winner = first if wanted.conflicts == "majority" and most > second else None
            lost |= {place for place in copies[text] if documents[place][wanted.label] != winner}
            if len(shown) < EXAMPLES:
                given = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
                shown.append(f"{excerpt(documents[copies[text][0]], key)!r} ({given})")
    if not texts:
        return list(documents)
    what = (
        f"{counted(texts, 'text')} {'has' if texts == 1 else 'have'} contradicting labels, such as {'; '.join(shown)}"
    )
    if wanted.conflicts == "refuse":
        raise TaskError(f"{what}. Correct them, or let `conflicts` be majority or drop.")
    how = (
        "the label of most copies counts, and equal numbers drop all" if wanted.conflicts == "majority" else "all drop"
    )
    counts.remarks.append(f"{what}: {how} (`conflicts: {wanted.conflicts}`), {counted(len(lost), 'row')} dropped")
    counts.drop(reasons.CONTRADICTING, len(lost))
    return [document for place, document in enumerate(documents) if place not in lost]


def without_rare(pool: list[Document], wanted: Wanted, counts: Counts) -> list[Document]:
    """Return the documents of the classes that have one for each split. Raises TaskError where others are not to be
    dropped, or where too few documents are left for the splits."""
    sizes = class_sizes(pool, wanted.label)
    splits = [name for name in ("test", "validation") if getattr(wanted, name)]
    rare = {name: count for name, count in sizes.items() if count <= len(splits)} if wanted.label else {}
    if rare and not wanted.drop_rare:
        read = f"{counted(sum(counts.read.values()), 'row')}, {len(pool)} left ({dropped_text(counts)}): "
        places = ", ".join([*splits, "train"])
        raise TaskError(
            f"{read if counts.dropped else ''}{counted(len(rare), 'class', 'classes')} of {len(sizes)} cannot be in "
            f"{places} alike, with a row in each: {sizes_text(rare)}. Collect more, join classes with `rename`, or "
            "write drop_rare: true under dataset_kwargs to leave them out."
        )
    kept = [document for document in pool if str(document[wanted.label]) not in rare] if rare else pool
    counts.drop(reasons.RARE, len(pool) - len(kept))
    if len(kept) < wanted.test + wanted.validation + max(1, len(sizes) - len(rare)):
        raise too_few(kept, wanted, counts)
    return kept


def dropped_text(counts: Counts) -> str:
    """Return how many rows were dropped, by reason, such as "636 repeats"; "" where none was."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items())


def too_few(kept: Sequence[Document], wanted: Wanted, counts: Counts) -> TaskError:
    """Return the error for documents that are no more than what test and validation ask for."""
    dropped = dropped_text(counts)
    remarks = "".join(f" {remark}." for remark in counts.remarks)
    return TaskError(
        f"{counted(sum(counts.read.values()), 'row')}, {len(kept)} left{f' ({dropped})' if dropped else ''}: they "
        f"cannot give {wanted.test} test and {wanted.validation} validation items and leave some to learn from."
        f"{remarks} Lower `test` and `validation`{', or look at `unique`' if counts.dropped[reasons.REPEATS] else ''}."
    )


def drop_copies(splits: dict[str, list[Document]], wanted: Wanted, counts: Counts) -> None:
    """Take documents out of validation and train that hold most of a test item; one of another class only where it
    holds all of it. Raises TaskError where no document of a class would be left."""

    def visible(documents: list[Document], key: Key) -> list[str]:
        texts = ["\n".join(value_text(document[column]) for column in key) for document in documents]
        return [" ".join(text.split()[: wanted.shown or None]) for text in texts]

    for split in ("validation", "train"):  # edited a little, a text is still the same
        tested, learned = splits["test"], splits[split]
        copies = {
            place
            for key in wanted.keys
            for one, place, share in matches(visible(tested, key), visible(learned, key))
            if share == 1.0 or not wanted.label or tested[one][wanted.label] == learned[place][wanted.label]
        }
        splits[split] = [document for place, document in enumerate(learned) if place not in copies]
        counts.drop(reasons.COPIES, len(copies))
        lost = {
            name: count
            for name, count in class_sizes(learned, wanted.label).items()
            if name not in class_sizes(splits[split], wanted.label)
        }
        if lost or (learned and not splits[split]):
            raise TaskError(
                f"every document of {split} {'of a class ' if wanted.label else ''}is a near copy of a test item: "
                f"{sizes_text(lost)}. Collect texts that differ more, or give the splits yourself "
                "(`source: {train: …, test: …}`)."
            )


def remark_on(splits: Mapping[str, Sequence[Document]], wanted: Wanted, counts: Counts, published: bool) -> None:
    """Count the classes of each split, and remark on a small train."""
    sizes = {split: class_sizes(documents, wanted.label) for split, documents in splits.items() if documents}
    counts.classes = sizes if wanted.label else {}
    kept = sum(map(len, splits.values()))
    if not published and len(splits["train"]) * FEW < kept:
        counts.remarks.append(
            f"train has {len(splits['train'])} of {kept} rows: lower `test` ({wanted.test}) and `validation` "
            f"({wanted.validation}) to learn from more"
        )


# --- one split ---


class KeptBack(NamedTuple):
    """What a class keeps for later splits, when `test` and when `validation` takes its documents: {class: (number of
    documents that it should keep, number that it must keep)}."""

    test: dict[str, tuple[int, int]]
    validation: dict[str, tuple[int, int]]


def kept_back(sizes: Mapping[str, int], test: int, validation: int) -> KeptBack:
    """Return what classes of these `sizes` keep back: for train half of their documents, or their even share where that
    is less; for validation half of their even share; for each of them at least one."""
    back = KeptBack({}, {})
    total = sum(sizes.values())
    for name, count in sizes.items():
        for_train = max(1, min(count * (total - test - validation) // total, count // 2))
        for_validation = max(1, count * validation // total // 2) if validation else 0
        back.test[name] = (for_train + for_validation, 2 if validation else 1)
        back.validation[name] = (for_train, 1)
    return back


def take(
    ranked: list[Document], split: str, wanted: Wanted, back: Mapping[str, tuple[int, int]] | None = None
) -> tuple[list[Document], list[Document]]:
    """Return (the documents of `split`, the others), both in the order of `ranked`, which is that of division.

    Every class gives at least one document, and else as many as stand first in that order, as long as it keeps `back`
    what later splits need; without `back` nothing is kept. Raises TaskError where there are more classes than the split
    has room for.
    """
    size = min(wanted.test if split == "test" else wanted.validation, len(ranked))
    sizes = class_sizes(ranked, wanted.label)
    if size and size < len(sizes):
        raise TaskError(
            f"`{split}: {size}` has no room for one row of each of {len(sizes)} classes ({sizes_text(sizes)}). Raise "
            "it to that number or more, or join classes with `rename`."
        )
    chosen = pick(ranked, size, wanted.label, back or {})
    return (
        [document for place, document in enumerate(ranked) if place in chosen],
        [document for place, document in enumerate(ranked) if place not in chosen],
    )


def pick(ranked: Sequence[Document], size: int, label: str, back: Mapping[str, tuple[int, int]]) -> set[int]:
    """Return the places of `size` of the `ranked` documents: first one of each class, then in their order, as long as
    their class keeps `back` what it should, and at last what it must."""
    left = Counter(class_of(document, label) for document in ranked)
    chosen: set[int] = set()

    def choose(place: int, keeps: int) -> None:
        name = class_of(ranked[place], label)
        if len(chosen) < size and place not in chosen and left[name] > keeps:
            chosen.add(place)
            left[name] -= 1

    firsts: dict[str, int] = {}
    for place, document in enumerate(ranked):
        firsts.setdefault(class_of(document, label), place)
    for name, place in firsts.items():
        choose(place, back.get(name, (0, 0))[1])
    for level in (0, 1):
        for place, document in enumerate(ranked):
            choose(place, back.get(class_of(document, label), (0, 0))[level])
    return chosen


def interleave(documents: Sequence[Document], label: str, salt: str = "") -> list[Document]:
    """Return documents in the fixed order that `salt` decides, one of each class in turn, so that every prefix is
    class-balanced.

    `label` is the column of the class. Where it is "" there are no classes, and the order alone counts. Classes that
    run out are passed over.
    """
    classes: dict[str, list[Document]] = defaultdict(list)
    for document in sorted(documents, key=lambda document: order(document, salt)):
        classes[class_of(document, label)].append(document)
    queues = [classes[name] for name in sorted(classes)]
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


# --- one document ---


def order(document: Mapping[str, object], salt: str = "") -> str:
    """Return a key that sorts documents in a fixed pseudo-random order: the SHA-256 of their content and `salt`."""
    return hashlib.sha256((salt + json.dumps(document, sort_keys=True, default=str)).encode()).hexdigest()


def value_text(value: object) -> str:
    """Return a value as text to compare: a text as it is, "" for a missing one, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if is_missing(value) else label_text(value)


def key_text(document: Document, key: Key) -> str:
    """Return the values of a key's columns, normalised and in lines; blank where every one of them is empty."""
    return "\n".join(normalise(value_text(document[column])) for column in key)


def excerpt(document: Document, key: Key) -> str:
    """Return the beginning of the text in a key's columns, for a message."""
    return " ".join(" ".join(value_text(document[column]) for column in key).split())[:EXCERPT]


def class_of(document: Document, label: str) -> str:
    """Return the class of a document, by its column `label`; "" without one."""
    return str(document[label]) if label else ""


def class_sizes(documents: Iterable[Document], label: str) -> dict[str, int]:
    """Return {class: number of its documents}, sorted by class; empty without a `label`."""
    return dict(sorted(Counter(class_of(document, label) for document in documents).items())) if label else {}


def check_columns(documents: Sequence[Document], wanted: Iterable[str]) -> None:
    """Raise TaskError where there are no documents, or where one of them lacks one of the `wanted` columns."""
    if not documents:
        raise TaskError("the source holds no documents")
    for column in wanted:
        lacking = next((place for place, document in enumerate(documents) if column not in document), None)
        if lacking is not None:
            where = "" if lacking == 0 else f"document {lacking + 1} of {len(documents)}: "
            raise TaskError(where + unknown("column", column, documents[lacking]))
