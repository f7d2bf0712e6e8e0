"""Where cells run: each in a process of its own, whatever happens to it."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tools import by_label, plan_of, results_of, run_cells, wait_for

from harness.environment import environment
from harness.execute.resume import plan_state
from harness.execute.running import Progress
from harness.records import Status
from harness.store.database import Store

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
retain: [prose]
methods:
  base: {}
  lora: {learning_rate: 1e-2}
train: {steps: STEPS, batch_size: 4}
"""


def kill_when(label: str, number: int) -> Any:
    """A watcher that sends a signal to a label's process as soon as it has begun to train."""
    sent: list[int] = []

    def watch(progress: Progress) -> None:
        for running in progress.running:
            if running.cell.label == label and running.events().get("phase") and not sent:
                sent.append(running.pid)
                os.kill(running.pid, number)

    return watch


@pytest.mark.process
def test_cells_run_apart_and_a_second_run_runs_none(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("STEPS", "2"))
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "lora": "done"}
    found = results_of(project)
    assert len(found) == 2
    assert found[0].scores[0].metric == "acc"
    assert run_cells(project, plan).seconds == {}
    assert len(results_of(project)) == 2
    assert run_cells(project, plan, frozenset({"done"})).seconds.keys() == {c.spec_digest for c in plan.cells}


@pytest.mark.process
def test_a_killed_cell_is_interrupted_and_goes_on_next_time(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("STEPS", "400"))
    progress = run_cells(project, plan, watch=kill_when("lora", signal.SIGKILL))
    assert by_label(plan, progress) == {"base": "done", "lora": "interrupted"}
    assert "killed by signal 9" in results_of(project)[-1].reason
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "lora": "done"}


@pytest.mark.process
def test_a_crash_is_a_failure_that_waits_for_retry(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("STEPS", "400"))
    progress = run_cells(project, plan, watch=kill_when("lora", signal.SIGSEGV))
    assert by_label(plan, progress) == {"base": "done", "lora": "failed"}
    assert "signal 11" in results_of(project)[-1].reason
    assert run_cells(project, plan).seconds == {}
    assert by_label(plan, run_cells(project, plan, frozenset({"failed"})))["lora"] == "done"


@pytest.mark.process
def test_the_time_limit(project: Path) -> None:
    text = SUITE.replace("STEPS", "100000") + "time_limit: 8\n"
    plan = plan_of(project, text)
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "lora": "timeout"}
    assert results_of(project)[-1].reason == "took longer than the time limit of 8 s"


@pytest.mark.process
def test_what_a_device_cannot_do_is_skipped_and_the_others_go_on(project: Path) -> None:
    text = SUITE.replace("STEPS", "2").replace("  lora:", "  half: {method: full, train: {precision: fp16}}\n  lora:")
    plan = plan_of(project, text)
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "half": "skipped", "lora": "done"}


@pytest.mark.process
def test_divergence_is_told_apart(project: Path) -> None:
    plan = plan_of(
        project,
        SUITE.replace("STEPS", "20").replace("lora: {learning_rate: 1e-2}", "full: {learning_rate: 1e30}"),
    )
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "full": "diverged"}


@pytest.mark.model
@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", Status.OOM),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", Status.OOM),
        ("I/O error: No space left on device (os error 28)", Status.INTERRUPTED),
        ("shape mismatch", Status.FAILED),
    ],
)
def test_what_an_error_says_decides_the_status(tmp_path: Path, message: str, status: Status) -> None:
    from harness.worker.cell import classify

    assert classify(RuntimeError(message), tmp_path)[0] is status


@pytest.mark.process
def test_what_needs_a_failed_cell_is_skipped_and_runs_when_it_is_mended(project: Path) -> None:
    text = (
        SUITE.replace("STEPS", "400")
        + "  merged: {method: merge, experts: {method: lora, learning_rate: 1e-2, learn: [colours, names]}}\n"
    )
    text = text.replace("train: {steps: 400, batch_size: 4}\n", "") + "train: {steps: 400, batch_size: 4}\n"
    plan = plan_of(project, text)

    progress = run_cells(project, plan, watch=kill_when("lora", signal.SIGSEGV))
    merged = next(cell for cell in plan.cells if cell.label == "merged")
    assert progress.states[merged.spec_digest] == "skipped"
    assert "(failed)" in next(r.reason for r in results_of(project) if r.cell.label == "merged")
    again = run_cells(project, plan, frozenset({"failed"}))
    assert set(map(str, again.states.values())) == {"done"}


@pytest.mark.process
def test_ctrl_c_once_finishes_what_runs(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("STEPS", "3").replace("  lora:", "  full: {}\n  lora:"))
    pressed: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.running and not pressed:
            pressed.append(time.monotonic())
            threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    progress = run_cells(project, plan, watch=watch)
    assert progress.stopping
    assert sorted(by_label(plan, progress).values()) == ["done", "to do", "to do"]
    assert set(by_label(plan, run_cells(project, plan)).values()) == {"done"}


@pytest.mark.slow  # stopped ones, in test_survival.py, are the harder case
@pytest.mark.process
def test_no_orphans_when_the_command_is_killed(project: Path) -> None:
    """kill -9 of the command: its cell's process ends too."""
    import subprocess
    import sys

    (project / "suites" / "long.yaml").write_text(SUITE.replace("STEPS", "1000000"))
    command = [sys.executable, "-m", "harness.cli", "run", "long"]
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    folder = project / "results" / "attempts"

    def training() -> bool:
        return any('"step"' in path.read_text() for path in folder.glob("*/*/events.jsonl"))

    wait_for(training, 90)
    os.kill(done.pid, signal.SIGKILL)
    done.wait()
    last = sorted(folder.glob("*/*/events.jsonl"))[-1]

    def quiet() -> bool:
        size = last.stat().st_size
        time.sleep(2)
        return last.stat().st_size == size

    wait_for(quiet, 30)
    assert not (last.parent / "result.json").exists()


@pytest.mark.process
def test_weights_that_are_gone_are_made_again_when_needed(project: Path) -> None:
    import shutil

    text = (
        SUITE.replace("STEPS", "2")
        + "  merged: {method: merge, experts: {method: lora, learning_rate: 1e-2, learn: [colours, names]}}\n"
    )
    text = text.replace("train: {steps: 2, batch_size: 4}\n", "") + "train: {steps: 2, batch_size: 4}\n"
    plan = plan_of(project, SUITE.replace("STEPS", "2"))
    run_cells(project, plan)
    for folder in (project / "results").glob("attempts/*/*/weights"):
        shutil.rmtree(folder)
    plan = plan_of(project, text)
    progress = run_cells(project, plan)
    assert set(by_label(plan, progress).values()) == {"done"}
    # base (and once more, now also on names), lora twice, the other expert, merged
    assert len(results_of(project)) == 6


@pytest.mark.process
@pytest.mark.parametrize(
    "damage", ["{", *(pytest.param(text, marks=pytest.mark.slow) for text in ("", '{"attempt_id": 1}', "[]"))]
)
def test_a_damaged_result_is_told_and_its_cell_runs_again(project: Path, damage: str) -> None:
    plan = plan_of(project, SUITE.replace("STEPS", "2"))
    run_cells(project, plan)
    path = sorted((project / "results").glob("attempts/*/*/result.json"))[1]
    path.write_text(damage)
    store = Store(project / "results")
    store.path.unlink()
    found = plan_state(plan, store, environment(1).env_digest)
    assert len(found.complaints) == 1
    assert str(path.parent) in found.complaints[0]
    assert sorted(map(str, found.states.values())) == ["done", "to do"]
    assert path.read_text() == damage
