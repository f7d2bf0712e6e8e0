"""A task's identity is what it does, not where our code lies; names that task YAMLs use last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.data import code_of, task_functions, trust
from harness.data.tasks import fingerprint, learning_docs, load_task
from harness.errors import TaskError

# Taken once and for all: code that is moved or renamed must not change them.
PINNED = {
    "colours": "1e94a3edf04c747ed1f8a90aab41a7f888670697592e39a3f535bdb6a0b610cc",
    "names": "3e2c0a9ebbca0b8f57f8ae9c44e5a0dac7ea7e2e53f63e0560ee5ec4322af310",
    "prose": "38cd079dc77837d3fa0178ba4665dbf55f4817c8be15e99850751da1045222aa",
}


def print_of(path: Path) -> str:
    trust.grant([code_of(path)])
    task = load_task(path)
    train, validation = learning_docs(task)
    return fingerprint(path, task, (train, validation, list(task.eval_docs)))


@pytest.fixture
def tasks(project: Path) -> Path:
    return project / "suites" / "tasks"


@pytest.mark.parametrize("name", PINNED)
def test_a_fingerprint_stays_what_it_was(name: str, tasks: Path) -> None:
    assert print_of(tasks / f"{name}.yaml") == PINNED[name]


def test_a_former_name_is_the_same_task(tasks: Path) -> None:
    path = tasks / "colours.yaml"
    before = print_of(path)
    path.write_text(path.read_text().replace("harness.data.splits.documents", "harness.corpora.splits"))
    assert print_of(path) == before


def test_former_names_stand_for_functions_that_exist() -> None:
    assert set(task_functions.FORMER.values()) <= set(task_functions.PUBLIC)
    assert not set(task_functions.FORMER) & set(task_functions.PUBLIC)


def test_another_function_is_another_task(tasks: Path) -> None:
    path = tasks / "names.yaml"
    before = print_of(path)
    path.write_text(f"{path.read_text()}process_results: !function harness.data.generation.overlap\n")
    assert print_of(path) != before


def test_a_function_of_ones_own_counts_by_its_code(tasks: Path) -> None:
    path, code = tasks / "names.yaml", tasks / "own.py"
    path.write_text(f"{path.read_text()}process_docs: !function own.as_they_are\n")
    code.write_text("def as_they_are(docs):\n    return docs\n")
    before = print_of(path)
    code.write_text("def as_they_are(docs):\n    return docs.select(range(len(docs)))\n")
    assert print_of(path) != before


def test_an_included_yaml_says_the_same_from_any_folder(tasks: Path) -> None:
    shared = tasks.parent / "shared"
    shared.mkdir()
    path = tasks / "colours.yaml"
    (shared / "common.yaml").write_text("process_docs: !function own.as_they_are\n")
    (shared / "own.py").write_text("def as_they_are(docs):\n    return docs\n")
    (tasks / "including.yaml").write_text(f"include: ../shared/common.yaml\n{path.read_text()}")
    before = print_of(tasks / "including.yaml")
    moved = tasks.parent / "moved"
    shared.rename(moved)
    (tasks / "including.yaml").write_text(f"include: ../moved/common.yaml\n{path.read_text()}")
    assert print_of(tasks / "including.yaml") == before


def test_a_function_that_nobody_knows_is_refused_with_the_nearest(tasks: Path) -> None:
    path = tasks / "colours.yaml"
    path.write_text(re.sub(r"harness\.data\.splits\.\w+", "harness.data.splits.documnts", path.read_text()))
    with pytest.raises(
        TaskError, match=r"harness\.data\.splits\.documnts.*Did you mean 'harness\.data\.splits\.documents'"
    ):
        load_task(path)
