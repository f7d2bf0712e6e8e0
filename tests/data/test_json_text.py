"""JSON and JSON Lines: values keep their types, and what is broken is named with its line and text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.readers import read, read_splits
from harness.errors import TaskError


def rows(folder: Path, name: str, content: str | bytes, **options: object) -> list[dict[str, object]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(path, "auto", options))


def message(folder: Path, name: str, content: str | bytes, **options: object) -> str:
    with pytest.raises(TaskError) as raised:
        rows(folder, name, content, **options)
    return str(raised.value)


CHAT = {
    "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None}],
    "score": 1.5,
    "ok": True,
}


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_values_keep_their_types(tmp_path: Path, name: str) -> None:
    assert rows(tmp_path, name, json.dumps([CHAT]) if name == "d.json" else json.dumps(CHAT)) == [CHAT]


def test_a_byte_order_mark_and_blank_lines_are_fine(tmp_path: Path) -> None:
    assert rows(tmp_path, "d.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}') == [{"a": 1}, {"a": 2}]
    assert rows(tmp_path, "d.json", '[{"a": "schön"}]'.encode("utf-16")) == [{"a": "schön"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"a": 1}\n\n{"a": \n{"a": 3}',
            "d.jsonl:3: the line is no JSON (expecting value at character 6): '{\"a\":'. Correct it or delete it.",
        ),
        ('{"a": 1}\n[1]', "d.jsonl:2: the line is a list, and must be an object: '[1]'."),
        ('[\n{"a": 1}]', "add reader: json"),
        ('{"a": 1, "a": 2}', "d.jsonl:1: the line is no JSON (the key 'a' stands twice in one object)"),
        ('{"a": {"b": "\\ud800"}}', "d.jsonl:1: 'a' holds half of a character"),
        (f'{{"a": {2**70}}}', "d.jsonl:1: 'a' holds an integer of more than 64 bits."),
        (f'{{"a": {"1" * 5000}}}', "d.jsonl:1: the line is no JSON"),
        ("[" * 100_000, "d.jsonl:1: the line is no JSON (it is nested too deeply)"),
        ("\n", "d.jsonl is empty."),
        ('{"a": "x\0"}', "d.jsonl:1: there is a null byte"),
    ],
)
def test_a_broken_line_is_named_with_its_number_and_text(tmp_path: Path, content: str, said: str) -> None:
    assert said in message(tmp_path, "d.jsonl", content)


def test_a_missing_key_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 1}\n\n{"text": "b", "lable": 1}\n')
    with pytest.raises(TaskError, match="d.jsonl:3: unknown column 'label'. Did you mean 'lable'"):
        read_splits({"": [tmp_path / "d.jsonl"]}, "auto", {}, ["text", "label"])


ROW, OTHER = {"a": 1}, {"a": 2}


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ([ROW, OTHER], {}, [ROW, OTHER]),
        ({"data": [ROW]}, {}, [ROW]),
        ({"version": 1, "tags": ["x"], "inner": {"rows": [ROW]}}, {}, [ROW]),
        ({"train": [ROW], "test": [OTHER]}, {"records": "test"}, [OTHER]),
        ({"data": {"train": [ROW], "test": [OTHER]}}, {"records": "data.test"}, [OTHER]),
        ({"a": [1, 2]}, {}, [ROW, OTHER]),
        ({"a": {"0": 1, "1": 2}}, {"orient": "columns"}, [ROW, OTHER]),
        ({"x": ROW, "y": OTHER}, {"orient": "index"}, [ROW, OTHER]),
    ],
)
def test_rows_are_found(tmp_path: Path, value: object, options: dict[str, object], expected: list[object]) -> None:
    assert rows(tmp_path, "d.json", json.dumps(value), **options) == expected


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (
            '{"a": [{}], "b": [{}, {}]}',
            {},
            "several lists: a (1 row), b (2 rows). Say which one is meant, such as records: a.",
        ),
        ('{"data": []}', {"records": "date"}, "unknown key in records 'date'. Did you mean 'data'?"),
        ('{"x": {"a": 1}}', {}, "add orient: index; where each is a column, orient: columns."),
        ('{"a": 1}', {}, "holds one object with the keys 'a', and no list of objects."),
        ('{"a": [1], "b": [1, 2]}', {}, "the column 'b' has 2 values and 'a' has 1"),
        ("[1]", {}, "d.json, row 1: it is a number, and must be an object: '1'."),
        ('"text"', {}, "holds a text, and must hold a list of objects."),
        ('[{"a": 1},\n{"a": 2\n]', {}, "d.json:3: it is no JSON (expecting ',' delimiter at character 1): ']'."),
        ("[]", {}, "d.json holds an empty list"),
        ("  ", {}, "d.json is empty."),
    ],
)
def test_what_holds_no_list_of_rows(tmp_path: Path, content: str, options: dict[str, object], said: str) -> None:
    assert said in message(tmp_path, "d.json", content, **options)


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    assert rows(tmp_path, "d.json", '{"a": 1}\n{"a": 2}\n') == [ROW, OTHER]
    assert "d.json:2: the line is no JSON" in message(tmp_path, "d.json", '{"a": 1}\n{"a": \n')


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=6), st.booleans())
def test_what_json_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[dict[str, object]], is_ascii: bool
) -> None:
    folder = tmp_path_factory.mktemp("json")
    lines = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in table)
    assert rows(folder, "d.jsonl", lines) == table
    assert rows(folder, "d.json", json.dumps(table, ensure_ascii=is_ascii, indent=1)) == table
