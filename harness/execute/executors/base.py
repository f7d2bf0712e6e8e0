"""Runs a plan, wherever its cells run: starts what is ready, takes in what has ended, until all is done.

An executor is a class with a few short methods: where a cell has room, how it is launched, whether it has ended,
how it is ended. Order, needs, limits, Ctrl-C, results and the database are dealt with here, once.
"""

from __future__ import annotations

import inspect
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import ClassVar, Generic

from harness.environment import cores, environment, now
from harness.errors import BusyStore, FullDisk
from harness.execute.events import EventLog, speeds_of
from harness.execute.queue import Queue
from harness.execute.running import Ended, Handle, Progress, Refusal, Run, Running, Slot
from harness.execute.studies import Studies
from harness.plan import Plan, leaks_in_cell
from harness.records import Cell, CellResult, Environment, Job, Status, with_settings
from harness.store import (
    ITEMS,
    RESULT,
    Store,
    clear,
    full_disk,
    is_full,
    note_neighbour,
    read_result,
    write_job,
    write_result,
)
from harness.suite import Recipe

POLL_SECONDS = 0.25
STUCK_SECONDS = 30.0  # a process that is alive so long after its result was written is ended
TAKE_IN_SECONDS = 10.0  # between two openings of the database: each costs a tenth of a second of a core


@contextmanager
def ctrl_c(progress: Progress) -> Iterator[None]:
    """Handle Ctrl-C within the block: the first asks to stop after what runs (`progress.stopping`), the second raises
    KeyboardInterrupt. Outside the main thread nothing is handled.

    A handler is used instead of catching the exception, so that the first Ctrl-C cannot cut short the taking in of a
    result. SIGTERM, which systems send before they go down, raises KeyboardInterrupt at once.
    """

    def pressed(number: int, frame: FrameType | None) -> None:
        if progress.stopping or number == signal.SIGTERM:
            progress.stopping = progress.stop_now = True
            raise KeyboardInterrupt  # C++ code that called back into Python may swallow it, such as Ray's
        progress.stopping = True

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, pressed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def drain(course: Generator[Progress, None, None], wait: Callable[[], None]) -> None:
    """Run a course to its end, calling `wait` between its steps. What interrupts the waiting is raised inside the
    course, which stops in its own way."""
    try:
        for _ in course:
            wait()
    except BaseException as error:
        if has_ended(course):
            raise  # the course's own
        with suppress(StopIteration):
            course.throw(error)


def has_ended(course: Generator[Progress, None, None]) -> bool:
    """Returns whether a course has run to its end, well or not."""
    return inspect.getgeneratorstate(course) == inspect.GEN_CLOSED


class Executor(ABC, Generic[Slot, Handle]):
    """Runs the cells of a plan that are to do, needs first. Results go into `store`; `run` says what holds for all
    cells.

    `watch` is called often with the Progress; `on_result` once for each result, with the folder of its attempt.
    """

    name: ClassVar[str] = ""
    here: ClassVar[bool] = False  # True: cells compute on this machine, so its instruments are the ones to check

    def __init__(
        self,
        store: Store,
        run: Run,
        watch: Callable[[Progress], None] = lambda progress: None,
        on_result: Callable[[CellResult, Path], None] = lambda result, folder: None,
    ):
        self.store, self.run_info, self.watch, self.on_result = store, run, watch, on_result
        self.log = EventLog(store.folder / "runs" / f"{run.run_id}.events.jsonl")
        self.weights: dict[str, Path] = {}  # spec_digest -> attempt folder of a finished cell
        self.number = 0
        self.fresh: list[Path] = []  # attempts that the database does not have yet
        self.warned: set[str] = set()
        self.taken_in = time.monotonic()

    # --- what an executor is ---

    @classmethod
    def skip(cls) -> str | None:
        """Returns why this executor cannot be used here; None when it can."""
        return None

    @classmethod
    def environment(cls, threads: int | None, jobs: int | None, address: str) -> tuple[Environment, int]:
        """Returns (the environment that cells compute in, the CPU threads of a cell). Threads that are not given (None)
        are this machine's cores divided among `jobs` cells at a time. `address` is a cluster's; the environment is this
        machine's, unless cells run elsewhere."""
        count = threads or max(1, cores() // (jobs or 1))
        return environment(count), count

    def open(self) -> None:
        """Called once before the first cell."""

    def close(self) -> None:
        """Called once after the last cell, however the run ended."""

    def refuse(self, cell: Cell) -> str | None:
        """Returns why a cell can never run here; None when it can."""
        return None

    def full(self) -> bool:
        """Returns whether no cell at all has room at present, so that none needs to be looked at."""
        return False

    @abstractmethod
    def take_slot(self, cell: Cell) -> Slot | None:
        """Reserve room for a cell and return it; None when there is none at present."""

    @abstractmethod
    def launch(self, running: Running[Slot, Handle], job: Job) -> None:
        """Start a process for the cell whose `job` lies in its folder; sets `handle` and `device` of `running`, and
        `pid` where the process is on this machine."""

    @abstractmethod
    def ended(self, running: Running[Slot, Handle]) -> Ended | None:
        """Returns how a cell's process ended; None while it runs. Called again and again."""

    @abstractmethod
    def kill(self, running: Running[Slot, Handle]) -> None:
        """End a cell's process and all that it started; it has ended when this returns."""

    def release(self, running: Running[Slot, Handle]) -> None:
        """Give back the room that an ended cell had."""

    def neighbours(self, running: Running[Slot, Handle]) -> list[Running[Slot, Handle]]:
        """Returns the cells under way that share a device with this one: their timings, and its own, then say
        little."""
        return []

    def wait(self, seconds: float) -> None:
        """Return when a cell may have ended, at the latest after `seconds`."""
        time.sleep(seconds)

    # --- the course of a run ---

    def run(
        self, plan: Plan, states: dict[str, str], done: dict[str, Path], ended: Mapping[str, Path] | None = None
    ) -> Progress:
        """Run every cell whose state is "to do", and return the progress at the end. `states` are kept up to date.
        `done` maps finished cells to their attempt folders, `ended` those of trials that ended before; all three by
        spec digest.

        Ctrl-C once: finish what runs, then stop. Twice: stop now. Raises FullDisk, or the database's errors; what has
        ended until then is kept.
        """
        drain(self.course(plan, states, done, ended), lambda: self.wait(POLL_SECONDS))
        return self.progress

    def course(
        self, plan: Plan, states: dict[str, str], done: dict[str, Path], ended: Mapping[str, Path] | None = None
    ) -> Generator[Progress, None, None]:
        """Run as `run` does, and yield the progress whenever there is nothing to do but wait, so that several runs can
        take turns in one process."""
        self.weights.update(done)
        self.cells = plan.by_digest()
        self.queue = Queue(plan.cells, states, self.run_info.seconds)
        self.progress = progress = Progress(
            plan, states, self.queue.counts, queue=self.queue, before=self.run_info.durations
        )
        run = self.run_info
        self.studies = Studies(self._add, ended or {}, self._finish, run.environment, run.run_id)
        with ctrl_c(progress):
            try:
                self.open()
                while self._step():
                    yield progress
            except BaseException as error:
                by_hand = isinstance(error, KeyboardInterrupt)
                self._stop_all("stopped by the user" if by_hand else f"the command failed: {error}")
                if isinstance(error, OSError) and is_full(self.store.folder, error):
                    raise FullDisk(full_disk(self.store.folder)) from error
                if not by_hand:
                    raise
            finally:
                self.close()
                for study in self.studies.close():
                    self.queue.put_back(study.spec_digest)
        self._take_in()
        self.watch(progress)

    def _step(self) -> bool:
        """Take in what has ended, start what can start. Returns False when there is nothing left to wait for. Raises
        KeyboardInterrupt where a signal raised one that got lost."""
        if self.progress.stop_now:
            raise KeyboardInterrupt
        for running in list(self.progress.running):
            self._look_at(running)
        while not self.progress.stopping and (self._next() or self._admit()):
            pass
        if time.monotonic() - self.taken_in > TAKE_IN_SECONDS:
            self._take_in()
        self.watch(self.progress)
        return bool(self.progress.running) or bool(self.queue.waiting and not self.progress.stopping)

    def _next(self) -> bool:
        """Start one cell, or skip one that cannot run. Returns False when there is neither."""
        if self.queue.blocked:
            self._skip(*self.queue.blocked.popleft())
            return True
        if self.full():
            return False
        taken: tuple[Cell, Slot | Refusal | Cell] | None = self.queue.take(self._room)
        if taken is None:
            return False
        cell, slot = taken
        if isinstance(slot, Refusal):
            self._skip(cell, slot.reason)
        elif isinstance(slot, Cell):
            self.studies.begin(cell, self.weights)
        else:
            self._start(cell, slot)
        return True

    def _admit(self) -> bool:
        """Let the run's `choose` name further cells to run, where a cell has room and none is ready. Returns False when
        it names none."""
        choose = self.run_info.choose
        if choose is None or self.queue.ready or self.full():
            return False
        # What was named and waits for its needs is not overtaken by many: what runs may change what comes next.
        if 0 < self.queue.waiting >= len(self.progress.running):
            return False
        names = choose(self.progress)
        for name in names:
            self.log.append("cell_chosen", key=self.cells[name].key)
        self.queue.admit(names)
        return bool(names)

    def _room(self, cell: Cell) -> Slot | Refusal | Cell | None:
        """Returns a slot for a cell, None where there is no room at present, or a Refusal where it can never run here.
        A study takes no room: it is returned itself."""
        cell = self.studies.resolved(cell, self.weights)
        reason = Recipe.of(cell).skip_cell(cell, bool(self.run_info.environment.accelerator))
        if cell.study and not reason:
            return cell
        reason = reason or self.refuse(cell)
        if reason:
            return Refusal(reason)
        return self.take_slot(cell) if self.run_info.may_start() else None

    def _add(self, trial: Cell, study: str) -> None:
        """Put a trial's cell into the queue, before the cells that wait for its study."""
        self.cells[trial.spec_digest] = trial
        self.queue.add(trial, after=study)
        self.log.append("cell_added", key=trial.key)

    def _finish(self, study: Cell, result_of: Callable[[str], CellResult]) -> None:
        """Keep the result of an ended study, as that of a cell is kept; `result_of` makes it for an attempt's name."""
        folder = self._folder(study)
        result = result_of(folder.name)
        write_result(folder, result)
        if result.status is Status.DONE:
            self.weights[study.spec_digest] = folder
        self._settle(result, folder)

    def _start(self, cell: Cell, slot: Slot) -> None:
        folder = self._folder(cell)
        running: Running[Slot, Handle] = Running(cell, folder, slot)
        job = self.job(cell)
        write_job(folder, job)
        self.launch(running, job)
        self.progress.running.append(running)
        for other in self.neighbours(running):
            note_neighbour(other.folder, cell.key)
            note_neighbour(folder, other.cell.key)
        self.log.append(
            "cell_started", key=cell.key, attempt_id=folder.name, device=running.device, pid=running.pid,
            predicted_bytes=job.predicted_bytes,
        )  # fmt: skip

    def job(self, cell: Cell) -> Job:
        """Returns the job of a cell: all that its process is told. The cells that it needs must have ended well."""
        run = self.run_info
        tuned = self.studies.settled(cell, self.weights)
        settled = with_settings(cell, tuned)
        baseline = self.weights.get(cell.baseline)
        return Job(
            run_id=run.run_id,
            cell=cell,
            tuned=tuned,
            environment=run.environment,
            threads=run.threads,
            models={name: Path(run.facts.models[name].folder) for name in (cell.model, *cell.borrows)},
            tasks={name: Path(run.facts.tasks[name].path) for name in (*cell.learn, *cell.retain, *cell.reads)},
            needs={role: self.weights[need] / "weights" for role, need in cell.loads.items()},
            needed={role: self.cells[need] for role, need in cell.loads.items()},
            baseline=baseline / ITEMS if baseline else None,
            documents=self.store.folder / "documents",
            results=self.store.folder,
            predicted_bytes=run.predict(settled),
            needed_bytes=run.needed(settled),
            predicted_parts=run.parts(settled),
            memory_limit=run.limits.memory,
            matmul_peak=run.peaks.get(cell.train.precision),
            bad_instruments=run.bad_instruments,
            leaks=leaks_in_cell(cell, run.facts),
            earlier=self.studies.earlier(cell) if cell.trial else (),
        )

    def _look_at(self, running: Running[Slot, Handle]) -> None:
        """Take in a running cell that has ended. End it where it passed the time limit, or is stuck after writing its
        result."""
        limit = self.run_info.limits.seconds
        ended = self.ended(running)
        if ended is None and limit and running.seconds > limit:
            self.kill(running)
            ended = Ended(Status.TIMEOUT, f"took longer than the time limit of {limit:g} s")
        elif ended is None and (running.folder / RESULT).exists():
            running.finished = running.finished or time.monotonic()
            if time.monotonic() - running.finished > STUCK_SECONDS:
                self.kill(running)
                ended = Ended()
        if ended is not None:
            self.progress.running.remove(running)
            self._collect(running, ended)

    def _collect(self, running: Running[Slot, Handle], ended: Ended) -> None:
        """Take in one ended cell. Where its process left no result, one is written from the way it ended."""
        self.release(running)
        clear(running.folder)
        if not (running.folder / RESULT).exists():
            if is_full(self.store.folder):
                ended = Ended(Status.INTERRUPTED, "no space was left on the disk")
            self._write(running.cell, running.folder, ended, running.seconds, running.device)
        try:
            result = read_result(running.folder)
        except ValueError as error:
            (running.folder / RESULT).replace(running.folder / f"damaged-{RESULT}")
            ended = Ended(Status.FAILED, f"the result of its process cannot be stored: {error}")
            result = self._write(running.cell, running.folder, ended, running.seconds, running.device)
        if result.status is Status.DONE:
            self.weights[running.cell.spec_digest] = running.folder
        self._settle(result, running.folder)

    def _skip(self, cell: Cell, reason: str) -> None:
        folder = self._folder(cell)
        self._settle(self._write(cell, folder, Ended(Status.SKIPPED, reason)), folder)

    def _settle(self, result: CellResult, folder: Path) -> None:
        """Pass on the result of an ended cell: to the queue, the event log, trackers and studies."""
        cell = result.cell
        self.queue.end(cell.spec_digest, result.status)
        self.progress.ended.append((cell, str(result.status), result.seconds))
        self.fresh.append(folder)
        self.log.append(
            "cell_ended", key=cell.key, attempt_id=folder.name, status=result.status, reason=result.reason,
            seconds=result.seconds, device=result.device, contended=result.contended, machine_speeds=speeds_of(result),
        )  # fmt: skip
        self.on_result(result, folder)
        if cell.trial and not (self.progress.stopping and result.status is Status.INTERRUPTED):
            self.studies.take(result, folder)

    def _stop_all(self, reason: str) -> None:
        """End all running cells and keep their results, so that the run can be resumed; a full disk must not keep the
        rest from being ended."""
        for running in self.progress.running:
            self.kill(running)
        while self.progress.running:
            running = self.progress.running.pop()
            with suppress(OSError, FullDisk):
                self._collect(running, Ended(Status.INTERRUPTED, reason))

    def _folder(self, cell: Cell) -> Path:
        """Make and return a new attempt's folder. Its name begins with the time, so that names sort as attempts do."""
        self.number += 1
        folder = self.store.attempt_folder(f"{self.run_info.run_id}-{self.number:05d}-{cell.spec_digest[:12]}")
        folder.mkdir(parents=True)
        return folder

    def _write(self, cell: Cell, folder: Path, ended: Ended, seconds: float = 0.0, device: str = "") -> CellResult:
        run = self.run_info
        result = CellResult(
            folder.name, run.run_id, cell, run.environment, ended.status, ended.reason, now(), seconds, device=device
        )
        write_result(folder, result)
        return result

    def _take_in(self) -> None:
        """Put new results into the database. While another process has it open they wait: the files are the truth."""
        self.taken_in = time.monotonic()
        if self.fresh:
            with suppress(BusyStore), self.store.open(wait_seconds=0.0) as connection:
                for complaint in self.store.ingest(connection, self.fresh):
                    if complaint not in self.warned:  # a damaged record is met each time
                        self.log.append("warning", message=complaint)
                    self.warned.add(complaint)
                self.fresh = []
