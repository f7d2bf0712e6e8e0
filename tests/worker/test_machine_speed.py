"""The machine's speed is that of a fixed product, is kept with every cell, and measuring it changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tools import cell_named, plan_of, run_here

from harness.records import SPEED_AFTER, SPEED_BEFORE
from harness.worker.profiling import machine_speed as module
from harness.worker.profiling.machine_speed import machine_speed, speed_facts, timed

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods: {full: {}}
train: {steps: 2, batch_size: 4}
"""


def test_a_cell_keeps_the_speed_before_and_after_it(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE)
    result = run_here(plan, cell_named(plan, "full/tiny/colours/n8/s0"), tmp_path / "cell")
    assert result.status == "done", result.reason
    facts = {fact.name: fact for fact in result.facts}
    for name in (SPEED_BEFORE, SPEED_AFTER):
        assert facts[name].unit == "FLOP/s"
        assert facts[name].value > 1e7
        assert facts[name].higher_is_better is None
    assert [fact.name for fact in result.facts][-1] == SPEED_AFTER


def test_no_random_number_and_no_setting_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.001)
    threads, state, precision = torch.get_num_threads(), torch.get_rng_state(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        machine_speed(threads + 1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_the_median_product_and_waits_for_no_long_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # One product in five is disturbed: the median does not see it.
    monkeypatch.setattr(module, "timed", lambda seconds, total, least: [1e-3] * 4 + [1.0])
    assert machine_speed(1) == pytest.approx(2 * 512**3 / 1e-3)
    assert timed(lambda: 0.02, 0.05, 2) == [0.02] * 3
    assert timed(lambda: 9.0, 0.05, 5) == [9.0] * 5


def test_a_full_gpu_costs_the_figure_and_not_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(threads: int) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "machine_speed", no_room)
    assert speed_facts(SPEED_AFTER, 1) == []
