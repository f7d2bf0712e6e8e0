"""The base of every tracker: one class in one file of this folder that reports a run to another program.

The results folder stays the truth. A tracker reads nothing back, uploads no weights, and has no settings of its own:
the client's environment variables say where it writes. A tracker file imports this base and `content.py` alone, and
its client inside functions. It need not catch the client's exceptions: `process.py` does.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records import CellResult, RunRecord


class Tracker:
    """Another program that is told about a run: `begin`, then `cell` for each attempt, then `end`.

    `name` is what `--tracker` takes, and the name of the extra that installs the client. Hooks do nothing by default.
    An exception from a hook ends the tracker, not the run.
    """

    name: ClassVar[str] = ""
    package: ClassVar[str] = ""  # the client's distribution
    at_least: ClassVar[str] = ""  # its oldest version that works
    environment: ClassVar[dict[str, str]] = {}  # defaults of the client's variables, where the user sets none

    @classmethod
    def skip(cls) -> str | None:
        """Returns why this tracker cannot be used in this installation, and what to do; None when it can be used."""
        remedy = f"Run: pip install 'tunebench[{cls.name}]'"
        try:
            installed = version(cls.package)
        except PackageNotFoundError:
            return f"the tracker {cls.name} needs the package {cls.package}, which is not installed. {remedy}"
        if release_numbers(installed) < release_numbers(cls.at_least):
            return (
                f"the tracker {cls.name} needs {cls.package} {cls.at_least} or newer; "
                f"version {installed} is installed. {remedy}"
            )
        return None

    def begin(self, run: RunRecord) -> None:
        """Called when a run starts, with its record (`members` is empty)."""

    def cell(self, result: CellResult, folder: Path) -> None:
        """Called when an attempt at a cell has ended, well or not. `folder` (absolute) holds its result.json, job.json,
        items and logs."""

    def end(self, status: str) -> None:
        """Called when the run has ended; `status` is "done", "failed" or "interrupted"."""


def release_numbers(release: str) -> tuple[int, ...]:
    """Returns the first two numbers of a version, to compare by: (3, 17) for "3.17.2rc1"."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])
