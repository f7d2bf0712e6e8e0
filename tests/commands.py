"""The command as a user starts it, and the processes that it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def tunebench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert said in done.stderr.replace("\n", " "), done.stderr


def writers(attempt: str) -> Iterator[int]:
    """The processes that have a log of this attempt open, wherever its folder is."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(handle) for handle in folder.glob("fd/*")]
        except OSError:
            continue
        if any(attempt in name and name.endswith("/log.txt") for name in files):
            yield int(folder.name)
