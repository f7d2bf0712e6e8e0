"""Raw files -> fixed, deduplicated, disjoint splits: the `custom_dataset` of the shipped task YAMLs.

A task YAML names it as ``custom_dataset: !function harness.corpora.splits`` and gives the arguments of
`splits` under ``dataset_kwargs``. Splits depend on the documents alone (an order by SHA-256), never on
file order or a random state, so every machine has the same ones. They are built once and cached.

What is not covered: downloading (`sources.py`), and prompts (the task YAML).
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import sources
from harness.contamination import matches, normalise
from harness.errors import TaskError, unknown
from harness.records import digest

Document = dict[str, str]
SPLITS = ("train", "validation", "test")
HARMLESS = ("version", "config_source")  # a YAML's metadata, which lm-eval passes along


def splits(
    source: str | dict[str, str],
    reader: str = "auto",
    label: str = "",
    unique: Sequence[str] = ("text",),
    test: int = 200,
    validation: int = 100,
    balanced: bool = True,
    rename: dict[str, str] | None = None,
    sha256: str = "",
    base: str = "",
    **options: Any,
) -> Any:
    """A `datasets.DatasetDict` with train, validation and test.

    source: one source (its documents are divided), or {split: source} where splits are published; a
    published test split is sampled down to `test` items, a missing validation split is taken from train.
    unique: columns that may not repeat, within or across splits, after lower-casing and dropping
    punctuation; of two equal documents, the one in test wins, then validation. Documents that hold most of a
    test document (see `contamination.py`) are left out of train and validation.
    label: the class column; with `balanced`, test and validation hold equally many of each class.
    rename: class names to use instead of the raw ones. sha256: of the archive a source comes in.
    base: the folder that `file:` sources are relative to. Other options go to the reader.

    Raises TaskError for an unknown reader or column, or too few documents.
    """
    options = {key: value for key, value in options.items() if key not in HARMLESS}
    by_split = {"": source} if isinstance(source, str) else dict(source)
    paths, fingerprints = {}, []
    for split, text in by_split.items():
        paths[split], fingerprint = locate(text, sha256, base)
        fingerprints.append([split, fingerprint])

    def build() -> dict[str, list[Document]]:
        raw = {split: list(read(path, reader, options)) for split, path in paths.items()}
        for documents in raw.values():
            check_columns(documents, [*unique, *([label] if label else [])])
            for document in documents:
                if label:
                    document[label] = (rename or {}).get(document[label].strip(), document[label].strip())
        return divide(raw, list(unique), label if balanced else "", test, validation)

    identity = [reader, label, list(unique), test, validation, balanced, rename, options, fingerprints]
    return cached(identity, build)


def passages(
    texts: list[dict[str, str]], words: int, skip_words: int, count: int, sha256: str = "", **options: Any
) -> Any:
    """A `datasets.DatasetDict` with `count` test documents {text}: one passage of `words` words from each
    text that is long enough, after its first `skip_words`, equally many from each source.

    texts: [{source, column}], Orange .tab files and the column that holds the running text.
    """
    located = [(*locate(entry["source"], sha256, ""), entry["column"]) for entry in texts]

    def build() -> dict[str, list[Document]]:
        kept = []
        for place, (path, _, column) in enumerate(located):
            seen: set[str] = set()
            for document in read_orange(path, {"text": column}):
                text = " ".join(document["text"].split()[skip_words : skip_words + words])
                if len(text.split()) == words and text not in seen:
                    seen.add(text)
                    kept.append({"text": text, "source": str(place)})
        return {"test": interleave(kept, "source")[:count]}

    return cached([words, skip_words, count, [row[1:] for row in located]], build)


def locate(text: str, sha256: str, base: str) -> tuple[Path, str]:
    """A source's local path and fingerprint; fetched if need be."""
    source = sources.parse(text, sha256=sha256)
    path = sources.fetch(source, base=Path(base) if base else None)
    return path, sources.fingerprint(source, path)


def cached(identity: list[Any], build: Callable[[], dict[str, list[Document]]]) -> Any:
    """The splits with this identity, built at the first call.

    Files are read by hand: `datasets` would copy them into a cache of its own, keyed by its version.
    """
    from datasets import Dataset, DatasetDict

    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    folder = sources.cache_root() / "datasets" / digest([code, *identity])[:32]
    if not folder.exists():
        write_cached(folder, build())
    return DatasetDict(
        {file.stem: Dataset.from_list(json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))}
    )


def write_cached(folder: Path, divided: dict[str, list[Document]]) -> None:
    """Write the splits so that a second process sees all of them or none."""
    import shutil
    import tempfile

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    for split, documents in divided.items():
        (temporary / f"{split}.json").write_text(json.dumps(documents))
    try:
        temporary.rename(folder)
    except OSError:  # another process was first; its splits are the same
        shutil.rmtree(temporary)
        if not folder.exists():
            raise


def order(document: Document, salt: str = "") -> str:
    """The fixed pseudo-random place of a document: a hash of its content."""
    return hashlib.sha256((salt + json.dumps(document, sort_keys=True)).encode()).hexdigest()


def divide(
    raw: dict[str, list[Document]], unique: list[str], label: str, test: int, validation: int
) -> dict[str, list[Document]]:
    """Deduplicate and divide documents; see `splits`. `raw` has one entry "" or one per published split."""
    seen: dict[str, set[str]] = {column: set() for column in unique}

    def fresh(documents: Iterable[Document]) -> list[Document]:
        kept = []
        for document in sorted(documents, key=order):
            texts = {column: normalise(document[column]) for column in unique}
            if all(texts.values()) and not any(texts[column] in seen[column] for column in unique):
                kept.append(document)
                for column in unique:
                    seen[column].add(texts[column])
        return kept

    result: dict[str, list[Document]] = {}
    if "" in raw:
        pool = fresh(raw[""])
        if len(pool) <= test + validation:
            raise TaskError(
                f"{len(pool)} different documents cannot give {test} test and {validation} validation items "
                "and leave some to learn from. Lower `test` and `validation`."
            )
        ranked = interleave(pool, label)
        result["test"], rest = ranked[:test], ranked[test:]
        result["validation"], result["train"] = rest[:validation], rest[validation:]
    else:
        result["test"] = interleave(fresh(raw.get("test", [])), label)[:test]
        if "validation" in raw:
            result["validation"] = interleave(fresh(raw["validation"]), label)[:validation]
            result["train"] = fresh(raw.get("train", []))
        else:
            ranked = interleave(fresh(raw.get("train", [])), label)
            result["validation"], result["train"] = ranked[:validation], ranked[validation:]
    for split in ("validation", "train"):  # edited a little, a text is still the same
        repeats = {
            place
            for column in unique
            for _, place, _ in matches(
                [document[column] for document in result["test"]], [document[column] for document in result[split]]
            )
        }
        result[split] = [document for place, document in enumerate(result[split]) if place not in repeats]
    return {split: result[split] for split in SPLITS}


def interleave(documents: list[Document], label: str, salt: str = "") -> list[Document]:
    """Documents in their fixed order, one of each class in turn: every prefix is class-balanced.

    With `label` "" there are no classes, and the order alone counts. Classes that run out are passed over.
    """
    classes: dict[str, list[Document]] = defaultdict(list)
    for document in sorted(documents, key=lambda document: order(document, salt)):
        classes[document[label] if label else ""].append(document)
    queues = [classes[name] for name in sorted(classes)]
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def check_columns(documents: list[Document], wanted: Iterable[str]) -> None:
    if not documents:
        raise TaskError("the source holds no documents")
    for column in wanted:
        if column not in documents[0]:
            raise TaskError(unknown("column", column, documents[0]))


# --- readers: a path -> documents, every value a string ---


def read(path: Path, reader: str, options: dict[str, Any]) -> Iterator[Document]:
    """Documents of a file or folder. `auto` goes by the ending: .csv, .tsv, .jsonl, .json, .tab."""
    if reader == "auto":
        reader = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "orange"}.get(
            path.suffix.lower(), "folders" if path.is_dir() else path.suffix or "none"
        )
    if reader not in READERS:
        raise TaskError(unknown("reader", reader, READERS))
    return READERS[reader](path, **options)


def read_csv(path: Path, delimiter: str = ",") -> Iterator[Document]:
    """A header line, then rows."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield {key: value or "" for key, value in row.items() if key is not None}


def read_jsonl(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield {key: str(value) for key, value in json.loads(line).items()}


def read_json(path: Path) -> Iterator[Document]:
    for row in json.loads(path.read_text(encoding="utf-8")):
        yield {key: str(value) for key, value in row.items()}


def read_folders(path: Path) -> Iterator[Document]:
    """A folder a class, a text file a document: its first line is `title`, the rest `body`."""
    for file in sorted(path.glob("*/*.txt")):
        title, _, body = file.read_text(encoding="utf-8", errors="replace").strip().partition("\n")
        yield {"label": file.parent.name, "title": title.strip(), "body": " ".join(body.split())}


def read_orange(
    path: Path, columns: dict[str, str] | None = None, words: int = 0, skip_words: int = 0
) -> Iterator[Document]:
    """An Orange .tab file: names, then types, then roles, then rows.

    columns: {our name: name in the file}. words: keep this many words of `text`, after `skip_words`; rows
    with fewer are left out.
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
