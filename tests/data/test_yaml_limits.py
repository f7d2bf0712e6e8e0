"""YAML that would hang or crash a reader is refused, with the line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from harness.data.yaml_limits import MOST_DEPTH, compose_yaml, load_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + place)}: &{chr(98 + place)} [{', '.join(['*' + chr(97 + place)] * 9)}]\n" for place in range(9)
)


@pytest.mark.parametrize(
    ("text", "why", "line"),
    [
        (LAUGHS, "make more than 100000 entries", 5),
        ("a: 1\nb: &a [*a]\n", "stands within what it stands for", 2),
        ("x: &x {<<: *x}\n", "stands within what it stands for", 1),
        ("a: 1\nb: " + "[" * 3000 + "]" * 3000, "nested too deeply: at most 50 levels", 2),
        (
            "\n".join("  " * level + f"k{level}:" for level in range(900)),
            "nested too deeply: at most 50 levels",
            MOST_DEPTH,
        ),
    ],
)
def test_what_would_hang_or_crash_is_refused_with_its_line(text: str, why: str, line: int) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match=why) as caught:
        compose_yaml(text)
    assert caught.value.problem_mark
    assert abs(caught.value.problem_mark.line + 1 - line) <= 1


def test_too_long_and_empty_texts() -> None:
    with pytest.raises(yaml.YAMLError, match="characters"):
        compose_yaml("a: " + "x" * 3_000_000)
    assert compose_yaml("") is None


def test_aliases_that_stand_for_little_are_fine() -> None:
    node = compose_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: *a}}\n")
    assert isinstance(node, yaml.MappingNode)


@given(
    some.recursive(
        some.integers() | some.text(), lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner)
    )
)
def test_what_yaml_writes_is_read(value: object) -> None:
    assert yaml.safe_load(yaml.safe_dump(value)) == value
    compose_yaml(yaml.safe_dump(value))


@pytest.mark.parametrize(
    "value",
    ["2026-13-45", "!!timestamp x", "!!int x", "!!int ''", "!!float ''", "!!bool x", "!!binary é", "{[a]: b}", "!no x"],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
def test_a_value_that_is_not_what_it_seems_is_refused_with_its_line(value: str, loader: object) -> None:
    with pytest.raises(yaml.MarkedYAMLError) as caught:
        load_yaml(f"a: 1\nb: {value}\n", loader)
    assert caught.value.problem_mark
    assert caught.value.problem_mark.line == 1


def test_a_sign_in_two_escapes_as_json_writes_it() -> None:
    assert load_yaml(r'a: "\ud83d\udc4d, ü"') == {"a": "👍, ü"}
