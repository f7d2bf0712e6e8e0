"""The command that does a cell again, part by part."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.cli.reproduce import Again, again, options, pinned, suite_named
from harness.environment import RESULT_PACKAGES
from harness.records import visible

PACKAGES = {"torch": "2.9.0", "peft": "0.21.0", "left-pad": "1.0", "lm-eval": "0.4.13", "Galore.Torch": "1.0"}


def made(**changes: Any) -> Again:
    values: dict[str, Any] = {
        "suite": "demo", "key": "lora/tiny/topic/n32/s0", "status": "done", "command": "tunebench run demo",
        "knows_only": True, "commit": "0123abcd", "dirty": False, "packages": PACKAGES, "threads": 2, **changes,
    }  # fmt: skip
    return again(**values)


def test_it_is_one_line_of_checkout_install_and_run() -> None:
    found = made()
    assert found.command == (
        "git checkout 0123abcd && pip install galore-torch==1.0 lm_eval==0.4.13 peft==0.21.0 torch==2.9.0 && "
        "tunebench run demo --only lora/tiny/topic/n32/s0 --retry done --threads 2"
    )
    assert found.remarks == ()
    assert found.command.endswith(found.run)


def test_only_what_results_depend_on_is_pinned_under_any_spelling() -> None:
    assert pinned(PACKAGES) == ("galore-torch==1.0", "lm_eval==0.4.13", "peft==0.21.0", "torch==2.9.0")
    assert pinned({"left-pad": "1.0"}) == ()
    everything = {name.upper().replace("_", "."): "1" for name in RESULT_PACKAGES}
    assert pinned(everything) == tuple(f"{name}==1" for name in RESULT_PACKAGES)


def test_what_it_cannot_give_back_is_said() -> None:
    (remark,) = made(dirty=True).remarks
    assert "uncommitted changes are not brought back" in remark
    assert "git checkout" in made(dirty=True).command
    bare = made(commit="", threads=None, packages={"torch": "2.9.0+cpu"})
    assert (
        bare.command == "pip install torch==2.9.0+cpu && tunebench run demo --only lora/tiny/topic/n32/s0 --retry done"
    )
    assert ["outside a git checkout" in bare.remarks[0], "torch==2.9.0+cpu: " in bare.remarks[1]] == [True, True]
    assert "threads is not known" in bare.remarks[2]


def test_a_commit_that_knows_no_only_is_not_checked_out() -> None:
    old = made(knows_only=False, dirty=True)
    assert "git checkout" not in old.command
    assert old.remarks == (
        "made at commit 0123abcd with uncommitted changes, which has no --only yet: done with the code that is here",
    )


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("tunebench run demo", []),
        ("tunebench run demo --jobs 2 --retry failed --threads 1", ["--jobs", "2"]),
        ("tunebench run demo --executor=ray --address=host:1 --tracker wandb",
         ["--executor", "ray", "--address", "host:1"]),
        ("tunebench run demo --memory '16 GiB' --allow-bad-instruments --results 'my results'",
         ["--memory", "16 GiB", "--allow-bad-instruments", "--results", "my results"]),
        ("tunebench run it's --memory 8GiB --jobs", ["--memory", "8GiB"]),
        ("", []),
    ],
)  # fmt: skip
def test_options_of_the_run_that_matter_are_kept(command: str, kept: list[str]) -> None:
    assert options(command) == kept
    words = shlex.split(made(command=command).run)
    assert words[words.index("--threads") + 2 :] == kept


def test_a_suite_that_was_named_by_its_path_is_again() -> None:
    assert suite_named("tunebench run demo", "demo") == "demo"
    assert suite_named("tunebench run 'my suites/demo.yaml' --jobs 2", "demo") == "my suites/demo.yaml"
    assert suite_named("tunebench run other.yaml", "demo") == "demo"


EVIL = [
    "x; touch RAN",
    "$(touch RAN)",
    "`touch RAN`",
    "x\ntouch RAN\n",
    "x' ; touch RAN '",
    "x\x1b[201~\ntouch RAN\n",
    "x && touch RAN",
    "| touch RAN",
    "> RAN",
    "\\' ; touch RAN; \\'",
    "x\r\ntouch RAN #",
    "x\u2028touch RAN",
    "!touch RAN",
    "#\ntouch RAN",
]


@pytest.mark.parametrize("field", ["suite", "key", "status", "command", "commit", "packages", "threads"])
@pytest.mark.parametrize("evil", EVIL)
def test_nothing_of_a_stored_field_is_run_by_a_shell(field: str, evil: str, tmp_path: Path) -> None:
    value: Any = evil
    if field == "packages":
        value = {**PACKAGES, "torch": evil, "peft": evil}
    if field == "command":
        value = f"tunebench run '{evil}.yaml' --address {shlex.quote(evil)} --results={shlex.quote(evil)}"
    how = made(**{field: value})
    assert "\n" not in how.command
    assert how.command.isprintable()
    text = "\n".join([*(f"# {visible(remark)}" for remark in how.remarks), how.command])
    (tmp_path / "bin").mkdir()
    for name in ("git", "pip", "tunebench"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "RAN").exists()


def test_no_stored_word_becomes_an_option() -> None:
    how = made(command="tunebench run --trust=evil/demo.yaml --address --trust", key="--trust=x", commit="--orphan")
    words = shlex.split(how.command)
    assert "git" not in words
    assert [word for word in words if word.startswith("--trust")] == []
    assert "--only=--trust=x" in words
    assert any("--orphan" in remark for remark in how.remarks)
