"""How long cells take where none has ended: by their arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools import plan_of

from harness.environment import environment
from harness.execute.first_guess import guess_seconds
from harness.execute.forecast import forecast_cells
from harness.execute.self_check_cache import peaks_kept_at
from harness.store.database import Store
from harness.store.files import write_atomically

SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [16]}]
methods: {full: {}, lora: {}, grpo: {}}
train: {steps: %d, batch_size: 4}
"""


def seconds_of(project: Path, steps: int, peak: float = 1e9) -> dict[str, float | None]:
    """Label -> guess, on a machine with this rate in FLOP/s."""
    write_atomically(peaks_kept_at(environment(1).env_digest), json.dumps({"auto": peak, "fp32": None}))
    plan = plan_of(project, SUITE % steps)
    return {cell.label: guess_seconds(cell, plan.facts, environment(1)) for cell in plan.cells}


def test_training_costs_by_its_steps_and_frozen_weights_less(project: Path) -> None:
    short, long = seconds_of(project, 100), seconds_of(project, 300)
    assert short["grpo"] is None, "a trainer of its own"
    assert short["base"] == long["base"]
    by_label = {label: long[label] - short[label] for label in ("full", "lora")}  # type: ignore[operator]
    assert by_label["full"] / by_label["lora"] == pytest.approx(6 / 4)
    assert short["base"] < short["lora"] < short["full"]  # type: ignore[operator]


def test_a_machine_twice_as_fast_takes_half_of_what_is_computed(project: Path) -> None:
    slow, fast = seconds_of(project, 300, 1e9), seconds_of(project, 300, 2e9)
    assert slow["full"] - 6 == pytest.approx(2 * (fast["full"] - 6))  # type: ignore[operator]


def test_a_guess_is_marked_until_a_cell_has_ended(project: Path) -> None:
    plan = plan_of(project, SUITE % 3)
    rows = forecast_cells(plan, Store(project / "results"), environment(1))
    assert {row.method: row.guessed for row in rows} == {"base": True, "full": True, "lora": True, "grpo": False}
    assert all(row.seconds and row.seconds > 6 for row in rows if row.guessed)
