"""Damaged files of every format: one clear error, or rows; never a traceback, and never fewer rows of CSV."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from harness.data.readers import read
from harness.errors import TaskError

ROWS = [{"text": f"Päckchen {number}, late", "label": number % 3, "more": [number, None]} for number in range(40)]
CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)
PIECES = [
    b"\0",
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\xff",
    b"\xfe\xff",
    b"{",
    b"]",
    b'\\"',
    b"\xed\xa0\x80",
    b"NaN",
    b"9" * 30,
    b"[" * 3000,
]


def samples() -> dict[str, bytes]:
    """Return {file name: content} of a good file for each format."""
    table = pa.Table.from_pylist(ROWS)
    parquet, feather, stream, excel, box = (io.BytesIO() for _ in range(5))
    pyarrow.parquet.write_table(table, parquet)
    pyarrow.feather.write_feather(table, feather)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    book = openpyxl.Workbook()
    for row in (["text", "label"], *([row["text"], row["label"]] for row in ROWS)):
        book.active.append(row)
    book.save(excel)
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d.csv", CSV)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    return {
        "d.csv": CSV.encode(),
        "wide.csv": CSV.encode("utf-16"),
        "d.tsv": CSV.replace(",", "\t").encode(),
        "d.jsonl": lines.encode(),
        "d.json": json.dumps({"data": ROWS}).encode(),
        "d.txt": CSV.encode(),
        "d.tab": b"text\tlabel\nd\td\n\n" + b"x\ty\n" * 20,
        "d.parquet": parquet.getvalue(),
        "d.feather": feather.getvalue(),
        "d.arrow": stream.getvalue(),
        "d.xlsx": excel.getvalue(),
        "d.csv.gz": gzip.compress(CSV.encode()),
        "d.csv.bz2": bz2.compress(CSV.encode()),
        "d.csv.xz": lzma.compress(CSV.encode()),
        "d.csv.zst": pa.compress(CSV.encode(), codec="zstd", asbytes=True),
        "d.csv.zip": box.getvalue(),
    }


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return content with one to three pieces cut, inserted, overwritten, doubled or flipped."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice([1, 1, 2, 10, 200]))
        piece = chance.choice([*PIECES, chance.randbytes(4)])
        content = chance.choice(
            [
                content[:start],
                content[:start] + content[end:],
                content[:start] + piece + content[start:],
                content[:start] + piece + content[end:],
                content[:end] + content[start:],
            ]
        )
    return content


def attack(folder: Path, seed: int, times: int) -> None:
    """Read each format `times` times, damaged; fail with what was not a TaskError."""
    for name, content in samples().items():
        chance = random.Random(f"{seed}/{name}")
        assert len(list(read(write(folder / name, content), "auto", {}))) >= 20
        for _ in range(times):
            wrong = damaged(content, chance)
            said = refusal(write(folder / name, wrong))
            assert not said or name in said
            assert "\n" not in said
            assert len(said) < 1200


def refusal(path: Path) -> str:
    """Return the message with which a file is refused, "" where it is read."""
    try:
        list(read(path, "auto", {}))
    except TaskError as error:
        return str(error)
    return ""


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_damaged_file_is_one_clear_error_or_rows(tmp_path: Path) -> None:
    attack(tmp_path, 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_damaged_files(tmp_path: Path, seed: int) -> None:
    attack(tmp_path, seed, 200)


def test_no_stray_quote_swallows_rows(tmp_path: Path) -> None:
    lines = ["text,label", *(f"parcel {number} is late,{number % 3}" for number in range(60))]
    chance = random.Random(0)
    for _ in range(200):
        wrong = list(lines)
        for place in sorted(chance.sample(range(1, 61), chance.choice([1, 2, 2, 3]))):
            text, _, label = wrong[place].partition(",")
            wrong[place] = chance.choice(
                [f'"{text},{label}', f'{text}",{label}', f'{text} 6" tall,{label}', f'{text},"{label}']
            )
        path = write(tmp_path / "d.csv", "\n".join(wrong).encode())
        said = refusal(path)
        assert "quote" in said or "cell" in said or len(list(read(path, "auto", {}))) == 60, wrong
