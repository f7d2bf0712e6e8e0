"""Labels and choices of tasks that people bring: taught as what they say, or refused with how to write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.data import sampling, tasks
from harness.data.catalog import load_catalog
from harness.data.counts import counts_line
from harness.data.facts import TaskFacts
from harness.data.labels import label_text, labels_in
from harness.errors import TaskError

DIVIDED = """\
task: brought
custom_dataset: !function harness.data.splits.documents
dataset_kwargs: {{source: "file:{file}", label: label, test: 10, validation: 10{options}}}
training_split: train
validation_split: validation
test_split: test
output_type: {kind}
doc_to_text: "Text: {{{{text}}}}\\nLabel:"
doc_to_target: {target}
{choices}
metric_list:
  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}
"""
PLAIN = """\
task: brought
dataset_path: {reader}
dataset_kwargs: {{data_files: {{train: {file}, test: {file}}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Text: {{{{text}}}}\\nLabel:"
doc_to_target: {target}
{choices}
"""


def bring(
    project: Path,
    labels: list[object],
    target: str = "label",
    choices: str = "",
    plain: bool = False,
    options: str = "",
    rows: int = 60,
    kind: str = "multiple_choice",
) -> Path:
    """A task over a JSONL file in which these labels take turns."""
    folder = project / "suites" / "tasks"
    lines = [{"text": f"text number {n}", "label": labels[n % len(labels)]} for n in range(rows)]
    (folder / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "brought.yaml"
    form = PLAIN if plain else DIVIDED
    path.write_text(
        form.format(
            file="d.jsonl", target=target, choices=f"doc_to_choice: {choices}" if choices else "", reader="json",
            options=options, kind=kind, metric="acc" if kind == "multiple_choice" else "exact_match",
        )
    )  # fmt: skip
    return path


def prepared(project: Path) -> TaskFacts:
    return tasks.prepare(load_catalog(project), "brought")


def taught(path: Path) -> set[tuple[object, str]]:
    """(label in the data, answer that is taught for it)"""
    task = tasks.load_task(path)
    return {(one.document["label"], one.target.strip()) for one in sampling.examples(task)}


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (True, "true"), (0.5, "0.5"), (" a ", "a"), (None, ""), (float("nan"), "")],
)
def test_integer_and_text_labels_meet_by_a_rule(value: object, text: str) -> None:
    assert label_text(value) == text


# Numbers whose text is another choice: `label` and what stands for it must not be two things.
@pytest.mark.parametrize(
    ("labels", "target", "choices", "plain", "message"),
    [
        (
            [0, 1],
            '"{{label}}"',
            '["1", "0"]',
            False,
            r"'1' would be taught, and not '0'.*doc_to_target: label; or list",
        ),
        (["0", "1"], '"{{ label|trim }}"', '["1", "0"]', False, "name the column: doc_to_target: label"),
        ([0, 1], "label", '["1", "0"]', True, "'1' would be taught, and not '0'.*splits.documents"),
        ([1, 2, 3], '"{{label}}"', "[1, 2, 3, 4]", True, r"count from 1, .*\{\{label\|int - 1\}\}"),
        ([1, 2], "label", "{1: bad, 2: good}", True, "'good' would be taught, and not 'bad', for which the key 1"),
        ([2, 0, 1], '"{{label}}"', "{2: a, 1: b, 0: c}", True, "would be taught"),
        ([True, False], "label", "[true, false]", True, "'false' would be taught, and not 'true'"),
        ([1, 2, 3, 4, 5], "label", "[1, 2, 3, 4, 5]", True, "5 .* none of the choices|would be taught"),
        ([7, 8], "label", "[low, high]", True, r"The labels are numbers: .*rename: \{0: .*label\|int - 1"),
        (["01", "02"], '"{{label}}"', '["01", "02"]', False, "digits that lm-eval cannot read.*doc_to_target: label"),
    ],
)
def test_a_number_that_can_be_read_in_two_ways_is_refused_with_how_to_write_it(
    project: Path, labels: list[object], target: str, choices: str, plain: bool, message: str
) -> None:
    bring(project, labels, target, choices, plain)
    with pytest.raises(TaskError, match=message):
        prepared(project)


@pytest.mark.parametrize(
    ("labels", "target", "choices", "plain", "expected"),
    [
        ([0, 1], "label", '["1", "0"]', False, {("0", "0"), ("1", "1")}),
        ([0, 1], '"{{label}}"', '["0", "1"]', False, {("0", "0"), ("1", "1")}),
        ([0, 1], "label", "[no, yes]", True, {(0, "no"), (1, "yes")}),
        ([1, 2, 3], '"{{label|int - 1}}"', '["1", "2", "3"]', True, {(1, "1"), (2, "2"), (3, "3")}),
        ([0, 1, 2], "label", "[1, 2, 3]", True, {(0, "1"), (1, "2"), (2, "3")}),  # 0 is no choice: places are meant
        ([1, 2, 3], "label", "[1, 2, 3]", False, {("1", "1"), ("2", "2"), ("3", "3")}),
        ([True, False], "label", "[true, false]", False, {("true", "true"), ("false", "false")}),
        ([True, False], "label", "[True, False]", False, {("True", "True"), ("False", "False")}),
        (["yes", "no"], "label", "[yes, no]", False, {("yes", "yes"), ("no", "no")}),
        (["on", "off", "1e3"], "label", "[on, off, 1e3]", False, {("on", "on"), ("off", "off"), ("1e3", "1e3")}),
        (["neg", "pos"], "label", "{0: neg, 1: pos}", False, {("neg", "neg"), ("pos", "pos")}),
        ([0, 1], "label", "{0: neg, 1: pos}", True, {(0, "neg"), (1, "pos")}),
    ],
)
def test_what_can_be_read_in_one_way_is_taught_as_the_yaml_writes_it(
    project: Path, labels: list[object], target: str, choices: str, plain: bool, expected: set[tuple[object, str]]
) -> None:
    path = bring(project, labels, target, choices, plain, rows=61)
    if plain:  # what is scored is not learned
        path.write_text(path.read_text().replace("test: d.jsonl", "test: e.jsonl"))
        (path.parent / "e.jsonl").write_text((path.parent / "d.jsonl").read_text().replace("number", "of number"))
    assert prepared(project).unlearnable == ""
    assert taught(path) == expected


def test_names_are_what_the_yaml_writes(project: Path) -> None:
    path = bring(project, ["0", "1"], "label", "[no, yes]", options=", rename: {0: no, 1: yes}")
    assert prepared(project).classes == {"no": 20, "yes": 20}
    assert taught(path) == {("no", "no"), ("yes", "yes")}


@pytest.mark.parametrize(
    ("labels", "choices", "message"),
    [
        (["a"], "[a]", r"doc_to_choice has 1 choice \('a'\), so that every answer is right"),
        (["a", "b"], "[a, b, a]", "doc_to_choice has the choice 'a' twice"),
        (["a", "b"], '[a, b, ""]', "doc_to_choice has an empty choice"),
        (["a", "b"], "[a, [b]]", r"doc_to_choice holds \['b'\], and a choice is a text"),
        (["a", "B"], "[a, b]", r"'B' 30 times \(rows 2, 4, 6, .*30 in all.*write `rename: \{B: b\}`"),
        (["a", "a, b"], "[a, b]", "'a, b' holds several labels, and multi-label is not supported"),
        ([["a"], ["a", "b"]], "[a, b]", "multi-label"),
        (["a", "delivry"], "[a, delivery]", "Did you mean 'delivery'"),
        (["a", "b", *["a"] * 20, "c"], "[a, b]", r"'c' 2 times \(rows 23, 46\)"),
    ],
)
def test_labels_that_are_no_choice_are_named_with_rows_and_what_to_do(
    project: Path, labels: list[object], choices: str, message: str
) -> None:
    bring(project, labels, "label", choices)
    with pytest.raises(TaskError, match=message):
        prepared(project)


def test_one_empty_label_names_its_row_and_can_be_dropped(project: Path) -> None:
    labels: list[object] = ["a", "b"] * 29 + ["a", ""]
    bring(project, labels, "label", "[a, b]")
    with pytest.raises(TaskError, match=r"1 row of 60 without a label in the column 'label': row 60"):
        prepared(project)
    bring(project, labels, "label", "[a, b]", options=", drop_empty: true")
    assert counts_line(prepared(project)) == (
        "brought: 60 rows read, 1 dropped (without label 1), 59 kept: train 39 (a 20, b 19), "
        "validation 10 (a 5, b 5), test 10 (a 5, b 5)"
    )


def test_an_answer_that_is_missing_in_a_plain_file_is_named_with_its_place(project: Path) -> None:
    bring(project, ["a", "b", "a", "b", None], "label", "[a, b]", plain=True, rows=10)
    with pytest.raises(TaskError, match=r"None 4 times \(rows train 5, train 10, test 5, test 10\).*They are empty"):
        prepared(project)


def test_a_choice_that_is_nobodys_answer_is_remarked_on(project: Path) -> None:
    bring(project, [1, 2], "label", "[awful, bad, good]", plain=True)
    assert prepared(project).remarks == ("no row has the answer awful, which doc_to_choice lists",)


def test_one_class_alone_cannot_be_learned(project: Path) -> None:
    bring(project, ["a"], "label", "[a, b]")
    assert prepared(project).unlearnable == "all its documents are of the class 'a', so there is nothing to tell apart."


def test_validation_that_is_taken_from_train_has_every_class(project: Path) -> None:
    path = bring(project, [*["a"] * 19, "b"], "label", "[a, b]", plain=True, rows=200)
    (path.parent / "e.jsonl").write_text('{"text": "other", "label": "a"}\n')
    path.write_text(path.read_text().replace("test: d.jsonl", "test: e.jsonl"))
    facts = prepared(project)
    assert (facts.n_train, facts.n_validation) == (180, 20)
    assert all(facts.kept[split]["b"] > 0 for split in ("train", "validation"))
    assert facts.kept["test"] == {"a": 1, "b": 0}


@pytest.mark.parametrize(("text", "found"), [("a, b", 2), ("['a', 'b']", 2), ("a|b", 2), ("a", 1), ("a, x", 0)])
def test_several_labels_in_one_text(text: str, found: int) -> None:
    assert len(labels_in(text, ["a", "b"])) == found


def test_a_column_that_a_template_misspells_is_named_with_its_line_and_the_nearest(project: Path) -> None:
    path = bring(project, ["a", "b"], "label", "[a, b]")
    path.write_text(path.read_text().replace("{{text}}", "{{ txt }}"))
    with pytest.raises(TaskError, match=r"brought\.yaml:8: unknown column 'txt'. Did you mean 'text'"):
        prepared(project)


# --- few-shot ---


def test_few_shot_answers_that_are_numbers_are_shown_as_text(project: Path) -> None:
    path = bring(project, [3, 4], "label", kind="generate_until", plain=True)
    text = path.read_text().replace("multiple_choice", "generate_until") + "num_fewshot: 2\n"
    path.write_text(text.replace("test: d.jsonl", "test: e.jsonl"))
    (path.parent / "e.jsonl").write_text('{"text": "other", "label": 3}\n')
    facts = prepared(project)
    assert facts.remarks == ("2 examples before each scored question (num_fewshot); training examples carry none",)
    task = tasks.load_task(path)
    task.set_fewshot_seed(1234)
    assert "Label: 3" in task.fewshot_context(next(iter(task.eval_docs)), 2) or "Label: 4" in task.fewshot_context(
        next(iter(task.eval_docs)), 2
    )


def test_more_shots_than_there_are_documents_are_refused(project: Path) -> None:
    path = bring(project, ["a", "b"], "label", "[a, b]")
    path.write_text(path.read_text() + "num_fewshot: 500\n")
    with pytest.raises(TaskError, match="num_fewshot: 500 examples cannot stand before a question.*Lower num_fewshot"):
        prepared(project)


@pytest.mark.parametrize("text", ['"{{text}}"', "text"])
@pytest.mark.parametrize("first", ["a text", "007", 2])
def test_a_question_of_digits_is_a_text(project: Path, text: str, first: object) -> None:
    path = bring(project, ["no", "yes"], choices="[no, yes]")
    rows = [
        {"text": first if n == 0 else n + 100 if n % 2 else str(n + 100), "label": ("no", "yes")[n % 3 > 0]}
        for n in range(60)
    ]
    (path.parent / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(path.read_text().replace('"Text: {{text}}\\nLabel:"', text))
    task = tasks.load_task(path)
    documents = [document for documents in tasks.raw_splits(task).values() for document in documents]
    if task.multiple_input:  # a column whose first value is a number: lm-eval's form of several contexts, refused
        assert (text, tasks.unlearnable(task)[:16]) == ("text", "its text is an i")
        return
    assert {tasks.example(task, document, False).context for document in documents} == {
        str(row["text"]) for row in rows
    }


def test_labels_meet_whatever_their_unicode_form(project: Path) -> None:
    path = bring(project, ["e\u0301t\u00e9", "\u00e9t\u00e9", "non"], choices='["e\\u0301te\\u0301", non]')
    task = tasks.load_task(path)
    counts = tasks.classes(task, list(task.eval_docs))
    assert counts == {"e\u0301te\u0301": 5, "non": 5}


def test_choices_that_are_no_list_are_named(project: Path) -> None:
    path = bring(project, ["no", "yes"], choices="yes or no")
    with pytest.raises(TaskError, match=r"doc_to_choice \('yes or no'\) is neither a list, nor a column"):
        tasks.load_task(path)
    path = bring(project, [{"v": "no"}, {"v": "yes"}], choices="[no, yes]")
    with pytest.raises(TaskError, match="row 1: the label is an object"):
        tasks.load_task(path)
