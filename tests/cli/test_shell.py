"""What shells use: completion, and exit codes that no other test has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import tunebench


def completed(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is offered for the last word of a line."""
    monkeypatch.setenv("_TUNEBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    return tunebench().stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tunebench recom", ["recommend"]),
        ("tunebench run --exec", ["--executor"]),
        ("tunebench check peft", ["peft-vs-full"]),
        ("tunebench report q", ["quickstart"]),
        ("tunebench run no-such", []),
    ],
)
def test_commands_options_and_suites_are_completed(
    line: str, offered: list[str], shipped_suites: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed(line, monkeypatch) == offered


def test_a_projects_own_suites_are_completed(shipped_suites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shipped_suites / "suites").mkdir()
    (shipped_suites / "suites" / "peft-mine.yaml").write_text("version: 1\n")
    assert completed("tunebench plan peft", monkeypatch) == ["peft-mine", "peft-vs-full"]


def test_the_script_for_a_shell_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = tunebench("--show-completion", "bash").stdout
    assert "complete -o default -F _tunebench_completion tunebench" in shown


def test_ctrl_c_ends_with_130(shipped_suites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.suite.suite_files", stopped)
    assert tunebench("suites").returncode == 130
    assert "COMP_WORDS" not in os.environ
