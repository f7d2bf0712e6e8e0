"""Short ways to a suite, a plan and a finished cell, for tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from harness import worker
from harness.catalog import load_catalog
from harness.environment import environment
from harness.fetch import fetch
from harness.plan import Plan, make_plan
from harness.records import Cell, CellResult
from harness.suite import load_suite


def plan_of(root: Path, text: str | None = None, name: str = "small") -> Plan:
    """The plan of a suite of the project (`text` replaces its file first)."""
    path = root / "suites" / f"{name}.yaml"
    if text is not None:
        path.write_text(text)
    suite = load_suite(path)
    return make_plan(suite, fetch(load_catalog(root), suite))


def cell_named(plan: Plan, key: str) -> Cell:
    return next(cell for cell in plan.cells if cell.key == key)


def run_here(
    plan: Plan, cell: Cell, folder: Path, needs: dict[str, Path] | None = None, baseline: Path | None = None
) -> CellResult:
    """Run one cell in this process; its result. `folder` is the attempt's."""
    write_job(plan, cell, folder, needs, baseline)
    worker.run(folder)
    return CellResult.from_json(json.loads((folder / "result.json").read_text()))


def write_job(
    plan: Plan, cell: Cell, folder: Path, needs: dict[str, Path] | None = None, baseline: Path | None = None
) -> None:
    """Make an attempt's folder, ready for a worker."""
    folder.mkdir(parents=True)
    job: dict[str, Any] = {
        "run_id": "test",
        "cell": cell.to_json(),
        "environment": dataclasses.asdict(environment(2)),
        "model_folder": plan.facts.models[cell.model].folder,
        "tasks": {name: plan.facts.tasks[name].path for name in (*cell.learn, *cell.retain)},
        "needs": {role: str(path) for role, path in (needs or {}).items()},
        "baseline": str(baseline or ""),
        "threads": 2,
        "contended": False,
    }
    (folder / "job.json").write_text(json.dumps(job))
