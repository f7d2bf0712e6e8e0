"""Reads JSON and JSON Lines. Values keep their types; what is broken is named with its line and text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from harness.data.readers.base import Document, Row, Value, as_text, cut
from harness.data.readers.opening import DataFile
from harness.data.readers.text import TextReader
from harness.errors import TaskError, counted, unknown

DEPTH = 3  # objects around the list of rows, where nobody says which list is meant
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


def parsed(text: str) -> Value:
    """Return the value of a JSON text. Raises ValueError for what is no JSON, and for an object with one key twice."""
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def without_repeats(pairs: list[tuple[str, Value]]) -> Document:
    """Return an object of its (key, value) pairs. Raises ValueError where one key stands twice: one value would be
    lost."""
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {cut(twice)!r} stands twice in one object")
    return document


def said(error: ValueError) -> str:
    """Return why a text is no JSON, in the words of Python's parser, which begin in lower case here."""
    why = str(error)
    if isinstance(error, json.JSONDecodeError):
        why = f"{error.msg.removesuffix(' starting at').removesuffix(' at')} at character {error.colno}"
    return why[:1].lower() + why[1:]


def named(value: Value) -> str:
    """Return what kind of JSON value it is, such as "a list"."""
    return KINDS.get(type(value), "null")


class JsonLines(TextReader):
    """JSON Lines: a document for each line, which is a JSON object. Blank lines are passed over."""

    name = "jsonl"
    endings = (".jsonl", ".ndjson")

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield the object of each line that is not blank. Raises TaskError, with line and text, for any other line."""
        number, found = 0, False
        for number, line in enumerate(self.lines(file), start=1):
            if not line.strip():
                continue
            found = True
            try:
                row = parsed(line.strip())
            except ValueError as error:
                raise TaskError(
                    f"{file.name}:{number}: the line is no JSON ({said(error)}): {cut(line)!r}. Correct it or delete "
                    "it." + self.other_format(line)
                ) from error
            if not isinstance(row, dict):
                raise TaskError(
                    f"{file.name}:{number}: the line is {named(row)}, and must be an object: {cut(line)!r}."
                    + self.other_format(line)
                )
            yield f"{file.name}:{number}", row
        if not found:
            raise TaskError(f"{file.name} is empty.")

    def other_format(self, line: str) -> str:
        """Return a hint where a line looks like the beginning of a file that is one JSON value."""
        begins_one = line.strip() in ("{", "[") or line.lstrip().startswith("[")
        return " If the file is one JSON value, add reader: json." if begins_one else ""


class Json(TextReader):
    """JSON: a document for each object of a list. The list is the file's value, or one inside it; `records` names it. A
    file with an object on each line is read as JSON Lines."""

    name = "json"
    endings = (".json",)

    records: str = Field(default="", description="the key of the list of rows, such as data, or data.train")
    orient: Literal["columns", "index"] | None = Field(
        default=None,
        description="columns: the file is {column: {row: value}} or {column: [values]}; index: {row: {column: value}}",
    )

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield each object of the list of rows. Raises TaskError where there is no such list, or more than one, and
        for entries that are no objects."""
        text = "".join(self.lines(file))
        if not text.strip():
            raise TaskError(f"{file.name} is empty.")
        try:
            value = parsed(text)
        except ValueError as error:
            if self.has_lines(text):
                yield from JsonLines(encoding=self.encoding, encoding_errors=self.encoding_errors).rows(file)
                return
            line = getattr(error, "lineno", 1)
            shown = text.splitlines()[line - 1 : line] if isinstance(error, json.JSONDecodeError) else []
            raise TaskError(
                f"{file.name}:{line}: it is no JSON ({said(error)}){': ' if shown else ''}"
                f"{repr(cut(shown[0])) if shown else ''}. Correct it."
            ) from error
        where, listed = self.list_of_rows(file, value)
        if not listed:
            raise TaskError(f"{file.name} holds an empty list and no rows.")
        for number, row in enumerate(listed, start=1):
            place = f"{file.name}, row {number}{where}"
            if not isinstance(row, dict):
                raise TaskError(f"{place}: it is {named(row)}, and must be an object: {cut(as_text(row) or 'null')!r}.")
            yield place, row

    def has_lines(self, text: str) -> bool:
        """Return whether the first line that is not blank is a JSON object by itself."""
        first = next((line for line in text.split("\n") if line.strip()), "")
        try:
            return isinstance(parsed(first), dict)
        except ValueError:
            return False

    def list_of_rows(self, file: DataFile, value: Value) -> tuple[str, list[Value]]:
        """Return (where in the file, for messages; the list of rows)."""
        where = ""
        if self.records:
            for key in self.records.split("."):
                if not isinstance(value, dict) or key not in value:
                    keys = value if isinstance(value, dict) else ()
                    raise TaskError(f"{file.name}: {unknown('key in records', key, keys)}")
                value = value[key]
            where = f" of {self.records!r}"
        if self.orient:
            return where, self.turned(file, value)
        if isinstance(value, list):
            return where, value
        if not isinstance(value, dict):
            raise TaskError(f"{file.name} holds {named(value)}, and must hold a list of objects.")
        lists = dict(lists_in(value))
        if len(lists) == 1:
            key, rows = next(iter(lists.items()))
            return f" of {key!r}", rows
        if lists:
            sizes = ", ".join(f"{key} ({counted(len(rows), 'row')})" for key, rows in lists.items())
            raise TaskError(
                f"{file.name} holds several lists: {sizes}. Say which one is meant, such as "
                f"records: {next(iter(lists))}."
            )
        if value and all(isinstance(inner, list) for inner in value.values()):
            return where, self.turned(file, value)
        hint = ""
        if value and all(isinstance(inner, dict) for inner in value.values()):
            hint = " Where each entry is a row, add orient: index; where each is a column, orient: columns."
        if not value:
            raise TaskError(f"{file.name} holds an empty object, and must hold a list of objects.")
        raise TaskError(
            f"{file.name} holds one object with the keys {cut(', '.join(map(repr, list(value)[:8])))}, and no list of "
            f"objects.{hint}"
        )

    def turned(self, file: DataFile, value: Value) -> list[Value]:
        """Return the rows of an object of columns or, with orient: index, of an object of rows. Raises TaskError where
        columns have different rows."""
        if not isinstance(value, dict):
            raise TaskError(f"{file.name} holds {named(value)}, and orient: {self.orient} needs an object.")
        if self.orient == "index":
            return list(value.values())
        columns: dict[str, dict[Value, Value]] = {}
        for name, column in value.items():
            if not isinstance(column, dict | list):
                raise TaskError(
                    f"{file.name}: the column {cut(name)!r} is {named(column)}, and must be a list or an object."
                )
            columns[name] = column if isinstance(column, dict) else dict(enumerate(column))
        first = next(iter(columns.values()), {})
        for name, entries in columns.items():
            if entries.keys() != first.keys():
                raise TaskError(
                    f"{file.name}: the column {cut(name)!r} has {counted(len(entries), 'value')} and "
                    f"{next(iter(columns))!r} has {len(first)}, not for the same rows."
                )
        return [{name: entries[row] for name, entries in columns.items()} for row in first]


def lists_in(value: Document, path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, list[Value]]]:
    """Yield (path of keys, list) for each list of objects in an object and in those inside it, but not in lists."""
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(row, dict) for row in inner):
            yield f"{path}{key}", inner
        elif isinstance(inner, dict) and depth > 1:
            yield from lists_in(inner, f"{path}{key}.", depth - 1)
