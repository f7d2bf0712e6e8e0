"""Commands that scripts use: exit codes by verdict, JSON where something is wrong, whole lines in a pipe."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import refused, tunebench
from results_factory import Results, answered, cell, demo, environment, scores

from harness.cli.display import console, show_table
from harness.environment import git_state


@pytest.fixture
def results(project: Path) -> Path:
    """The project, with made-up results in which full is far better than prompt."""
    demo(project / "results")
    return project


@pytest.mark.parametrize(
    ("pair", "fail_on", "code"),
    [
        (("full", "prompt"), ("worse",), 0),
        (("prompt", "full"), ("worse",), 3),
        (("full", "prompt"), ("different",), 3),
        (("lora", "full"), ("open",), 4),
        (("prompt", "full"), ("open", "worse"), 3),
        (("prompt", "full"), (), 0),
        (("setfit", "qlora"), ("open",), 4),  # of which there is no result
        (("setfit", "qlora"), ("different",), 0),
    ],
)
def test_compare_fails_on_the_verdicts_that_it_is_asked_to(
    results: Path, pair: tuple[str, str], fail_on: tuple[str, ...], code: int
) -> None:
    options = [option for name in fail_on for option in ("--fail-on", name)]
    done = tunebench("compare", *pair, *options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert pair[0] in done.stdout


def test_compare_refuses_to_fail_on_what_is_no_verdict(results: Path) -> None:
    done = tunebench("compare", "full", "prompt", "--fail-on", "wrose")
    refused(done, "unknown verdict of --fail-on 'wrose'. Did you mean 'worse'? Known: different, open, worse.")


def test_check_says_every_mistake_as_json(project: Path) -> None:
    path = project / "suites" / "small.yaml"
    path.write_text(path.read_text().replace("lora: {}", "lroa: {}").replace("porse", "prose"))
    done = tunebench("check", "small", "--json")
    refused(done, "unknown method 'lroa'")
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["file"].endswith("small.yaml")
    assert problem["line"] == 10
    assert problem["text"].startswith("unknown method 'lroa'. Did you mean 'lora'?")
    path.write_text(path.read_text().replace("lroa", "lora"))
    assert json.loads(tunebench("check", "small", "--json").stdout)["problems"] == []


def test_what_has_no_place_in_a_file_is_json_too(results: Path) -> None:
    done = tunebench("studies", "demo", "--json")
    refused(done, "no run of demo has tuned anything")
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["file"], problem["line"]) == ("", 0)
    assert "`tunebench tune demo` does" in problem["text"]
    assert json.loads(tunebench("studies", "dmeo", "--json").stdout)["problems"]
    assert tunebench("studies", "demo").stdout == ""


@pytest.mark.parametrize("size", ["16", "0.5", " 16 "])
def test_memory_without_a_unit_is_refused_with_the_units(project: Path, size: str) -> None:
    assert tunebench("fetch", "small").returncode == 0
    refused(tunebench("plan", "small", "--memory", size), f"Units: MiB, GiB, TiB (of 1024), MB, GB, TB (of 1000). Did "
            f"you mean {size.strip()}GiB?")  # fmt: skip
    refused(tunebench("plan", "small", "--memory", "16 gallons"), "Units: MiB, GiB, TiB")
    assert tunebench("plan", "small", "--memory", "16 GiB").returncode == 0


def test_environments_are_listed_with_what_differs(project: Path) -> None:
    first = environment(created="2026-01-01T00:00:00+00:00", packages={"peft": "0.1.0", "left-pad": "1.0"})
    results = Results(project / "results", environment=first)
    results.add(cell("lora", 32, 0), scores(0.8), items=answered(0.8, 1))
    results.add(cell("full", 32, 0), scores(0.8), items=answered(0.8, 2), env=first)
    newer = environment(created="2026-02-01T00:00:00+00:00", packages={"peft": "0.2.0"})
    results.add(cell("lora", 32, 1), scores(0.7), items=answered(0.7, 1), env=newer)
    results.store()
    rows = json.loads(tunebench("environments", "--json").stdout)
    assert [(row["digest"], row["attempts"], row["done"]) for row in rows] == [
        (newer.env_digest, 1, 1),
        (first.env_digest, 2, 2),
    ]
    assert rows[1]["differs"]["peft"][0] == "0.1.0"
    assert not rows[1]["current"]
    shown = tunebench("environments").stdout
    assert f"tunebench compare {newer.env_digest[:12]} {first.env_digest[:12]}" in shown
    assert "peft 0.1.0 → " in shown
    assert tunebench("compare", newer.env_digest[:12], first.env_digest[:12]).returncode == 0


def test_the_environment_that_is_installed_is_the_current_one(project: Path) -> None:
    from harness.environment import environment as of_here

    results = Results(project / "results", environment=of_here(2))
    results.add(cell("lora", 32, 0), scores(0.8))
    results.store()
    assert "nothing: it is the current one" in tunebench("environments").stdout


def test_tables_are_whole_in_a_pipe_and_as_wide_as_columns_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    key = "a-label-with-a-long-name/" * 12
    show_table("", ["cell", "reason"], [[key, "because " * 40]])
    (_, line) = capsys.readouterr().out.splitlines()[-2:]
    assert line.strip() == f"{key}  {'because ' * 40}".strip()
    monkeypatch.setenv("COLUMNS", "60")
    show_table("", ["cell", "reason"], [["key", "because " * 40]])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize(("no_color", "signs"), [("1", False), ("", True)])
def test_no_color_has_neither_colour_nor_bold(monkeypatch: pytest.MonkeyPatch, no_color: str, signs: bool) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = console()
    with screen.capture() as captured:
        screen.print("[bold red]loud[/bold red]")
    assert ("\x1b[" in captured.get()) is signs


def test_untracked_suites_make_the_checkout_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "harness").mkdir()
    (tmp_path / "suites").mkdir()
    code = tmp_path / "harness" / "environment.py"
    code.write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "begin")
    monkeypatch.setattr("harness.environment.__file__", str(code))
    assert git_state()[1] is False
    (tmp_path / "notes.txt").write_text("no result comes from it")
    assert git_state()[1] is False
    (tmp_path / "suites" / "new.yaml").write_text("version: 1\n")
    assert git_state()[1] is True
    git("add", ".")
    git("commit", "-m", "more")
    assert git_state()[1] is False


def test_the_text_of_a_suite_is_kept_with_its_run(tmp_path: Path) -> None:
    text = "version: 1\n# a remark\n"
    store = demo(tmp_path)
    path = next(tmp_path.glob("runs/*.json"))
    record: dict[str, Any] = json.loads(path.read_text()) | {"suite_text": text}
    path.write_text(json.dumps(record))
    store.rebuild()
    with store.open(read_only=True) as connection:
        assert connection.execute("SELECT suite_text FROM runs").fetchall() == [(text,)]
