"""Out of memory on a CPU, with evidence."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.execute import watchdog
from harness.execute.watchdog import Watchdog, cgroup_folders, family, memory_left, resident, total_memory
from harness.records import Status

pytestmark = pytest.mark.process

MIB = 2**20
HOLD = "import sys, time; held = bytearray(int(sys.argv[1]) * 2**20); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder():
    """A function that starts a process, in a group of its own, that holds so many MiB."""
    started = []

    def start(size: int, code: str = HOLD) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(size)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout.readline() == "held\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.process
def test_what_a_process_holds(holder) -> None:
    process = holder(64)
    assert 64 * MIB < resident(process.pid) < 128 * MIB
    process.kill()
    process.wait()
    assert resident(process.pid) == 0


@pytest.mark.process
def test_a_cell_that_passes_its_limit_is_ended_with_the_figures(holder) -> None:
    small, large = holder(16), holder(200)
    watch = Watchdog(limit=128 * MIB)
    watch.watch(small.pid)
    watch.watch(large.pid)
    watch.start()
    try:
        assert large.wait(20) == -9
        assert small.poll() is None
        peak, verdict = watch.forget(large.pid)
    finally:
        watch.stop()
    assert peak > 200 * MIB
    assert verdict is not None
    assert verdict[0] is Status.OOM
    assert verdict[1].startswith("held 0.2")
    assert verdict[1].endswith("GiB resident; the memory limit of a cell is 0.12 GiB")
    assert watch.forget(small.pid)[1] is None


@pytest.mark.process
def test_what_a_cell_started_counts_with_it(holder) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {HOLD!r}, sys.argv[1]], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline().strip(), flush=True)\n"
        "time.sleep(60)"
    )
    parent = holder(200, code)
    (child,) = family(parent.pid)
    watch = Watchdog(limit=128 * MIB)
    watch.watch(parent.pid)
    watch.look()
    assert watch.verdicts[parent.pid][0] is Status.OOM
    assert parent.wait(20) == -9
    deadline = time.monotonic() + 20
    while resident(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.process
@pytest.mark.parametrize(("machine", "status"), [(256 * MIB, Status.OOM), (10**15, Status.INTERRUPTED)])
def test_when_the_machine_runs_dry_the_largest_goes_and_is_blamed_only_if_it_was_the_cause(
    holder, monkeypatch: pytest.MonkeyPatch, machine: int, status: Status
) -> None:
    small, large = holder(16), holder(160)
    watch = Watchdog()
    monkeypatch.setattr(watchdog, "memory_left", lambda: MIB)
    monkeypatch.setattr(watchdog, "total_memory", lambda: machine)
    watch.watch(small.pid)
    watch.watch(large.pid)
    watch.look()
    watch.look()  # what was ended is still giving its memory back: nobody else is ended meanwhile
    assert {pid: verdict[0] for pid, verdict in watch.verdicts.items()} == {large.pid: status}
    assert "when the machine had 0.00 GiB left" in watch.verdicts[large.pid][1]


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300000\n")
    monkeypatch.setattr(watchdog, "cgroup_folders", lambda: [tmp_path])
    assert memory_left() == 400000
    assert total_memory() == 1000000
    (tmp_path / "memory.max").write_text("max\n")
    assert total_memory() > 2**30


def test_this_machine_can_be_asked() -> None:
    assert 0 < memory_left() <= total_memory()
    assert all(folder.is_absolute() for folder in cgroup_folders())
    assert watchdog.system_kills() >= 0
