from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import splits
from harness.data.columns import as_dataset
from harness.errors import TaskError

documents = st.lists(
    st.fixed_dictionaries({"text": st.text("abc X.", max_size=6), "label": st.sampled_from("pqr")}),
    max_size=60,
)


def divided(raw: dict[str, list[dict[str, str]]], **wanted: object) -> dict[str, list[dict[str, str]]] | str:
    """The splits of these documents by text and label, or the reason why there are none."""
    try:
        return splits.divide(raw, splits.Wanted((("text",),), "label", **wanted)).splits  # type: ignore[arg-type]
    except TaskError as error:
        return str(error)


@given(documents, st.integers(3, 6), st.integers(3, 6))
def test_splits_are_disjoint_and_without_repeats(found: list[dict[str, str]], test: int, validation: int) -> None:
    labels: dict[str, Counter[str]] = {}
    for document in found:
        labels.setdefault(splits.normalise(document["text"]), Counter())[document["label"]] += 1
    leading = {
        text: given.most_common(1)[0][0]
        for text, given in labels.items()
        if text and sorted(given.values())[-1] > ([0, *sorted(given.values())])[-2]
    }
    sizes = Counter(leading.values())
    made = divided({"": found}, test=test, validation=validation)
    if len(leading) < test + validation + max(1, len(sizes)) or min(sizes.values(), default=0) < 3:
        assert isinstance(made, str)
        return
    assert not isinstance(made, str)
    texts = [splits.normalise(document["text"]) for split in splits.SPLITS for document in made[split]]
    assert len(texts) == len(set(texts)) == len(leading)
    assert all(leading[splits.normalise(one["text"])] == one["label"] for split in made.values() for one in split)
    assert (len(made["test"]), len(made["validation"])) == (test, validation)
    assert all({document["label"] for document in made[split]} == set(sizes) for split in splits.SPLITS)


@given(documents, st.randoms())
def test_splits_do_not_depend_on_file_order(found: list[dict[str, str]], rng: object) -> None:
    shuffled = list(found)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    for raw, again in (({"": found}, {"": shuffled}), ({"train": found, "test": []}, {"train": shuffled, "test": []})):
        first, second = (divided(one, test=3, validation=3) for one in (raw, again))
        assert isinstance(first, str) == isinstance(second, str)
        assert isinstance(first, str) or first == second


@given(documents, st.text(max_size=3))
def test_every_prefix_is_balanced_while_classes_last(found: list[dict[str, str]], salt: str) -> None:
    ranked = splits.interleave(found, "label", salt)
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
            {"text": "Two  words", "label": "q"},
            {"text": "three", "label": "p"},
        ],
        "test": [{"text": "two words", "label": "q"}, {"text": "four", "label": "p"}],
    }
    made = divided(raw, test=5, validation=1)
    assert not isinstance(made, str)
    assert {d["text"] for d in made["test"]} == {"two words", "four"}
    assert {d["text"] for d in made["train"] + made["validation"]} == {"one", "three"}


def test_own_csv_becomes_splits_and_is_cached(project: Path) -> None:
    folder = project / "suites" / "tasks"
    made = splits.documents("file:colours.csv", label="colour", test=30, validation=30, base=str(folder))
    assert {name: len(part) for name, part in made.items()} == {"test": 30, "train": 690, "validation": 30}
    assert Counter(made["test"]["colour"]) == {"red": 10, "blue": 10, "green": 10}
    cached = list((project.parent / "cache" / "datasets").iterdir())
    assert (
        splits.documents("file:colours.csv", label="colour", test=30, validation=30, base=str(folder))["test"][0]
        == made["test"][0]
    )
    assert list((project.parent / "cache" / "datasets").iterdir()) == cached


def test_unknown_column(project: Path) -> None:
    with pytest.raises(TaskError, match="unknown column 'color'. Did you mean 'colour'?"):
        splits.documents("file:colours.csv", label="color", base=str(project / "suites" / "tasks"))


def test_a_column_that_only_later_documents_lack_is_named_with_the_first_of_them() -> None:
    documents = [{"text": "a", "colour": "red"}, {"text": "b", "color": "red"}]
    with pytest.raises(TaskError, match="document 2 of 2: unknown column 'colour'. Did you mean 'color'?"):
        splits.check_columns(documents, ["text", "colour"])


# --- facts ---

NAMES = ["Ann Abel", "Bob Boyd", "Cat Carr", "Dan Dahl", "Eve Ekman", "Flo Finn"]


def article(place: int) -> dict[str, str]:
    """Three facts: an amount, a percentage and a speaker; and a sentence that gives its own fact away."""
    body = (
        f"The company number {place} said that its yearly sales rose to ${place}.5bn in March. "
        f'"We in office {place} are as happy as we can be," said {NAMES[place % 6]}, who leads it. '
        f"Of all the people who work in town {place} about {place + 10}% live there. "
        f"It was {place + 40}% that was meant by all who said it was {place + 40}%."
    )
    return {"label": "pq"[place % 2], "title": f"Title {place}", "body": body}


def test_a_fact_is_blanked_where_nothing_gives_it_away() -> None:
    kinds = [(kind, fact) for kind, _, fact in splits.blanked(article(3)["body"])]
    assert kinds == [("amount", "$3.5bn"), ("speaker", "Dan Dahl"), ("percent", "13%")]
    for _, stem, fact in splits.blanked(article(3)["body"]):
        assert fact not in stem
        assert f"{stem} {fact}" in article(3)["body"]
    assert (
        list(splits.blanked('A short one, said Ann Abel. "Now then," said Mr Abel, in a sentence of many words.')) == []
    )


def test_wrong_choices_are_of_the_same_form_and_from_other_articles() -> None:
    found = [article(place) for place in range(10)]
    made = splits.questions(found, choices=4, each=2)
    assert len(made) == 10
    assert {len(of_one) for of_one in made} == {2}
    for one, of_one in zip(found, made, strict=True):
        for question in of_one:
            assert question["answer"] in question["choices"]
            assert len(set(question["choices"])) == 4
            forms = {splits.re.sub("[0-9]", "9", choice) for choice in question["choices"]}
            assert len(forms) == 1 or question["answer"] in NAMES
            assert [choice for choice in question["choices"] if choice in one["body"]] == [question["answer"]]


def test_a_speaker_stands_beside_speakers_of_the_same_class() -> None:
    made = splits.questions([article(place) for place in range(12)], choices=3, each=3)
    speakers = [question for of_one in made for question in of_one if question["answer"] in NAMES]
    assert speakers
    for question in speakers:
        assert len({NAMES.index(choice) % 2 for choice in question["choices"]}) == 1


def write_articles(folder: Path, count: int) -> None:
    for one in map(article, range(count)):
        (folder / one["label"]).mkdir(parents=True, exist_ok=True)
        (folder / one["label"] / f"{one['title']}.txt").write_text(f"{one['title']}\n{one['body']}")


def test_the_store_holds_every_answer_and_no_split_shares_an_article(project: Path) -> None:
    write_articles(project / "suites" / "tasks" / "news", 40)
    base = str(project / "suites" / "tasks")
    asked = splits.article_facts("file:news", count=30, test=16, validation=8, base=base)
    store = splits.articles("file:news", count=30, test=4, validation=3, base=base)
    assert {split: len(part) for split, part in asked.items() if split != "train"} == {"test": 16, "validation": 8}
    assert {split: len(part) for split, part in store.items()} == {"train": 30, "test": 4, "validation": 3}
    homes = {}
    for split, part in asked.items():
        lines = [f"{question['stem']} {question['answer']}" for question in part]
        homes[split] = {place for place, text in enumerate(store["train"]["text"]) for line in lines if line in text}
        assert all(any(line in text for text in store["train"]["text"]) for line in lines)
    assert not homes["test"] & (homes["validation"] | homes["train"])
    assert not homes["validation"] & homes["train"]
    apart = {*store["test"]["text"], *store["validation"]["text"]}
    assert len(apart) == 7
    assert not apart & set(store["train"]["text"])


def test_too_few_facts(project: Path) -> None:
    write_articles(project / "suites" / "tasks" / "news", 12)
    with pytest.raises(TaskError, match="Raise `count`"):
        splits.article_facts("file:news", count=10, test=20, validation=20, base=str(project / "suites" / "tasks"))


def write_texts(folder: Path, texts: int) -> None:
    body = "".join(f"{' '.join(f'w{text}x{word}' for word in range(20))}\n" for text in range(texts))
    (folder / "texts.tab").write_text("Text\nstring\nmeta\n" + body)


TEXTS = [{"source": "file:texts.tab", "column": "Text"}]


def test_passages_are_read_beside_the_task_and_never_fewer_than_asked_for(project: Path) -> None:
    base = project / "suites" / "tasks"
    write_texts(base, 6)
    found = splits.passages(TEXTS, words=5, skip_words=2, count=6, base=str(base))["test"]
    assert {text.split("x")[0] for text in found["text"]} == {f"w{text}" for text in range(6)}
    with pytest.raises(
        TaskError, match=r"the texts give 6 passages of 5 words after the first 2, and `count` is 7\. Lo"
    ):
        splits.passages(TEXTS, words=5, skip_words=2, count=7, base=str(base))
    with pytest.raises(TaskError, match="the texts give 0 passages of 30 words"):
        splits.passages(TEXTS, words=30, skip_words=0, count=1, base=str(base))


def test_fewer_articles_than_asked_for_are_refused(project: Path) -> None:
    write_articles(project / "suites" / "tasks" / "news", 12)
    base = str(project / "suites" / "tasks")
    with pytest.raises(
        TaskError, match=r"the source has 12 different articles, and .* ask for 8 \+ 3 \+ 2\. Lower them"
    ):
        splits.articles("file:news", count=8, test=3, validation=2, base=base)
    assert len(splits.articles("file:news", count=8, test=2, validation=2, base=base)["train"]) == 8


@pytest.mark.parametrize("name", ["passages", "articles", "article_facts", "running_text"])
def test_an_unknown_option_is_refused_with_the_nearest(project: Path, name: str) -> None:
    needed = {
        "passages": {"texts": TEXTS, "words": 5, "skip_words": 0, "count": 1},
        "running_text": {"texts": TEXTS, "words": 5, "test": 1},
    }.get(name, {"source": "file:news", "count": 1, "test": 1, "validation": 1})
    with pytest.raises(TaskError, match=f"unknown option of {name} 'sha265'. Did you mean 'sha256'?"):
        getattr(splits, name)(**needed, sha265="x", version=1.0)


@pytest.mark.parametrize(
    "values",
    [
        ["007", 5, "true", "null", "[1]", '"q"', "", None, True, 1.5],
        [["12", 5], ["a"]],
        [{"x": "12"}, {"x": 5}, {"y": None}],
        [1, 2.5],
        [2**63, 1],
    ],
)
def test_values_of_a_column_of_several_types_stay_what_they_are(values: list[object]) -> None:
    from datasets import Dataset

    found = as_dataset(Dataset, [{"text": "t", "value": value} for value in values])
    assert [(type(value), value) for value in found["value"]] == [(type(value), value) for value in values]
    assert list(found.features) == ["text", "value"]
