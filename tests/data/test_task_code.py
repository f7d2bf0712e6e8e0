"""Which code a task YAML runs is seen in every way of writing it, and nothing of it runs before it is trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import code_of, definition_files, load_task, trust
from harness.data.tasks import fingerprint, learning_docs
from harness.errors import TaskError, UserError

OWN = "from pathlib import Path\nPath({mark!r}).touch()\ndef as_they_are(docs):\n    return docs\n"


@pytest.fixture
def tasks(project: Path) -> Path:
    return project / "suites" / "tasks"


@pytest.fixture
def ran(tasks: Path, tmp_path: Path) -> Callable[[], bool]:
    """A helper `own.py` beside the tasks; whether it has run."""
    mark = tmp_path / "ran"
    (tasks / "own.py").write_text(OWN.format(mark=str(mark)))
    return mark.exists


def with_line(tasks: Path, line: str | bytes, name: str = "colours") -> Path:
    path = tasks / f"{name}.yaml"
    path.write_bytes(path.read_bytes() + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    return path


@pytest.mark.parametrize(
    "line",
    [
        "process_docs: !function own.as_they_are",
        "process_docs: !<!function> own.as_they_are",
        'process_docs: !function "own.as_they_are"',
        "process_docs:\n  !function\n  own.as_they_are",
        "process_docs: ! own.as_they_are\nignored: [{deep: !function 'own.as_they_are'}]",
        "? !function own.as_they_are\n: 1",
        "include: [inner.yaml]",
        "include:\n  - inner.yaml",
        "include: !!str inner.yaml",
        '"include": "inner.yaml"',
        "{}",
    ],
)
def test_every_way_of_naming_a_function_is_seen_before_it_runs(tasks: Path, ran: Callable[[], bool], line: str) -> None:
    (tasks / "inner.yaml").write_text("process_docs: !function own.as_they_are\n")
    if line == "{}":  # the whole file in flow style, in UTF-16
        path = tasks / "colours.yaml"
        path.write_bytes("{task: colours, process_docs: !function own.as_they_are}".encode("utf-16"))
    else:
        path = with_line(tasks, line)
    assert code_of(path).runs
    with pytest.raises(TaskError, match=r"not trusted: own\.as_they_are in own\.py.*--trust"):
        load_task(path)
    assert not ran()


def test_a_path_in_a_functions_name_and_a_symbolic_link_lead_to_the_file(tasks: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "evil.py").write_text("def f(docs):\n    return docs\n")
    path = with_line(tasks, f"process_docs: !function {elsewhere}/evil.f")
    assert elsewhere / "evil.py" in definition_files(path)
    (elsewhere / "linked.yaml").write_text("task: linked\nprocess_docs: !function evil.f\n")
    (tasks / "linked.yaml").symlink_to(elsewhere / "linked.yaml")
    assert elsewhere / "evil.py" in definition_files(tasks / "linked.yaml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("process_docs: !function os.system", "os.system of a module that Python finds"),
        ("custom_dataset: !function lm_eval.tasks._yaml_loader._import_func_in_yml", "_import_func_in_yml"),
        ("process_docs: !function harness.data.sources.pypi.subprocess.run", ""),
        ("class: !function own.Task", "the Python class"),
        ("unsafe_code: true", "the model writes"),
        ("metric_list: [{metric: ./evil}]", "the script of the metric ./evil"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "the script of the metric acc"),
        ("dataset_path: ./script.py", "script.py"),
    ],
)
def test_code_that_lies_in_no_file_beside_the_yaml_is_told(
    tasks: Path, ran: Callable[[], bool], line: str, said: str
) -> None:
    path = with_line(tasks, line)
    with pytest.raises(TaskError, match="not trusted|unknown function"):
        load_task(path)
    assert said in " ".join(code_of(path).runs)
    assert not ran()


def test_what_is_shipped_is_trusted_but_not_a_file_that_hides_it(tasks: Path) -> None:
    path = tasks / "colours.yaml"
    assert not code_of(path).runs
    (tasks / "harness" / "data").mkdir(parents=True)
    (tasks / "harness" / "data" / "splits.py").write_text("raise SystemExit\n")
    assert "splits.py" in " ".join(code_of(path).runs)
    with pytest.raises(TaskError, match="not trusted"):
        load_task(path)


def test_lm_evals_own_tasks_are_trusted_unless_a_model_writes_what_they_run() -> None:
    from harness.data import lm_eval_tasks

    paths = lm_eval_tasks()
    assert not code_of(paths["hellaswag"]).runs
    assert code_of(paths["humaneval"]).runs == ("code that the model writes (unsafe_code)",)


def test_trust_is_given_to_content_and_ends_with_it(tasks: Path, ran: Callable[[], bool]) -> None:
    path = with_line(tasks, "process_docs: !function own.as_they_are")
    trust.grant([code_of(path)])
    load_task(path)
    assert ran()
    assert trust.trust_file().stat().st_mode & 0o777 == 0o600
    with (tasks / "own.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(TaskError, match="not trusted"):
        load_task(path)


HELPERS = {
    "import": ("import helper", "helper.py"),
    "from": ("from helper import x", "helper.py"),
    "in a function": ("def f():\n    import helper", "helper.py"),
    "a package": ("import pack.deep", "pack/deep.py"),
    "what a package imports": ("import pack", "pack/other.py"),
    "relative": ("from . import helper", "helper.py"),
    "by import_module": ("import importlib\nimportlib.import_module('helper')", "helper.py"),
    "by exec": ("exec(open('helper.txt').read())", "helper.txt"),
    "by a path": ("import sys, os\nsys.path.append(os.path.dirname(__file__) + '/lib')\nimport far", "lib/far.py"),
    "two steps": ("import middle", "helper.py"),
    "data": ("import json\njson.load(open('names.json'))", "names.json"),
}  # fmt: skip


@pytest.mark.parametrize("how", HELPERS)
def test_a_helper_counts_in_trust_and_in_the_definition(tasks: Path, how: str) -> None:
    code, helper = HELPERS[how]
    for name in ("pack", "lib"):
        (tasks / name).mkdir()
    (tasks / "pack" / "__init__.py").touch()
    (tasks / "middle.py").write_text("import helper\n")
    for name in ("helper.py", "helper.txt", "pack/deep.py", "pack/other.py", "lib/far.py", "names.json"):
        (tasks / name).write_text("x = 1\n")
    (tasks / "own.py").write_text(f"{code}\ndef as_they_are(docs):\n    return docs\n")
    path = with_line(tasks, "process_docs: !function own.as_they_are")
    before = code_of(path).digest
    assert tasks / helper in definition_files(path)
    (tasks / helper).write_text("x = 2\n")
    assert code_of(path).digest != before


def test_a_helper_counts_in_the_fingerprint(tasks: Path) -> None:
    def print_of() -> str:
        trust.grant([code_of(path)])
        task = load_task(path)
        return fingerprint(path, task, (*learning_docs(task), list(task.eval_docs)))

    (tasks / "helper.py").write_text("x = 1\n")
    (tasks / "own.py").write_text("def as_they_are(docs):\n    return docs\nif 0:\n    import helper\n")
    path = with_line(tasks, "process_docs: !function own.as_they_are")
    before = print_of()
    (tasks / "helper.py").write_text("x = 2\n")
    assert print_of() != before


def test_the_digest_is_the_same_in_another_folder(tasks: Path) -> None:
    (tasks / "own.py").write_text("def as_they_are(docs):\n    return docs\n")
    path = with_line(tasks, "process_docs: !function own.as_they_are")
    before = code_of(path).digest
    moved = tasks.rename(tasks.parent / "moved")
    assert code_of(moved / "colours.yaml").digest == before


@pytest.mark.parametrize("content", ["trust: yes", "[]", "trust: [nothing]", "{", "other: []"])
def test_a_damaged_file_of_trust_is_named(tasks: Path, content: str) -> None:
    trust.trust_file().write_text(content)
    with pytest.raises(UserError, match=r"trust\.yaml"):
        trust.trusted_digests()


def test_a_file_of_trust_that_anybody_may_write_trusts_nothing(tasks: Path) -> None:
    trust.trust_file().write_text(f"trust: [{'0' * 64}]")
    os.chmod(trust.trust_file(), 0o666)
    with pytest.raises(UserError, match="chmod 600"):
        trust.trusted_digests()


def test_an_entry_is_a_digest_alone_or_with_its_file(tasks: Path) -> None:
    trust.trust_file().write_text(f"trust:\n- {'0' * 64}\n- {{digest: '{'1' * 64}', file: x}}\n")
    assert trust.trusted_digests() == {"0" * 64, "1" * 64}


def test_what_is_told_cannot_move_the_cursor(tasks: Path) -> None:
    path = with_line(tasks, 'process_docs: !function "own.\\e[2Kharmless"')
    with pytest.raises(TaskError) as refused:
        load_task(path)
    assert "\x1b" not in str(refused.value)


def test_a_name_that_no_file_could_have_names_no_file(tasks: Path) -> None:
    path = tasks / "colours.yaml"
    path.write_text(path.read_text().replace("splits.documents", f"splits{'{' * 300}.documents"))
    assert path in definition_files(path)
    with pytest.raises(TaskError, match="task 'colours'"):
        load_task(path)
