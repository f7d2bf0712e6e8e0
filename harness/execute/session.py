"""One execution of a suite: what is to do, the run's own record and events, and how each cell ended."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.environment import now
from harness.errors import BusyStore, FullDisk, UserError
from harness.execute.executors import Executor, all_executors
from harness.execute.executors.base import POLL_SECONDS, drain
from harness.execute.forecast import memory_predictor
from harness.execute.queue import HELD, TO_DO
from harness.execute.resume import mend, plan_state, write_run
from harness.execute.running import Limits, Progress, Run
from harness.execute.self_check_cache import check_instruments, failures, matmul_peaks
from harness.plan import Plan
from harness.records import Cell, CellResult, Environment, RunRecord, Status
from harness.store import Store


class Trackers(Protocol):
    """What a session tells of its run; `trackers.TrackerGroup` implements it."""

    def begin(self, run: RunRecord) -> None: ...
    def cell(self, result: CellResult, folder: Path) -> None: ...
    def end(self, status: str) -> None: ...


@dataclass(frozen=True)
class Choices:
    """The caller's choices for a run. `jobs` is the number of cells at a time, None for the executor's own choice;
    `threads` are the CPU threads of a cell. Cells whose status is in `retry` run again. `memory` is bytes of a device,
    instead of what is found; `address` is a cluster's. `python` is another environment's, whose packages cells compute
    with; `may_start` says whether it is this session's turn to start a cell. With `choose` only those cells run that it
    names, by spec digest: it is asked whenever a cell has room, and the run ends when it names none and none runs."""

    executor: str = "local"
    jobs: int | None = None
    threads: int = 1
    retry: frozenset[str] = frozenset()
    memory: int | None = None
    address: str = ""
    python: Path | None = None
    may_start: Callable[[], bool] = lambda: True
    choose: Callable[[Progress], Collection[str]] | None = None


class Session:
    """One execution of a plan in one environment. `states` maps each cell's spec digest to its status; "to do" before
    and "running" while it runs. `complaints` are sentences about what was found damaged; `root` is the project's
    folder.

    Create it under the lock of a sole writer: it mends what a killed command left behind.
    """

    def __init__(
        self, plan: Plan, store: Store, environment: Environment, choices: Choices, root: Path, trackers: Trackers
    ):
        self.plan, self.store, self.environment = plan, store, environment
        self.choices, self.root, self.trackers = choices, root, trackers
        complaints = mend(store)
        self.plan_state = plan_state(plan, store, environment.env_digest, choices.retry)
        self.states = self.plan_state.states
        if choices.choose:
            self.states.update({name: HELD for name, state in self.states.items() if state == TO_DO})
        self.complaints = complaints + self.plan_state.complaints
        self.bad_instruments: tuple[str, ...] = ()
        self.peaks: dict[str, float] = {}
        self.stopped = False
        self.executor: Executor[Any, Any] | None = None  # once it runs
        self.run_id = now()[:19].replace("-", "").replace(":", "") + "-" + uuid.uuid4().hex[:6]

    @property
    def waiting(self) -> int:
        """The number of cells that are to do, or may be chosen."""
        return sum(self.states[cell.spec_digest] in (TO_DO, HELD) for cell in self.plan.cells)

    @property
    def seconds(self) -> float | None:
        """The seconds that the cells to do may take, one after the other, from what such cells took before; None where
        nothing is known of most of them."""
        waiting = [cell for cell in self.plan.cells if self.states[cell.spec_digest] == TO_DO]
        known = [seconds for cell in waiting if (seconds := self.plan_state.durations.seconds(cell))]
        return sum(known) / len(known) * len(waiting) if len(known) > len(waiting) / 2 else None

    @property
    def started(self) -> int:
        """The number of cells that it has started or skipped so far."""
        return self.executor.number if self.executor else 0

    @property
    def running(self) -> int:
        """The number of its cells that run now."""
        progress = getattr(self.executor, "progress", None)
        return len(progress.running) if progress else 0

    def check_instruments(self, announce: Callable[[str], None]) -> list[str]:
        """Check this machine's instruments, and return a sentence for each check that fails; results that are made
        nevertheless are marked. `announce` is called with the name of each model before it is checked, but not for
        checks from the cache. Empty where nothing is to do, or where cells run on other machines."""
        if not self.waiting or not all_executors()[self.choices.executor].here:
            return []
        checks_by_model = check_instruments(
            self.plan, self.store.folder, self.environment, self.choices.threads, announce, self.choices.python
        )
        self.bad_instruments = tuple(
            f"{check.name} ({model})"
            for model, checks in checks_by_model.items()
            for check in checks
            if not check.passed
        )
        precisions = {label.train.precision for label in self.plan.suite.labels}
        try:
            self.peaks = matmul_peaks(precisions, self.environment, self.choices.threads, self.choices.python)
        except UserError as error:  # then cells have no utilisation
            self.complaints.append(str(error))
        return failures(checks_by_model)

    def run(self, command: str, watch: Callable[[Progress], None]) -> bool:
        """Run the cells that are to do and keep the run's record. `command` is the command line, for that record;
        `watch` is called often with the progress. Returns True when the user stopped it."""
        drain(self.course(command, watch), self.wait)
        return self.stopped

    def wait(self) -> None:
        """Return when a cell may have ended, after a moment at the latest."""
        if self.executor:
            self.executor.wait(POLL_SECONDS)

    def course(self, command: str, watch: Callable[[Progress], None]) -> Generator[Progress, None, None]:
        """Run as `run` does, and yield the progress whenever there is nothing to do but wait. Whether the user stopped
        it is in `stopped` afterwards."""
        plan = self.plan
        path = self.store.folder / "runs" / f"{self.run_id}.json"
        record: RunRecord = {
            "run_id": self.run_id,
            "suite": plan.suite.name,
            "question": plan.suite.question,
            "margin": plan.suite.margin,
            "failed_seeds": plan.suite.failed_seeds,
            "env_digest": self.environment.env_digest,
            "started": now(),
            "finished": None,
            "status": "running",
            "command": command,
            "only_cells": list(plan.only_cells),
            "revisions": plan.revisions(),
            "members": [cell.member() for cell in plan.cells],
            "suite_text": plan.suite.lines.text,
            "task_rows": plan.task_rows(),
        }
        write_run(path, record)
        status = str(Status.FAILED)
        try:
            if self.waiting:
                self.trackers.begin(record)
                yield from self._execute(watch)
            bad = any(self.states[cell.spec_digest] not in (Status.DONE, HELD) for cell in plan.cells)
            status = str(Status.INTERRUPTED) if self.stopped else str(Status.FAILED) if bad else str(Status.DONE)
        finally:
            self.trackers.end(status)
            with suppress(OSError, FullDisk):  # then the next command sees that this one did not end well
                write_run(path, record | {"finished": now(), "status": status})
        try:
            with self.store.open() as connection:
                self.complaints = self.store.ingest(connection)
        except BusyStore as error:
            self.complaints = [f"{error} The results are kept as files, and taken in by the next command."]

    def _execute(self, watch: Callable[[Progress], None]) -> Generator[Progress, None, None]:
        plan, choices = self.plan, self.choices
        predicted = memory_predictor(plan.facts, self.environment)
        run = Run(
            self.run_id,
            self.environment,
            plan.facts,
            choices.threads,
            choices.jobs,
            Limits(plan.suite.time_limit, plan.suite.memory_limit, choices.memory),
            self.plan_state.durations.sort_key,
            self.plan_state.durations,
            lambda cell: counted.peak if (counted := predicted(cell)) else None,
            parts=lambda cell: asdict(counted) if (counted := predicted(cell)) else {},
            peaks=self.peaks,
            address=choices.address,
            bad_instruments=self.bad_instruments,
            root=self.root,
            least=lambda cell: counted.needed if (counted := predicted(cell)) else None,
            python=choices.python,
            may_start=choices.may_start,
            choose=choices.choose,
        )

        self.executor = executor = all_executors()[choices.executor](self.store, run, watch, self.trackers.cell)
        states = {state: list(self.states.values()).count(state) for state in set(self.states.values())}
        executor.log.append(
            "run_started", run_id=self.run_id, suite=plan.suite.name, pid=os.getpid(), cells=len(plan.cells),
            states=states, margin=plan.suite.margin,
        )  # fmt: skip
        for complaint in self.complaints:
            executor.log.append("warning", message=complaint)
        try:
            yield from executor.course(plan, self.states, self.plan_state.done, self.plan_state.ended)
        finally:
            self.stopped = executor.progress.stopping
            executor.log.append("run_ended", states=dict(executor.queue.counts))

    def unfinished(self) -> list[tuple[Cell, str, str]]:
        """Returns (cell, status, reason) of every cell that is not done, but for those that were not chosen: the reason
        why its newest attempt ended so, "" where none is known or the database is busy."""
        well = (Status.DONE, HELD)
        bad = [cell for cell in self.plan.cells if self.states[cell.spec_digest] not in well]
        try:
            with self.store.open(wait_seconds=0.0) as connection:
                reasons = self.store.reasons(connection, [cell.spec_digest for cell in bad])
        except BusyStore:
            reasons = {}
        return [(cell, str(self.states[cell.spec_digest]), reasons.get(cell.spec_digest, "")) for cell in bad]
