"""Faults planted into a task's data are found before anything runs, each by the check that is meant for it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import write_csv
from tools import plan_of, results_of, run_cells

from harness.data.contamination import contained
from harness.data.leaks import bare_questions, learned_texts, scored_texts, without_template
from harness.data.tasks import Example
from harness.errors import SuiteError
from harness.plan.about_data import data_notes

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: planted, sizes: [8]}
retain: [prose]
methods: {lora: {}}
"""
TASK = """\
task: planted
dataset_path: csv
dataset_kwargs: {data_files: {train: train.csv, validation: validation.csv, test: test.csv}}
training_split: train
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "QUESTION"
doc_to_choice: [heavy, light]
doc_to_target: weight
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def row(number: int, more: str = "") -> dict[str, str]:
    text = f"item {number} was weighed by {number % 7} men on day {number * 3}{more}"
    return {"text": text, "weight": "heavy" if number % 2 else "light"}


def plant(
    project: Path, train: list[dict[str, str]], test: list[dict[str, str]], question: str = "{{text}} It is"
) -> None:
    tasks = project / "suites" / "tasks"
    write_csv(tasks / "train.csv", train)
    write_csv(tasks / "validation.csv", [row(number) for number in range(200, 210)])
    write_csv(tasks / "test.csv", test)
    (tasks / "planted.yaml").write_text(TASK.replace("QUESTION", question))


TRAIN = [row(number) for number in range(40)]
TWENTY = range(100, 120)
TEST = [row(number) for number in TWENTY]


def test_clean_data_are_let_through(project: Path) -> None:
    plant(project, TRAIN, TEST)
    found = plan_of(project, SUITE).facts
    assert found.overlaps["planted", "planted"].exact == found.overlaps["planted", "planted"].near == 0
    assert found.data["planted"].told == 0.0
    assert set(found.data["planted"].empty.values()) == {0}


def test_five_test_items_in_training_are_refused_with_their_line(project: Path) -> None:
    plant(project, [*TRAIN, *TEST[:5]], TEST)
    with pytest.raises(SuiteError, match=r"small\.yaml:4.*5 of the 20 scored items of 'planted'.*\(5 in full\)"):
        plan_of(project, SUITE)


def test_with_another_label_or_a_few_words_more_they_are_still_found(project: Path) -> None:
    turned = {**TEST[0], "weight": "heavy" if TEST[0]["weight"] == "light" else "light"}
    longer = {**TEST[1], "text": "it is said that " + TEST[1]["text"] + " or so"}
    plant(project, [*TRAIN, turned, longer], TEST)
    with pytest.raises(SuiteError, match=r"2 of the 20 scored items of 'planted'.*\(2 in full\)"):
        plan_of(project, SUITE)


def test_retained_text_in_training_is_refused_at_its_own_line(project: Path) -> None:
    prose = (project / "suites" / "tasks" / "prose.csv").read_text().splitlines()[1]
    plant(project, [*TRAIN, {"text": prose, "weight": "light"}], TEST)
    with pytest.raises(SuiteError, match=r"small\.yaml:5.*scored items of 'prose' stand in the text that is learned"):
        plan_of(project, SUITE)


def test_a_text_that_was_edited_a_little_is_found(project: Path) -> None:
    test = [row(number, "".join(f" with {number + more}" for more in range(10))) for number in TWENTY]
    edited = {**test[0], "text": test[0]["text"].replace("with 109", "without 109")}
    plant(project, [*TRAIN, edited], test)
    with pytest.raises(SuiteError, match=r"1 of the 20 scored items of 'planted'.*\(0 in full\)"):
        plan_of(project, SUITE)


def test_an_answer_in_the_question_is_refused(project: Path) -> None:
    plant(project, TRAIN, TEST, question="{{text}} ({{weight}}) It is")
    with pytest.raises(SuiteError, match="stands in the question of 100% of the scored items of 'planted'"):
        plan_of(project, SUITE)


def test_a_leak_may_be_allowed_by_name(project: Path) -> None:
    plant(project, [*TRAIN, *TEST[:5]], TEST)
    plan = plan_of(project, SUITE + "allow_leaks: [planted]\ntrain: {steps: 2}\n")
    assert plan.facts.overlaps["planted", "planted"].exact == 5
    run_cells(project, plan)
    flags = {
        result.cell.label: [flag for flag in result.flags if flag.name == "leak"] for result in results_of(project)
    }
    (marked,) = flags["lora"]
    assert marked.evidence == {"planted": {"items": 20, "learned_with": {"planted": 5}}}
    assert flags["base"] == []  # it has learned nothing
    with pytest.raises(SuiteError, match="unknown task 'plantd'. Did you mean 'planted'"):
        plan_of(project, SUITE + "allow_leaks: [plantd]\n")


def test_empty_examples_and_rare_classes_are_told(project: Path) -> None:
    prose = project / "suites" / "tasks" / "prose.csv"
    prose.write_text(prose.read_text() + '""\n')
    rare = [{**row(number), "weight": "heavy"} for number in range(40)]
    plant(project, [*rare, {**row(41), "weight": "light"}], TEST)
    plan = plan_of(project, SUITE)
    assert plan.facts.data["planted"].empty == {"scored": 0, "train": 0, "validation": 0}
    assert list(data_notes(plan.suite, plan.facts)) == [
        "planted: 1 training example of the class 'light', 40 of 'heavy': accuracy says little of the rare one",
        "prose: 1 example of the split 'scored' without text or answer",
    ]


def test_a_template_s_own_words_do_not_count() -> None:
    texts = ["Text: a b c\nColour:", "Text: d e\nColour:", "Text: a e\nColour:"]
    assert without_template(texts) == ["a b c", "d e", "a e"]
    assert without_template(["one text"]) == ["one text"]
    assert without_template(["same", "same"]) == ["", ""]


OPENING = "Hello there! I hope that you are well today, and that you can help me with something small. "
SYSTEM = "You are a careful assistant who answers in one word and never makes anything up, whatever is asked. "


def test_openings_and_instructions_that_many_items_share_are_no_leak(project: Path) -> None:
    def shared(number: int) -> dict[str, str]:
        start = (OPENING, SYSTEM, OPENING.upper(), "")[number % 4]
        return {"text": f"{start}Is crate {number} of {number * 7} full", "weight": "heavy" if number % 2 else "light"}

    train, test = [shared(number) for number in range(60)], [shared(number) for number in range(200, 240)]
    plant(project, train, test)
    found = plan_of(project, SUITE).facts.overlaps["planted", "planted"]
    assert (found.exact, found.near, found.n) == (0, 0, 40)
    turned = [{**one, "weight": "light" if one["weight"] == "heavy" else "heavy"} for one in test[:3]]
    plant(project, [*train, *turned], test)
    with pytest.raises(SuiteError, match="3 of the 40 scored items of 'planted'"):
        plan_of(project, SUITE)


def test_a_greeting_that_is_learned_with_several_answers_is_no_leak() -> None:
    known = [Example("Hello!", f" {answer}", True) for answer in ("Hi", "Good day", "Hello to you")]
    asked = [Example("Hello!", " What can I do?", True), Example("Who is there in the old house?", " Me", True)]
    task = SimpleNamespace(OUTPUT_TYPE="generate_until")
    questions, learned = bare_questions(asked, known, same=True)
    texts = scored_texts(task, asked, questions, list(zip(learned, known, strict=True)))  # type: ignore[arg-type]
    assert texts == ["Hello!  What can I do?", "Who is there in the old house?"]
    assert contained(texts, learned_texts(known, learned)) == {}
    assert contained(texts, learned_texts([*known, asked[0]], [*learned, "Hello!"])) == {0: 1.0}


def test_texts_that_differ_in_an_emoji_and_in_their_label_are_no_leak(project: Path) -> None:
    train = [{**row(number, " and that is 👍"), "weight": "heavy"} for number in TWENTY]
    test = [{**row(number, " and that is 👎"), "weight": "light"} for number in TWENTY]
    plant(project, [*TRAIN, *train], test)
    found = plan_of(project, SUITE).facts.overlaps["planted", "planted"]
    assert (found.exact, found.near) == (0, 0)


def test_contradicting_answers_of_a_plain_file_are_said(project: Path) -> None:
    turned = {**TRAIN[0], "weight": "heavy"}
    plant(project, [*TRAIN, turned], TEST)
    plan = plan_of(project, SUITE)
    (note,) = [note for note in data_notes(plan.suite, plan.facts) if "contradicting" in note]
    assert note.startswith("planted: 1 training question with contradicting answers, such as 'item 0 was weighed")


def test_copies_in_validation_and_among_scored_items_are_said(project: Path) -> None:
    plant(
        project, [*TRAIN, row(203, " in the rain")], [*TEST, row(103, " in the rain"), {**row(104), "weight": "heavy"}]
    )
    plan = plan_of(project, SUITE)
    found = plan.facts.data["planted"]
    assert (found.known_validation, found.copies, found.copied[0][:8]) == (1, 1, "103 was ")
    notes = list(data_notes(plan.suite, plan.facts))
    assert any(note.startswith("planted: 1 of 10 validation items stand in its training text") for note in notes)
    assert any(note.startswith("planted: 1 of 22 scored items stand in another scored item") for note in notes)


def test_a_class_that_a_split_lacks_is_said(project: Path) -> None:
    plant(project, TRAIN, [one for one in TEST if one["weight"] == "light"])
    plan = plan_of(project, SUITE)
    assert "planted: the split 'test' has no row of the class 'heavy'" in list(data_notes(plan.suite, plan.facts))


def test_classes_that_a_slice_lacks_are_said(project: Path) -> None:
    plant(project, [*TRAIN, *({**row(300 + n), "weight": "light"} for n in range(200))], TEST)

    def notes(more: str, sizes: str = "[8]") -> list[str]:
        plan = plan_of(project, SUITE.replace("[8]", sizes) + more)
        return [note for note in data_notes(plan.suite, plan.facts) if "training examples" in note or "1 train" in note]

    assert [note for note in notes("") if "hold" in note or "lack" in note] == []
    assert "planted: 1 training example hold 1 of 2 classes: raise the size to 2 or more" in notes("", "[1]")
    (random,) = [note for note in notes("select: [random]\n") if "lack" in note]
    assert random.startswith("planted: 8 training examples (select random) may lack the class 'heavy': a chance of")
    (unequal,) = [note for note in notes("corrupt: [{imbalance: 100}]\nallow_leaks: []\n", "[8]") if "none of" in note]
    assert "(imbalance 100) have none of the class" in unequal
