"""A task is drafted from rows: its kind, its columns, and a YAML that says the same."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from harness.data import Draft, draft_task
from harness.data.drafting import clean_names
from harness.errors import TaskError

STARS = [{"id": n, "Review Text": f"it was {n}", "Stars": str(1 + n % 5)} for n in range(100)]
NUMBERS = [{"sentence": f"s {n}", "label": n % 2} for n in range(100)]
BOTH = [{"title": f"t {n}", "body": f"a long body {n}", "topic": "ab"[n % 2]} for n in range(100)]
DATES = [{"instruction": "ISO?", "input": f"day {n}", "output": f"2020-01-{n % 28 + 1:02}"} for n in range(100)]
LONG = [{"prompt": f"q {n}", "completion": f"line one\nline two of {n} " + "word " * 30} for n in range(100)]
SQUAD = [
    {"id": str(n), "context": f"text {n}", "question": "who?", "answers": {"text": [f"name {n}", "x"], "at": [1, 2]}}
    for n in range(100)
]
CHATS = [
    {"messages": [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "yes"}]} for n in range(50)
]
SHARED = [{"conversations": [{"from": "human", "value": f"{n}"}, {"from": "gpt", "value": "a"}]} for n in range(50)]
PROSE = [{"text": f"some prose number {n} that goes on"} for n in range(100)]


def drafted(rows: list[dict[str, Any]], **said: Any) -> Draft:
    return draft_task("mine", "file:mine.csv", rows, **said)


@pytest.mark.parametrize(
    ("rows", "kind", "inputs", "answer"),
    [
        (STARS, "classification", ("review_text",), "Stars"),
        (NUMBERS, "classification", ("sentence",), "label"),
        (BOTH, "classification", ("body",), "topic"),
        (DATES, "generation", ("instruction", "input"), "output"),
        (LONG, "generation", ("prompt",), "completion"),
        (SQUAD, "generation", ("context", "question"), "answers"),
        (CHATS, "chat", (), "messages"),
        (SHARED, "chat", (), "conversations"),
        (PROSE, "text", ("text",), ""),
    ],
    ids=["stars", "numbers", "two texts", "dates", "long answers", "squad", "chats", "sharegpt", "prose"],
)
def test_the_kind_and_the_columns_are_found(
    rows: list[dict[str, Any]], kind: str, inputs: tuple[str, ...], answer: str
) -> None:
    draft = drafted(rows)
    assert (draft.kind, draft.inputs, draft.answer) == (kind, inputs, answer)
    assert draft.train + draft.test + draft.validation == len(rows) - draft.dropped
    written = yaml.load(draft.yaml(), loader())
    assert written["task"] == "mine"
    assert written["dataset_kwargs"]["source"] == "file:mine.csv"


def loader() -> type[yaml.SafeLoader]:
    """A loader that takes a function for its name."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)  # type: ignore[no-untyped-call]
    return Loader


def test_what_the_user_says_is_taken() -> None:
    assert drafted(BOTH, inputs=["title", "body"]).inputs == ("title", "body")
    assert drafted(BOTH, kind="generation", answer="title", inputs=["body"]).answer == "title"
    with pytest.raises(TaskError, match=r"unknown column 'titel'. Did you mean 'title'") as caught:
        drafted(BOTH, inputs=["titel"], kind="klass")
    assert "kind of task" in str(caught.value), "mistakes are told together"


def test_numbers_are_classes_in_their_order_and_a_name_is_asked_for() -> None:
    draft = drafted([{"text": f"t {n}", "stars": n % 12} for n in range(240)])
    assert draft.choices == tuple(map(str, range(12)))
    assert any("the classes are numbers" in remark for remark in draft.remarks)


def test_rows_without_a_class_and_classes_without_rows_are_left_out_and_said() -> None:
    rows = [*NUMBERS, {"sentence": "x", "label": None}, {"sentence": "y", "label": 7}]
    draft = drafted(rows)
    assert draft.options["drop_empty"]
    assert draft.options["drop_rare"]
    assert draft.choices == ("0", "1")
    assert any("1 row without a class is left out" in remark for remark in draft.remarks)


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(TaskError, match="one class, 'a'"):
        drafted([{"text": f"t {n}", "label": "a"} for n in range(50)])


def test_a_stop_stands_in_no_answer_and_answers_have_room() -> None:
    short, long = drafted(DATES), drafted(LONG)
    assert short.stop == "\n"
    assert short.whole
    assert long.stop == "\n\n"
    assert not long.whole
    assert short.tokens < long.tokens <= 256
    assert "rouge_l" in long.yaml()


def test_a_long_answer_is_scored_against_its_own_column(tmp_path: Path) -> None:
    """`overlap` compared with a column called title, so that drafted tasks of long answers ended in a KeyError."""
    from harness.data import load_task

    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, LONG)))
    (tmp_path / "mine.yaml").write_text(draft_task("mine", "file:mine.jsonl", LONG).yaml())
    task = load_task(tmp_path / "mine.yaml")
    document = task.eval_docs[0]
    assert task.process_results(document, [str(document["completion"])]) == {"rouge_l": 1.0, "chrf": 1.0}
    assert task.process_results(document, ["zzz"])["rouge_l"] == 0.0


def test_a_chat_that_ends_with_a_question_is_refused_with_counts() -> None:
    turns = [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "and?"}]
    rows = [*CHATS, {"messages": turns}]
    with pytest.raises(TaskError, match="1 conversation of 51 end with a message of 'user'"):
        drafted(rows)


@given(st.lists(st.text(string.printable, min_size=1, max_size=12), min_size=1, max_size=6, unique=True))
def test_every_column_has_a_name_that_a_template_can_use(columns: list[str]) -> None:
    from jinja2 import Environment

    names = clean_names(columns)
    assert list(names.values()) == columns
    for place, name in enumerate(names):
        assert Environment().from_string(f"{{{{{name}}}}}").render({name: place}) == str(place)


@given(
    st.lists(
        st.fixed_dictionaries({"text": st.text(max_size=20), "label": st.sampled_from(["yes", "no: it", "'x'", "1"])}),
        min_size=30, max_size=60,
    )
)  # fmt: skip
def test_any_classes_are_written_so_that_yaml_reads_them(rows: list[dict[str, Any]]) -> None:
    try:
        draft = drafted(rows)
    except TaskError:
        return  # one class
    if draft.kind == "classification":
        assert yaml.load(draft.yaml(), loader())["doc_to_choice"] == list(draft.choices)


def test_labels_are_taken_as_the_splits_take_them() -> None:
    """Blanks at the ends, NaN and numbers with a point are no classes of their own."""
    rows = [{"text": f"t {n}", "label": ["pos", "neg ", " pos", float("nan"), " "][n % 5]} for n in range(100)]
    draft = drafted(rows)
    assert draft.choices == ("neg", "pos")
    assert draft.dropped == 40
    numbers = [{"text": f"t {n}", "label": [0.0, 1.0, float("nan")][n % 3]} for n in range(90)]
    assert drafted(numbers).choices == ("0", "1")


def test_rows_without_an_answer_do_not_count_and_are_left_out_by_the_task() -> None:
    rows = [{"question": f"q {n}", "context": "c", "answers": {"text": [f"a {n}"] if n % 2 else []}} for n in range(80)]
    draft = drafted(rows)
    assert draft.dropped == 40
    assert draft.listed == ".text[0]"
    assert "answer: answers" in draft.yaml()


def test_answers_of_other_scripts_have_room_and_are_no_names() -> None:
    draft = drafted([{"prompt": f"p {n}", "response": "日本語の長い答え" * 10 + str(n)} for n in range(60)])
    assert not draft.whole
    assert draft.tokens >= 160


@pytest.mark.parametrize(
    ("rows", "said", "message"),
    [
        ([{"label": "ab"[n % 2]} for n in range(60)], {}, "can be asked"),
        (NUMBERS, {"inputs": ["label"], "answer": "label"}, "is asked and is the answer"),
        ([*CHATS, {"messages": []}], {}, "1 row of 51 hold no conversation"),
        ([*CHATS * 2, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]}], {},
         "rows 101"),
    ],
    ids=["one column", "the answer is asked", "an empty chat", "a message without text"],
)  # fmt: skip
def test_what_cannot_be_a_task_is_refused(rows: list[dict[str, Any]], said: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        drafted(rows, **said)
