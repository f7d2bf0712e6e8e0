"""Reads YAML together with the line of every key, so that each message can name a line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

from harness.errors import Problem
from harness.records import JsonObject

LARGEST_BYTES, MOST_NODES, DEEPEST = 2**20, 100_000, 50  # of a suite; the largest one by hand has some hundred lines
Keys = tuple[object, ...]  # the keys that lead to a place in the file


class Lines:
    """The lines (from 1) of a YAML file, by the keys that lead to each place. `file` is the name that problems show;
    without `places` every problem is at line 1."""

    def __init__(self, file: str = "", places: dict[Keys, int] | None = None):
        self.file = file
        self.places = places or {}

    def problem(self, message: str, *path: object) -> Problem:
        """Return a Problem with this message, at the line of the deepest part of `path` that exists in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return Problem(message, self.file, self.places[path[:length]])
        return Problem(message, self.file, 1)


def read_yaml(path: Path) -> tuple[JsonObject | None, Lines, list[Problem]]:
    """Read a YAML file; return (mapping, its lines, mistakes such as repeated keys). The mapping is None where the file
    cannot be read or is no YAML mapping."""
    name = str(path)
    try:
        if (size := path.stat().st_size) > LARGEST_BYTES:
            return None, Lines(name), [Problem(f"has {size} bytes; a suite has at most {LARGEST_BYTES}.", name)]
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and (fault := unbounded(node)):
            return None, Lines(name), [fault_at(fault, name)]
        data = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        return (
            None,
            Lines(name),
            [Problem(f"not a text file ({error.reason} at byte {error.start}).", name, 1)],
        )
    except RecursionError:
        return None, Lines(name), [Problem(f"is nested too deeply: at most {DEEPEST} levels are read.", name, 1)]
    except OSError as error:
        return None, Lines(name), [Problem(f"cannot be read: {error.strerror}.", name)]
    except ValueError as error:  # such as a date that is none
        return None, Lines(name), [Problem(f"not valid YAML: {error}.", name, 1)]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        return None, Lines(name), [Problem(f"not valid YAML: {reason}.", name, mark.line + 1 if mark else 1)]
    if not isinstance(data, dict) or node is None:
        got = "nothing" if data is None else type(data).__name__
        return (
            None,
            Lines(name),
            [Problem(f"a suite is a mapping (version: 1, models: …), got {got}.", name, 1)],
        )
    places: dict[Keys, int] = {}
    repeated: list[Problem] = []
    walk(node, (), places, repeated, name)
    return data, Lines(name, places), repeated


class Fault(NamedTuple):
    """Why a YAML document is not read, and the node where that shows."""

    message: str
    node: yaml.Node


def fault_at(fault: Fault, name: str) -> Problem:
    """Return a fault as a Problem of the file `name`."""
    return Problem(fault.message, name, fault.node.start_mark.line + 1)


def unbounded(node: yaml.Node) -> Fault | None:
    """Return why a YAML document cannot be read in bounded time and space, or None: an alias within its own anchor,
    more than `DEEPEST` levels, or aliases that multiply it to more than `MOST_NODES` nodes."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size_of(inner: yaml.Node, depth: int) -> int | Fault:
        if id(inner) in above:
            return Fault("an alias (*name) stands within what it stands for. Write it out.", inner)
        if depth > DEEPEST:
            return Fault(f"is nested too deeply: at most {DEEPEST} levels are read.", inner)
        if id(inner) in sizes:
            return sizes[id(inner)]
        parts: list[yaml.Node] = []
        if isinstance(inner, yaml.MappingNode):
            parts = [part for pair in inner.value for part in pair]
        elif isinstance(inner, yaml.SequenceNode):
            parts = inner.value
        above.add(id(inner))
        total = 1
        for part in parts:
            size = size_of(part, depth + 1)
            if isinstance(size, Fault):
                return size
            total += size
        above.discard(id(inner))
        if total > MOST_NODES:
            return Fault(f"its aliases (*name) make more than {MOST_NODES} entries of it. Write fewer.", inner)
        sizes[id(inner)] = total
        return total

    size = size_of(node, 0)
    return size if isinstance(size, Fault) else None


def walk(
    node: yaml.Node,
    path: Keys,
    places: dict[Keys, int],
    repeated: list[Problem],
    file: str,
) -> None:
    """Enter the line of `node` and of everything in it into `places`, and a problem for each key that is given twice
    into `repeated`. `path` are the keys that lead to the node; `file` is the name that problems show."""
    places.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                repeated.append(
                    Problem(f"key {key.value!r} is given twice. Remove one.", file, key.start_mark.line + 1)
                )
            seen.add(key.value)
            places[(*path, key.value)] = key.start_mark.line + 1
            walk(value, (*path, key.value), places, repeated, file)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            walk(value, (*path, place), places, repeated, file)
