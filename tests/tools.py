"""Short ways to a suite, a plan and a finished cell, for tests.

What runs a cell in this process is imported where it is used: tests that only plan load no torch.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samples import JOB

from harness.data.catalog import load_catalog
from harness.environment import environment
from harness.execute.executors.local import LocalExecutor
from harness.execute.resume import plan_state
from harness.execute.running import Limits, Progress, Run
from harness.plan.fetch import fetch_suite
from harness.plan.plan import Plan, make_plan
from harness.records import Cell, CellResult, Job
from harness.store.database import Store
from harness.store.files import attempts, read_result
from harness.store.files import write_job as store_job
from harness.suite.load import load_suite

if TYPE_CHECKING:
    from harness.worker.context import CellContext
    from harness.worker.training import CellTraining


def plan_of(root: Path, text: str | None = None, name: str = "small") -> Plan:
    """The plan of a suite of the project (`text` replaces its file first)."""
    path = root / "suites" / f"{name}.yaml"
    if text is not None:
        path.write_text(text)
    suite = load_suite(path)
    return make_plan(suite, fetch_suite(load_catalog(root), suite))


def cell_named(plan: Plan, key: str) -> Cell:
    return next(cell for cell in plan.cells if cell.key == key)


def run_cells(
    root: Path, plan: Plan, retry: frozenset[str] = frozenset(), watch: Any = None, **choices: Any
) -> Progress:
    """Run what is to do of a plan; `choices` are those of its Run, and the `executor` (the local one)."""
    executor = choices.pop("executor", LocalExecutor)
    store = Store(root / "results")
    threads = choices.pop("threads", 1)
    env = environment(threads)
    found = plan_state(plan, store, env.env_digest, retry)
    number = sum(1 for _ in attempts(store.folder))
    limits = Limits(plan.suite.time_limit, plan.suite.memory_limit)
    run = Run(f"run{number:03d}", env, plan.facts, threads, **{"limits": limits, "root": root, **choices})
    return executor(store, run, watch or (lambda progress: None)).run(plan, found.states, found.done, found.ended)


def by_label(plan: Plan, progress: Progress) -> dict[str, str]:
    """How the cells of each label ended; of several, the last."""
    return {cell.label: str(progress.states[cell.spec_digest]) for cell in plan.cells}


def results_of(root: Path) -> list[CellResult]:
    """Every result of a project, in the order of the attempts."""
    paths = sorted(root.glob("results/attempts/*/*/result.json"), key=lambda path: path.parent.name)
    return [read_result(path.parent) for path in paths]


def wait_for(ready: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def run_here(
    plan: Plan, cell: Cell, folder: Path, needs: dict[str, Path] | None = None, baseline: Path | None = None
) -> CellResult:
    """Run one cell in this process; its result. `folder` is the attempt's."""
    from harness.worker import cell as worker

    write_job(plan, cell, folder, needs, baseline)
    worker.run(folder)
    return read_result(folder)


def context_of(plan: Plan, cell: Cell, folder: Path, needs: dict[str, Path] | None = None) -> CellContext:
    """The context of a cell that trains in this process; nothing has been loaded yet."""
    from harness.worker.cell import CellRun

    folder.mkdir(parents=True)
    context = CellRun(folder, job_of(plan, cell, folder, needs)).context
    context.scratch.mkdir()
    return context


def training_of(context: CellContext) -> CellTraining:
    """What trains the model of a context made by `context_of`."""
    from harness.worker.training import CellTraining

    assert isinstance(context.training, CellTraining)
    return context.training


def write_job(
    plan: Plan, cell: Cell, folder: Path, needs: dict[str, Path] | None = None, baseline: Path | None = None
) -> None:
    """Make an attempt's folder, ready for a worker."""
    folder.mkdir(parents=True)
    store_job(folder, job_of(plan, cell, folder, needs, baseline))


def job_of(
    plan: Plan, cell: Cell, folder: Path, needs: dict[str, Path] | None = None, baseline: Path | None = None
) -> Job:
    """The job of a cell on one thread. `needs` has the weights of the cells that it needs, `baseline` the attempt of
    the base model."""
    needs = needs or {}
    return dataclasses.replace(
        JOB,
        cell=cell,
        environment=environment(1),
        models={name: Path(plan.facts.models[name].folder) for name in (cell.model, *cell.borrows)},
        tasks={name: Path(plan.facts.tasks[name].path) for name in (*cell.learn, *cell.retain, *cell.reads)},
        needs=needs,
        needed={role: plan.by_digest()[cell.needs[role]] for role in needs},
        baseline=baseline / "items.parquet" if baseline else None,
        documents=folder.parent.parent / "documents",
        results=folder,
    )
