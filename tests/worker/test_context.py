"""What the worker lends to plug-ins, and the context through which another cell's model is loaded."""

import ast
from pathlib import Path
from typing import Any

import pytest
from tools import cell_named, context_of, plan_of

from harness.methods import Context, all_methods
from harness.worker.context import CellContext

ROOT = Path(__file__).parents[2]
SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods:
  base: {}
  merged: {method: merge, experts: {method: lora, rank: 2, learn: [colours, names]}}
train: {steps: 2, batch_size: 4}
"""


def lent() -> set[str]:
    """The parts of a context that plug-ins may use."""
    return {name for name in {*Context.__annotations__, *vars(Context)} if not name.startswith("_")}


def test_plug_ins_use_what_they_are_lent_and_nothing_else() -> None:
    used = {
        node.attr
        for room in ("methods", "objectives", "curricula")
        for path in (ROOT / "harness" / room).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "context"
    }
    assert used <= lent()


def test_another_cells_model_is_loaded_through_a_context_of_its_own(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(project, SUITE)
    merged = cell_named(plan, "merged/tiny/colours/n8/s0")
    folders = {role: tmp_path / role.replace(":", "-") for role in merged.needs}
    context = context_of(plan, merged, tmp_path / "attempts" / "a", folders)
    assert lent() <= set(dir(context)) | set(vars(context))
    asked: list[tuple[Any, CellContext, Path]] = []

    def restore(self: Any, context: CellContext, folder: Path) -> str:
        asked.append((self, context, folder))
        return "model"

    monkeypatch.setattr(all_methods()["lora"], "restore", restore)
    role = next(role for role, need in merged.needs.items() if need in plan.by_digest())
    assert context.load_need(role) == "model"
    ((method, other, folder),) = asked
    expert = plan.by_digest()[merged.needs[role]]
    assert (other.cell, other.method, folder) == (expert, method, folders[role])
    assert (method.rank, other.task, other.settings) == (2, expert.task, expert.train)
    assert (other.needs, other.data.drawn) == ({}, {})
    assert other.findings is not context.findings
    assert not hasattr(other, "training"), "a model that was trained is not trained again"
    assert context.cell == merged
