"""Makes documents a `datasets.Dataset` whose columns may hold values of several types, each kept as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.data.lm_eval_task import Document

if TYPE_CHECKING:
    from datasets import Dataset


def as_dataset(kind: type[Dataset], documents: list[Document]) -> Dataset:
    """Return documents as a `datasets.Dataset` in which every value is what it was. A column that some documents lack
    is None there; one of several types, of lists or of objects is kept as JSON.

    `datasets` would do so by itself (`on_mixed_types`), and then read texts as JSON: "007" beside 5 becomes 7, and
    "null" nothing. So the JSON is written here.
    """
    from datasets import Features, Json

    columns = dict.fromkeys(column for document in documents for column in document)
    rows = [{column: document.get(column) for column in columns} for document in documents]
    mixed = [column for column in columns if not is_plain([row[column] for row in rows])]
    if not mixed:
        return kind.from_list(rows)
    for row in rows:
        row |= {column: written_json(row[column]) for column in mixed}
    plain = kind.from_list([{column: row[column] for column in columns if column not in mixed} for row in rows])
    found = {**plain.features, **{column: Json() for column in mixed}}
    return kind.from_list(rows, features=Features({column: found[column] for column in columns}))


def is_plain(values: Sequence[object]) -> bool:
    """Return whether the values of a column are of one type that needs no JSON: texts, truth values, whole numbers of
    64 bits or other numbers, beside None."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
        return False
    return int not in kinds or all(-(2**63) <= value < 2**63 for value in values if isinstance(value, int))


def written_json(value: object) -> object:
    """Return a value as JSON; None, and what JSON cannot hold (NaN), as it is."""
    try:
        return None if value is None else json.dumps(value, allow_nan=False)
    except ValueError:
        return value
