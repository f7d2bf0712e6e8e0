"""Watches the memory of cells on a CPU, and ends one before the system would, with evidence of who held how much.

The system's own killer leaves a bare SIGKILL and takes whom it likes. So cells are watched: a cell that passes its
limit, or the largest when the machine is about to run out of memory, is ended, and what it held is kept as the reason.
Not covered: a GPU's memory, for which CUDA raises an error of its own.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.records import Status

GIB = 2**30
TICK_SECONDS = 0.1
FAMILY_SECONDS = 3.0  # finding a process's children reads all of /proc
RESERVE_SHARE, RESERVE_BYTES = 0.03, 256 * 2**20  # of the machine's memory, kept for everything else
CGROUP = Path("/sys/fs/cgroup")
# Names of the limit, of what is used, and of file pages that can be taken back: of version 2, and of version 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass
class Watched:
    """A cell's process, with the pids of those that it started (`family`, looked up at the monotonic time `looked`).
    `bytes` are resident now in all of them, `peak` is the most so far."""

    pid: int
    family: tuple[int, ...] = ()
    bytes: int = 0
    peak: int = 0
    looked: float = 0.0


class Watchdog(threading.Thread):
    """Thread that ends cells which hold too much memory. `verdicts` maps the pid of an ended cell to (status,
    evidence): "oom", or "interrupted" where other programs took the memory.

    `limit` is the resident bytes that one cell may hold; None for the machine's own limit alone.
    """

    def __init__(self, limit: int | None = None):
        super().__init__(name="watchdog", daemon=True)
        self.limit = limit
        self.cells: dict[int, Watched] = {}
        self.verdicts: dict[int, tuple[Status, str]] = {}
        self.kills = system_kills()
        self.reserve = int(min(total_memory() * RESERVE_SHARE + RESERVE_BYTES, GIB))
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def watch(self, pid: int) -> None:
        """Begin to watch a cell's process."""
        with self.lock:
            self.cells[pid] = Watched(pid)

    def forget(self, pid: int) -> tuple[int, tuple[Status, str] | None]:
        """Stop watching a process that has ended. Returns (its peak resident bytes, its verdict or None if it was not
        ended from here)."""
        with self.lock:
            watched = self.cells.pop(pid, Watched(pid))
            return watched.peak, self.verdicts.pop(pid, None)

    def killed_by_system(self) -> bool:
        """Returns whether the system has killed a process for memory since this was last asked."""
        before, self.kills = self.kills, system_kills()
        return self.kills > before

    def run(self) -> None:
        """Look at all cells ten times a second, until `stop` is called."""
        while not self.stopped.wait(TICK_SECONDS):
            with self.lock:
                self.look()

    def stop(self) -> None:
        """Stop watching, and wait until the thread has ended."""
        self.stopped.set()
        if self.is_alive():
            self.join()

    def look(self) -> None:
        """Measure the memory of every cell. End each cell that holds more than `limit`, and the largest one where the
        machine is about to run out of memory."""
        for watched in self.cells.values():
            if time.monotonic() - watched.looked > FAMILY_SECONDS:
                watched.family, watched.looked = family(watched.pid), time.monotonic()
            watched.bytes = sum(map(resident, (watched.pid, *watched.family)))
            watched.peak = max(watched.peak, watched.bytes)
            if self.limit and watched.bytes > self.limit and watched.pid not in self.verdicts:
                self.end(
                    watched, Status.OOM,
                    f"held {watched.bytes / GIB:.2f} GiB resident; the memory limit of a cell is "
                    f"{self.limit / GIB:.2f} GiB",
                )  # fmt: skip
        left = memory_left()
        if left >= self.reserve or not self.cells or self.verdicts.keys() & self.cells.keys():
            return  # enough is left, or what was ended is still giving its memory back
        largest = max(self.cells.values(), key=lambda watched: watched.bytes)
        together = sum(watched.bytes for watched in self.cells.values())
        what = f"held {largest.bytes / GIB:.2f} GiB resident when the machine had {left / GIB:.2f} GiB left"
        if together > total_memory() / 2:
            self.end(largest, Status.OOM, f"{what} of {total_memory() / GIB:.1f} GiB")
        else:  # others took it: no fault of the cell's, so it runs again
            self.end(largest, Status.INTERRUPTED, f"{what}; most of the rest was held by other programs")

    def end(self, watched: Watched, status: Status, evidence: str) -> None:
        """Kill a cell's process with all that it started, and record the verdict."""
        self.verdicts[watched.pid] = status, evidence
        for number in (watched.pid, *watched.family):
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)
        with suppress(OSError):
            os.killpg(watched.pid, signal.SIGKILL)


def resident(pid: int) -> int:
    """Returns the resident bytes of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def family(pid: int) -> tuple[int, ...]:
    """Returns the pids of all processes that a process started, directly or through others; none when it is gone."""
    import psutil

    try:
        return tuple(child.pid for child in psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return ()


def total_memory() -> int:
    """Returns the bytes that processes here may use: the machine's, or the container's where that is less."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in cgroup_limits())])


def memory_left() -> int:
    """Returns the bytes that can still be had before the system begins to kill."""
    import psutil

    return min([int(psutil.virtual_memory().available), *(limit - used for limit, used in cgroup_limits())])


def cgroup_limits() -> list[tuple[int, int]]:
    """Returns (limit, bytes in use without reclaimable file pages) for this process's control group and each one above
    it that has a limit."""
    limits = []
    for folder in cgroup_folders():
        for limit, used, files in CGROUP_FILES:
            try:
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                bound = int((folder / limit).read_text())
                limits.append((bound, int((folder / used).read_text()) - int(stat.get(files, 0))))
            except (OSError, ValueError):
                continue  # the other version's names, or "max": no limit
    return limits


def cgroup_folders() -> list[Path]:
    """Returns the folders of this process's control group (memory's, in version 1) and of those above it, as far as
    they can be seen."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    roots = [
        (CGROUP if number == "0" else CGROUP / "memory", path.lstrip("/"))
        for number, controllers, path in lines
        if number == "0" or "memory" in controllers.split(",")
    ]
    own = [(root, root / path) for root, path in roots]
    return [folder for root, start in own for folder in (start, *start.parents) if folder.is_relative_to(root)]


def system_kills() -> int:
    """Returns how many processes the system has killed for memory since it started; 0 where it does not tell."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
