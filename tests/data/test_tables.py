"""Parquet, Arrow and Excel: values keep their types, and damaged files are named."""

from __future__ import annotations

import datetime
import decimal
import gzip
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.readers import read
from harness.errors import TaskError

ROWS = [
    {"text": "schön", "label": 1, "score": 0.5, "ok": True, "chat": [{"role": "user", "content": "Hi"}], "none": None},
    {"text": "NA", "label": 0, "score": None, "ok": False, "chat": [], "none": None},
]


def rows(path: Path, **options: object) -> list[dict[str, Any]]:
    return list(read(path, "auto", options))


def message(path: Path, **options: object) -> str:
    with pytest.raises(TaskError) as raised:
        rows(path, **options)
    return str(raised.value)


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=1)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    else:
        new = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table)
    return path


NAMES = ["d.parquet", "d.feather", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_read_with_their_types(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, pa.Table.from_pylist(ROWS))
    assert rows(path) == ROWS
    assert rows(path, columns=["text"]) == [{"text": "schön"}, {"text": "NA"}]
    assert "unknown column 'txt'. Did you mean 'text'?" in message(path, columns=["txt"])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert rows(packed) == ROWS


@pytest.mark.parametrize("name", [*NAMES, "d.xlsx", "d.xls"])
def test_damaged_empty_and_foreign_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b"", b"PAR1", b"ARROW1\0\0abc", b"text,label\nx,y\n"):
        path.write_bytes(content)
        assert name in message(path)
    if name in NAMES:
        write(path, pa.table({"text": pa.array([], pa.string())}))
        assert f"{name} holds no rows." in message(path)
        write(path, pa.Table.from_arrays([pa.array(["x"])] * 2, ["text", "text"]))
        assert "two columns are named 'text'" in message(path)


def test_dates_decimals_and_maps_become_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "day": [datetime.date(2026, 1, 2)],
            "time": [datetime.datetime(2026, 1, 2, 3, 4)],
            "price": pa.array([decimal.Decimal("1.50")]),
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
            "class": pa.array(["x"]).dictionary_encode(),
        }
    )
    assert rows(write(tmp_path / "d.parquet", table)) == [
        {"day": "2026-01-02", "time": "2026-01-02T03:04:00", "price": 1.5, "map": {"a": 1}, "class": "x"}
    ]


def test_bytes_are_refused_unless_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.parquet", pa.table({"text": ["x"], "image": [b"\x89PNG"]}))
    assert "d.parquet, row 1: 'image' holds bytes" in message(path)
    assert rows(path, columns=["text"]) == [{"text": "x"}]


def workbook(path: Path, **sheets: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, table in sheets.items():
        sheet = book.create_sheet(name)
        for row in table:
            sheet.append(row)
    book.save(path)
    return path


def test_excel_is_read_with_its_types(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 2)
    table = [[" text ", "label", "day"], ["NA", 7, day], [None] * 3, ["007", 1.5, None], ["two\nlines", True, None]]
    path = workbook(tmp_path / "d.xlsx", data=table, empty=[])
    found = rows(path)
    assert [row["text"] for row in found] == ["NA", "007", "two\nlines"]
    assert [row["label"] for row in found] == [7, 1.5, True]
    assert [row["day"] for row in found] == ["2026-01-02", None, None]


def test_a_sheet_is_chosen(tmp_path: Path) -> None:
    path = workbook(tmp_path / "d.xlsx", one=[["a"], [1]], two=[["a"], [2]])
    assert "d.xlsx has several sheets with rows: one, two. Say which one: sheet: one." in message(path)
    assert rows(path, sheet="two") == rows(path, sheet=2) == [{"a": 2}]
    assert "unknown sheet 'tow'. Did you mean 'two'?" in message(path, sheet="tow")
    assert "sheet: 3, and it has 2: one, two." in message(path, sheet=3)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([["a", "b"], [1, 2, 3]], "d.xlsx, s, row 2: the row has more cells than the header names columns (2)"),
        ([["a", "a"], [1, 2]], "columns 1 and 2 are both named 'a'"),
        ([["a", "b"]], "d.xlsx, s holds a header and no rows."),
        ([], "d.xlsx is empty."),
    ],
)
def test_sheets_that_cannot_be_read(tmp_path: Path, table: list[list[object]], said: str) -> None:
    assert said in message(workbook(tmp_path / "d.xlsx", s=table))


def test_a_formula_that_was_never_computed_is_no_empty_cell(tmp_path: Path) -> None:
    path = workbook(tmp_path / "d.xlsx", s=[["a", "b"], [1, "=1+1"]])
    assert "d.xlsx: the formula in B2 was never computed." in message(path)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
CELLS = {
    "t": st.none() | TEXTS,
    "n": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f": st.none() | st.floats(allow_nan=False),
    "b": st.none() | st.booleans(),
    "l": st.none() | st.lists(TEXTS, max_size=3),
}
TYPES = pa.schema({"t": pa.string(), "n": pa.int64(), "f": pa.float64(), "b": pa.bool_(), "l": pa.list_(pa.string())})


@given(st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=8), st.sampled_from(NAMES))
def test_what_pyarrow_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[dict[str, object]], name: str
) -> None:
    path = write(tmp_path_factory.mktemp("table") / name, pa.Table.from_pylist(table, TYPES))
    assert rows(path) == table


EXCEL_CELLS = TEXTS.filter(lambda text: text[0] not in "=#") | st.integers(-(2**53), 2**53) | st.booleans()


@settings(max_examples=30)  # a workbook takes a hundredth of a second to write
@given(st.lists(st.lists(EXCEL_CELLS, min_size=2, max_size=2), min_size=1, max_size=5))
def test_what_openpyxl_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, table: list[list[object]]) -> None:
    path = workbook(tmp_path_factory.mktemp("excel") / "d.xlsx", s=[["a", "b"], *table])
    assert rows(path) == [{"a": first, "b": second} for first, second in table]
