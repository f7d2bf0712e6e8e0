"""Decides which cell runs next: which are ready, which are blocked. Pure: states come in, cells go out.

All labels run their first seed, the longest cell first, then all their second: a machine that grows slower or faster
over a run does so to all labels alike. With one label's seeds side by side, a drift of 3% a cell made a cost differ in
21% of comparisons of identical labels (simulated).

Every call costs the same in a suite of a hundred cells and of a hundred thousand.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from harness.execute.durations import Kind, kind_of
from harness.records import WARM, Cell, Status

TO_DO, RUNNING = "to do", "running"
HELD = "not chosen"  # it may yet be admitted: `decide` runs some cells of a suite
NEEDS = "needs "  # how the reason of a cell begins that was skipped because of others
TRIES = 64  # ready cells that are looked at when the first ones do not fit beside what runs
PATIENCE = 4  # times a ready cell may be passed over by smaller ones; then they wait for it

Slot = TypeVar("Slot")  # the room that an executor gives to a cell


def turns(cells: Sequence[Cell]) -> dict[str, int]:
    """Returns spec_digest -> the cell's turn: how many cells before it differ from it only in the seed. Studies are
    counted apart, so that a study and the cells of its seed have the same turn."""
    met: Counter[tuple[object, ...]] = Counter()
    found = {}
    for cell in cells:
        alike = (cell.label, cell.model, cell.task, cell.n_train, str(cell.data), bool(cell.study))
        found[cell.spec_digest] = met[alike]
        met[alike] += 1
    return found


class Queue:
    """The cells of a plan with their states by spec digest: "to do", "running", or the status they ended with.

    `cells` are in the plan's order: needed cells come first. `states` is kept up to date. `seconds` returns the
    expected seconds of a cell. Cells that are held ("not chosen") run only once they are admitted. Among cells of the
    same turn (`turns`), the one goes first whose own seconds plus those of the longest chain of cells that wait for it
    are most, so that all slots end together. Equal cells go in the order of their digests, which favours no label."""

    def __init__(self, cells: Sequence[Cell], states: dict[str, str], seconds: Callable[[Cell], float]):
        self.cells = {cell.spec_digest: cell for cell in cells}
        self.states = states
        self.counts = Counter(str(states[name]) for name in self.cells)
        self.blocked: deque[tuple[Cell, str]] = deque()
        self.order = {name: number for number, name in enumerate(self.cells)}
        self.followers: dict[str, list[str]] = defaultdict(list)
        self.waits: dict[str, int] = {}
        self.passed: Counter[str] = Counter()
        self.ready: list[tuple[int, float, str]] = []
        self.turns = turns(cells)
        self.seconds = seconds
        self.waiting_by_kind: Counter[Kind] = Counter()
        self.length: dict[str, float] = {}
        self._wait({name for name in self.cells if states[name] == TO_DO})

    def take(self, room: Callable[[Cell], Slot | None]) -> tuple[Cell, Slot] | None:
        """Returns the next ready cell for which `room` gives a slot, with that slot, and marks the cell as running;
        None where no ready cell has room. At most 64 ready cells are tried, and none beyond one that was passed over
        four times: the smaller ones then wait for it."""
        passed: list[tuple[int, float, str]] = []
        taken = None
        while self.ready and len(passed) < TRIES and not taken:
            entry = heapq.heappop(self.ready)
            cell = self.cells[entry[2]]
            slot = room(cell)
            if slot is not None:
                taken = cell, slot
            else:
                passed.append(entry)
                if self.passed[cell.spec_digest] >= PATIENCE:
                    break
        for entry in passed:
            heapq.heappush(self.ready, entry)
            self.passed[entry[2]] += taken is not None
        if taken:
            self._set(taken[0].spec_digest, RUNNING)
        return taken

    def end(self, name: str, status: str) -> None:
        """Record how the cell `name` (a spec digest) ended. Cells that waited only for it are now ready, or blocked
        where a need did not end well."""
        self._set(name, status)
        for later in self.followers.pop(name, ()):
            self.waits[later] -= 1
            if self.waits[later] == 0:
                self._release(later)

    def add(self, cell: Cell, after: str) -> None:
        """Add a cell that is ready and was not planned: a trial of the study `after` (a spec digest). It goes before
        that study's followers, and is ranked by the study's length."""
        name = cell.spec_digest
        self.cells[name] = cell
        self.order.setdefault(name, len(self.order))
        self.put_back(name)
        self.length[name] = self.length[after]
        self._release(name)

    def admit(self, names: Collection[str]) -> None:
        """Set held cells (`names` are their spec digests) to "to do". Held cells among their needs must be named too:
        a cell whose need is held is blocked."""
        chosen = {name for name in names if self.states[name] == HELD}
        for name in chosen:
            self._set(name, TO_DO)
        self._wait(chosen)

    def put_back(self, name: str) -> None:
        """Set a cell (`name` is its spec digest) that was taken, and has not ended, to "to do" again. It is counted,
        but not ready to be taken."""
        if self.states.get(name) == TO_DO:
            return
        if name in self.states:
            self.counts[str(self.states[name])] -= 1
        self.states[name] = TO_DO
        self.counts[TO_DO] += 1
        self.waiting_by_kind[kind_of(self.cells[name])] += 1

    @property
    def waiting_by_method(self) -> Counter[str]:
        """The number of cells that are still to do, by method."""
        counts: Counter[str] = Counter()
        for (method, *_), count in self.waiting_by_kind.items():
            counts[method] += count
        return counts

    @property
    def waiting(self) -> int:
        """The number of cells that are still to do."""
        return self.counts[TO_DO]

    def _wait(self, names: set[str]) -> None:
        """Let cells that are to do wait for those before them that are to do or run; those that wait for none are
        ready."""
        for name in names:
            cell = self.cells[name]
            before = {*cell.needs.values(), cell.baseline}
            unfinished = {need for need in before if self.states.get(need) in (TO_DO, RUNNING)}
            self.waits[name] = len(unfinished)
            for earlier in unfinished:
                self.followers[earlier].append(name)
        self.waiting_by_kind.update(kind_of(self.cells[name]) for name in names)
        for name in reversed(self.order):
            if name in names:
                after = max((self.length[later] for later in self.followers[name]), default=0.0)
                self.length[name] = self.seconds(self.cells[name]) + after
        for name in self.order:
            if name in names and self.waits[name] == 0:
                self._release(name)

    def _release(self, name: str) -> None:
        """Move a cell whose needs have ended to the ready cells, or to the blocked ones where a need did not end
        well."""
        cell = self.cells[name]
        # A study from which another only starts need not have ended well.
        needs = [need for role, need in cell.needs.items() if role != WARM]
        missing = [need for need in needs if self.states.get(need, "not in the plan") != Status.DONE]
        if missing:
            what = ", ".join(
                f"{self.cells[need].key if need in self.cells else need[:12]} "
                f"({self.states.get(need, 'not in the plan')})"
                for need in missing
            )
            self.blocked.append((cell, NEEDS + what))
        else:
            heapq.heappush(self.ready, (self.turns.get(name, 0), -self.length[name], name))

    def _set(self, name: str, state: str) -> None:
        if self.states[name] == TO_DO:
            self.waiting_by_kind[kind_of(self.cells[name])] -= 1
        self.counts[str(self.states[name])] -= 1
        self.states[name] = state
        self.counts[str(state)] += 1
