"""Runs in odd surroundings: few files, little memory, no home, plain ASCII, no shared memory, odd paths."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from tools import by_label, plan_of, run_cells

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods:
  base: {}
  lora: {learning_rate: 1e-2}
train: {steps: 2, batch_size: 4}
"""
PLAIN = ("env",)


def tunebench(before: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of tunebench; `before` is the command line of what prepares its surroundings."""
    command = [*before, sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def limited(limit: str) -> tuple[str, ...]:
    return ("bash", "-c", f'ulimit {limit} || exit 99; exec "$@"', "bash")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "results"),
    [
        pytest.param(limited("-n 64"), "results", id="64 open files"),
        pytest.param(limited("-u 4096"), "results", id="4096 processes"),
        pytest.param(limited("-v 16000000"), "results", id="16 GB of addresses"),
        pytest.param(("env", "-u", "HOME"), "results", id="no HOME"),
        pytest.param(("env", "HOME=/nowhere/at/all"), "results", id="a HOME that is not there"),
        pytest.param(("env", "LC_ALL=C", "LANG=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"), "results", id="C locale"),
        pytest.param(PLAIN, "some results/für später", id="spaces and umlauts"),
        pytest.param(PLAIN, "-x/'quoted' $(id)", id="quotes"),
        pytest.param(("unshare", "-m", "sh", "-c", 'umount /dev/shm && exec "$@"', "sh"), "results", id="no /dev/shm"),
    ],
)
def test_a_run_in_odd_surroundings(project: Path, before: tuple[str, ...], results: str) -> None:
    if before[0] == "unshare" and subprocess.run([*before, "true"], capture_output=True).returncode != 0:
        pytest.skip("this user may not unmount /dev/shm")
    (project / "suites" / "small.yaml").write_text(SUITE)
    folder = project / results
    done = tunebench(before, "run", "small", "--threads", "1", f"--results={folder}")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "warning" not in done.stderr
    looks = [["status"], ["show", "lora/tiny/colours/n8/s0"], ["plan", "small"], ["report", "small"]]
    if "-v" in " ".join(before):  # what draws charts reserves more addresses than that
        looks.pop()
    for arguments in looks:
        shown = tunebench(before, *arguments, f"--results={folder}")
        assert shown.returncode == 0, (arguments, shown.stdout, shown.stderr)
    with duckdb.connect(str(folder / "tunebench.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT status, count(*) FROM attempts GROUP BY ALL").fetchall() == [("done", 2)]


@pytest.mark.slow
def test_with_too_little_memory_to_begin_one_message_says_so(project: Path) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE)
    done = tunebench(limited("-v 1500000"), "run", "small", "--threads", "1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: the system has no more of something that this command needs" in done.stderr


@pytest.mark.slow
def test_results_on_another_file_system_than_the_scratch(project: Path) -> None:
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(project).st_dev:
        pytest.skip("there is no other file system here")
    folder = Path("/dev/shm") / f"tunebench-{os.getpid()}"
    (project / "suites" / "small.yaml").write_text(SUITE)
    try:
        done = tunebench(PLAIN, "run", "small", "--threads", "1", f"--results={folder}")
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.process
def test_a_clock_that_goes_back_hides_no_result(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(project, SUITE)
    back = datetime(2001, 1, 1, tzinfo=UTC).isoformat()
    assert set(by_label(plan, run_cells(project, plan)).values()) == {"done"}
    monkeypatch.setattr("harness.execute.executors.base.now", lambda: back)
    monkeypatch.setattr("harness.worker.cell.now", lambda: back)
    again = run_cells(project, plan, retry=frozenset({"done"}))
    assert set(by_label(plan, again).values()) == {"done"}
    assert run_cells(project, plan).ended == []
