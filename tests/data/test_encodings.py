"""Encodings and packings: read by rule where a mark says which, refused with the one that fits where none does."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from harness.data.readers import read
from harness.errors import TaskError

GERMAN = "text,label\nplain,a\nschöne Grüße,a\n"


def rows(folder: Path, content: bytes, name: str = "d.csv", **options: object) -> list[dict[str, object]]:
    (folder / name).write_bytes(content)
    return list(read(folder / name, "auto", options))


def message(folder: Path, content: bytes, name: str = "d.csv", **options: object) -> str:
    with pytest.raises(TaskError) as raised:
        rows(folder, content, name, **options)
    return str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_decides(tmp_path: Path, encoding: str) -> None:
    assert rows(tmp_path, GERMAN.encode(encoding))[1] == {"text": "schöne Grüße", "label": "a"}


@pytest.mark.parametrize(
    ("text", "encoding", "offered"),
    [
        ("schöne Grüße", "latin-1", "latin-1"),
        ("wants it to look at grüße", "latin-1", "latin-1"),
        ("L’été est « très » beau", "cp1252", "cp1252"),
        ("Zażółć gęślą jaźń", "cp1250", "cp1250"),
        ("Привет как дела", "cp1251", "cp1251"),
        ("Καλημέρα σας", "cp1253", "cp1253"),
        ("这部电影非常好看", "gbk", "gb18030"),
    ],
)
def test_the_encoding_that_fits_is_offered_and_works(tmp_path: Path, text: str, encoding: str, offered: str) -> None:
    content = f"text,label\nplain,a\n{text},a\n".encode(encoding)
    said = message(tmp_path, content)
    byte = next(byte for byte in text.encode(encoding) if byte > 127)
    assert f"d.csv:3: it is not UTF-8 (byte 0x{byte:02x})" in said
    assert f"add encoding: {offered}" in said
    assert rows(tmp_path, content, encoding=offered)[1] == {"text": text, "label": "a"}


def test_one_line_in_another_encoding(tmp_path: Path) -> None:
    content = b"text,label\n" + "schön,a\n".encode() * 3 + "Grüße,b\n".encode("latin-1")
    said = message(tmp_path, content)
    assert "d.csv:5: it is not UTF-8 (byte 0xfc), though 3 lines with other than ASCII are: correct this line" in said
    assert rows(tmp_path, content, encoding_errors="replace")[3] == {"text": "Gr��e", "label": "b"}


def test_utf_16_without_a_mark(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        assert f"add encoding: {encoding}" in message(tmp_path, GERMAN.encode(encoding))
        assert len(rows(tmp_path, GERMAN.encode(encoding), encoding=encoding)) == 2


def test_an_unknown_or_wrong_encoding(tmp_path: Path) -> None:
    assert "unknown encoding 'latin_one'. Did you mean 'latin-1'?" in message(
        tmp_path, GERMAN.encode(), encoding="latin_one"
    )
    assert "unknown encoding 'base64'" in message(tmp_path, GERMAN.encode(), encoding="base64")
    assert "d.csv is not ASCII" in message(tmp_path, GERMAN.encode(), encoding="ascii")


def zipped(content: bytes, *names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as box:
        for name in names:
            box.writestr(name, content)
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv.gz", gzip.compress(GERMAN.encode(), mtime=0)),
        ("d.csv", gzip.compress(GERMAN.encode(), mtime=0)),
        ("d.csv.bz2", bz2.compress(GERMAN.encode())),
        ("d.csv.xz", lzma.compress(GERMAN.encode())),
        ("d.csv.zst", pa.compress(GERMAN.encode(), codec="zstd", asbytes=True)),
        ("d.csv.zip", zipped(GERMAN.encode(), "d.csv")),
        ("d.zip", zipped(GERMAN.encode(), "inner/d.csv", "__MACOSX/d.csv")),
    ],
)
def test_packed_files_are_read_and_damaged_ones_named(tmp_path: Path, name: str, content: bytes) -> None:
    assert rows(tmp_path, content, name)[1]["text"] == "schöne Grüße"
    assert name in message(tmp_path, content[:-9], name)


def test_a_zip_of_several_files(tmp_path: Path) -> None:
    assert "d.zip holds 2 files (a.csv, b.csv). Unpack it" in message(tmp_path, zipped(b"", "a.csv", "b.csv"), "d.zip")


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.readers.opening.FREE_OF_RATIO", 2**20)
    assert "d.csv.bz2 is refused" in message(tmp_path, bz2.compress(b"a\n" * 2**20), "d.csv.bz2")


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl"])
def test_marks_where_files_were_put_together_are_no_text(tmp_path: Path, name: str) -> None:
    lines = ["text,label\n", "a,x\n", "b,y\n"] if name == "d.csv" else ['{"text": "a"}\n', '{"text": "b"}\n']
    found = rows(tmp_path, "".join(f"\ufeff\ufeff{line}" for line in lines).encode(), name)
    assert [row["text"] for row in found] == ["a", "b"]


def test_a_header_in_the_middle_is_named(tmp_path: Path) -> None:
    said = message(tmp_path, f"{GERMAN}{GERMAN}".encode())
    assert said.startswith("d.csv:4: the header stands here again, as where files were put together")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GERMAN.encode("utf-32-le"), "looks like UTF-32-LE: add encoding: utf-32-le"),
        (GERMAN.encode("utf-32-be"), "looks like UTF-32-BE: add encoding: utf-32-be"),
        (gzip.compress(gzip.compress(GERMAN.encode(), mtime=0), mtime=0), "packed twice, with gzip inside"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
    ],
    ids=["utf-32-le", "utf-32-be", "gzip", "png"],
)
def test_what_it_is_instead_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in message(tmp_path, content)
