"""Holds the state of a run: what it was given, which cells are under way, how they ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.data import Facts
from harness.execute.events import News, latest_news
from harness.execute.queue import Queue
from harness.execute.signing import new_key
from harness.plan import Plan
from harness.records import Cell, Environment, Status

Slot = TypeVar("Slot")  # the room that an executor gives to a cell: devices, shares of a cluster
Handle = TypeVar("Handle")  # what an executor knows a started cell by: a process, a task, a job


@dataclass(frozen=True)
class Limits:
    """Limits of a cell: `seconds` and `memory` in resident bytes; None is no limit of our own. `machine` is the memory
    of a device in bytes, None for what is found."""

    seconds: float | None = None
    memory: int | None = None
    machine: int | None = None  # bytes of a device, instead of what was found


@dataclass(frozen=True)
class Run:
    """One execution of a suite. `threads` are the CPU threads of a cell; `jobs` is the number of cells at a time, None
    for the executor's own choice."""

    run_id: str
    environment: Environment
    facts: Facts
    threads: int
    jobs: int | None = None
    limits: Limits = Limits()
    seconds: Callable[[Cell], float] = lambda cell: 1.0  # expected
    predict: Callable[[Cell], int | None] = lambda cell: None  # bytes on the device
    parts: Callable[[Cell], dict[str, int]] = lambda cell: {}  # part of the prediction -> bytes
    peaks: Mapping[str, float] = field(default_factory=dict)  # precision -> FLOP/s of a device's matrix products
    address: str = ""  # of a cluster
    bad_instruments: tuple[str, ...] = ()  # checks that failed: every result is marked
    root: Path = Path()  # the project's folder: where `suites/` lies
    key: bytes = field(default_factory=new_key, repr=False)  # signs what is sent to other machines
    least: Callable[[Cell], int | None] | None = None  # bytes, without what is left out where there is no room
    python: Path | None = None  # of another environment, whose packages cells compute with; None for this program's own
    may_start: Callable[[], bool] = lambda: True  # whether it is this run's turn, where several take turns

    def needed(self, cell: Cell) -> int | None:
        """Returns the bytes without which a cell cannot run (None where unknown): where a device has fewer, the cell is
        refused."""
        return (self.least or self.predict)(cell)


@dataclass
class Running(Generic[Slot, Handle]):
    """A cell under way; `folder` is its attempt's. `slot` and `handle` belong to the executor; `handle` is None until
    the cell is launched."""

    cell: Cell
    folder: Path
    slot: Slot
    handle: Handle | None = None
    device: str = ""
    pid: int = 0
    started: float = field(default_factory=time.monotonic)
    finished: float = 0.0  # when its result was first seen

    @property
    def seconds(self) -> float:
        """The seconds since the cell was started."""
        return time.monotonic() - self.started

    @property
    def launched(self) -> Handle:
        """The handle of a cell that was launched."""
        assert self.handle is not None, f"{self.cell.key} was not launched"
        return self.handle

    def events(self) -> News:
        """Returns the newest value of each field that the worker reported: phase, step, steps, loss; empty before the
        first."""
        return latest_news(self.folder)


@dataclass(frozen=True)
class Ended:
    """How a cell's process ended. Status and reason count only where the process left no result."""

    status: Status = Status.FAILED
    reason: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a cell can never run on an executor."""

    reason: str


@dataclass
class Progress:
    """The state of a run, for a display. `states` maps spec digests to "to do", "running" or the status a cell ended
    with; `counts` counts the cells of each state. `ended` grows: (cell, status, seconds) in the order in which cells
    end. `stopping`: no further cell is started."""

    plan: Plan
    states: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)
    running: list[Running[Any, Any]] = field(default_factory=list)
    ended: list[tuple[Cell, str, float]] = field(default_factory=list)
    stopping: bool = False
    queue: Queue | None = None

    def waiting_by_method(self) -> Counter[str]:
        """Returns method -> the number of its cells that are still to do."""
        return self.queue.waiting_by_method if self.queue else Counter()

    @property
    def seconds(self) -> dict[str, float]:
        """spec_digest -> the seconds that the cell took, of the cells that ended in this run."""
        return {cell.spec_digest: seconds for cell, _, seconds in self.ended}
