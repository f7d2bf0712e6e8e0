"""Reads by cells on which side of a difference a combination of packages is, where probes show nothing: a slower step,
memory that is not given back, scores on real data.

Each combination runs the cells that show the differences best, into a results folder of its own that is thrown away.
Times are measured by turns with both ends (old, combination, new, old …).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from harness.analysis import Toggled
from harness.analysis.regression import Difference, side_of, wanted_scores
from harness.errors import UserError
from harness.execute.environments import MadeEnvironment
from harness.execute.interleave import run_by_turns
from harness.execute.probing import CannotRun
from harness.execute.session import Choices, Session
from harness.plan import Plan, narrow
from harness.records import Environment, digest
from harness.store import CellRow, Store, environment_attempts, score_values, sole_writer
from harness.trackers import open_trackers

TURNS = 3  # measurements of a time in each environment
Key = tuple[str, str]


@dataclass
class CellReader:
    """Reads cells: the `differences` between the environments `old` and `new`, by the cells of `plan` that show them.
    `root` is the project's folder, `threads` are the CPU threads of a cell; `say` is told what fails."""

    old: MadeEnvironment
    new: MadeEnvironment
    differences: Sequence[Difference]
    plan: Plan
    root: Path
    threads: int
    say: Callable[[str], None] = lambda text: None
    _scratch: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="tunebench-bisect-", ignore_cleanup_errors=True)
    )

    def __post_init__(self) -> None:
        self.store = Store(Path(self._scratch.name))
        self.plan = narrow(self.plan, {spec for one in self.differences for spec in one.specs})
        self.timed = any(one.timed for one in self.differences)

    @property
    def keys(self) -> list[Key]:
        """What differs, of which label."""
        return [one.key for one in self.differences]

    def read(self, made: MadeEnvironment) -> dict[Key, Toggled]:
        """Returns the side of each difference in an environment. Raises CannotRun where its Python runs no cell."""
        ends = [self.old, self.new]
        first = not self.attempts(self.old)
        before = {row.attempt_id for one in (*ends, made) for row in self.attempts(one)}
        turns = TURNS if self.timed else 1
        for number in range(turns):
            # What is not timed comes out the same each time: the two ends run once.
            environments = [self.old, made, self.new] if self.timed or (first and not number) else [made]
            again = frozenset({"done"} if number or (self.timed and not first) else ())
            try:
                with sole_writer(self.store.folder):
                    sessions = [self.session(one, again) for one in environments]
                    stopped = run_by_turns(sessions, "tunebench regress --bisect", lambda session, progress: None)
            except UserError as error:
                raise CannotRun(str(error)) from None
            if stopped:
                raise KeyboardInterrupt
        rows = [self.attempts(one) for one in (self.old, made, self.new)]
        with self.store.look() as connection:
            values = score_values(connection, wanted_scores([row for each in rows for row in each]))
        fresh = [[row for row in each if row.attempt_id not in before] for each in rows]
        return {one.key: side_of(one, fresh if one.timed else rows, values) for one in self.differences}

    def session(self, made: MadeEnvironment, again: frozenset[str]) -> Session:
        """Returns the session that runs the cells in an environment; cells whose status is in `again` run again."""
        choices = Choices("local", 1, self.threads, again, python=made.other_python)
        return Session(self.plan, self.store, about_of(made), choices, self.root, open_trackers((), self.say))

    def attempts(self, made: MadeEnvironment) -> list[CellRow]:
        """Returns every attempt of an environment so far."""
        with self.store.look() as connection:
            return environment_attempts(connection, about_of(made).env_digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Throw the results away."""
        self._scratch.cleanup()


def about_of(made: MadeEnvironment) -> Environment:
    """Returns an environment's description with a digest that all its packages decide: that of stored results leaves
    out those that compute nothing, and one of them may be what is looked for."""
    return replace(made.about, env_digest=digest([made.about.env_digest, str(made.python)]))
