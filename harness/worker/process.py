"""The entry of a cell's process: it gets a log and a process group of its own, and ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from harness.store import LOG, hold_for_cell, is_full, read_job

WATCH_SECONDS = 0.5
PR_SET_PDEATHSIG = 1
FULL = 28  # exit code of a process that could not write its result to a full disk; errno's number for it
LOST = 255  # exit code of a process whose fork server is gone, as multiprocessing has it


def main(folder: str, parent: int, variables: dict[str, str], device: str) -> None:
    """Run the job in the attempt's `folder`. `parent` is the pid of the command that waits for it; this process ends
    when that one does, even where it is stopped itself. `device` is the name that the result records ("cpu", "cuda:0").

    `variables` is that command's environment; the fork server's may be older, as it is the one that the server was
    started with.
    """
    os.environ.clear()
    os.environ.update(variables)
    with contextlib.suppress(OSError):
        os.setsid()  # a stuck cell is ended with everything it started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    leave_fork_server()
    die_with_parent()  # with the fork server, which dies with the command ...
    threading.Thread(target=watch, args=(parent,), daemon=True).start()  # ... and with the command
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # should the system kill for memory: a cell, not the parent
    log = os.open(Path(folder) / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    import harness.worker.preload  # a forked process has it already  # noqa: F401
    from harness.worker import run

    hold_for_cell(read_job(Path(folder)).results)
    end_without(parent)  # it may have gone before the lock was taken, and the next command with it
    try:
        run(Path(folder), device)
    except Exception as error:
        if not is_full(Path(folder), error):
            raise
        os._exit(FULL)  # without a log, which is on the same disk


def die_with_parent() -> None:
    """Ask the system to kill this process when the one that started it ends. (Linux; elsewhere `watch` does.)"""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_fork_server() -> None:
    """Close this process's end of the pipe by which the fork server sees that it is still needed. Every process that it
    forks holds that pipe too, so that the server, and with it a stopped cell, would outlive a killed command."""
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    handle = getattr(server, "_forkserver_alive_fd", None)
    if multiprocessing.parent_process() is not None and handle is not None:
        server._forkserver_alive_fd = None
        with contextlib.suppress(OSError):
            os.close(handle)


def watch(parent: int) -> None:
    """Wait until the process `parent` is gone, the command that started this one, and end this process and its
    group."""
    while True:
        end_without(parent)
        if (above := multiprocessing.parent_process()) is not None:
            above.join(WATCH_SECONDS)
        else:
            time.sleep(WATCH_SECONDS)


def end_without(parent: int) -> None:
    """End this process and its group when the command is gone that started it: at the end of the pipe that the command
    holds, or, where there is none (a job of Slurm's), when the process `parent` is gone. A pid alone may be in use
    again."""
    above = multiprocessing.parent_process()
    try:
        if above is None:
            os.kill(parent, 0)
        elif not above.is_alive():
            raise ProcessLookupError
    except OSError:
        os.killpg(os.getpgid(0), signal.SIGKILL)


def use_cuda() -> None:
    """Use the GPU once. A process that ends with exit code 0 can use it; it is started like a cell's process, as a
    probe."""
    import torch

    torch.zeros(1, device="cuda")
