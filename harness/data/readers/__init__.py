"""In: a file, a folder or a pattern of paths, and a reader's options. Out: documents, every value as JSON has it.

Readers are found by walking this folder: adding a file adds a format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from harness.data.readers.base import Document, Reader, Value, as_text, require
from harness.data.readers.finding import find
from harness.data.readers.folders import Folders
from harness.data.readers.opening import DataFile
from harness.data.readers.orange import Orange
from harness.errors import TaskError, unknown
from harness.plugin import find_classes

__all__ = [
    "Document",
    "Reader",
    "Value",
    "all_readers",
    "as_text",
    "code_files",
    "read",
    "read_folders",
    "read_orange",
    "read_splits",
]

OF_FOLDERS = ("files", "config")  # options that say which files are read, not how


@cache
def all_readers() -> dict[str, type[Reader]]:
    """Return {name: reader} for every format, such as "csv"."""
    return find_classes(__name__, __path__, Reader)  # type: ignore[type-abstract]


def code_files() -> list[Path]:
    """Return the files of this package, which decide what documents a file gives."""
    return sorted(Path(__file__).parent.glob("*.py"))


def read(path: Path, reader: str, options: Mapping[str, Value], wanted: Iterable[str] = ()) -> Iterator[Document]:
    """Yield the documents of a file, a folder or a pattern of paths; of a folder with published splits, those of all of
    them. See `read_splits`."""
    for files in files_of(path, reader, options).values():
        yield from read_all(files, reader, options, list(wanted))


def read_splits(
    paths: Mapping[str, Sequence[Path]], reader: str, options: Mapping[str, Value], wanted: Iterable[str] = ()
) -> dict[str, list[Document]]:
    """Return {split: its documents}. `paths` has files, folders or patterns for each split, or under "" what is not
    divided; where these have published splits (`finding.py`), they are returned. Of a folder with published splits
    that is named for one split, the files of that split are read.

    `reader` is a reader's name, or `auto`: each file goes by its ending, a folder of text files by class is read by
    `folders`. `options` are the reader's fields, and for a folder `files` and `config`. `wanted` are columns that each
    document must have. Raises TaskError, with the place, for an unknown reader, option or column, and for files that
    cannot be read whole.
    """
    names = list(wanted)
    found = {split: [files_of(path, reader, options) for path in listed] for split, listed in paths.items()}
    if found.keys() == {""}:
        parts = found[""]
        if any(part.keys() != {""} for part in parts):
            if len(parts) > 1:
                raise TaskError("several sources, of which one has splits of its own: name the source of each split.")
            return {split: list(read_all(files, reader, options, names)) for split, files in parts[0].items()}
    return {
        split: [document for part in parts for document in read_all(files_for(split, part), reader, options, names)]
        for split, parts in found.items()
    }


def files_for(split: str, by_split: Mapping[str, list[DataFile]]) -> list[DataFile]:
    """Return those of a source's files that are read for a split: all that it has, or the split's own where it has
    published splits."""
    if "" in by_split or split == "":
        return [file for files in by_split.values() for file in files]
    if split not in by_split:
        raise TaskError(unknown("split", split, by_split, "The source has no files for it."))
    return by_split[split]


def files_of(path: Path, reader: str, options: Mapping[str, Value]) -> dict[str, list[DataFile]]:
    """Return {split: files} of a source, or the source itself for a reader of folders."""
    if reader not in all_readers() and reader != "auto":
        raise TaskError(unknown("reader", reader, [*all_readers(), "auto"]))
    files, config = options.get("files"), options.get("config") or ""
    check_patterns(files, config)
    if path.is_dir() and (reader == "auto" or all_readers()[reader].reads_folders) and not files and not config:
        whole = class_folders(path)
        readable = [ending for kind in all_readers().values() if kind.name != "text" for ending in kind.endings]
        if reader != "auto" or (whole and not any(file.suffix in readable for file in path.rglob("*"))):
            return whole or {"": [DataFile(path, path.name)]}
    endings = [ending for kind in all_readers().values() for ending in kind.endings]
    if reader != "auto" and not files:
        endings = list(all_readers()[reader].endings)
    return find(path, endings, files, config)


def check_patterns(files: Value, config: Value) -> None:
    """Raise TaskError where `files` is no pattern, list or mapping of patterns, or `config` no text."""
    listed = list(files.values()) if isinstance(files, Mapping) else [files]
    flat = [name for entry in listed for name in (entry if isinstance(entry, list) else [entry])]
    if files is not None and not all(isinstance(name, str) and name for name in flat):
        raise TaskError(f'files: got {files!r}; give a pattern, such as "data/*.csv", a list, or {{split: pattern}}.')
    if not isinstance(config, str):
        raise TaskError(f"config: got {config!r}; give the name of one of the README's configs.")


def class_folders(path: Path) -> dict[str, list[DataFile]]:
    """Return a folder of text files by class, or its subfolders train and test of that form by split; empty for any
    other folder."""
    splits = {name: path / name for name in ("train", "validation", "test") if any((path / name).glob("*/*.txt"))}
    if "train" in splits and "test" in splits:
        return {split: [DataFile(folder, folder.name)] for split, folder in splits.items()}
    return {"": [DataFile(path, path.name)]} if any(path.glob("*/*.txt")) else {}


def read_all(
    files: Sequence[DataFile], reader: str, options: Mapping[str, Value], wanted: list[str]
) -> Iterator[Document]:
    """Yield the documents of files, one after the other. Raises TaskError where one lacks a wanted column."""
    for file in files:
        for place, document in reader_for(file, reader, options).documents(file):
            require(place, document, wanted)
            yield document


def reader_for(file: DataFile, name: str, options: Mapping[str, Value]) -> Reader:
    """Return the reader of a file with its options: the one called `name`, or for `auto` the one of the file's ending.
    Raises TaskError, with every mistake, for options that it does not take."""
    readers = all_readers()
    if name == "auto":
        ending = file.ending
        by_ending = {ending: kind for kind, found in readers.items() for ending in found.endings}
        if file.path.is_dir():
            name = Folders.name
        elif ending in by_ending:
            name = by_ending[ending]
        else:
            hint = f"Name the format with reader: {', '.join(readers)}."
            raise TaskError(unknown(f"ending of {file.name}:", ending or "none", by_ending, hint))
    given = {key: value for key, value in options.items() if key not in OF_FOLDERS}
    try:
        return readers[name](**given)
    except ValidationError as error:
        raise TaskError(" ".join(mistakes(name, readers[name], error))) from error


def mistakes(name: str, reader: type[Reader], error: ValidationError) -> Iterator[str]:
    """Yield a sentence for each wrong option of a reader."""
    for one in error.errors():
        key = ".".join(str(part) for part in one["loc"][:1])
        if one["type"] == "extra_forbidden":
            yield unknown(f"option of reader {name}", key, [*reader.model_fields, *OF_FOLDERS])
        else:
            why = one["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            yield f"{key}: got {one['input']!r}; {'' if why.startswith('it must') else 'it must be '}{why}."


def read_folders(path: Path) -> Iterator[Document]:
    """Yield a document {label, title, body} for each .txt file of a folder with one subfolder for each class. Bytes
    that are no UTF-8 become �."""
    for _, document in Folders(encoding_errors="replace").documents(DataFile(path, path.name)):
        yield document


def read_orange(path: Path, columns: dict[str, str]) -> Iterator[Document]:
    """Yield a document for each row of an Orange .tab file; `columns` is {our name: name in the file}."""
    for _, document in Orange(columns=columns).documents(DataFile(path, path.name)):
        yield document
