from collections import Counter
from pathlib import Path

import pytest

from harness.data import sampling, tasks
from harness.data.catalog import load_catalog
from harness.errors import TaskError


def load(project: Path, name: str) -> object:
    return tasks.load_task(project / "suites" / "tasks" / f"{name}.yaml")


def test_examples_are_what_lm_eval_asks(project: Path) -> None:
    task = load(project, "colours")
    task.build_all_requests(limit=None)  # type: ignore[attr-defined]
    asked = {request.args for request in task.instances}  # type: ignore[attr-defined]
    shape = next(iter(asked))
    example = sampling.examples(task, n=6)[0]
    assert example.context.startswith("Text: ")
    assert example.context.endswith("\nColour:")
    assert shape[0].endswith("\nColour:")
    assert example.target in {" red", " blue", " green"}
    assert not example.closed


def test_slices_are_nested_balanced_and_drawn_by_seed(project: Path) -> None:
    task = load(project, "colours")
    small, large = sampling.examples(task, n=9, seed=0), sampling.examples(task, n=30, seed=0)
    assert large[:9] == small
    assert Counter(example.target for example in large) == {" red": 10, " blue": 10, " green": 10}
    assert sampling.examples(task, n=9, seed=1) != small
    with pytest.raises(TaskError, match="has 690 training examples, 691 were asked for"):
        sampling.examples(task, n=691)


def test_training_never_sees_a_scored_document(project: Path) -> None:
    task = load(project, "colours")
    asked = {tasks.document_hash(document) for document in task.eval_docs}  # type: ignore[attr-defined]
    train, validation = tasks.learning_docs(task)
    hashes = [tasks.document_hash(document) for document in [*train, *validation]]
    assert not asked & set(hashes)
    assert len(hashes) == len(set(hashes))


def test_generation_examples_end(project: Path) -> None:
    example = sampling.examples(load(project, "names"), n=3)[0]
    assert example.closed
    assert example.target.strip() in {"red", "blue", "green"}


def test_loss_is_on_answer_tokens_only() -> None:
    def encoder(context: str, target: str) -> tuple[list[int], list[int]]:
        return [ord(c) for c in context], [ord(c) for c in target]

    rows, cut = tasks.encode([tasks.Example("abc", "xy", False), tasks.Example("abcdef", "z", True)], encoder, 0, 5)
    assert rows[0] == {"input_ids": [97, 98, 99, 120, 121], "labels": [-100] * 3 + [120, 121]}
    assert rows[1] == {"input_ids": [100, 101, 102, 122, 0][-5:], "labels": [-100] * 3 + [122, 0]}
    assert cut == [0, 3]
    ((row,), (lost,)) = tasks.encode([tasks.Example("ab", "uvwxyz", True)], encoder, 0, 5)
    assert (row["input_ids"], lost) == ([98, *map(ord, "uvwx")], 1 + 3)  # of the answer, its end is cut


def test_what_is_cut_off_is_not_what_opens_a_text() -> None:
    assert tasks.cut_left([1, 5, 6, 7, 8], 3, [[1]]) == [1, 7, 8]
    assert tasks.cut_left([1, 5, 6, 7, 8], 5, [[1]]) == [1, 5, 6, 7, 8]
    assert tasks.cut_left([1, 5, 6, 7, 8], 1, [[1]]) == [1]
    assert tasks.cut_left([3, 4, 6, 7, 8], 4, [[], [3, 4, 9]]) == [3, 4, 7, 8]
    assert tasks.cut_left([5, 6, 7, 8], 2, [[1]]) == [7, 8]


SHAPES = {
    "rolling": ("prose", "it is running text without questions"),
}


def variant(project: Path, **lines: str) -> Path:
    """A copy of the colours task with other lines."""
    path = project / "suites" / "tasks" / "variant.yaml"
    kept = [
        line
        for line in (project / "suites" / "tasks" / "colours.yaml").read_text().splitlines()
        if line.split(":")[0] not in lines
    ]
    path.write_text("\n".join([*kept, *[f"{key}: {value}" for key, value in lines.items() if value]]) + "\n")
    return path


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ({"training_split": ""}, "it has no training split"),
        ({"doc_to_target": "[0, 1]"}, "its target is a list"),
        (
            {"doc_to_text": "\"{{['red','green','blue'].index(colour)}}\""},
            "its text is an index into several contexts",
        ),
    ],
)
def test_shapes_that_cannot_be_learned_say_why(project: Path, lines: dict[str, str], reason: str) -> None:
    task = tasks.load_task(variant(project, **lines))
    assert reason in tasks.unlearnable(task)
    with pytest.raises(TaskError, match="cannot be learned"):
        sampling.examples(task, n=2)


def test_an_answer_that_is_no_choice_is_refused_with_its_count(project: Path) -> None:
    data = project / "suites" / "tasks" / "colours.csv"
    data.write_text(data.read_text() + "Zoe paints the rust, red \nZoe paints the sun,yellow\n")
    with pytest.raises(TaskError, match=r"none of the choices in doc_to_choice: 'yellow' 1 times \(row 752\)"):
        tasks.prepare(load_catalog(project), "colours")


@pytest.mark.parametrize("name", ["my colours.csv", "colours-*.csv"])
def test_a_change_of_local_data_is_noticed(project: Path, name: str) -> None:
    folder = project / "suites" / "tasks"
    lines = (folder / "colours.csv").read_text()
    real = folder / name.replace("*", "1")
    real.write_text(lines)
    (folder / "plain.yaml").write_text(
        f"task: plain\ndataset_path: csv\ndataset_kwargs: {{data_files: {{train: '{name}', test: '{name}'}}}}\n"
    )
    catalog = load_catalog(project)
    before = catalog.task_facts_path("plain")
    assert catalog.task_facts_path("plain") == before
    real.write_text(lines + "Zoe paints the rust,red\n")
    assert catalog.task_facts_path("plain") != before


def test_the_same_text_under_another_number_is_a_repeat() -> None:
    one, two = {"idx": 1, "text": "x"}, {"idx": 2, "text": "x"}
    assert tasks.content_hash(one) == tasks.content_hash(two)
    assert tasks.document_hash(one) != tasks.document_hash(two)


def test_running_text_is_not_learned(project: Path) -> None:
    assert "running text" in tasks.unlearnable(load(project, "prose"))


def test_a_broken_task_says_which_and_why(project: Path) -> None:
    path = project / "suites" / "tasks" / "colours.yaml"
    path.write_text(path.read_text().replace("file:colours.csv", "file:colour.csv"))
    with pytest.raises(TaskError, match=r"colours.*unknown file or folder 'colour\.csv'\. Did you mean 'colours\.csv'"):
        tasks.load_task(path)


def test_plain_lm_eval_csv_task_without_validation(project: Path) -> None:
    folder = project / "suites" / "tasks"
    (folder / "plain.yaml").write_text(
        "task: plain\ndataset_path: csv\n"
        "dataset_kwargs: {data_files: {train: colours.csv, test: colours-test.csv}}\n"
        "training_split: train\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{text}} ="\ndoc_to_choice: [red, green, blue]\ndoc_to_target: colour\n'
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    lines = (folder / "colours.csv").read_text().splitlines()
    (folder / "colours-test.csv").write_text("\n".join([lines[0], *lines[1:41]]) + "\n")
    facts = tasks.prepare(load_catalog(project), "plain")
    assert (facts.n_train, facts.n_validation, facts.n_test) == (
        710 - 71,
        71,
        40,
    )  # test rows are left out of train
    assert facts.unlearnable == ""


def test_facts_are_kept_and_made_again_when_data_changes(project: Path) -> None:
    catalog = load_catalog(project)
    first = tasks.prepare(catalog, "colours")
    assert catalog.task_facts("colours") == first
    data = project / "suites" / "tasks" / "colours.csv"
    data.write_text(data.read_text() + "Zoe paints the rust,red\n")
    assert catalog.task_facts("colours") is None
    second = tasks.prepare(catalog, "colours")
    assert second.n_train == first.n_train + 1
    assert second.fingerprint != first.fingerprint


def test_a_fingerprint_is_the_same_in_another_folder(project: Path, tmp_path: Path) -> None:
    import shutil

    first = tasks.prepare(load_catalog(project), "colours")
    shutil.copytree(project, tmp_path / "elsewhere")
    second = tasks.prepare(load_catalog(tmp_path / "elsewhere"), "colours")
    assert second.fingerprint == first.fingerprint
