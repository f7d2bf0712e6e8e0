"""What every mirror is: one class in one file of this folder that tells another tracker about a run.

The results folder stays the truth. A mirror reads nothing back, uploads no weights, and has no settings
of its own: the client's environment variables say where it writes. A mirror file imports this base and
`content.py` alone, and its client inside functions. Its exceptions are `process.py`'s business.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records import CellResult


class Mirror:
    """Another tracker that is told about a run: `begin`, then `cell` for each attempt, then `end`.

    `name` is what `--mirror` takes, and the extra that installs the client. Hooks do nothing by default;
    what they raise ends the mirror and not the run.
    """

    name: ClassVar[str] = ""
    package: ClassVar[str] = ""  # the client's distribution
    at_least: ClassVar[str] = ""  # its oldest version that works
    environment: ClassVar[dict[str, str]] = {}  # defaults of the client's variables, where the user sets none

    @classmethod
    def skip(cls) -> str | None:
        """Why this mirror cannot be used in this installation, and what to do; or None."""
        remedy = f"Run: pip install 'tunebench[{cls.name}]'"
        try:
            found = version(cls.package)
        except PackageNotFoundError:
            return f"the mirror {cls.name} needs the package {cls.package}, which is not installed. {remedy}"
        if numbers(found) < numbers(cls.at_least):
            return f"the mirror {cls.name} needs {cls.package} {cls.at_least} or newer, this is {found}. {remedy}"
        return None

    def begin(self, run: dict[str, Any]) -> None:
        """A run starts. `run` is what its file says: run_id, suite, question, env_digest, started, command."""

    def cell(self, result: CellResult, folder: Path) -> None:
        """An attempt ended. `folder` is its own, absolute: result.json, job.json, items, logs."""

    def end(self, status: str) -> None:
        """The run ended: "done", "failed" or "interrupted"."""


def numbers(release: str) -> tuple[int, ...]:
    """(3, 17) of "3.17.2rc1": what is compared."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])
