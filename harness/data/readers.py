"""Reads a file or folder of raw data into documents, every value a string. One function for each format."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.errors import TaskError, unknown

Document = dict[str, str]


def read(path: Path, reader: str, options: Mapping[str, object]) -> Iterator[Document]:
    """Yield the documents of a file or folder; `options` are arguments of the reader's function (`read_csv`:
    delimiter). The reader `auto` goes by the ending: .csv, .tsv, .jsonl, .json or .tab; a folder is read by
    `read_folders`. Raises TaskError for an unknown reader."""
    if reader == "auto":
        reader = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "orange"}.get(
            path.suffix.lower(), "folders" if path.is_dir() else path.suffix or "none"
        )
    if reader not in READERS:
        raise TaskError(unknown("reader", reader, READERS))
    return READERS[reader](path, **options)


def read_csv(path: Path, delimiter: str = ",") -> Iterator[Document]:
    """Yield a document for each row of a CSV file; its first line names the columns. Values beyond them are dropped,
    missing ones are ""."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield {key: value or "" for key, value in row.items() if key is not None}


def read_jsonl(path: Path) -> Iterator[Document]:
    """Yield a document for each line of a file; a line is a JSON object. Blank lines are skipped."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield {key: str(value) for key, value in json.loads(line).items()}


def read_json(path: Path) -> Iterator[Document]:
    """Yield a document for each object of a JSON list."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield {key: str(value) for key, value in row.items()}


def read_folders(path: Path) -> Iterator[Document]:
    """Yield a document {label, title, body} for each .txt file of a folder with one subfolder for each class.

    The subfolder's name is the label, the file's first line the title, the rest the body with single spaces.
    """
    for file in sorted(path.glob("*/*.txt")):
        title, _, body = file.read_text(encoding="utf-8", errors="replace").strip().partition("\n")
        yield {"label": file.parent.name, "title": title.strip(), "body": " ".join(body.split())}


def read_orange(
    path: Path, columns: dict[str, str] | None = None, words: int = 0, skip_words: int = 0
) -> Iterator[Document]:
    """Yield a document for each row of an Orange .tab file (lines of names, types and roles, then rows).

    columns: {our name: name in the file}, by default all. words: keep this many words of `text`, after `skip_words`;
    rows with fewer are left out (0: keep the whole text).
    """
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL)
        names = next(rows)
        next(rows), next(rows)
        for row in rows:
            if not any(row):
                continue
            record = dict(zip(names, row, strict=False))
            document = {ours: record[theirs] for ours, theirs in (columns or {n: n for n in names}).items()}
            if words:
                kept = document["text"].split()[skip_words : skip_words + words]
                if len(kept) < words:
                    continue
                document["text"] = " ".join(kept)
            yield document


READERS: dict[str, Callable[..., Iterator[Document]]] = {
    "csv": read_csv,
    "tsv": lambda path: read_csv(path, "\t"),
    "json": read_json,
    "jsonl": read_jsonl,
    "folders": read_folders,
    "orange": read_orange,
}
