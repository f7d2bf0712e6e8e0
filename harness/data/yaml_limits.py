"""Composes YAML within limits, so that no file that people bring can hang or crash what reads it.

A few hundred bytes of YAML may nest a thousand levels deep, hold themselves, or stand for billions of values by aliases
of aliases. PyYAML's safe loader refuses code, and none of these.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 2_000_000
MOST_DEPTH = 50
MOST_VALUES = 100_000  # with all aliases written out


def compose_yaml(text: str | bytes, loader: Any = yaml.SafeLoader) -> yaml.Node | None:
    """Return the syntax tree of a YAML text, or of a file's bytes, as `loader` reads it, None of an empty one.

    Raises yaml.YAMLError for what is no YAML, and for texts that are too long, nest too deeply, hold themselves, or are
    too large when aliases are written out.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    level = 0
    for event in yaml.parse(text, Loader=loader):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_DEPTH:
            raise too_deep(event.start_mark)
    node: yaml.Node | None = yaml.compose(text, Loader=loader)
    if node is not None:
        count(node, 0, {})
    return node


def load_yaml(text: str | bytes, loader: Any = yaml.SafeLoader) -> Any:
    """Return the content of a YAML text, or of a file's bytes, as `loader` reads it, None of an empty one. Raises
    yaml.YAMLError as `compose_yaml` does, and for values that are not what they seem, such as the date 2026-13-45."""
    compose_yaml(text, loader)

    class Loader(loader):  # type: ignore[misc]
        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                value = super().construct_object(node, deep)
                # JSON writes a sign as two escapes ("\ud83d\udc4d"), which PyYAML takes for two signs that are none.
                return as_signs(value) if isinstance(value, str) else value
            except yaml.YAMLError:
                raise
            except UnicodeError as error:
                raise problem("holds half a sign: \\ud800 to \\udfff stand in pairs", node.start_mark) from error
            except Exception as error:  # PyYAML's constructors raise anything: AttributeError, KeyError, IndexError …
                kind = node.tag.rpartition(":")[2]
                said = f"{str(node.value)[:60]!r} is no {kind}. Quote it if it is text"
                raise problem(said, node.start_mark) from error

    return yaml.load(text, Loader=Loader)


def as_signs(text: str) -> str:
    """Return a text in which two halves of a sign (surrogates) are joined. Raises UnicodeError where one stands
    alone."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")


def count(node: yaml.Node, level: int, counts: dict[int, int]) -> int:
    """Return how many values a node stands for when its aliases are written out. `counts` holds those of the nodes that
    were seen, by id, 0 while they are being counted. Raises yaml.YAMLError beyond the limits."""
    known = counts.get(id(node))
    if known == 0:
        raise problem("an alias (*name) stands within what it stands for. Write it out", node.start_mark)
    if level > MOST_DEPTH:
        raise too_deep(node.start_mark)
    if known:
        return known
    counts[id(node)] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
    total = 1
    for part in inner:
        total += count(part, level + 1, counts)
        if total > MOST_VALUES:
            raise problem(
                f"its aliases (*name) make more than {MOST_VALUES} entries of it. Write fewer", node.start_mark
            )
    counts[id(node)] = total
    return total


def too_deep(mark: Any) -> yaml.MarkedYAMLError:
    return problem(f"is nested too deeply: at most {MOST_DEPTH} levels are read", mark)


def problem(text: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)
