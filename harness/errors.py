"""The exceptions that tunebench raises on purpose, and what each one means to the caller.

::

    TunebenchError
    ├── UserError              the caller can correct it: one message, exit code 2, no traceback
    │   ├── SuiteError         every mistake of a suite at once, with file and line
    │   ├── TaskError          a task that cannot be loaded, or cannot be learned
    │   ├── SourceError        a source that is malformed, damaged or missing
    │   │   └── OfflineError   ... because the network cannot be reached
    │   └── StoreError         a results folder or database that cannot be used
    │       ├── DamagedStore   ... because its files are not what we wrote
    │       ├── NewerStore     ... because a newer tunebench wrote it
    │       ├── BusyStore      ... because another process has it open
    │       └── FullDisk       ... because there is no space left
    └── CellError              ends one cell; the other cells go on
        ├── OutOfMemory        status oom
        ├── Diverged           status diverged
        ├── Interrupted        status interrupted: the machine's fault, not the cell's; it runs again
        └── Unavailable        status skipped: a package or a device is missing
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class TunebenchError(Exception):
    """The base of every error that this package raises on purpose."""


class UserError(TunebenchError):
    """A mistake that the caller can correct; the message says how. The command exits with 2."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a file. `message` says what the file has and what would be right; `line` counts from 1. An empty
    `file` or a `line` of 0 is not known and left out of the text."""

    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        location = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return location + self.message


class SuiteError(UserError):
    """All mistakes of one suite at once. `problems` has them by file and line, the message one on each line."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.file, problem.line)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def problems_of(error: TunebenchError) -> tuple[Problem, ...]:
    """Return the problems that an error is about: those of a SuiteError, else its message line by line, of which the
    file is not known."""
    if isinstance(error, SuiteError):
        return error.problems
    return tuple(Problem(line) for line in str(error).splitlines() if line.strip())


class TaskError(UserError):
    """A task that cannot be loaded, or that gives no examples to learn from; the message says which task and why."""


class SourceError(UserError):
    """A source (pypi:, hf:, file:) that is malformed, missing or damaged."""


class OfflineError(SourceError):
    """A source that is not in the cache while the network cannot be reached."""


class StoreError(UserError):
    """A results folder or a database that cannot be used as it is."""


class DamagedStore(StoreError):
    """A results folder or database whose content is not what tunebench wrote; nothing in it is overwritten."""


class NewerStore(StoreError):
    """A database with a schema newer than this program knows."""


class BusyStore(StoreError):
    """A database that another process has open; DuckDB lets only one process in."""


class FullDisk(StoreError):
    """A results folder on a disk with no space left; what is there already is whole."""


class CellError(TunebenchError):
    """An error that ends one cell while the other cells go on. `status` is what the store records as the end of the
    attempt."""

    status = "failed"


class OutOfMemory(CellError):
    """The cell's memory ran out, as a CUDA error or the memory watchdog showed."""

    status = "oom"


class Diverged(CellError):
    """The loss became NaN or infinite."""

    status = "diverged"


class Interrupted(CellError):
    """The machine cut the cell short (a full or failing disk), which says nothing about the cell."""

    status = "interrupted"


class Unavailable(CellError):
    """The cell cannot run here: a package or a device is missing."""

    status = "skipped"


LONGEST_SHOWN = 100  # characters of a value that a message quotes


def unknown(kind: str, got: object, allowed: Iterable[str], hint: str = "") -> str:
    """Return the message for an unknown name `got`: the name, its nearest match in `allowed`, the first 20 allowed
    names in order of the alphabet, and the sentence `hint`. `kind` is the noun for what is named.

    Example: ``unknown("method", "lorra", ["lora", "full"])``.
    """
    names = sorted(str(name) for name in allowed)
    got = str(got) if len(str(got)) <= LONGEST_SHOWN else f"{str(got)[:LONGEST_SHOWN]}…"
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    listed = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    parts = [f"unknown {kind} {got!r}."]
    if near:
        parts.append(f"Did you mean {near[0]!r}?")
    parts.append(f"Known: {listed or 'none'}.")
    if hint:
        parts.append(hint)
    return " ".join(parts)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the right form: "1 model", "2 models". `plural` is for nouns that take more than
    an "s"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
