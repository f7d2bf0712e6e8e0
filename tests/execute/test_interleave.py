"""The same cells in two environments, by turns."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import plan_of, results_of
from wheels import doctored

from harness.environment import version_of
from harness.execute.environments import make_environment
from harness.execute.interleave import run_by_turns
from harness.execute.session import Choices, Session
from harness.store.database import Store
from harness.suite import parse_request
from harness.trackers import open_trackers

SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
methods: {full: {learning_rate: 1e-2}}
train: {steps: 2, batch_size: 4}
"""


@pytest.mark.process
def test_cells_run_in_each_environment_by_turns_and_come_out_the_same(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that no cell uses differs: every value is the same, and each result names its environment."""
    plan, store = plan_of(project, SUITE), Store(project / "results")
    wheel = doctored(tmp_path, "rouge_score", "99.0", "", "", "")
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    made = [make_environment(parse_request(text), 1) for text in ("current", str(wheel))]
    sessions = [
        Session(
            plan, store, one.about, Choices("local", 1, 1, python=None if one.request.is_base else one.python), project,
            open_trackers((), print),
        )
        for one in made
    ]  # fmt: skip
    assert not run_by_turns(sessions, "regress", lambda session, progress: None)
    found = sorted(results_of(project), key=lambda result: result.started)
    digests = [one.about.env_digest for one in made]
    assert [result.environment.env_digest for result in found] == digests * 2
    assert [result.cell.key for result in found] == [key for cell in plan.cells for key in (cell.key, cell.key)]
    assert {str(result.status) for result in found} == {"done"}
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.scores == second.scores
        assert [step.loss for step in first.steps] == [step.loss for step in second.steps]
    versions = [result.environment.packages["rouge_score"].split()[0] for result in found[:2]]
    assert versions == [version_of("rouge_score"), "99.0"]
