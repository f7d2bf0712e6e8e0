from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import corpora
from harness.errors import TaskError

documents = st.lists(
    st.fixed_dictionaries({"text": st.text("abc X.", max_size=6), "label": st.sampled_from("pqr")}),
    max_size=60,
)


@given(documents, st.integers(1, 6), st.integers(1, 6))
def test_splits_are_disjoint_and_without_repeats(found: list[dict[str, str]], test: int, validation: int) -> None:
    distinct = {corpora.normalise(document["text"]) for document in found} - {""}
    if len(distinct) <= test + validation:
        with pytest.raises(TaskError):
            corpora.divide({"": found}, ["text"], "label", test, validation)
        return
    made = corpora.divide({"": found}, ["text"], "label", test, validation)
    texts = [corpora.normalise(document["text"]) for split in corpora.SPLITS for document in made[split]]
    assert len(texts) == len(set(texts)) == len(distinct)
    assert (len(made["test"]), len(made["validation"])) == (test, validation)


@given(documents, st.randoms())
def test_splits_do_not_depend_on_file_order(found: list[dict[str, str]], rng: object) -> None:
    shuffled = list(found)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    published = corpora.divide({"train": found, "test": []}, ["text"], "label", 2, 2)
    assert corpora.divide({"train": shuffled, "test": []}, ["text"], "label", 2, 2) == published


@given(documents, st.text(max_size=3))
def test_every_prefix_is_balanced_while_classes_last(found: list[dict[str, str]], salt: str) -> None:
    ranked = corpora.interleave(found, "label", salt)
    assert sorted(map(str, ranked)) == sorted(map(str, found))
    sizes = Counter(document["label"] for document in found)
    if sizes:
        whole = min(sizes.values()) * len(sizes)
        for length in range(whole + 1):
            counts = Counter(document["label"] for document in ranked[:length])
            assert max(counts.values(), default=0) - min((counts[c] for c in sizes), default=0) <= 1


def test_published_splits_stay_apart() -> None:
    raw = {
        "train": [
            {"text": "one", "label": "p"},
            {"text": "Two!", "label": "q"},
            {"text": "three", "label": "p"},
        ],
        "test": [{"text": "two", "label": "q"}, {"text": "four", "label": "p"}],
    }
    made = corpora.divide(raw, ["text"], "label", test=5, validation=1)
    assert {d["text"] for d in made["test"]} == {"two", "four"}
    assert "Two!" not in {d["text"] for d in made["train"] + made["validation"]}


def test_readers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufefftext,label\nhello,x\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "hello", "label": 1}\n\n')
    (tmp_path / "a.tab").write_text("Category\tText\nd\tstring\nclass\t\n\nx\tone two three four\ny\tone\n")
    (tmp_path / "d" / "x").mkdir(parents=True)
    (tmp_path / "d" / "x" / "1.txt").write_text("Title\n\nBody of\nit")
    assert list(corpora.read(tmp_path / "a.csv", "auto", {})) == [{"text": "hello", "label": "x"}]
    assert list(corpora.read(tmp_path / "a.jsonl", "auto", {})) == [{"text": "hello", "label": "1"}]
    orange = {"columns": {"label": "Category", "text": "Text"}, "words": 2, "skip_words": 1}
    assert list(corpora.read(tmp_path / "a.tab", "auto", orange)) == [{"label": "x", "text": "two three"}]
    assert list(corpora.read(tmp_path / "d", "auto", {})) == [{"label": "x", "title": "Title", "body": "Body of it"}]
    with pytest.raises(TaskError, match="unknown reader 'cvs'. Did you mean 'csv'?"):
        list(corpora.read(tmp_path / "a.csv", "cvs", {}))


def test_own_csv_becomes_splits_and_is_cached(project: Path) -> None:
    folder = project / "suites" / "tasks"
    made = corpora.splits("file:colours.csv", label="colour", test=30, validation=30, base=str(folder))
    assert {name: len(part) for name, part in made.items()} == {"test": 30, "train": 690, "validation": 30}
    assert Counter(made["test"]["colour"]) == {"red": 10, "blue": 10, "green": 10}
    cached = list((project.parent / "cache" / "datasets").iterdir())
    assert (
        corpora.splits("file:colours.csv", label="colour", test=30, validation=30, base=str(folder))["test"][0]
        == made["test"][0]
    )
    assert list((project.parent / "cache" / "datasets").iterdir()) == cached


def test_unknown_column(project: Path) -> None:
    with pytest.raises(TaskError, match="unknown column 'color'. Did you mean 'colour'?"):
        corpora.splits("file:colours.csv", label="color", base=str(project / "suites" / "tasks"))
