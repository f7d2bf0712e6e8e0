"""The local executor: a fresh process for each cell, forked from a server that has torch imported.

Not covered yet: placement by predicted memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.environment import now
from harness.execute.ranks import devices_of, skip
from harness.methods import all_methods
from harness.plan import Facts, Plan
from harness.records import Cell, CellResult, Environment, Status
from harness.store.database import Store, write_atomically

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
FINAL = frozenset(Status) - {Status.INTERRUPTED}


@dataclass
class Running:
    """A cell under way."""

    cell: Cell
    folder: Path
    process: Any
    device: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def events(self) -> dict[str, Any]:
        """The newest of each kind of news from the worker: phase, step, steps, loss."""
        news: dict[str, Any] = {}
        try:
            for line in (self.folder / "events.jsonl").read_text().splitlines():
                news.update(json.loads(line))
        except (OSError, ValueError):
            pass  # not begun, or a line half written
        return news


@dataclass
class Progress:
    """What a watcher may show: every cell's state, and those under way."""

    plan: Plan
    states: dict[str, str]
    running: list[Running] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # spec_digest -> how long it took
    stopping: bool = False


@contextmanager
def ctrl_c(progress: Progress) -> Iterator[None]:
    """Within the block, the first Ctrl-C asks to stop after what runs; the second raises KeyboardInterrupt.

    A handler instead of catching the exception: taking in a result must not be cut in the middle by the first.
    """

    def pressed(number: int, frame: Any) -> None:
        if progress.stopping:
            raise KeyboardInterrupt
        progress.stopping = True

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Run:
    """One execution of a suite."""

    run_id: str
    environment: Environment
    facts: Facts
    threads: int
    jobs: int = 1


class LocalExecutor:
    """Runs the cells of a plan that are to do, needs first."""

    def __init__(self, store: Store, run: Run, watch: Callable[[Progress], None] = lambda progress: None):
        self.store, self.run_info, self.watch = store, run, watch
        self.weights: dict[str, Path] = {}  # spec_digest -> attempt folder of a finished cell
        self.number = 0
        self.devices = visible_devices(run.environment)

    def run(self, plan: Plan, states: dict[str, str], done: dict[str, Path]) -> Progress:
        """Run every cell whose state is "to do". `done` maps finished cells to their attempt folders.

        Ctrl-C once: finish what runs, then stop. Twice: stop now.
        """
        self.weights.update(done)
        progress = Progress(plan, states)
        context = self._context()
        with ctrl_c(progress):
            try:
                while self._step(plan, progress, context):
                    time.sleep(POLL_SECONDS)
            except BaseException as error:
                by_hand = isinstance(error, KeyboardInterrupt)
                reason = "stopped by the user" if by_hand else f"the command failed: {type(error).__name__}: {error}"
                for running in progress.running:
                    self._kill(running)
                    if not (running.folder / "result.json").exists():
                        self._write(running.cell, running.folder, Status.INTERRUPTED, reason, now(), running.seconds)
                    progress.states[running.cell.spec_digest] = Status.INTERRUPTED
                if not by_hand:
                    raise
                self._ingest()
        self.watch(progress)
        return progress

    def _step(self, plan: Plan, progress: Progress, context: Any) -> bool:
        """Take in what has ended, start what can start. False when there is nothing left to wait for."""
        for running in list(progress.running):
            limit = plan.suite.time_limit
            if running.process.exitcode is not None:
                progress.running.remove(running)
                self._collect(running, progress)
            elif limit and running.seconds > limit:
                self._kill(running)
                progress.running.remove(running)
                self._collect(running, progress, Status.TIMEOUT, f"took longer than the time limit of {limit:g} s")
        for cell in plan.cells:
            if progress.stopping or len(progress.running) >= self.run_info.jobs:
                break
            if progress.states[cell.spec_digest] != "to do":
                continue
            if progress.states.get(cell.baseline) in ("to do", "running"):
                continue  # whether a cell learned is judged against its base
            needed = [progress.states.get(need, "to do") for need in cell.needs.values()]
            reason = all_methods()[cell.method](**cell.settings).skip() or skip(cell, len(self.devices))
            if reason:
                self._skip(cell, progress, reason)
            elif all(state == Status.DONE for state in needed):
                progress.running.append(self._start(cell, context, progress.running))
                progress.states[cell.spec_digest] = "running"
            elif not any(state in ("to do", "running") for state in needed):
                by_digest = plan.by_digest()
                failed = ", ".join(
                    f"{by_digest[need].key} ({progress.states[need]})"
                    for need in cell.needs.values()
                    if progress.states[need] != Status.DONE
                )
                self._skip(cell, progress, f"needs {failed}")
        self.watch(progress)
        waiting = "to do" in progress.states.values() and not progress.stopping
        return bool(progress.running) or waiting

    def _context(self) -> Any:
        """A fork server on a CPU. With a GPU each process is spawned: a CUDA context does not survive a fork."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.update(HF_HUB_OFFLINE="1", TUNEBENCH_OFFLINE="1", OMP_NUM_THREADS=str(self.run_info.threads))
        if self.run_info.environment.accelerator:
            return multiprocessing.get_context("spawn")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["harness.execute.preload"])
        return context

    def _folder(self, cell: Cell) -> Path:
        """A new attempt's folder. Its name begins with the time, so that names sort as attempts do."""
        self.number += 1
        name = f"{self.run_info.run_id}-{self.number:04d}-{cell.spec_digest[:12]}"
        folder = self.store.attempt_folder(name)
        folder.mkdir(parents=True)
        return folder

    def _skip(self, cell: Cell, progress: Progress, reason: str) -> None:
        self._write(cell, self._folder(cell), Status.SKIPPED, reason, now(), 0.0)
        progress.states[cell.spec_digest] = Status.SKIPPED
        self._ingest()

    def _start(self, cell: Cell, context: Any, beside: list[Running]) -> Running:
        from harness.execute import child

        folder = self._folder(cell)
        run = self.run_info
        job = {
            "run_id": run.run_id,
            "cell": cell.to_json(),
            "environment": vars(run.environment),
            "model_folder": run.facts.models[cell.model].folder,
            "tasks": {name: run.facts.tasks[name].path for name in (*cell.learn, *cell.retain)},
            "needs": {role: str(self.weights[need] / "weights") for role, need in cell.needs.items()},
            "baseline": str(self.weights[cell.baseline]) if cell.baseline in self.weights else "",
            "threads": run.threads,
            "contended": run.jobs > 1,
        }
        write_atomically(folder / "job.json", json.dumps(job, indent=1))
        variables = dict(os.environ)
        device = free_devices(self.devices, [running.device for running in beside], devices_of(cell))
        if device:
            variables["CUDA_VISIBLE_DEVICES"] = device  # what it asks for: Trainer would spread over all it sees
        process = context.Process(target=child.main, args=(str(folder), os.getpid(), variables), daemon=False)
        process.start()
        return Running(cell, folder, process, device)

    def _kill(self, running: Running) -> None:
        """End a cell's whole process group: first politely, then not."""
        for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
            try:
                if os.getpgid(running.process.pid) == running.process.pid:
                    os.killpg(running.process.pid, number)
                else:
                    os.kill(running.process.pid, number)
            except OSError:
                pass
            running.process.join(patience)
            if running.process.exitcode is not None:
                return

    def _collect(self, running: Running, progress: Progress, status: Status | None = None, reason: str = "") -> None:
        """Take in one ended cell. A process that left no result gets one from the way it ended."""
        path = running.folder / "result.json"
        if not path.exists():
            code = running.process.exitcode
            if status is None and code in (-signal.SIGKILL, -signal.SIGTERM):
                # A bare SIGKILL is no evidence of anything: not of memory, not of a fault of the cell's.
                status, reason = Status.INTERRUPTED, f"the process was killed by signal {-code}"
            elif status is None:
                how = f"signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"exit code {code}"
                status, reason = (
                    Status.FAILED,
                    f"the process ended with {how}; see {running.folder / 'log.txt'}",
                )
            self._write(running.cell, running.folder, status, reason, now(), running.seconds)
        result = CellResult.from_json(json.loads(path.read_text()))
        digest = running.cell.spec_digest
        progress.states[digest] = result.status
        progress.seconds[digest] = result.seconds
        if result.status is Status.DONE:
            self.weights[digest] = running.folder
        self._ingest()

    def _write(self, cell: Cell, folder: Path, status: Status, reason: str, started: str, seconds: float) -> None:
        result = CellResult(
            attempt_id=folder.name,
            run_id=self.run_info.run_id,
            cell=cell,
            environment=self.run_info.environment,
            status=status,
            reason=reason,
            started=started,
            seconds=seconds,
            contended=self.run_info.jobs > 1,
        )
        write_atomically(folder / "result.json", json.dumps(result.to_json(), indent=1))

    def _ingest(self) -> None:
        with self.store.open() as connection:
            self.store.ingest(connection)


def visible_devices(environment: Environment) -> list[str]:
    """The GPUs that cells may use, as CUDA_VISIBLE_DEVICES names them."""
    if not environment.accelerator:
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(environment.accelerator.count(", ") + 1)]


def free_devices(visible: list[str], taken: list[str], wanted: int = 1) -> str:
    """The `wanted` visible GPUs with the fewest cells on them, for CUDA_VISIBLE_DEVICES; "" without a GPU.

    `taken` holds such a string for each cell that runs.
    """
    busy = [device for devices in taken for device in devices.split(",")]
    return ",".join(sorted(visible, key=lambda device: (busy.count(device), visible.index(device)))[:wanted])


def what_to_do(
    plan: Plan, store: Store, env_digest: str, retry: frozenset[str] = frozenset()
) -> tuple[dict[str, str], dict[str, Path], list[str]]:
    """(state of each cell, attempt folders of the finished ones, complaints about damaged files).

    A cell is "to do" when it has no attempt in this environment, or its newest one was interrupted, or
    its status is in `retry`, or a finished one is needed and its weights are gone, or one of its needs is
    to do and it was not finished itself.
    """
    with store.open() as connection:
        complaints = store.ingest(connection)
        statuses = store.statuses(connection, env_digest)
        folders = store.finished(connection, env_digest)
    states = {}
    for cell in plan.cells:
        # Finished once is finished, also when a later, repeated attempt was cut short.
        state = Status.DONE if cell.spec_digest in folders else statuses.get(cell.spec_digest, "to do")
        states[cell.spec_digest] = "to do" if state == Status.INTERRUPTED or state in retry else state
    needed = {need for cell in plan.cells for need in cell.needs.values()}
    done: dict[str, Path] = {}
    for cell in plan.cells:
        name = cell.spec_digest
        if states[name] == Status.DONE:
            folder = store.attempt_folder(folders[name])
            waiting = any(states[other.spec_digest] == "to do" for other in plan.cells if name in other.needs.values())
            if name in needed and waiting and not (folder / "weights").exists():
                states[name] = "to do"
            else:
                done[name] = folder
        elif any(states[need] in ("to do", "running") for need in cell.needs.values()):
            states[name] = "to do"
    return states, done, complaints
