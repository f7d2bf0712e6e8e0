"""Decides a suite: after each cell takes a look at what is known, and names the cell that is worth its seconds most.

What is known, what is shown and what comes next is `analysis.deciding`'s; here are cells, seconds and the clock. A look
is kept as a line of JSON beside the run's record, for the report. The run itself is one like any other (`session.py`):
its cells are the suite's, and another `decide` or `run` goes on with them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.analysis import Values, headlines
from harness.analysis.deciding import Evidence, Look, Step, take_look
from harness.environment import now
from harness.execute.durations import Durations, kind_of
from harness.execute.first_guess import guess_seconds
from harness.execute.queue import HELD, RUNNING, TO_DO
from harness.execute.races import Race, evidence_of, lacking
from harness.execute.resume import plan_state
from harness.execute.running import Progress
from harness.plan import Plan
from harness.records import Cell, Environment, LookRecord, Status
from harness.store import CellRow, Store, add_look, item_values, latest_run, member_rows

UNKNOWN_SECONDS = 60.0  # of a cell of which nothing is known, in a folder without any finished cell
RuledOut = Mapping[str, str]  # label -> why it cannot be taken


@dataclass(frozen=True)
class Aim:
    """The aim of a decision: `sure` is the confidence at which it stops, `seconds` the time after which no cell is
    started (None: no limit), `margin` the difference of scores that does not matter."""

    sure: float
    seconds: float | None
    margin: float


@dataclass
class Decision:
    """How a race is decided so far: the newest `look`, the `evidence` that it was taken at, and what limits rule out,
    with reasons. `reason` says why it ended: the look's state, or "out of time"; "" until then. `next_key` is the key
    of the cell that comes next."""

    race: Race
    look: Look | None = None
    evidence: Evidence | None = None
    ruled_out: RuledOut = field(default_factory=dict)
    reason: str = ""
    next_key: str = ""
    next_seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether no further cell of it is chosen."""
        return bool(self.reason)


class Decider:
    """Decides the races of a plan. `limits(race)` returns label -> why a limit rules it out, by what is stored now.

    `choose` is a session's (`Choices.choose`); call `begin` once the session's run has an id. `decisions` are those of
    the races, in their order.
    """

    def __init__(
        self,
        plan: Plan,
        races: Iterable[Race],
        store: Store,
        environment: Environment,
        aim: Aim,
        limits: Callable[[Race], RuledOut] = lambda race: {},
    ):
        self.plan, self.store, self.environment, self.aim, self.limits = plan, store, environment, aim, limits
        self.decisions = [Decision(race) for race in races]
        self.cells = plan.by_digest()
        self.started = time.monotonic()
        self.run_id = ""
        self.before = Durations()
        self.rows: dict[str, CellRow] = {}
        self.values: Values = {}
        self.known_at: int | None = None  # how many cells had ended when the store was read
        self.nothing_at: tuple[int, int] | None = None  # (cells ended, cells running) when nothing could be chosen

    def begin(self, run_id: str, durations: Durations) -> None:
        """Start the clock of the run `run_id`. `durations` are those of cells that ended before it."""
        self.run_id, self.before, self.started = run_id, durations, time.monotonic()

    @property
    def gone(self) -> float:
        """The seconds since the run began."""
        return time.monotonic() - self.started

    def choose(self, progress: Progress) -> list[str]:
        """Returns the spec digests of the cells to run next: one of a race with those that it needs; none where all
        races are decided, or no further cell is worth starting now."""
        now_at = len(progress.ended), len(progress.running)
        if now_at == self.nothing_at:
            return []  # nothing has changed, and a look takes a tenth of a second
        if self.known_at != len(progress.ended):
            self.known_at = len(progress.ended)
            self.learn()
        steps = [
            (step, decision)
            for decision in self.decisions
            if not decision.ended
            for step in self.look(decision, progress)
        ]
        chosen = self.first_that_fits(steps, progress)
        for decision in self.decisions:
            self.settle(decision, chosen, progress)
        self.nothing_at = None if chosen else now_at
        return [cell.spec_digest for cell in chosen[1]] if chosen else []

    def learn(self) -> None:
        """Read what is stored of all cells by now, and what the limits make of it."""
        rows = []
        if self.store.path.exists() or (self.store.folder / "runs").exists():
            with self.store.look() as connection:
                run = latest_run(connection, self.plan.suite.name)
                rows = member_rows(connection, run) if run else []
                self.values = item_values(connection, headlines(rows))
        self.rows = {row.spec_digest: row for row in rows}
        for decision in self.decisions:
            if not decision.ended:
                decision.ruled_out = self.limits(decision.race)

    def look(self, decision: Decision, progress: Progress) -> list[Step]:
        """Take a look at a race, and return its next steps; none once it is decided."""
        race, states = decision.race, progress.states
        how = self.plan.suite.failed_seeds
        evidence = evidence_of(race, self.rows, self.values, self.aim.margin, how, decision.ruled_out)
        decision.evidence = evidence
        running = {
            label: sum(states[cell.spec_digest] in (TO_DO, RUNNING) for cell in cells)
            for label, cells in race.cells.items()
        }
        seconds = {
            label: self.seconds_of(lacking(self.cells, states, cell), progress)
            for label, cells in race.cells.items()
            if (cell := next_cell(cells, states))
        }
        decision.look = take_look(evidence, seconds, self.aim.sure, running)
        decision.ruled_out = {each.label: each.ruled_out for each in evidence.labels if each.ruled_out}
        return list(decision.look.steps) if decision.look.state == "open" else []

    def first_that_fits(
        self, steps: list[tuple[Step, Decision]], progress: Progress
    ) -> tuple[Decision, list[Cell]] | None:
        """Returns the most valuable step that is expected to end in time, as (its race's decision, its cells); None
        where there is none."""
        left = self.aim.seconds - self.gone if self.aim.seconds is not None else None
        for step, decision in sorted(steps, key=lambda pair: (pair[0].gain < float("inf"), *pair[0].order)):
            if left is not None and step.seconds > left:
                continue
            cell = next_cell(decision.race.cells[step.label], progress.states)
            assert cell, f"{step.label} has no cell that could run"
            decision.next_key, decision.next_seconds = cell.key, step.seconds
            return decision, lacking(self.cells, progress.states, cell)
        return None

    def settle(
        self,
        decision: Decision,
        chosen: tuple[Decision, list[Cell]] | None,
        progress: Progress,
        stopped: bool = False,
    ) -> None:
        """Note whether a race has ended, and keep the look at it. `chosen` is what runs next, of whatever race;
        `stopped`: the user stopped the run, so that time is no reason."""
        look = decision.look
        if look is None or decision.ended:
            return
        if not (chosen and chosen[0] is decision):
            decision.next_key, decision.next_seconds = "", 0.0
        if look.state != "open":
            decision.reason = look.state
        elif chosen is None and not progress.running and not stopped:
            # What is left takes longer than there is time; without a limit of time there is always a step.
            decision.reason = "out of time" if look.steps else "exhausted"
        if self.run_id:
            add_look(self.store.folder, self.run_id, self.record(decision, progress))

    def finish(self, progress: Progress) -> None:
        """Take the last look, once no cell runs any more: also where the user stopped the run, or nothing was to do."""
        self.learn()
        for decision in self.decisions:
            if not decision.ended:
                self.look(decision, progress)
                self.settle(decision, None, progress, stopped=progress.stopping)

    def record(self, decision: Decision, progress: Progress) -> LookRecord:
        """Returns the newest look at a race as it is stored."""
        look, race = decision.look, decision.race
        assert look
        return LookRecord(
            time=now(), seconds=self.gone, suite=self.plan.suite.name, model=race.model, task=race.task,
            n_train=race.n_train, sure=self.aim.sure, margin=self.aim.margin, state=decision.reason or look.state,
            answer=look.answer, confidence=look.confidence, chances=dict(look.chances), seeds=dict(look.seeds),
            out=dict(look.out), ruled_out=dict(decision.ruled_out), reach=look.reach,
            cells=sum(state == Status.DONE for _, state, _ in progress.ended), next=decision.next_key,
            next_seconds=decision.next_seconds,
        )  # fmt: skip

    # --- seconds ---

    def seconds_of(self, cells: Iterable[Cell], progress: Progress) -> float:
        """Returns the expected seconds of some cells, one after the other."""
        ended = [(*kind_of(cell), seconds) for cell, state, seconds in progress.ended if state == Status.DONE]
        here = Durations(ended, self.before.parameters)
        return sum(self.expected(cell, here) for cell in cells)

    def expected(self, cell: Cell, here: Durations) -> float:
        """Returns the expected seconds of a cell: of its like in this run (`here`), else before it, else by its
        arithmetic, else the mean of all that is known. Of a study they are those of all its trials."""
        if cell.study:
            each = here.seconds(cell) or self.before.seconds(cell) or self.mean(here)
            of_trials = each * (cell.study.get("trials") or math.inf)
            return float(min(of_trials, cell.study.get("seconds") or of_trials))
        if kind_of(cell) in here.means:
            return here.means[kind_of(cell)]
        return (
            (self.before.seconds(cell) if kind_of(cell)[:2] in self.before.means else None)
            or here.seconds(cell)
            or self.before.seconds(cell)
            or guess_seconds(cell, self.plan.facts, self.environment)
            or self.mean(here)
        )

    def mean(self, here: Durations) -> float:
        """Returns the mean seconds of all cells that ended in this run, else before it."""
        return here.means.get(()) or self.before.means.get(()) or UNKNOWN_SECONDS

    def left(self, progress: Progress) -> list[Cell]:
        """Returns the races' cells that were not run, and those that they need."""
        left: dict[str, Cell] = {}
        for decision in self.decisions:
            for cells in decision.race.cells.values():
                for cell in cells:
                    left |= {one.spec_digest: one for one in lacking(self.cells, progress.states, cell)}
        return list(left.values())


def next_cell(cells: Iterable[Cell], states: Mapping[str, str]) -> Cell | None:
    """Returns the first of a label's cells that was not chosen yet; None where there is none, or one before it was
    interrupted: later seeds count only after it, and the same command runs it again."""
    for cell in cells:
        if states[cell.spec_digest] in (HELD, Status.INTERRUPTED):
            return cell if states[cell.spec_digest] == HELD else None
    return None


def preview(decider: Decider) -> Progress:
    """Takes the first look without running anything, and returns the state of the plan that it was taken at: what
    would run first is in the decisions. Nothing is written but results that the database does not have yet."""
    plan, store = decider.plan, decider.store
    states = dict.fromkeys(decider.cells, HELD)
    if store.path.exists() or (store.folder / "attempts").exists():
        known = plan_state(plan, store, decider.environment.env_digest, look_only=True)
        decider.before = known.durations
        states = {name: HELD if state == TO_DO else state for name, state in known.states.items()}
    progress = Progress(plan, states)
    decider.choose(progress)
    return progress
