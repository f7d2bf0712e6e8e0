"""The base of every reader: one class in one file of this folder, found by walking it.

A reader's fields are its options, as `dataset_kwargs` of a task's YAML gives them; pydantic checks their types.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from harness.data.readers.opening import DataFile
from harness.errors import TaskError, unknown

# What JSON can say, with its types. Recursive aliases of `Value` make callers narrow every cell, so `Any` stands here.
Value: TypeAlias = Any
Document = dict[str, Value]
Row = tuple[str, Document]  # (where it stands, as messages name it, such as "a.csv:12"; its values by column)

LARGEST_INT = 2**63  # what a column of numbers holds
SHOWN = 80  # characters of a row in a message


class Reader(BaseModel, ABC):
    """Reads one format. `name` is what a task's YAML calls it, `endings` the file names that choose it by themselves,
    in lower case and with the dot."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: ClassVar[str] = ""
    endings: ClassVar[tuple[str, ...]] = ()
    reads_folders: ClassVar[bool] = False  # it is given the folder itself, not each file in it

    columns: list[str] | dict[str, str] | None = Field(
        default=None, description="the columns to keep: a list of names, or {our name: name in the file}"
    )

    @abstractmethod
    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield the rows of a file in its order. Raises TaskError, with the place in the file, for whatever cannot be
        read whole."""

    def documents(self, file: DataFile) -> Iterator[Row]:
        """Yield the rows of a file with the columns that are kept, each value one that JSON can hold. Raises TaskError
        where a row lacks a column, or holds what no text or number stands for."""
        kept = {name: name for name in self.columns} if isinstance(self.columns, list) else self.columns
        for place, row in self.rows(file):
            document = row
            if kept is not None:
                require(place, row, kept.values())
                document = {ours: row[theirs] for ours, theirs in kept.items()}
            yield (
                place,
                {
                    name: value if isinstance(value, str) and value.isascii() else plain(place, name, value)
                    for name, value in document.items()
                },
            )


def require(place: str, document: Mapping[str, Value], columns: Any) -> None:
    """Raise TaskError, with the row's place and the nearest name, where a row lacks one of the `columns`."""
    for column in columns:
        if column not in document:
            raise TaskError(f"{place}: {unknown('column', column, map(cut, document))}")


def column_names(cells: Sequence[object], place: str) -> list[str]:
    """Return the names in a header, without blanks around them. A column without a name is called "Unnamed: N", as
    pandas calls it. Raises TaskError where two columns have one name."""
    names = [as_text(cell).strip() or f"Unnamed: {position}" for position, cell in enumerate(cells)]
    for position, name in enumerate(names):
        if (first := names.index(name)) != position:
            raise TaskError(
                f"{place}: columns {first + 1} and {position + 1} are both named {cut(name)!r}. Rename one of them."
            )
    return names


def plain(place: str, column: str, value: Value) -> Value:
    """Return a value as JSON has it: dates in ISO form, decimals as numbers, arrays as lists. Raises TaskError for
    bytes, for integers beyond 64 bits, and for text that is no valid Unicode."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise TaskError(
                f"{place}: {cut(column)!r} holds half of a character (a lone surrogate): {cut(repr(value))}."
            )
        return value
    if isinstance(value, int):
        if not -LARGEST_INT <= value < LARGEST_INT:
            raise TaskError(
                f"{place}: {cut(column)!r} holds an integer of more than 64 bits. Write it as a text, in quotes."
            )
        return value
    if isinstance(value, dict):
        return {as_text(plain(place, column, key)): plain(place, column, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(place, column, inner) for inner in value]
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | uuid.UUID):
        return str(value)
    raise TaskError(
        f"{place}: {cut(column)!r} holds {type(value).__name__}, and a task needs text and numbers. "
        "List the columns to read: columns: [text, label]."
    )


def as_text(value: Value) -> str:
    """Return a value as text: a text as it is, null and NaN as "", lists and objects as JSON, all others as Jinja
    renders them."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def cut(text: str) -> str:
    """Return a text on one line, with "…" for what is beyond 80 characters."""
    line = text.strip().replace("\r", " ").replace("\n", "⏎")
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
