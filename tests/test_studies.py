from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tools import plan_of, results_of, run_cells

from harness.records import Status

TUNED = """
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
methods:
  base: {}
  full: {}
seeds: [0, 1]
train: {steps: 4, batch_size: 4, max_length: 32}
tune: {trials: 5, batch: 2}
"""


def trials_of(root: Path) -> list[Any]:
    return [result for result in results_of(root) if result.cell.trial]


def study_result(root: Path) -> Any:
    return next(result for result in results_of(root) if result.cell.study)


def test_a_study_runs_its_trials_and_its_cells_learn_with_what_it_found(project: Path) -> None:
    plan = plan_of(project, TUNED)
    assert [cell.key for cell in plan.cells] == [
        "base/tiny/colours", "full/tiny/colours/n8/study", "full/tiny/colours/n8/s0", "full/tiny/colours/n8/s1"
    ]  # fmt: skip
    progress = run_cells(project, plan)
    assert {progress.states[cell.spec_digest] for cell in plan.cells} == {Status.DONE}
    study = study_result(project)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3, 4]
    assert study.trials[0].params == {"learning_rate": 1e-4}
    assert study.trials[0].origin == "default"
    best = max(study.trials, key=lambda trial: (trial.merits[0], -trial.values["choice_cross_entropy"]))
    assert study.tuned == best.params
    finals = [result for result in results_of(project) if result.cell.seed is not None and not result.cell.trial]
    assert [result.tuned for result in finals] == [best.params, best.params]
    rates = [max(step.learning_rate or 0 for step in result.steps) for result in finals]
    assert rates == pytest.approx([best.params["learning_rate"]] * 2)
