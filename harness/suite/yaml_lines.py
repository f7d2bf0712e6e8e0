"""Reads YAML together with the line of every key, so that each message can name a line."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.data import compose_yaml, load_yaml
from harness.errors import Problem
from harness.records import JsonObject

LARGEST_BYTES = 2**20  # of a suite; the largest one by hand has some hundred lines
Keys = tuple[object, ...]  # the keys that lead to a place in the file


class Lines:
    """The lines (from 1) of a YAML file, by the keys that lead to each place. `file` is the name that problems show;
    without `places` every problem is at line 1. `text` is the file's."""

    def __init__(self, file: str = "", places: dict[Keys, int] | None = None, text: str = ""):
        self.file = file
        self.places = places or {}
        self.text = text

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
        node = compose_yaml(text)
        data = load_yaml(text)
    except UnicodeDecodeError as error:
        return (
            None,
            Lines(name),
            [Problem(f"not a text file ({error.reason} at byte {error.start}).", name, 1)],
        )
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
    return data, Lines(name, places, text), repeated


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
