"""Holds the state of a run: what it was given, which cells are under way, how they ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.data import Facts
from harness.execute.durations import Durations, Kind, kind_of
from harness.execute.events import News, latest_news
from harness.execute.queue import Queue
from harness.execute.signing import new_key
from harness.plan import Plan
from harness.records import Cell, Environment, Status

Slot = TypeVar("Slot")  # the room that an executor gives to a cell: devices, shares of a cluster
Handle = TypeVar("Handle")  # what an executor knows a started cell by: a process, a task, a job


LATE = 0.1  # the share of its time that a cell is thought to need still, where it is not through when it should be


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
    durations: Durations = field(default_factory=Durations)  # of cells that ended before this run
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
    choose: Callable[[Progress], Collection[str]] | None = None  # spec digests of held cells to run next; none: no more

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

    def seconds_left(self, expected: float) -> float:
        """Estimates the seconds until this cell ends, given the `expected` seconds of cells like it, and the steps of
        training that it has reported."""
        gone, news = self.seconds, self.events()
        left = max(expected - gone, LATE * gone)
        if news.get("phase") == "train" and 0 < news.get("step", 0) <= news.get("steps", 0):
            left = max(left, gone * (news["steps"] / news["step"] - 1))
        return left

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
    end. `stopping`: no further cell is started; `stop_now`: what runs is ended as well. `before` has how long cells
    took before this run."""

    plan: Plan
    states: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)
    running: list[Running[Any, Any]] = field(default_factory=list)
    ended: list[tuple[Cell, str, float]] = field(default_factory=list)
    stopping: bool = False
    stop_now: bool = False
    queue: Queue | None = None
    before: Durations = field(default_factory=Durations)

    def waiting_by_kind(self) -> Counter[Kind]:
        """Returns kind of cell -> the number of those that are still to do."""
        return self.queue.waiting_by_kind if self.queue else Counter()

    def seconds_left(self) -> float | None:
        """Estimates the seconds until the end of the run; None where nothing is known of any cell.

        A cell's seconds are expected to be those of its like in this run, else before it, else those of its method with
        other models, scaled to the model's size; where its method has not ended at all, the mean of what has. What runs
        is taken off by the second. A cell that takes longer than expected is expected to take a tenth more than it has,
        so that the estimate grows and does not stand still; one that trains, at least as long as its steps need.
        """
        now = [(*kind_of(cell), seconds) for cell, state, seconds in self.ended if state == Status.DONE]
        here, before = Durations(now, self.before.parameters), self.before
        overall = here.means.get(()) or before.means.get(())
        if overall is None:
            return None

        def expected(kind: Kind) -> float:
            if kind in here.means:
                return here.means[kind]
            known = before.seconds_of(kind) if kind[:2] in before.means else here.seconds_of(kind)
            return known or before.seconds_of(kind) or overall

        waiting = sum(expected(kind) * count for kind, count in self.waiting_by_kind().items())
        rest = sum(one.seconds_left(expected(kind_of(one.cell))) for one in self.running)
        return (waiting + rest) / max(1, len(self.running))

    @property
    def seconds(self) -> dict[str, float]:
        """spec_digest -> the seconds that the cell took, of the cells that ended in this run."""
        return {cell.spec_digest: seconds for cell, _, seconds in self.ended}
