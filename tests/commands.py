"""The command as a user starts it, and the processes that it leaves."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main


def tunebench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command prints and its exit code, as `harness.cli.main` gives them in this process.

    A process of its own costs ten seconds of imports for each command that runs cells, and shows nothing more; that the
    installed command starts at all is `test_the_installed_command_starts`.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    environment, disabled = dict(os.environ), logging.root.manager.disable
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["tunebench", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            logging.disable(disabled)  # the commands silence libraries
            os.environ.clear()
            os.environ.update(environment)
    return subprocess.CompletedProcess(["tunebench", *arguments], code, out.getvalue(), err.getvalue())


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
