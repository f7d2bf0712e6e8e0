"""The first lines of a cell's process: a log of its own, a group of its own, and an end with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

WATCH_SECONDS = 1.0
PR_SET_PDEATHSIG = 1


def main(folder: str, parent: int, variables: dict[str, str]) -> None:
    """Run the job in `folder`. `parent` is the pid of the command that waits for it.

    `variables` is that command's environment: the fork server's is the one it was started with.
    """
    os.environ.clear()
    os.environ.update(variables)
    with contextlib.suppress(OSError):
        os.setsid()  # a stuck cell is ended with everything it started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # dies with the fork server ...
    threading.Thread(target=watch, args=(parent,), daemon=True).start()  # ... and with the command
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    from harness.execute import ranks

    ranks.run(Path(folder))


def watch(parent: int) -> None:
    """End this process when the command that started it is gone."""
    while True:
        try:
            os.kill(parent, 0)
        except OSError:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        time.sleep(WATCH_SECONDS)
