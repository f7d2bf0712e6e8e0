"""Starts cells in another Python: a process of that Python has the heavy libraries imported already, and forks for each
cell.

The other end is `harness.worker.server`, which runs in the other environment. Requests and answers are lines of JSON
over pipes. The server dies with the command, and its cells with the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from harness.errors import UserError
from harness.worker import LOST

START_SECONDS = 180.0  # imports of torch and transformers from a cold disk
CLOSE_SECONDS = 1.0


class ServedProcess:
    """A cell's process that a server has started: the part of `multiprocessing.Process` that executors use."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.exitcode: int | None = None
        self.sentinel, self._writer = os.pipe()  # readable once the process has ended
        self._started, self._ended = threading.Event(), threading.Event()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, `timeout` seconds at the most."""
        self._ended.wait(timeout)

    def set_started(self, pid: int) -> None:
        """Note the process's pid."""
        self.pid = pid
        self._started.set()

    def set_ended(self, code: int) -> None:
        """Note the process's exit code; negative numbers are signals."""
        if self.exitcode is None:
            self.exitcode = code
            os.close(self._writer)
            self._started.set()
            self._ended.set()

    def close(self) -> None:
        """Give the sentinel back."""
        with suppress(OSError):
            os.close(self.sentinel)


class WorkerServer:
    """The command's end of a server in another environment. Raises UserError where it does not come up: the libraries
    of that environment cannot be imported together."""

    def __init__(self, python: Path, log: Path):
        self.log, self.processes = log, dict[int, ServedProcess]()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(python), "-m", "harness.worker.server", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True, bufsize=1,
            )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout
        ready = threading.Event()
        self.reader = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self.reader.start()
        if not ready.wait(START_SECONDS) or self.process.poll() is not None:
            self.close()
            said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise UserError(f"no cell can run with {python}: {' '.join(said[-1:]) or 'it ended without a word'}")

    def start(self, folder: Path, variables: dict[str, str], device: str) -> ServedProcess:
        """Start the process of the cell in the attempt's `folder`; returns it once it has a pid."""
        process = ServedProcess()
        number = len(self.processes)
        self.processes[number] = process
        request = {"number": number, "folder": str(folder), "variables": variables, "device": device}
        try:
            self.requests.write(json.dumps(request) + "\n")
            self.requests.flush()
        except OSError:
            process.set_ended(LOST)
        process._started.wait(START_SECONDS)
        return process

    def close(self) -> None:
        """End the server, and with it whatever it still runs."""
        with suppress(OSError):
            self.requests.close()
        self.process.kill()
        self.process.wait()
        self.reader.join(CLOSE_SECONDS)
        for process in self.processes.values():
            process.close()

    def _read(self, ready: threading.Event) -> None:
        """Take in the server's answers, until it has gone; cells that it had not reported on are lost."""
        for line in self.answers:
            answer = json.loads(line)
            if "ready" in answer:
                ready.set()
            elif "pid" in answer:
                self.processes[answer["number"]].set_started(answer["pid"])
            else:
                self.processes[answer["number"]].set_ended(answer["code"])
        ready.set()
        for process in self.processes.values():
            process.set_ended(LOST)
