"""What became of the rows of a task's data: how many were read, dropped for which reason, and kept in which split.

Counted when splits are made (`division.py`, `tasks.py`), kept with a task's facts, and said in one line at `fetch`,
`check` and `plan` (`counts_line`). Pure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.data.facts import TaskFacts
from harness.data.hashes import content_hash
from harness.data.lm_eval_task import Document

MOST_CLASSES = 10  # that are named with their counts; of more, the fewest and the most are
# Why rows are dropped, in the order in which it is asked.
NO_TEXT = "without text"
NO_LABEL = "without label"
NO_ANSWER = "without an answer"
CONTRADICTING = "contradicting labels"
REPEATS = "repeats"
RARE = "of classes too rare"
BEYOND = "test rows beyond `test`"
BEYOND_VALIDATION = "validation rows beyond `validation`"
COPIES = "near copies of test items"
IN_SCORED = "standing among scored items"
UNUSED = "not used by the task"


@dataclass
class Counts:
    """How many rows were `read` (by published split; "" for one file) and `dropped` (by reason), the `classes` of those
    that were kept ({split: {class: rows}}; empty without classes), and `remarks`, a sentence each without a full stop,
    on what a user should know of them."""

    read: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def drop(self, reason: str, rows: int) -> None:
        """Count `rows` more as dropped for this reason."""
        if rows:
            self.dropped[reason] += rows

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def of_json(cls, text: str) -> Counts:
        """Return the counts that `to_json` has written."""
        stored = json.loads(text)
        return cls(stored["read"], Counter(stored["dropped"]), stored["classes"], stored["remarks"])


def row_counts(
    made: Counts | None, raw: Mapping[str, Sequence[Document]], used: Mapping[str, Sequence[Document]]
) -> Counts:
    """Return what became of a task's rows: the counts with which its splits were `made` (None: `raw` documents are what
    was read), with what is left out of them when documents are `used`."""
    counts = made or Counts(read={split: len(documents) for split, documents in raw.items() if documents})
    before = sum(counts.read.values()) - sum(counts.dropped.values())
    taken = {content_hash(document) for document in raw["test"]}
    learned = [content_hash(document) for split in ("train", "validation") for document in raw[split]]
    counts.drop(IN_SCORED, sum(1 for one in learned if one in taken))
    fresh_ones = [one for one in learned if one not in taken]
    counts.drop(REPEATS, len(fresh_ones) - len(set(fresh_ones)))
    counts.drop(UNUSED, before - sum(map(len, raw.values())))
    return counts


def kept_by_class(
    counts: Counts, used: Mapping[str, Sequence[Document]], kept: Mapping[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    """Return {split: {class: number of documents}} for what is `used`; the class is "" where there are none. Classes
    are those of `kept` or, for a task without choices, those by which its splits were made."""
    known = {"train": "train", "validation": "validation", "test": "scored"}
    found = {split: kept.get(name) or counts.classes.get(split) or {} for split, name in known.items()}
    if any(sum(found[split].values()) != len(used[name]) for split, name in known.items()):
        return {split: {"": len(used[name])} for split, name in known.items() if used[name]}
    names = sorted({name for sizes in found.values() for name in sizes})
    return {split: {name: found[split].get(name, 0) for name in names} for split in known if used[known[split]]}


def counts_line(facts: TaskFacts) -> str:
    """Return the line that says what became of a task's rows, such as "tickets: 621 rows read, 5 dropped (repeats 5),
    616 kept: train 316 (billing 158, delivery 158), validation 100 (…), test 200 (…)"."""
    read, kept = sum(facts.rows_read.values()), {split: sum(counts.values()) for split, counts in facts.kept.items()}
    parts = [f"{read} rows read"] if facts.rows_read else []
    if facts.rows_read:
        reasons = ", ".join(f"{reason} {count}" for reason, count in facts.dropped.items())
        parts.append(f"{sum(facts.dropped.values())} dropped" + (f" ({reasons})" if reasons else ""))
    parts.append(f"{sum(kept.values())} kept")
    splits = ", ".join(f"{split} {kept[split]}{classes_text(counts)}" for split, counts in facts.kept.items())
    return f"{facts.name}: {', '.join(parts)}: {splits}"


def classes_text(counts: Mapping[str, int]) -> str:
    """Return the classes of a split with their numbers of documents, in brackets; "" where there are no classes. Of
    many classes the rarest and the commonest are named."""
    named = {name: count for name, count in counts.items() if name}
    if not named:
        return ""
    if len(named) <= MOST_CLASSES:
        return f" ({', '.join(f'{name} {count}' for name, count in named.items())})"
    rarest, commonest = min(named, key=named.__getitem__), max(named, key=named.__getitem__)
    if named[rarest] == named[commonest]:
        return f" ({len(named)} classes, {named[rarest]} each)"
    return f" ({len(named)} classes: {rarest} {named[rarest]} … {commonest} {named[commonest]})"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Return classes with their numbers of documents in words, the rarest first: "'b' 1, 'a' 190"; of many the first
    ten."""
    ranked = sorted(sizes.items(), key=lambda entry: (entry[1], entry[0]))
    shown = ", ".join(f"{name!r} {count}" for name, count in ranked[:MOST_CLASSES])
    return shown + (f", … ({len(ranked)} classes)" if len(ranked) > MOST_CLASSES else "")
