"""Code in a stranger's task YAML: told by `check`, asked about once, refused where nobody can answer."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from commands import refused, tunebench

FILE = "suites/tasks/colours.yaml"


@pytest.fixture
def ran(project: Path) -> Path:
    """The file that the suite's own code makes when it runs."""
    mark = project / "ran"
    (project / "suites/tasks/own.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\ndef as_they_are(docs):\n    return docs\n"
    )
    with (project / FILE).open("a") as file:
        file.write("\nprocess_docs: !function own.as_they_are\n")
    return mark


def answering(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    monkeypatch.setattr("harness.cli.trusting.somebody_can_answer", lambda: True)


def test_check_lists_what_would_run_and_runs_nothing(ran: Path) -> None:
    assert "colours (suites/tasks/colours.yaml) runs own.as_they_are in own.py (not trusted yet" in (
        tunebench("check", "small").stdout
    )
    (code,) = json.loads(tunebench("check", "small", "--json").stdout)["code"]
    assert (code["task"], code["runs"], code["trusted"]) == ("colours", ["own.as_they_are in own.py"], False)
    assert not ran.exists()


@pytest.mark.parametrize("command", ["fetch", "run", "tune"])
def test_without_a_terminal_it_is_refused_with_what_to_do(ran: Path, command: str) -> None:
    refused(tunebench(command, "small"), "--trust")
    refused(tunebench(command, "small"), "small.yaml:")
    assert not ran.exists()


def test_it_is_asked_once_and_anything_but_yes_is_no(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in ("", "\n", "n\n", "what?\n"):
        answering(monkeypatch, answer)
        done = tunebench("fetch", "small")
        assert done.returncode == 2
        assert "own.as_they_are in own.py" in done.stderr
        assert not ran.exists()
    answering(monkeypatch, "y\n")
    assert tunebench("fetch", "small").returncode == 0
    assert ran.exists()
    answering(monkeypatch, "")
    assert "[y/N]" not in tunebench("fetch", "small").stderr
    assert "(trusted)" in tunebench("check", "small").stdout


def test_a_file_is_trusted_by_an_option_until_it_changes(ran: Path) -> None:
    assert tunebench("fetch", "small", "--trust", FILE).returncode == 0
    assert ran.exists()
    assert tunebench("fetch", "small").returncode == 0
    with (ran.parent / "suites/tasks/own.py").open("a") as file:
        file.write("# other\n")
    refused(tunebench("fetch", "small"), "not trusted")


def test_a_file_that_is_no_task_of_the_suite_is_refused(ran: Path) -> None:
    done = tunebench("fetch", "small", "--trust", "suites/tasks/colour.yaml")
    refused(done, "Did you mean 'suites/tasks/colours.yaml'?")


def test_a_cell_refuses_what_was_changed_after_it_was_fetched(ran: Path) -> None:
    from harness.data import load_task
    from harness.errors import TaskError

    assert tunebench("fetch", "small", "--trust", FILE).returncode == 0
    (ran.parent / "suites/tasks/own.py").write_text("raise SystemExit\n")
    with pytest.raises(TaskError, match="not trusted"):
        load_task(ran.parent / FILE)
