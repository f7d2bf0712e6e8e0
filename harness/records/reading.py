"""Reads records from JSON with every field checked against the type that the record declares for it.

A file may have been truncated, edited or written by another program. What a record holds is therefore what it says, or
`read_record` raises a ValueError that names the field, what it has and what is wanted: `scores[0].value: got 'high',
wanted a number`. Not covered: whether a well-formed value is true.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import pydantic

Record = TypeVar("Record")
Reader = Callable[[object, str], Any]  # (a value of JSON, its path within the file) -> the field's value

LARGEST = 2**63 - 1  # of a whole number: what a BIGINT of the database holds
LONGEST_SHOWN = 60  # characters of a wrong value in a message
FIRST_YEAR, LAST_YEAR = 1970, 2999


def wrong(path: str, value: object, wanted: str) -> ValueError:
    """Return the error for a value that is not what is `wanted`; `path` names its field within the file."""
    shown = ascii(value)  # a lone surrogate cannot be printed
    if len(shown) > LONGEST_SHOWN:
        shown = f"{shown[:LONGEST_SHOWN]}…"
    return ValueError(f"{path or 'the file'}: got {shown}, wanted {wanted}")


# --- what a declared type may ask beside its kind ---


def check_moment(value: str, path: str) -> None:
    """Raise ValueError where a text is no date with time and zone in ISO 8601, from 1970 to 2999."""
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None and FIRST_YEAR < moment.year < LAST_YEAR:
            return
    except ValueError:
        pass
    raise wrong(path, value, "a date and time with its zone, such as 2026-01-31T12:00:00+00:00")


def check_name(value: str, path: str) -> None:
    """Raise ValueError where a text is empty."""
    if not value:
        raise wrong(path, value, "a text that is not empty")


def check_not_negative(value: float, path: str) -> None:
    """Raise ValueError where a number is below 0 (NaN passes)."""
    if value < 0:
        raise wrong(path, value, "a number of at least 0")


def check_positive(value: float, path: str) -> None:
    """Raise ValueError where a number is not above 0, is infinite or is NaN."""
    if not 0 < value < math.inf:
        raise wrong(path, value, "a number above 0")


def check_seconds(value: float, path: str) -> None:
    """Raise ValueError where a number is no duration: negative, infinite or NaN."""
    if not 0 <= value < math.inf:
        raise wrong(path, value, "a number of seconds")


Moment = Annotated[str, check_moment]  # a date and time with its zone in ISO 8601
Name = Annotated[str, check_name]  # a text that is not empty
Count = Annotated[int, check_not_negative]
Seconds = Annotated[float, check_seconds]


# --- readers of one type each ---


def read_text(value: object, path: str) -> str:
    """Return a text. Raises ValueError for anything else, and for half a character (a lone surrogate)."""
    if type(value) is not str:
        raise wrong(path, value, "a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise wrong(path, value, "a text without lone surrogates (half characters)") from None
    return value


def read_number(value: object, path: str) -> float:
    """Return a number as a float. Raises ValueError for anything else, and for what a double cannot hold."""
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    raise wrong(path, value, "a number")


def read_whole(value: object, path: str) -> int:
    """Return a whole number. Raises ValueError for anything else, and for what 64 bits cannot hold."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not -LARGEST <= value <= LARGEST:
        raise wrong(path, value, "a whole number of at most 64 bits")
    return value


def read_flag(value: object, path: str) -> bool:
    """Return a truth value. Raises ValueError for anything else."""
    if type(value) is not bool:
        raise wrong(path, value, "true or false")
    return value


def read_nothing(value: object, path: str) -> None:
    """Return None. Raises ValueError for anything else."""
    if value is not None:
        raise wrong(path, value, "null")


def read_path(value: object, path: str) -> Path:
    """Return a text as a file's path. Raises ValueError for anything else."""
    return Path(read_text(value, path))


def read_anything(value: object, path: str) -> object:
    """Return a value of JSON as it is. Raises ValueError where a text or a whole number in it could not be stored."""
    if type(value) is str:
        return read_text(value, path)
    if type(value) is int:
        return read_whole(value, path)
    if type(value) is dict:
        for key, inner in value.items():
            read_text(key, path)
            read_anything(inner, f"{path}.{key}")
    elif type(value) is list:
        for place, inner in enumerate(value):
            read_anything(inner, f"{path}[{place}]")
    return value


PLAIN: dict[object, Reader] = {
    str: read_text,
    float: read_number,
    int: read_whole,
    bool: read_flag,
    type(None): read_nothing,
    Path: read_path,
    Any: read_anything,
    object: read_anything,
}


# --- readers made of others ---


@cache
def reader_of(kind: Any) -> Reader:
    """Return the reader of a declared type: (value, path within the file) -> the field's value, or ValueError.

    Known are texts, numbers, paths, enumerations, literals, unions, lists, tuples of one type, dictionaries,
    dataclasses, typed dictionaries, pydantic's models, and types annotated with further checks. Raises TypeError for
    others.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Annotated:
        return checked_reader(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return union_reader(arguments)
    if origin is Literal:
        return choice_reader({value: value for value in arguments})
    if origin in (tuple, list):
        return sequence_reader(origin, arguments[0])
    if origin is dict:
        return mapping_reader(arguments[0], arguments[1])
    if isinstance(kind, type) and is_dataclass(kind):
        optional = {
            field.name for field in fields(kind) if (field.default, field.default_factory) != (MISSING, MISSING)
        }
        return record_reader(kind, get_type_hints(kind, include_extras=True), optional)
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
        plain = {name: get_args(hint)[0] if name in optional else hint for name, hint in hints.items()}
        return record_reader(dict, plain, optional)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return choice_reader({member.value: member for member in kind})
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return model_reader(kind)
    raise TypeError(f"no record can be read that has a field of the type {kind!r}")


def checked_reader(kind: Any, checks: tuple[Callable[[Any, str], None], ...]) -> Reader:
    """Return the reader of a type with further `checks`, each of which raises ValueError for a wrong value."""
    inner = reader_of(kind)

    def read(value: object, path: str) -> Any:
        result = inner(value, path)
        for check in checks:
            check(result, path)
        return result

    return read


def union_reader(kinds: tuple[Any, ...]) -> Reader:
    """Return the reader of a value that has one of several types; null is tried first, then the others in turn."""
    optional = type(None) in kinds
    readers = [reader_of(kind) for kind in kinds if kind is not type(None)]

    def read(value: object, path: str) -> Any:
        if value is None and optional:
            return None
        for inner in readers[:-1]:
            try:
                return inner(value, path)
            except ValueError:
                continue
        return readers[-1](value, path)

    return read


def choice_reader(choices: Mapping[object, object]) -> Reader:
    """Return the reader of one of some fixed values; `choices` maps each value of JSON to the field's."""
    listed = ", ".join(map(str, choices))

    def read(value: object, path: str) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise wrong(path, value, f"one of {listed}")
        return choices[value]

    return read


def sequence_reader(kind: type[list[Any]] | type[tuple[Any, ...]], of: Any) -> Reader:
    """Return the reader of a list or tuple (`kind`) whose entries have the type `of`."""
    inner = reader_of(of)

    def read(value: object, path: str) -> Any:
        if not isinstance(value, list | tuple):
            raise wrong(path, value, "a list")
        return kind([inner(entry, f"{path}[{place}]") for place, entry in enumerate(value)])

    return read


def mapping_reader(keys: Any, values: Any) -> Reader:
    """Return the reader of a dictionary from its keys' type and that of its values."""
    key, inner = reader_of(keys), reader_of(values)

    def read(value: object, path: str) -> Any:
        if type(value) is not dict:
            raise wrong(path, value, "an object of names and values")
        return {key(name, path): inner(entry, f"{path}.{name}") for name, entry in value.items()}

    return read


def record_reader(make: Callable[..., Any], hints: Mapping[str, Any], optional: set[str]) -> Reader:
    """Return the reader of a record with the fields `hints` (name -> type), made by calling `make` with them. Fields
    that are `optional` may be missing; a field that `hints` lacks is refused."""
    readers = {name: reader_of(hint) for name, hint in hints.items()}

    def read(value: object, path: str) -> Any:
        if type(value) is not dict:
            raise wrong(path, value, "an object of names and values")
        prefix = f"{path}." if path else ""
        for name in value:
            if name not in readers:
                near = difflib.get_close_matches(str(name), readers, n=1)
                raise ValueError(
                    f"{path or 'the file'}: has an unknown field {name!a}"
                    + (f", the nearest known one is {near[0]!r}" if near else "")
                )
        for name in readers:
            if name not in value and name not in optional:
                raise ValueError(f"{path or 'the file'}: has no field {name!r}")
        return make(**{name: readers[name](entry, f"{prefix}{name}") for name, entry in value.items()})

    return read


def model_reader(kind: type[pydantic.BaseModel]) -> Reader:
    """Return the reader of one of pydantic's models."""

    def read(value: object, path: str) -> Any:
        try:
            return kind.model_validate(read_anything(value, path))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name = ".".join([path, *map(str, first["loc"])])
            raise ValueError(f"{name}: got {ascii(first['input'])[:LONGEST_SHOWN]}: {first['msg']}") from None

    return read


def read_record(kind: type[Record], data: object) -> Record:
    """Return the record of type `kind` (a dataclass or a typed dictionary) that `data`, a value of JSON, describes.

    Raises ValueError that names the first wrong field, what it has and what is wanted.
    """
    try:
        record: Record = reader_of(kind)(data, "")  # type: ignore[arg-type]  # every type is hashable
    except RecursionError:
        raise ValueError("the file: is nested too deeply") from None
    return record
