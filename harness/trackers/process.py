"""Mirrors at arm's length: each in a process of its own, asked one thing at a time and not waited for long.

A client may print, prompt, hang on a dead network or crash; none of it may harm a run. And since the run
waits for the answer (with --jobs 1 nothing is computed meanwhile), a client's work does not disturb the
times that are being measured. What a mirror says itself, other than its errors, is not kept.
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
from typing import TYPE_CHECKING, Any

from harness.trackers.base import Mirror

if TYPE_CHECKING:
    from harness.records import CellResult

# Importing a client and making its database takes 5 s on 2 idle cores, 20 on busy ones; clients report a server
# that refuses them in 2 to 30 s.
PATIENCE_SECONDS = 120.0
GRACE_SECONDS = 5.0
LONGEST_MESSAGE = 300


class Mirrors:
    """Several mirrors as one, and none as well. Nothing here raises; a mirror that fails is left out from then on."""

    def __init__(self, kinds: Iterable[type[Mirror]], warn: Callable[[str], None], patience: float = PATIENCE_SECONDS):
        self.kinds, self.warn, self.patience = tuple(kinds), warn, patience
        self.remotes: list[Remote] = []

    def begin(self, run: dict[str, Any]) -> None:
        """Start the mirrors. `run` is what the run's file says."""
        for kind in self.kinds:
            try:
                self.remotes.append(Remote(kind))
            except Exception as error:
                self._off(kind.name, explain(error))
        # Its members may be thousands, and each is told of when it ends.
        self._ask("begin", {name: value for name, value in run.items() if name != "members"})

    def cell(self, result: CellResult, folder: Path) -> None:
        """Tell of an attempt that ended."""
        self._ask("cell", result, folder.resolve())

    def end(self, status: str) -> None:
        """Tell of the run's end, and let the processes go. Harmless when called twice or without `begin`."""
        self._ask("end", status)
        for remote in self.remotes:
            remote.close()
        self.remotes = []

    def _ask(self, hook: str, *arguments: Any) -> None:
        """Ask all at once, then wait for each until the same moment."""
        deadline = time.monotonic() + self.patience
        for remote in self.remotes:
            remote.ask(hook, *arguments)
        for remote in list(self.remotes):
            trouble = remote.answer(deadline)
            if trouble:
                self.remotes.remove(remote)
                remote.kill()
                self._off(remote.name, trouble)

    def _off(self, name: str, trouble: str) -> None:
        self.warn(f"the mirror {name} is off for the rest of this run: {trouble}. The results folder has everything.")


class Remote:
    """One mirror's process, and the pipe to it."""

    def __init__(self, kind: type[Mirror]):
        # spawn: a fork of a process with threads in it is not safe.
        context = multiprocessing.get_context("spawn")
        self.name = kind.name
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=serve, args=(kind, there), daemon=True)
        self.process.start()
        there.close()  # else the end of the process would not be the end of the pipe
        self.trouble = ""

    def ask(self, hook: str, *arguments: Any) -> None:
        try:
            self.pipe.send((hook, arguments))
        except Exception as error:
            self.trouble = explain(error)

    def answer(self, deadline: float) -> str:
        """What went wrong, or an empty string. `deadline` is a moment of the monotonic clock."""
        if self.trouble:
            return self.trouble
        try:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                return "it did not answer in time"
            return self.pipe.recv()
        except (EOFError, OSError):
            return "its process ended"

    def close(self) -> None:
        """Let the process end by itself, but not for long."""
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


def serve(kind: type[Mirror], pipe: Connection) -> None:
    """The process of one mirror: do what is asked, answer with what went wrong or an empty string."""
    with contextlib.suppress(OSError):
        os.setsid()  # the terminal's Ctrl-C is the run's business
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()
    for name, value in kind.environment.items():
        os.environ.setdefault(name, value)
    mirror = kind()
    while True:
        try:
            hook, arguments = pipe.recv()
        except EOFError:
            return
        try:
            getattr(mirror, hook)(*arguments)
        except Exception as error:
            pipe.send(explain(error))
        else:
            pipe.send("")


def silence() -> None:
    """No questions and no chatter: they would run through the table of the run."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)


def explain(error: Exception) -> str:
    """An exception as one line of bearable length."""
    words = " ".join(str(error).split()).rstrip(".")
    shown = words if len(words) <= LONGEST_MESSAGE else words[:LONGEST_MESSAGE] + " …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
