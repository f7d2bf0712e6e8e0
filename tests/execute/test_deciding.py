"""Deciding a suite's cells: which run, in which order, when it ends, and what is kept. Cells are not trained here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import Results, items
from tools import plan_of

from harness.environment import environment
from harness.errors import UserError
from harness.execute.deciding import Aim, Decider, preview
from harness.execute.durations import Durations
from harness.execute.queue import HELD, TO_DO
from harness.execute.races import Race, lacking, races_of
from harness.execute.running import Progress
from harness.plan import Plan
from harness.records import Cell, Flag, Score, Status
from harness.store import looks_of

SUITE = """
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8, 16]}]
methods:
  base: {}
  full: {}
  lora: {}
seeds: [0, 1, 2]
train: {steps: 4, batch_size: 4}
"""


@dataclass
class Machine:
    """Ends cells without running them. `shares` are the right answers of a label, whose seeds vary by `spread`; `ends`
    maps labels to another status than "done"."""

    plan: Plan
    folder: Path
    shares: dict[str, float]
    spread: float = 0.0
    ends: dict[str, Status] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results = Results(self.folder, suite=self.plan.suite.name, environment=environment(1), margin=0.02)
        for cell in self.plan.cells:
            self.results.member(cell)
        self.store = self.results.store()
        self.progress = Progress(self.plan, dict.fromkeys(self.plan.by_digest(), HELD))
        self.ran: list[str] = []

    def end(self, cell: Cell) -> None:
        random = numpy.random.default_rng([cell.run_seed, len(cell.label)])
        share = self.shares.get(cell.label, 0.5) + random.normal(0, self.spread)
        easy = numpy.random.default_rng(0).random(200)
        right = [float(value) for value in easy + random.normal(0, 0.01, 200) < share]
        status = self.ends.get(cell.label, Status.DONE)
        flags = [Flag(self.flags[cell.label], {})] if cell.label in self.flags else []
        self.results.add(
            cell, [Score("colours", "task", "acc", 0.5, 0.03, 200, True)], status=status, reason="it was told to",
            items=items("colours", "acc", right) if status is Status.DONE else (), flags=flags,
        )  # fmt: skip
        self.results.store()
        self.progress.states[cell.spec_digest] = status
        self.progress.ended.append((cell, str(status), self.seconds.get(cell.label, 1.0)))
        self.ran.append(cell.key)

    def decide(self, most: int = 40, **aim: Any) -> Decider:
        """Runs what a decider chooses, cell by cell, at most so many."""
        limits = aim.pop("limits", lambda race: {})
        races = races_of(self.plan, aim.pop("size", None))
        decider = Decider(
            self.plan, races, self.store, environment(1),
            Aim(**{"sure": 0.9, "seconds": None, "margin": 0.02, **aim}), limits,
        )  # fmt: skip
        decider.begin("20260102T000000-run", Durations())
        while len(self.ran) < most and (chosen := decider.choose(self.progress)):
            for cell in self.plan.cells:  # needs come first
                if cell.spec_digest in chosen:
                    self.end(cell)
        decider.finish(self.progress)
        return decider


@pytest.fixture
def plan(project: Path) -> Plan:
    return plan_of(project, SUITE)


CLEAR = {"base": 0.3, "full": 0.5, "lora": 0.9}


def test_it_stops_when_it_is_settled_and_runs_the_largest_size_alone(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR)
    (decision,) = machine.decide().decisions
    assert (decision.reason, decision.look and decision.look.answer) == ("settled", "lora")
    assert machine.ran[0] == "base/tiny/colours"
    assert not any("/n8/" in key for key in machine.ran)
    assert len(machine.ran) == len(set(machine.ran)) < 7
    assert set(machine.ran) == {cell.key for cell in plan.cells if machine.progress.states[cell.spec_digest] == "done"}


def test_the_looks_are_kept(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR)
    machine.decide()
    looks = looks_of(machine.store.folder, plan.suite.name)
    assert [look["cells"] for look in looks] == list(range(len(machine.ran) + 1))
    assert [look["next"] for look in looks] == [*machine.ran, ""]
    assert [look["state"] for look in looks] == [*["open"] * len(machine.ran), "settled"]
    assert looks[-1]["chances"]["lora"] > 0.9


def test_another_decision_goes_on_with_what_is_stored(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR)
    machine.decide(most=3)
    assert len(machine.ran) == 3
    (decision,) = machine.decide().decisions
    assert decision.reason == "settled"
    assert len(machine.ran) == len(set(machine.ran))
    before = list(machine.ran)
    assert machine.decide().decisions[0].reason == "settled"  # all is known: nothing runs
    assert machine.ran == before


def test_nothing_starts_that_does_not_fit_into_the_time(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR, seconds={"lora": 1e4})
    (decision,) = machine.decide(seconds=1000.0).decisions
    assert decision.reason == "out of time"
    assert [key for key in machine.ran if key.startswith("lora")] == ["lora/tiny/colours/n16/s0"]
    assert decision.look
    assert not decision.look.settled


def test_labels_that_no_grid_tells_apart_are_given_up(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, dict.fromkeys(CLEAR, 0.5), spread=0.04)
    (decision,) = machine.decide(sure=0.99, margin=0.001).decisions
    assert decision.reason == "out of reach"
    assert len(machine.ran) < 7


def test_a_limit_rules_a_label_out_before_it_has_run(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR)
    (decision,) = machine.decide(limits=lambda race: {"lora": "predicted memory: 17 GiB, more than 16 GiB"}).decisions
    assert not any(key.startswith("lora/") for key in machine.ran)
    assert decision.look
    assert (decision.look.answer, decision.reason) == ("full", "settled")
    assert decision.ruled_out == {"lora": "predicted memory: 17 GiB, more than 16 GiB"}


@pytest.mark.parametrize(
    ("ends", "flags", "why"),
    [
        ({"lora": Status.OOM}, {}, r"1 of at most 3 seeds ended badly \(oom: it was told to\)"),
        ({"lora": Status.SKIPPED}, {}, "cannot run here: it was told to"),
        ({}, {"lora": "learned_nothing"}, "learned nothing under 2 of 2 seeds"),
    ],
)
def test_what_cannot_be_recommended_gets_no_further_cell(
    plan: Plan, tmp_path: Path, ends: dict[str, Status], flags: dict[str, str], why: str
) -> None:
    machine = Machine(plan, tmp_path, CLEAR, ends=ends, flags=flags)
    (decision,) = machine.decide().decisions
    assert re.fullmatch(why, decision.ruled_out["lora"])
    assert decision.look
    assert decision.look.answer == "full"
    assert sum(key.startswith("lora/") for key in machine.ran) <= 2


def test_an_interrupted_cell_is_left_to_the_next_command(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR, ends={"lora": Status.INTERRUPTED})
    (decision,) = machine.decide().decisions
    assert [key for key in machine.ran if key.startswith("lora/")] == ["lora/tiny/colours/n16/s0"]
    assert decision.reason == "exhausted"
    assert decision.look
    assert not decision.look.settled


def test_a_seed_that_ended_badly_counts_as_the_base_model(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.replace("[0, 1, 2]", "[0, 1, 2, 3, 4]"))
    machine = Machine(plan, tmp_path, CLEAR)
    machine.decide(most=3)
    machine.ends["lora"] = Status.DIVERGED
    (race,) = races_of(plan)
    machine.end(next(cell for cell in race.cells["lora"] if machine.progress.states[cell.spec_digest] == HELD))
    decider = Decider(plan, [race], machine.store, environment(1), Aim(0.9, None, 0.02))
    decider.finish(machine.progress)
    assert decider.decisions[0].evidence
    by_label = {each.label: each for each in decider.decisions[0].evidence.labels}
    assert len(by_label["lora"].values) == 2
    assert list(by_label["lora"].values[1]) == list(by_label["base"].values[0])


def test_the_first_step_can_be_seen_without_running_it(plan: Plan, tmp_path: Path) -> None:
    machine = Machine(plan, tmp_path, CLEAR)
    decider = Decider(plan, races_of(plan), machine.store, environment(1), Aim(0.95, None, 0.02))
    progress = preview(decider)
    assert decider.decisions[0].next_key == "base/tiny/colours"
    assert len(decider.left(progress)) == 7
    assert looks_of(machine.store.folder, plan.suite.name) == []


def test_what_a_cell_needs_runs_first_and_its_seconds_count(project: Path, tmp_path: Path) -> None:
    merge = "merged: {method: merge, how: linear, experts: {method: lora, learn: [colours, names]}}"
    plan = plan_of(project, SUITE.replace("lora: {}", f"lora: {{}}\n  {merge}"))
    (race,) = races_of(plan)
    assert set(race.cells) == {"base", "full", "lora", "merged"}
    states = dict.fromkeys(plan.by_digest(), HELD)
    needed = lacking(plan.by_digest(), states, race.cells["merged"][0])
    assert {cell.task for cell in needed} == {"colours", "names"}
    decider = Decider(plan, [race], Machine(plan, tmp_path, CLEAR).store, environment(1), Aim(0.95, None, 0.02))
    progress = Progress(plan, states)
    assert decider.seconds_of(needed, progress) > decider.seconds_of([race.cells["merged"][0]], progress)
    states.update({cell.spec_digest: TO_DO for cell in needed[:1]})
    assert len(lacking(plan.by_digest(), states, race.cells["merged"][0])) == len(needed)


def test_a_study_counts_with_all_its_trials(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE + "tune: {trials: 6}\n")
    (race,) = races_of(plan)
    decider = Decider(plan, [race], Machine(plan, tmp_path, CLEAR).store, environment(1), Aim(0.95, None, 0.02))
    progress = Progress(plan, dict.fromkeys(plan.by_digest(), HELD))
    first = next(cell for cell in plan.cells if cell.label == "full")
    decider.begin("", Durations([("full", "tiny", "colours", first.n_train, 10.0)]))
    needed = lacking(plan.by_digest(), progress.states, race.cells["full"][0])
    assert any(cell.study for cell in needed)
    assert decider.seconds_of([cell for cell in needed if cell.study], progress) == pytest.approx(60.0)


def test_races_are_chosen_by_model_task_and_size(plan: Plan) -> None:
    assert [race.n_train for race in races_of(plan)] == [16]
    assert [race.n_train for race in races_of(plan, size=8)] == [8]
    assert isinstance(races_of(plan)[0], Race)
    for what in ({"size": 7}, {"task": "coluors"}, {"model": "tony"}):
        with pytest.raises(UserError, match="unknown|no "):
            races_of(plan, **what)  # type: ignore[arg-type]


def test_several_studies_a_label_are_refused(project: Path) -> None:
    plan = plan_of(project, SUITE + "tune: {trials: 2, studies: 2}\n")
    with pytest.raises(UserError, match="several studies"):
        races_of(plan)
