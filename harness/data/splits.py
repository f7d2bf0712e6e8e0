"""Makes fixed, deduplicated, disjoint splits of raw files: the `custom_dataset` of the shipped task YAMLs.

A task YAML names it as ``custom_dataset: !function harness.data.splits.documents`` and gives the arguments of
`documents` under ``dataset_kwargs``. Splits depend on the documents alone (an order by SHA-256), never on
file order or a random state, so every machine has the same ones. They are built once and cached.

What is not covered: downloading (`sources/`), and prompts (the task YAML).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from harness.data import sources
from harness.data.contamination import matches, normalise
from harness.data.readers import Document, read, read_folders, read_orange
from harness.errors import TaskError, unknown
from harness.records import digest

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLITS = ("train", "validation", "test")
HARMLESS = ("version", "config_source", "cluster")  # a YAML's metadata, which lm-eval passes along


def documents(
    source: str | dict[str, str],
    reader: str = "auto",
    label: str = "",
    unique: Sequence[str] = ("text",),
    test: int = 200,
    validation: int = 100,
    balanced: bool = True,
    rename: dict[str, str] | None = None,
    shown: int = 0,
    sha256: str = "",
    base: str = "",
    **options: object,
) -> DatasetDict:
    """Make a `datasets.DatasetDict` with the splits train, validation and test from raw documents.

    source: one source (its documents are divided), or {split: source} where splits are published; a published test
    split is sampled down to `test` items, and a missing validation split (`validation` items) is taken from train.

    unique: columns that may not be empty or repeat, within or across splits, after lower-casing and dropping
    punctuation; of two equal documents, the one in test wins, then validation. Documents that hold most of a test
    document (see `contamination.py`) are left out of train and validation; texts are compared by their first `shown`
    words, as many as the task's question shows (0: all).

    label: the class column; with `balanced`, test and validation hold equally many of each class. rename: class names
    to use instead of the raw ones. sha256: digest of the archive that a source comes in. base: the folder that `file:`
    sources are relative to. Other options go to the reader.

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
        return divide(raw, list(unique), label if balanced else "", test, validation, shown)

    identity = [reader, label, list(unique), test, validation, balanced, rename, shown, options, fingerprints]
    return cached(identity, build)


def passages(
    texts: list[dict[str, str]],
    words: int,
    skip_words: int,
    count: int,
    sha256: str = "",
    base: str = "",
    **options: object,
) -> DatasetDict:
    """Make a `datasets.DatasetDict` with `count` test documents {text}, each a passage of `words` words of running
    text.

    Each text that is long enough gives one passage, after its first `skip_words` words; every source gives equally
    many. texts: [{source, column}], Orange .tab files and the column that holds the running text. sha256 and base are
    as for `documents`. Raises TaskError for other options, and where the texts give fewer passages.
    """
    refuse_options(passages, options)
    located = [(*locate(entry["source"], sha256, base), entry["column"]) for entry in texts]

    def build() -> dict[str, list[Document]]:
        kept = []
        for place, (path, _, column) in enumerate(located):
            seen: set[str] = set()
            for document in read_orange(path, {"text": column}):
                text = " ".join(document["text"].split()[skip_words : skip_words + words])
                if len(text.split()) == words and text not in seen:
                    seen.add(text)
                    kept.append({"text": text, "source": str(place)})
        if len(kept) < count:
            raise TaskError(
                f"the texts give {len(kept)} passages of {words} words after the first {skip_words}, and `count` is "
                f"{count}. Lower `count`, `words` or `skip_words`."
            )
        return {"test": interleave(kept, "source")[:count]}

    return cached([words, skip_words, count, [row[1:] for row in located]], build)


def articles(
    source: str, count: int, test: int, validation: int, sha256: str = "", base: str = "", **options: object
) -> DatasetDict:
    """Make a `datasets.DatasetDict` of articles {text}: `count` for train (to learn from or to look things up in), then
    others for `test` and `validation`, each a number of articles.

    Train holds equally many of each class. The source is a folder with one subfolder for each class (`read_folders`).
    sha256 and base are as for `documents`. Raises TaskError for other options, and where the source has fewer articles.
    """
    refuse_options(articles, options)
    path, fingerprint = locate(source, sha256, base)

    def build() -> dict[str, list[Document]]:
        texts = [{"text": document["body"]} for document in ranked_articles(path)]
        if len(texts) < count + test + validation:
            raise TaskError(
                f"the source has {len(texts)} different articles, and `count`, `test` and `validation` ask for "
                f"{count} + {test} + {validation}. Lower them."
            )
        held = texts[count : count + test + validation]
        return {"train": texts[:count], "test": held[:test], "validation": held[test:]}

    return cached(["articles", count, test, validation, fingerprint], build)


# What can be blanked: an amount, a percentage, who said it. Each is told apart from another of its shape by the
# article alone; years are not among them, for the tense of a sentence gives them away.
FACTS = {
    "amount": re.compile(r"(?<=\s)[£$€]\d[\d,]*(?:\.\d+)?(?:m|bn|tn)(?=[\s,.;)])"),
    "percent": re.compile(r"(?<=\s)\d+(?:\.\d+)?%(?=[\s,.;)])"),
    "speaker": re.compile(r"(?<=\ssaid )(?!(?:Mrs?|Ms|Dr|Sir|Lord|General|President) )[A-Z][a-z]+ [A-Z][a-z]+(?=[,.])"),
}
SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+(?=[\"']?[A-Z£$])")


def article_facts(
    source: str, count: int, test: int, validation: int, choices: int = 4, each: int = 3, sha256: str = "",
    base: str = "", **options: object,
) -> DatasetDict:  # fmt: skip
    """Make a `datasets.DatasetDict` of questions {stem, answer, choices} about the `count` training articles of
    `articles`: `test` and `validation` questions in these splits, the rest in train.

    The stem is a sentence up to a fact, the answer that fact, and the `choices` in number the fact and others in its
    place. An article gives at most `each` questions, all in one split. sha256 and base are as for `documents`. Raises
    TaskError for other options, and where nothing is left for train.

    The wrong choices are facts of other articles, of the same kind and form ("$11.1bn" beside "$56.4bn", a speaker of
    the same class of articles), drawn as often as they occur, so that nothing but the article tells which is right.
    """
    refuse_options(article_facts, options)
    path, fingerprint = locate(source, sha256, base)

    def build() -> dict[str, list[Question]]:
        rest = questions(ranked_articles(path)[:count], choices, each)
        divided: dict[str, list[Question]] = {"test": [], "validation": [], "train": []}
        for split, wanted in (("test", test), ("validation", validation)):
            while len(divided[split]) < wanted and rest:
                divided[split] += rest.pop(0)
            divided[split] = divided[split][:wanted]
        divided["train"] = [question for questions_of_one in rest for question in questions_of_one]
        if not divided["train"]:
            raise TaskError(f"the facts in {count} articles are no more than {test} + {validation}. Raise `count`.")
        return divided

    return cached(["facts", count, test, validation, choices, each, fingerprint], build)


class Question(TypedDict):
    """A sentence up to a blanked fact, the fact, and the choices in a fixed order."""

    stem: str
    answer: str
    choices: list[str]


Item = Document | Question


def ranked_articles(path: Path) -> list[Document]:
    """Return the articles of a folder, each once, in an order that their content fixes, with classes taking turns."""
    return divide({"": list(read_folders(path))}, ["title", "body"], "label", 0, 0)["train"]


def questions(articles: list[Document], choices: int, each: int) -> list[list[Question]]:
    """Return, for each article that gives any, its fill-in-the-fact questions, at most `each`. A question has `choices`
    choices: the blanked fact, and facts of the same form from other articles. A sentence that also begins that way
    elsewhere, or that has too few wrong choices, gives none. See `article_facts`."""
    blanks = [list(blanked(article["body"])) for article in articles]
    stems = Counter(normalise(stem) for one in blanks for _, stem, _ in one)
    pools: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)  # form -> (fact, number of its article)

    def form(kind: str, fact: str, article: Document) -> tuple[str, ...]:
        return (kind, article["label"]) if kind == "speaker" else (kind, re.sub(r"\d", "9", fact))

    for place, one in enumerate(blanks):
        for kind, _, fact in one:
            pools[form(kind, fact, articles[place])].append((fact, place))
    by_article: list[list[Question]] = []
    for place, (article, one) in enumerate(zip(articles, blanks, strict=True)):
        asked: list[Question] = []
        for kind, stem, fact in sorted(one, key=lambda blank: order({"stem": blank[1]})):
            others: list[str] = []
            for other, of in sorted(pools[form(kind, fact, article)], key=lambda entry: order({"": f"{stem}{entry}"})):
                if of != place and other not in others and other not in article["body"]:
                    others.append(other)
            if stems[normalise(stem)] == 1 and len(others) >= choices - 1:
                listed = sorted([fact, *others[: choices - 1]], key=lambda choice: order({"": stem + choice}))
                asked.append({"stem": stem, "answer": fact, "choices": listed})
        by_article += [asked[:each]] if asked else []
    return by_article


def blanked(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, stem, fact) for the facts in a text that can be asked for; the kind is "amount", "percent" or
    "speaker".

    In each sentence the last fact of each kind counts, if its stem (the sentence before it) has 8 to 40 words and does
    not contain the fact.
    """
    for sentence in SENTENCE_END.split(text):
        for kind, pattern in FACTS.items():
            for match in list(pattern.finditer(sentence))[-1:]:
                stem, fact = sentence[: match.start()].strip(), match[0]
                if 8 <= len(stem.split()) <= 40 and fact not in stem:
                    yield kind, stem, fact


def running_text(
    texts: list[dict[str, str]],
    words: int,
    test: int,
    without: str = "",
    sha256: str = "",
    base: str = "",
    **options: object,
) -> DatasetDict:
    """Make a `datasets.DatasetDict` of running text to learn from: documents {text}, each `words` words long.

    Every text is cut into passages, and what is left over at its end is dropped; `test` texts give one passage each to
    the test split, and nothing to train. texts: as for `passages`. without: the YAML of a task made by `passages`,
    relative to `base`; a text from which that task scores a passage is left out as a whole. sha256 and base are as for
    `documents`.

    Raises TaskError for other options, and when nothing is left to learn from.
    """
    refuse_options(running_text, options)
    located = [(*locate(entry["source"], sha256, base), entry["column"]) for entry in texts]
    scored: list[str] = []
    if without:
        from lm_eval.tasks._yaml_loader import load_yaml

        task = load_yaml(Path(base) / without, resolve_func=False)
        beside = {"base": str((Path(base) / without).parent), **task["dataset_kwargs"]}
        scored = sorted(document["text"] for document in passages(**beside)["test"])

    def build() -> dict[str, list[Document]]:
        whole = {" ".join(row[column].split()) for path, _, column in located for row in read(path, "auto", {})}
        kept = [text for text in whole if not any(passage in text for passage in scored)]
        ranked = [row["text"] for row in sorted(({"text": text} for text in kept), key=order)]
        cut = [parts for text in ranked if (parts := [*pieces(text, words)])]
        divided = {
            "train": [{"text": piece} for parts in cut[test:] for piece in parts],
            "test": [{"text": parts[0]} for parts in cut[:test]],
        }
        if not divided["train"]:
            raise TaskError(f"{len(ranked)} texts cannot give {test} test passages and leave some to learn from.")
        return divided

    return cached(["running", words, test, scored, [row[1:] for row in located]], build)


def refuse_options(function: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise TaskError for an option under `dataset_kwargs` that a function of this module does not take."""
    known = [name for name in inspect.signature(function).parameters if name not in ("base", "options")]
    if strange := [name for name in options if name not in HARMLESS]:
        raise TaskError(unknown(f"option of {function.__name__}", strange[0], known))


def pieces(text: str, words: int) -> Iterator[str]:
    """Yield a text in passages of `words` words each; words left over at its end are dropped."""
    all_words = text.split()
    for start in range(0, len(all_words) - words + 1, words):
        yield " ".join(all_words[start : start + words])


def locate(text: str, sha256: str, base: str) -> tuple[Path, str]:
    """Return (local path of a source, its fingerprint); the source is downloaded first if the cache lacks it. `text` is
    the source as a task names it, `sha256` its expected digest or "", `base` the folder that a relative `file:` starts
    at."""
    source = sources.parse(text, sha256=sha256)
    path = sources.fetch(source, base=Path(base) if base else None)
    return path, sources.fingerprint(source, path)


def cached(identity: Sequence[object], build: Callable[[], Mapping[str, Sequence[Item]]]) -> DatasetDict:
    """Return the splits with this identity from the cache; `build` makes them at the first call. Splits made by another
    version of the code that makes them are not found.

    Files are read by hand: `datasets` would copy them into a cache of its own, keyed by its version.
    """
    from datasets import Dataset, DatasetDict

    code = [
        hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest()
        for name in ("contamination.py", "splits.py", "readers.py")
    ]
    folder = sources.cache_root() / "datasets" / digest([*code, *identity])[:32]
    if not folder.exists():
        write_cached(folder, build())
    return DatasetDict(
        {file.stem: Dataset.from_list(json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))}
    )


def write_cached(folder: Path, divided: Mapping[str, Sequence[Item]]) -> None:
    """Write the splits to a folder so that a second process sees all of them or none."""
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
    """Return a key that sorts documents in a fixed pseudo-random order: the SHA-256 of their content and `salt`."""
    return hashlib.sha256((salt + json.dumps(document, sort_keys=True)).encode()).hexdigest()


def divide(
    raw: dict[str, list[Document]], unique: list[str], label: str, test: int, validation: int, shown: int = 0
) -> dict[str, list[Document]]:
    """Deduplicate and divide documents; return {split: documents}. `raw` has one entry "" or one for each published
    split. `label` is the column of the classes to balance, "" for none; the other arguments are those of `documents`.
    Raises TaskError where nothing would be left to learn from."""
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

    def visible(documents: list[Document], column: str) -> list[str]:
        return [" ".join(document[column].split()[: shown or None]) for document in documents]

    for split in ("validation", "train"):  # edited a little, a text is still the same
        repeats = {
            place
            for column in unique
            for _, place, _ in matches(visible(result["test"], column), visible(result[split], column))
        }
        result[split] = [document for place, document in enumerate(result[split]) if place not in repeats]
    return {split: result[split] for split in SPLITS}


def interleave(documents: list[Document], label: str, salt: str = "") -> list[Document]:
    """Return documents in the fixed order that `salt` decides, one of each class in turn, so that every prefix is
    class-balanced.

    `label` is the column of the class. Where it is "" there are no classes, and the order alone counts. Classes that
    run out are passed over.
    """
    classes: dict[str, list[Document]] = defaultdict(list)
    for document in sorted(documents, key=lambda document: order(document, salt)):
        classes[document[label] if label else ""].append(document)
    queues = [classes[name] for name in sorted(classes)]
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def check_columns(documents: list[Document], wanted: Iterable[str]) -> None:
    """Raise TaskError where there are no documents, or where one of them lacks one of the `wanted` columns."""
    if not documents:
        raise TaskError("the source holds no documents")
    for column in wanted:
        lacking = next((place for place, document in enumerate(documents) if column not in document), None)
        if lacking is not None:
            where = "" if lacking == 0 else f"document {lacking + 1} of {len(documents)}: "
            raise TaskError(where + unknown("column", column, documents[lacking]))
