"""Scores along training: where they fall, that training does not notice, and that they are kept."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tools import cell_named, plan_of, run_cells, run_here

from harness.errors import SuiteError
from harness.records import CellResult
from harness.store.database import Store
from harness.worker.checkpoints import evenly_spaced, undisturbed

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [16]}}
retain: [prose, names]
methods:
  x: {label}
seeds: [0]
train: {{steps: 8, batch_size: 4, warmup: 0.0{more}}}
"""


def plan_for(project: Path, label: str, more: str = "") -> Any:
    return plan_of(project, SUITE.format(label=label, more=more))


def cell_of(project: Path, folder: Path, label: str, more: str = "") -> CellResult:
    plan = plan_for(project, label, more)
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n16/s0"), folder)
    assert str(result.status) == "done", result.reason
    return result


@given(st.integers(1, 500), st.integers(1, 20))
def test_places_divide_the_steps(steps: int, count: int) -> None:
    found = evenly_spaced(steps, count)
    assert found == sorted(set(found))
    assert all(0 < step < steps for step in found)
    assert len(found) == count or steps <= count + 1
    ends = [0, *found, steps]
    if len(found) == count:
        assert all(abs((b - a) - steps / (count + 1)) <= 1 for a, b in pairwise(ends))


def test_places_by_hand() -> None:
    assert evenly_spaced(48, 3) == [12, 24, 36]
    assert evenly_spaced(1, 3) == []


@pytest.mark.parametrize(
    "label",
    [
        "{method: lora, dropout: 0.5, learning_rate: 1e-2}",
        "{method: lisa, layers: 1, every: 2}",
        "{method: prompt_tuning, init: random, virtual_tokens: 3}",
    ],
)
def test_training_does_not_notice(project: Path, tmp_path: Path, label: str) -> None:
    folders = [tmp_path / "attempts" / name for name in ("plain", "scored")]
    plain = cell_of(project, folders[0], label)
    scored = cell_of(project, folders[1], label, ", checkpoints: 3")
    weights = [
        {(path.name, name): value for path in sorted((folder / "weights").glob("*.safetensors"))
         for name, value in load_file(path).items()}
        for folder in folders
    ]  # fmt: skip
    assert weights[0].keys() == weights[1].keys() != set()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert [step.loss for step in plain.steps] == [step.loss for step in scored.steps]
    assert plain.scores == scored.scores
    assert plain.checkpoints == ()
    assert {point.step for point in scored.checkpoints} - {0} == {2, 4, 6}


def test_what_is_kept(project: Path, tmp_path: Path) -> None:
    result = cell_of(project, tmp_path / "attempts" / "a", "{method: full, learning_rate: 1e-2}", ", checkpoints: 1")
    known = [(score.task, score.role, score.metric) for score in result.scores if score.metric != "kl_to_base"]
    assert [(point.task, point.role, point.metric) for point in result.checkpoints] == known
    assert {point.step for point in result.checkpoints} == {4}
    final = {(score.task, score.metric): score for score in result.scores}
    for point in result.checkpoints:
        end = final[point.task, point.metric]
        assert (point.n, point.higher_is_better) == (end.n, end.higher_is_better)
    assert any(point.value != final[point.task, point.metric].value for point in result.checkpoints)
    phases = {phase.phase: phase for phase in result.phases}
    assert phases["score_checkpoints"].samples == 30 + 30 + 6
    assert phases["train"].samples == 8 * 4
    assert set(phases) == {"load", "check", "train", "score_checkpoints", "evaluate", "compare", "infer", "save"}


def test_a_checkpoint_of_an_earlier_step_is_that_of_a_shorter_training(project: Path, tmp_path: Path) -> None:
    label = "{method: full, learning_rate: 1e-2}"
    constant = ", schedule: constant"
    long = cell_of(project, tmp_path / "attempts" / "long", label, f"{constant}, checkpoints: 1")
    short = cell_of(project, tmp_path / "attempts" / "short", label.replace("}", ", train: {steps: 4}}"), constant)
    ends = {(score.task, score.metric): score for score in short.scores}
    for point in long.checkpoints:
        end = ends[point.task, point.metric]
        assert point.value == pytest.approx(end.value, rel=1e-5)
        assert point.stderr == pytest.approx(end.stderr, rel=1e-4)


def test_in_bf16_a_checkpoint_is_scored_as_the_end_is(project: Path, tmp_path: Path) -> None:
    """accelerate's autocast stands around the model while it is trained; untrained weights show it."""
    label, more = "{method: full, learning_rate: 1e-30}", ", precision: bf16, checkpoints: 1"
    result = cell_of(project, tmp_path / "attempts" / "a", label, more)
    final = {(score.task, score.metric): score.value for score in result.scores}
    assert result.checkpoints
    assert all(point.value == final[point.task, point.metric] for point in result.checkpoints)


def test_a_start_that_is_not_the_base_is_scored(project: Path, tmp_path: Path) -> None:
    label = "{method: prompt_tuning, init: random, virtual_tokens: 3}"
    result = cell_of(project, tmp_path / "attempts" / "a", label, ", checkpoints: 1")
    assert [point.step for point in result.checkpoints if point.metric == "acc"] == [0, 4]


def test_each_stage_has_checkpoints(project: Path, tmp_path: Path) -> None:
    label = "{method: full, curriculum: {sequential: {tasks: [colours, names]}}}"
    result = cell_of(project, tmp_path / "attempts" / "a", label, ", checkpoints: 1")
    assert sorted({point.step for point in result.checkpoints}) == [2, 6]


@pytest.mark.parametrize(
    "label",
    ["{method: linear_probe, solver: sgd}", "{method: [lora, prompting], prompting: {examples: 2}}", "{method: base}"],
)
def test_what_has_no_curve_is_not_scored_on_the_way(project: Path, tmp_path: Path, label: str) -> None:
    if "base" in label:
        plan = plan_for(project, "{method: full}", ", checkpoints: 1")
        result = run_here(plan, cell_named(plan, "base/tiny/colours"), tmp_path / "attempts" / "a")
    else:
        result = cell_of(project, tmp_path / "attempts" / "a", label, ", checkpoints: 1")
    assert result.checkpoints == ()
    assert "score_checkpoints" not in {phase.phase for phase in result.phases}


def test_everything_is_put_back() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2))
    model.config = type("Config", (), {"use_cache": False})()  # type: ignore[assignment]
    model.train()
    model[1].eval()
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert model.config.use_cache
        drawn = torch.rand(1), random.random(), numpy.random.rand()
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert not model.config.use_cache
    assert (torch.rand(1), random.random(), numpy.random.rand()) == drawn


def test_asking_for_checkpoints_makes_another_cell_and_not_asking_the_same(project: Path) -> None:
    digests = [
        cell_named(plan_for(project, "{method: full}", more), "x/tiny/colours/n16/s0").spec_digest
        for more in ("", ", checkpoints: null", ", checkpoints: 2")
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("label", "more", "said"),
    [
        ("{method: full}", ", checkpoints: 0", "checkpoints"),
        ("{method: full}", ", checkpoints: 2, devices: 2", "small.yaml:9: label 'x': checkpoints are scored by one"),
        ("{method: full, train: {checkpoints: 2, eval_every: 1, early_stopping: 1}}", "", "small.yaml:7: label 'x'"),
    ],
)
def test_what_cannot_be_scored_on_the_way_is_said(project: Path, label: str, more: str, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan_for(project, label, more)
    assert said in str(caught.value)


@pytest.mark.process
def test_they_are_stored_and_stored_again(project: Path) -> None:
    plan = plan_for(project, "{method: full, learning_rate: 1e-2}", ", checkpoints: 2")
    run_cells(project, plan)
    store = Store(project / "results")
    query = "SELECT * FROM checkpoints ORDER BY ALL"
    with store.open(read_only=True) as connection:
        first = connection.execute(query).fetchall()
    assert {row[1] for row in first} == {3, 5}
    assert {(row[2], row[3]) for row in first} == {("colours", "task"), ("prose", "retain"), ("names", "retain")}
    store.rebuild()
    with store.open(read_only=True) as connection:
        assert connection.execute(query).fetchall() == first
