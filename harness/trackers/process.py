"""Runs each tracker in a process of its own and waits a limited time for its answers.

A client may print, prompt, hang on a dead network or crash; none of it may harm a run. The run waits for the answer
(with --jobs 1 nothing is computed meanwhile), so a client's work does not disturb the times that are being measured.
The output of a tracker is discarded; only its errors are reported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.trackers.base import Tracker

if TYPE_CHECKING:
    from harness.records import CellResult, RunRecord

# Importing a client and making its database takes 5 s on 2 idle cores, 20 on busy ones; clients report a server
# that refuses them in 2 to 30 s.
PATIENCE_SECONDS = 120.0
GRACE_SECONDS = 5.0
LONGEST_MESSAGE = 300


class TrackerGroup:
    """Any number of trackers used as one. Its methods never raise: a tracker that fails, or does not answer a call
    within `patience` seconds, is left out from then on, and `warn` is called with a sentence about it."""

    def __init__(self, kinds: Iterable[type[Tracker]], warn: Callable[[str], None], patience: float = PATIENCE_SECONDS):
        self.kinds, self.warn, self.patience = tuple(kinds), warn, patience
        self.processes: list[TrackerProcess] = []

    def begin(self, run: RunRecord) -> None:
        """Start the trackers' processes and tell them of the run, without its members."""
        for kind in self.kinds:
            try:
                self.processes.append(TrackerProcess(kind))
            except Exception as error:
                self._leave_out(kind.name, one_line(error))
        # A run may have thousands of members, and each is reported when it ends.
        self._call("begin", {**run, "members": []})

    def cell(self, result: CellResult, folder: Path) -> None:
        """Report an attempt that ended; `folder` is the attempt's."""
        self._call("cell", result, folder.resolve())

    def end(self, status: str) -> None:
        """Report the run's end and how it ended, and let the processes end. Harmless when called twice or without
        `begin`."""
        self._call("end", status)
        for process in self.processes:
            process.close()
        self.processes = []

    def _call(self, hook: str, *arguments: object) -> None:
        """Call a hook in every process at once, then wait for all answers until the same deadline."""
        deadline = time.monotonic() + self.patience
        for process in self.processes:
            process.call(hook, *arguments)
        for process in list(self.processes):
            error = process.answer(deadline)
            if error:
                self.processes.remove(process)
                process.kill()
                self._leave_out(process.name, error)

    def _leave_out(self, name: str, error: str) -> None:
        self.warn(f"the tracker {name} is off for the rest of this run: {error}. The results folder has everything.")


class TrackerProcess:
    """The process of one tracker, and the pipe to it."""

    def __init__(self, kind: type[Tracker]):
        # spawn: a fork of a process with threads in it is not safe.
        context = multiprocessing.get_context("spawn")
        self.name = kind.name
        self.pipe, child_end = context.Pipe()
        self.process = context.Process(target=serve, args=(kind, child_end), daemon=True)
        self.process.start()
        child_end.close()  # else the end of the process would not be the end of the pipe
        self.error = ""

    def call(self, hook: str, *arguments: object) -> None:
        """Send the call of a hook ("begin", "cell" or "end") without waiting. An error is kept for `answer`."""
        try:
            self.pipe.send((hook, arguments))
        except Exception as error:
            self.error = one_line(error)

    def answer(self, deadline: float) -> str:
        """Wait until the last call has ended, at most until `deadline` on the monotonic clock (seconds). Returns its
        error, or ""."""
        if self.error:
            return self.error
        try:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                return "it did not answer in time"
            return cast(str, self.pipe.recv())
        except (EOFError, OSError):
            return "its process ended"

    def close(self) -> None:
        """Let the process end by itself; kill it after some seconds."""
        self.pipe.close()
        self.process.join(GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process, if it has not ended, with what the client started in its group."""
        if self.process.pid is None or self.process.exitcode is not None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(GRACE_SECONDS)


def serve(kind: type[Tracker], pipe: Connection) -> None:
    """Run one tracker in its process: call the hooks that arrive through `pipe`, and answer each with its error, or "".
    Returns when the other end is closed."""
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal is for the run alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()
    for name, value in kind.environment.items():
        os.environ.setdefault(name, value)
    tracker = kind()
    while True:
        try:
            hook, arguments = pipe.recv()
        except EOFError:
            return
        try:
            getattr(tracker, hook)(*arguments)
        except Exception as error:
            pipe.send(one_line(error))
        else:
            pipe.send("")


def silence() -> None:
    """Turn standard input, output and error to the null device: prompts and messages would break the run's table."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)


def one_line(error: Exception) -> str:
    """Returns an exception's type and message as one line of at most some 300 characters."""
    words = " ".join(str(error).split()).rstrip(".")
    shown = words if len(words) <= LONGEST_MESSAGE else words[:LONGEST_MESSAGE] + " …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
