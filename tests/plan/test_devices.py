"""How many devices a cell asks for, and what a machine has too few of."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tools import cell_named, plan_of

from harness.plan import Plan, devices, devices_missing, devices_of
from harness.records import Cell


def plan_with(project: Path, methods: dict[str, Any], **train: Any) -> Plan:
    suite = {
        "version": 1,
        "models": ["tiny"],
        "tasks": [{"learn": "colours", "sizes": [16]}],
        "methods": {"base": {}, **methods},
        "train": {"steps": 8, "batch_size": 4, **train},
    }
    return plan_of(project, yaml.safe_dump(suite))


def cell_on(project: Path, **train: Any) -> Cell:
    return cell_named(plan_with(project, {"lora": {"train": train}}), "lora/tiny/colours/n16/s0")


def test_what_a_machine_has_too_few_of(project: Path) -> None:
    assert devices_missing(cell_on(project), 0) is None
    wanted = cell_on(project, devices=4)
    assert devices_of(wanted) == 4
    assert devices_missing(wanted, 0) is None  # four processes on a CPU
    assert devices_missing(wanted, 4) is None
    assert "devices is 4, and there are 2 here" in str(devices_missing(wanted, 2))


def test_deepspeed_wants_its_package_and_gpus(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_on(project, devices=2, strategy="deepspeed")
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert "needs the package deepspeed" in str(devices_missing(cell, 2))
    monkeypatch.setattr(devices, "find_spec", lambda name: object())
    assert "needs GPUs" in str(devices_missing(cell, 0))
    assert devices_missing(cell, 2) is None


def test_a_merge_leaves_the_devices_to_its_experts(project: Path) -> None:
    merged = {"method": "merge", "experts": {"method": "lora", "learn": ["colours", "names"]}}
    plan = plan_with(project, {"lora": {}, "merged": merged}, devices=2)
    assert {cell.label: devices_of(cell) for cell in plan.cells} == {"base": 1, "lora": 2, "merged": 1}
