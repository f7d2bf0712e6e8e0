"""What every executor owes, whatever its cells run on: one contract over all that can be used here."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import writers
from tools import by_label, plan_of, results_of, run_cells, wait_for

from harness.execute.executors import Executor, all_executors
from harness.execute.executors.base import ctrl_c
from harness.execute.running import Progress
from harness.store.files import attempt_folder

ADDRESS = {"slurm": "local"}  # submitit's jobs as processes of this machine
SLOW = {"ray", "slurm"}  # a minute or more each; that Ray loses a node and goes on is tested by `make test` too
USABLE = [
    pytest.param(kind, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, kind in all_executors().items()
    if kind.skip() is None
]

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
retain: [prose]
methods:
  base: {}
  lora: {learning_rate: 1e-2}
  merged: {method: merge, experts: {method: lora, learning_rate: 1e-2, learn: [colours, names]}}
  wild: {method: full, learning_rate: 1e30, train: {steps: 20}}
  half: {method: full, train: {precision: fp16}}
train: {steps: 2, batch_size: 4}
"""
ENDLESS = SUITE.replace("train: {steps: 2,", "  endless: {method: lora, train: {steps: 1000000}}\ntrain: {steps: 2,")


@pytest.fixture(params=USABLE)
def executor(request: pytest.FixtureRequest) -> type[Executor]:
    return request.param


def address(executor: type[Executor]) -> str:
    return ADDRESS.get(executor.name, "")


@pytest.mark.process
def test_every_way_to_end(project: Path, executor: type[Executor]) -> None:
    plan = plan_of(project, SUITE)
    progress = run_cells(project, plan, executor=executor, jobs=2, address=address(executor))
    assert by_label(plan, progress) == {
        "base": "done", "lora": "done", "merged": "done", "wild": "diverged", "half": "skipped",
    }  # fmt: skip
    results = {result.cell.key: result for result in results_of(project)}
    assert len(results) == len(results_of(project)) == len(plan.cells)
    for cell in plan.cells:
        result = results[cell.key]
        folder = attempt_folder(project / "results", result.attempt_id)
        assert result.cell == cell
        assert not list(folder.glob(".*"))
        ran = result.status != "skipped"  # what cannot run is never started
        assert bool(result.device) == (folder / "log.txt").exists() == (folder / "events.jsonl").exists() == ran
        assert (folder / "weights").exists() == (cell.label in ("lora", "merged"))
        assert bool(result.scores) == (folder / "items.parquet").exists() == (result.status == "done")
    assert len(list(project.glob("results/documents/*.parquet"))) == 3

    more = plan_of(project, ENDLESS + "time_limit: 5\n")
    again = run_cells(project, more, executor=executor, address=address(executor))
    assert [(cell.label, status) for cell, status, _ in again.ended] == [("endless", "timeout")]
    assert results_of(project)[-1].reason == "took longer than the time limit of 5 s"


@pytest.mark.process
def test_sigterm_leaves_nothing_behind_and_the_next_run_goes_on(project: Path, executor: type[Executor]) -> None:
    plan = plan_of(project, ENDLESS)
    sent: list[str] = []

    def watch(progress: Progress) -> None:
        for running in progress.running:
            if running.cell.label == "endless" and running.events().get("step") and not sent:
                assert list(writers(running.folder.name))
                sent.append(running.folder.name)
                threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    progress = run_cells(project, plan, executor=executor, watch=watch, jobs=2, address=address(executor))
    assert progress.stopping
    assert by_label(plan, progress)["endless"] == "interrupted"
    wait_for(lambda: not list(writers(sent[0])), 60)  # a cluster that ends takes its time on a loaded machine
    (result,) = (result for result in results_of(project) if result.attempt_id == sent[0])
    assert result.reason == "stopped by the user"


def test_a_signal_that_is_swallowed_ends_the_run_all_the_same() -> None:
    progress = Progress(Any, {})  # type: ignore[arg-type]
    with ctrl_c(progress):
        with suppress(KeyboardInterrupt):  # as C++ code does that has called back into Python
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            Executor._step(SimpleNamespace(progress=progress))  # type: ignore[arg-type]
