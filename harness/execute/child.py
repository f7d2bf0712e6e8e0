"""The entry of a cell's process: it gets a log and a process group of its own, and ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from harness.store import LOG, hold_for_cell, read_job

WATCH_SECONDS = 0.5
PR_SET_PDEATHSIG = 1


def main(folder: str, parent: int, variables: dict[str, str], device: str) -> None:
    """Run the job in the attempt's `folder`. `parent` is the pid of the command that waits for it; this process ends
    when that one does. `device` is the name that the result records ("cpu", "cuda:0").

    `variables` is that command's environment; the fork server's may be older, as it is the one that the server was
    started with.
    """
    os.environ.clear()
    os.environ.update(variables)
    with contextlib.suppress(OSError):
        os.setsid()  # a stuck cell is ended with everything it started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()  # with the fork server ...
    threading.Thread(target=watch, args=(parent,), daemon=True).start()  # ... and with the command
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # should the system kill for memory: a cell, not the parent
    log = os.open(Path(folder) / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    import harness.execute.preload  # a forked process has it already  # noqa: F401
    from harness.worker import run

    hold_for_cell(read_job(Path(folder)).results)
    end_without(parent)  # it may have gone before the lock was taken, and the next command with it
    run(Path(folder), device)


def die_with_parent() -> None:
    """Ask the system to kill this process when the one that started it ends. (Linux; elsewhere `watch` does.)"""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(parent: int) -> None:
    """Look every half second whether the process `parent` is gone, the command that started this one, and end this
    process and its group when it is."""
    while True:
        end_without(parent)
        time.sleep(WATCH_SECONDS)


def end_without(parent: int) -> None:
    """End this process and its group when the process `parent` is gone."""
    try:
        os.kill(parent, 0)
    except OSError:
        os.killpg(os.getpgid(0), signal.SIGKILL)


def use_cuda() -> None:
    """Use the GPU once. A process that ends with exit code 0 can use it; it is started like a cell's process, as a
    probe."""
    import torch

    torch.zeros(1, device="cuda")
