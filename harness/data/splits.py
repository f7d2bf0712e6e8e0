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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from harness.data import division, sources
from harness.data.columns import as_dataset
from harness.data.contamination import normalise
from harness.data.counts import Counts
from harness.data.division import Division, Wanted, check_columns, divide, interleave, order
from harness.data.labels import check_labels, label_text, met
from harness.data.readers import (
    Document,
    as_text,
    code_files,
    read,
    read_folders,
    read_orange,
    read_splits,
)
from harness.errors import TaskError, unknown
from harness.records import digest

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLITS = ("train", "validation", "test")
COUNTS = "counts"  # the file, beside the splits, that says what became of the rows
# The modules whose change makes splits anew.
MAKERS = ("contamination.py", "division.py", "labels.py", "splits.py")
HARMLESS = ("version", "config_source", "cluster")  # a YAML's metadata, which lm-eval passes along


def documents(
    source: str | list[str] | dict[str, str | list[str]],
    reader: str = "auto",
    label: str = "",
    unique: Sequence[str | Sequence[str]] = ("text",),
    test: int = 200,
    validation: int = 100,
    balanced: bool = True,
    rename: Mapping[object, object] | None = None,
    shown: int = 0,
    conflicts: str = "majority",
    drop_empty: bool = False,
    drop_rare: bool = False,
    answer: str = "",
    sha256: str = "",
    base: str = "",
    metadata: Sequence[str] = HARMLESS,
    choices: Sequence[str] = (),
    **options: object,
) -> DatasetDict:
    """Make a `datasets.DatasetDict` with the splits train, validation and test from raw documents. Its `counts` say
    what became of every row that was read.

    source: one source or a list of them (their documents are divided), or {split: source} where splits are published; a
    folder or repository whose files are named by split has published ones too (`readers/finding.py`). A published test
    split is sampled down to `test` items, and a missing validation split (`validation` items) is taken from train.

    unique: columns whose values, taken together, may not all be empty and may not repeat, within or across splits, but
    for case and white space; [[title], [body]] are two such groups, each of a column. Of two equal documents, the one
    in test wins, then validation. Documents that hold most of a test document (see `contamination.py`) are left out of
    train and validation; texts are compared by their first `shown` words, as many as the task's question shows (0:
    all).

    label: the class column, made texts (`labels.label_text`: 1, 1.0 and "1" are one class). Every class is in every
    split; with `balanced`, test and validation hold equally many of each, as far as train keeps half of a class.
    rename: class names to use instead of the raw ones. conflicts: what becomes of texts that repeat with another label:
    the label of most copies counts ("majority"; none, where no label leads), all are dropped ("drop"), or none may be
    ("refuse"). answer: the column of a written answer; rows without one are left out. drop_empty: leave out rows
    without a label. drop_rare: leave out classes with too few rows for all
    splits. sha256: digest of the archive that a source comes in. base: the folder that `file:` sources are relative to.
    metadata: names of what the YAML says of itself, which lm-eval passes along. choices: what labels may be, where the
    task asks for them. Other options go to the reader.

    Raises TaskError for an unknown reader or column, a label that is empty or no choice, several labels in one row, a
    class with too few rows, or too few documents.
    """
    options = {key: value for key, value in options.items() if key not in {*HARMLESS, *metadata}}
    check_options(
        {"label": label, "rename": rename or {}, "conflicts": conflicts},
        {"test": test, "validation": validation, "shown": shown},
    )
    by_split = source if isinstance(source, dict) else {"": source}
    names = {label_text(key): label_text(name) for key, name in (rename or {}).items()}
    wanted = Wanted(keys_of(unique), label, test, validation, balanced, shown, conflicts, drop_empty, drop_rare, answer)
    columns = [*chain(*wanted.keys), *filter(None, (label, answer))]
    paths: dict[str, list[Path]] = {split: [] for split in by_split}
    fingerprints = []
    for split, text in ((split, text) for split, texts in by_split.items() for text in as_list(texts)):
        path, fingerprint = locate(text, sha256, base)
        paths[split].append(path)
        fingerprints.append([split, fingerprint])

    def build() -> Division:
        raw = read_splits(paths, reader, options, columns)
        for documents in raw.values():
            check_columns(documents, columns)
        if label:
            name_classes(raw, label, names, choices)
        if choices:
            check_labels(raw, label, choices)
        return divide(raw, wanted)

    return cached([reader, asdict(wanted), names, list(choices), options, fingerprints], build)


def check_options(forms: Mapping[str, object], sizes: Mapping[str, object]) -> None:
    """Raise TaskError, with everything that is wrong, where an argument of `documents` has no value that it can have.
    `forms` has the label, the names and the rule of conflicts, `sizes` the numbers."""
    wrong = [
        f"{name}: got {size!r}, wanted a whole number, 0 or more."
        for name, size in sizes.items()
        if not isinstance(size, int) or isinstance(size, bool) or size < 0
    ]
    if not isinstance(forms["label"], str):
        wrong.append(f"label: got {forms['label']!r}, wanted the name of one column.")
    if not isinstance(forms["rename"], Mapping):
        wrong.append(f"rename: got {forms['rename']!r}, wanted a mapping such as {{0: negative, 1: positive}}.")
    if forms["conflicts"] not in division.CONFLICTS:
        wrong.append(f"conflicts: {unknown('rule', forms['conflicts'], division.CONFLICTS)}")
    if wrong:
        raise TaskError(" ".join(wrong))


def keys_of(unique: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of columns that `unique` names: a list of columns is one group, a list of lists is several.
    Raises TaskError where there is none, or where both are mixed."""
    listed = [unique] if isinstance(unique, str) else list(unique)
    groups = [tuple(one) for one in listed if not isinstance(one, str)]
    if not listed or (groups and len(groups) < len(listed)) or not all(groups):
        raise TaskError(
            f"unique: got {listed!r}, wanted columns that may not repeat together ([title, body]), or several such "
            "groups ([[title], [body]])."
        )
    return tuple(groups) or (tuple(str(one) for one in listed),)


def name_classes(
    raw: Mapping[str, list[Document]], label: str, names: Mapping[str, str], choices: Sequence[str]
) -> None:
    """Make the labels in the column `label` texts, as the task's `choices` write them, and give classes their `names`
    (raw text -> name). Raises TaskError for several labels in one document, and for names of which none is that of a
    class."""
    seen: set[str] = set()
    for split, documents in raw.items():
        for number, document in enumerate(documents, start=1):
            if isinstance(document[label], dict):
                raise TaskError(
                    f"{split} row {number}: the label is an object, {document[label]!r}, and must be a text or a "
                    "number. Put the part of it that names the class into a column of its own.".strip()
                )
            if isinstance(document[label], list | tuple):
                raise TaskError(
                    f"{split} row {number}: the label is {document[label]!r}, and several labels (multi-label) are not "
                    "supported. Give every row one label, or make a task for each label.".strip()
                )
            text = label_text(document[label])
            seen.add(text)
            document[label] = met(names.get(text, text), choices)
    if names and not seen & names.keys():
        raise TaskError(f"rename: {unknown('label', next(iter(names)), sorted(seen))}")


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
    wanted = Wanted((("title",), ("body",)), "label", conflicts="")
    return divide({"": list(read_folders(path))}, wanted).splits["train"]


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
        whole = {
            " ".join(as_text(row[column]).split()) for path, _, column in located for row in read(path, "auto", {})
        }
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
    """Raise TaskError for an option under `dataset_kwargs` that a function of this module does not take. What the YAML
    says of itself under `metadata`, which lm-eval passes along, is none."""
    known = [name for name in inspect.signature(function).parameters if name not in ("base", "options")]
    about = options.get("metadata", ())
    harmless = {"metadata", *HARMLESS, *(about if isinstance(about, list) else ())}
    if strange := [name for name in options if name not in harmless]:
        raise TaskError(unknown(f"option of {function.__name__}", strange[0], known))


def pieces(text: str, words: int) -> Iterator[str]:
    """Yield a text in passages of `words` words each; words left over at its end are dropped."""
    all_words = text.split()
    for start in range(0, len(all_words) - words + 1, words):
        yield " ".join(all_words[start : start + words])


def as_list(texts: str | list[str]) -> list[str]:
    """Return one text as a list, and several as they are."""
    return [texts] if isinstance(texts, str) else texts


def locate(text: str, sha256: str, base: str) -> tuple[Path, str]:
    """Return (local path of a source, its fingerprint); the source is downloaded first if the cache lacks it. `text` is
    the source as a task names it, `sha256` its expected digest or "", `base` the folder that a relative `file:` starts
    at."""
    source = sources.parse(text, sha256=sha256, is_data=True)
    path = sources.fetch(source, base=Path(base) if base else None)
    return path, sources.fingerprint(source, path)


def cached(identity: Sequence[object], build: Callable[[], Mapping[str, Sequence[Item]] | Division]) -> DatasetDict:
    """Return the splits with this identity from the cache; `build` makes them at the first call. Splits made by another
    version of the code that makes them are not found. Of a division, the counts are the splits' `counts`.

    Files are read by hand: `datasets` would copy them into a cache of its own, keyed by its version.
    """
    from datasets import Dataset, DatasetDict

    own = [Path(__file__).with_name(name) for name in MAKERS]
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (*own, *code_files())]
    folder = sources.cache_root() / "datasets" / digest([*code, *identity])[:32]
    if not folder.exists():
        write_cached(folder, build())
    splits = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    made = DatasetDict({split: as_dataset(Dataset, documents) for split, documents in splits.items()})
    if (folder / COUNTS).exists():
        made.counts = Counts.of_json((folder / COUNTS).read_text())
    return made


def counts_of(splits: object) -> Counts | None:
    """Return what became of the rows that these splits were made from; None where that is not known."""
    counts = getattr(splits, "counts", None)
    return counts if isinstance(counts, Counts) else None


def write_cached(folder: Path, divided: Mapping[str, Sequence[Item]] | Division) -> None:
    """Write the splits, and the counts of a division, to a folder so that a second process sees all of them or none."""
    import shutil
    import tempfile

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    if isinstance(divided, Division):
        (temporary / COUNTS).write_text(divided.counts.to_json())
    for split, documents in (divided.splits if isinstance(divided, Division) else divided).items():
        (temporary / f"{split}.json").write_text(json.dumps(documents))
    try:
        temporary.rename(folder)
    except OSError:  # another process was first; its splits are the same
        shutil.rmtree(temporary)
        if not folder.exists():
            raise
