"""Runs that survive: memory that runs out, readers in the way, stuck processes, full disks, killed commands."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from results_factory import Results, cell, items, scores
from tools import by_label, plan_of, results_of, run_cells, wait_for

from harness.environment import environment
from harness.execute.events import live_status
from harness.execute.executors.local import LocalExecutor
from harness.execute.placement import GIB
from harness.execute.running import Limits, Progress, Run, Running
from harness.execute.watchdog import Watchdog, resident
from harness.store.database import Store
from harness.store.files import sole_writer

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods:
  base: {}
  full: {learning_rate: 1e-2}
  lora: {learning_rate: 1e-2}
train: {steps: 2, batch_size: 4}
"""


@pytest.mark.process
def test_a_cell_that_allocates_without_end_is_oom_and_the_others_are_done(project: Path) -> None:
    hog = "  hog: {method: lora, rank: 400000}\n"  # 5 GiB of adapters
    plan = plan_of(project, SUITE.replace("train:", hog + "train:") + "memory_limit: 1500MiB\n")
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "full": "done", "lora": "done", "hog": "oom"}
    (result,) = (result for result in results_of(project) if result.cell.label == "hog")
    assert result.reason.startswith("held ")
    assert result.reason.endswith("GiB resident; the memory limit of a cell is 1.46 GiB")
    assert run_cells(project, plan).ended == []  # it waits for --retry oom


@pytest.mark.process
def test_a_cell_that_cannot_fit_is_not_started_and_says_so(project: Path) -> None:
    plan = plan_of(project, SUITE)
    progress = run_cells(
        project, plan,
        predict=lambda cell: 40 * GIB if cell.label == "full" else GIB, limits=Limits(machine=24 * GIB),
    )  # fmt: skip
    assert by_label(plan, progress) == {"base": "done", "full": "skipped", "lora": "done"}
    (result,) = (result for result in results_of(project) if result.cell.label == "full")
    assert result.reason.startswith("is predicted to need 40.0 GiB; cpu has 24.0 GiB.")


@pytest.mark.process
def test_cells_side_by_side_say_who_shared_the_machine(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("steps: 2", "steps: 60"))
    progress = run_cells(project, plan, jobs=2)
    assert set(by_label(plan, progress).values()) == {"done"}
    found = {result.cell.label: result for result in results_of(project)}
    assert (found["base"].contended, found["base"].beside) == (False, ())
    assert (found["full"].contended, found["full"].beside) == (True, (found["lora"].cell.key,))
    assert found["lora"].beside == (found["full"].cell.key,)
    with Store(project / "results").open(read_only=True) as connection:
        rows = connection.execute("SELECT beside, device FROM attempts WHERE contended ORDER BY ALL").fetchall()
    assert rows == [([found["full"].cell.key], "cpu"), ([found["lora"].cell.key], "cpu")]


def hold(path: str, ready: Any, release: Any) -> None:
    with duckdb.connect(path, read_only=True):
        ready.set()
        release.wait(60)


@pytest.mark.process
def test_a_reader_does_not_stop_a_run(project: Path) -> None:
    plan = plan_of(project, SUITE)
    store = Store(project / "results")
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    reader = context.Process(target=hold, args=(str(store.path), ready, release))

    def watch(progress: Progress) -> None:
        if progress.running and not reader.pid:
            reader.start()
            assert ready.wait(60)

    try:
        progress = run_cells(project, plan, watch=watch)
        assert set(by_label(plan, progress).values()) == {"done"}
        assert len(results_of(project)) == 3
    finally:
        release.set()
        reader.join()
    with store.open() as connection:  # what a command does at its end, when the reader has gone
        assert store.ingest(connection) == []
        assert connection.execute("SELECT count(*) FROM attempts").fetchall() == [(3,)]


def stuck(child: Any) -> None:
    """A process that leads a group, starts another one, and does not listen."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child.value = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    time.sleep(600)


@pytest.mark.process
def test_a_stuck_process_is_ended_with_all_that_it_started(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.execute.executors.local.GRACE_SECONDS", 0.5)
    plan = plan_of(project, SUITE)
    executor = LocalExecutor(Store(project / "results"), Run("r", environment(1), plan.facts, 1))
    executor.watchdog = Watchdog()
    context = multiprocessing.get_context("spawn")
    child = context.Value("i", 0)
    process = context.Process(target=stuck, args=(child,))
    process.start()
    wait_for(lambda: child.value, 60)
    executor.kill(Running(plan.cells[0], project, None, process, "cpu", process.pid or 0))
    assert process.exitcode == -signal.SIGKILL
    wait_for(lambda: not resident(child.value), 10)


@pytest.mark.slow
@pytest.mark.process
def test_the_fork_server_may_be_killed(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("steps: 2", "steps: 300"))
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        for running in progress.running:
            if running.cell.label == "full" and running.events().get("phase") == "train" and not killed:
                killed.append(int(Path(f"/proc/{running.pid}/stat").read_text().rsplit(")", 1)[1].split()[1]))
                os.kill(killed[0], signal.SIGKILL)

    found = by_label(plan, run_cells(project, plan, watch=watch))
    assert found == {"base": "done", "full": "interrupted", "lora": "done"}


@pytest.mark.process
def test_ctrl_c_twice_stops_now_and_leaves_a_store_that_resumes(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("steps: 2", "steps: 1000000"))
    pressed: list[float] = []

    def watch(progress: Progress) -> None:
        training = any(running.events().get("step") for running in progress.running)
        if training and not pressed:
            pressed.append(time.monotonic())
            for _ in range(2):
                threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT)).start()
                time.sleep(0.2)

    progress = run_cells(project, plan, watch=watch)
    assert sorted(by_label(plan, progress).values()) == ["done", "interrupted", "to do"]
    (cut,) = (result for result in results_of(project) if result.status == "interrupted")
    assert cut.reason == "stopped by the user"
    with Store(project / "results").open(read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchall() == [(2,)]


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """A results folder on a disk of 24 MB."""
    folder = project / "results"
    folder.mkdir()
    if mount("size=24m", folder) != 0:
        pytest.skip("this user may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(options: str, folder: Path) -> int:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode


def tunebench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.process
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(project: Path, small_disk: Path) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE)
    assert tunebench("fetch", "small").returncode == 0
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * 2**20 * 23)
    done = tunebench("run", "small")
    assert done.returncode != 0
    assert "no space" in done.stderr
    assert "Traceback" not in done.stderr
    filler.unlink()
    again = tunebench("run", "small")
    assert again.returncode == 0, again.stderr
    with Store(small_disk).open(read_only=True) as connection:
        done_once = "SELECT count(*), count(DISTINCT spec_digest) FROM attempts WHERE status = 'done'"
        assert connection.execute(done_once).fetchall() == [(3, 3)]


def fill(folder: Path) -> Path:
    """Writes a file that takes the rest of a folder's disk; returns it."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 2**16)
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"0")
    return filler


@pytest.mark.process
def test_commands_on_a_full_disk_say_so_and_leave_no_half_database(project: Path, small_disk: Path) -> None:
    results = Results(small_disk)
    for number in range(60):  # more than what a database has room for without growing
        results.add(
            cell("lora", 8, number), scores(0.5), items=items("topic", "acc", [float(n % 2) for n in range(999)])
        )
    results.store()
    filler = fill(small_disk)
    before = (small_disk / "tunebench.duckdb").read_bytes()
    done = tunebench("rebuild")
    assert done.returncode != 0, done.stdout
    assert "no space is left on the disk" in done.stderr, done.stderr
    assert "damaged" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (small_disk / "tunebench.duckdb").read_bytes() == before
    assert not list(small_disk.glob(".rebuild*"))
    filler.unlink()
    assert tunebench("rebuild").returncode == 0


@pytest.mark.process
def test_output_to_a_full_disk_is_said(project: Path) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE)
    command = [sys.executable, "-m", "harness.cli", "models"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1 or done.returncode == 2
    assert "no space is left on the disk" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.process
def test_a_plan_is_made_in_a_read_only_folder(project: Path, small_disk: Path) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE)
    plan = plan_of(project)
    results = Results(small_disk, environment=environment(1))
    for made in plan.cells[:2]:
        results.add(made, scores(0.5))
    store = results.store()
    for removed in (False, True):
        if removed:
            store.path.unlink()
        assert mount("remount,ro", small_disk) == 0
        done = tunebench("plan", "small", "--threads", "1")
        assert done.returncode == 0, done.stderr
        assert "3 cells, 1 to run" in done.stdout
        assert mount("remount,rw", small_disk) == 0


@pytest.mark.slow
def test_a_read_only_results_folder_is_said_and_nothing_is_lost(project: Path, small_disk: Path) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE)
    assert tunebench("run", "small").returncode == 0
    assert mount("remount,ro", small_disk) == 0
    for command in (["run", "small"], ["rebuild"]):
        done = tunebench(*command)
        assert done.returncode == 2
        assert "cannot write to the results folder" in done.stderr
        assert "Read-only file system" in done.stderr
    assert "small" in tunebench("report", "small").stdout  # reading goes on
    assert mount("remount,rw", small_disk) == 0
    assert "3 finished before, 0 to run" in tunebench("run", "small").stdout


@pytest.mark.process
def test_status_from_another_terminal_while_a_run_goes_on(project: Path) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE.replace("steps: 2", "steps: 1000000"))
    # One thread: the other test process has the other core.
    command = [sys.executable, "-m", "harness.cli", "run", "small", "--threads", "1"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def training() -> bool:
            found = live_status(project / "results")
            return bool(found and any("step" in row for row in found.running))

        wait_for(training, 120)
        found = json.loads(tunebench("status", "--json").stdout)
        assert found["alive"]
        assert found["counts"] == {"done": 1, "running": 1, "to do": 1}
        (running,) = found["running"]
        assert (running["phase"], running["device"]) == ("train", "cpu")
        assert running["rss_bytes"] > 2**27
        shown = tunebench("status", "small").stdout
        assert "small is running" in shown
        assert running["key"] in shown
        second = tunebench("run", "small")
        assert second.returncode == 2
        assert f"another `tunebench` (pid {run.pid}) is writing" in second.stderr
    finally:
        run.kill()
        run.wait()
    assert "was killed; run it again to go on" in tunebench("status").stdout


@pytest.mark.process
def test_status_without_a_run(project: Path) -> None:
    done = tunebench("status")
    assert done.returncode == 2
    assert "`tunebench run SUITE` starts one" in done.stderr


def processes_of(project: Path) -> dict[int, str]:
    """The pids and names of processes that were started in a project's folder."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(folder / "cwd")) == project:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return found


@pytest.mark.process
@pytest.mark.parametrize("stopped", ["cell", pytest.param("fork server", marks=pytest.mark.slow)])
def test_nothing_outlives_a_killed_command_though_it_is_stopped(project: Path, stopped: str) -> None:
    (project / "suites" / "small.yaml").write_text(SUITE.replace("steps: 2", "steps: 1000000"))
    command = [sys.executable, "-m", "harness.cli", "run", "small", "--threads", "1"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pids: list[int] = []

    def training() -> bool:
        found = live_status(project / "results")
        pids[:] = [row["pid"] for row in found.running if "step" in row] if found else []
        return bool(pids)

    try:
        wait_for(training, 120)
        server = int(Path(f"/proc/{pids[0]}/stat").read_text().rsplit(")", 1)[1].split()[1])
        assert server != run.pid
        os.kill(pids[0] if stopped == "cell" else server, signal.SIGSTOP)
    finally:
        run.kill()
        run.wait()
    wait_for(lambda: not processes_of(project), 10)
    with sole_writer(project / "results"):
        pass
