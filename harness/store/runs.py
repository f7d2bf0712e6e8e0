"""Queries about runs and their environments, and the names that runs have given to suites, labels and cells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict, cast

from harness.records import FAILED_SEEDS, MARGIN, FailedSeeds, RowCounts
from harness.store.select import select_rows

if TYPE_CHECKING:
    import duckdb


class EnvironmentRecord(TypedDict, total=False):
    """A row of table `environments`; empty where no attempt has ended in the environment. `packages` maps each
    installed package to its version; `accelerator` names the GPUs and `driver` their driver ("" without any); `commit`
    is that of tunebench's code, and `dirty` says whether files differ from it. `threads` of a cell and `result_version`
    are None in records of an earlier tunebench."""

    env_digest: str
    created: datetime
    python: str
    os: str
    cpu: str
    accelerator: str
    driver: str
    packages: dict[str, str]
    commit: str
    dirty: bool
    threads: int | None
    result_version: int | None


@dataclass(frozen=True)
class StoredRun:
    """A run of a suite, with its environment. `status` is "running", or how it ended. `margin` is the suite's: a
    smaller difference of scores does not matter. `failed_seeds` says what a seed that ended badly counts as: the base
    model's score ("base"), or the worst ("worst")."""

    run_id: str
    suite: str
    question: str
    env_digest: str
    started: datetime
    status: str
    environment: EnvironmentRecord
    margin: float = MARGIN
    failed_seeds: FailedSeeds = FAILED_SEEDS


# The columns of a StoredRun.
RUN = f"run_id, suite, question, env_digest, started, status, coalesce(margin, {MARGIN}) AS margin, "
RUN += f"coalesce(failed_seeds, '{FAILED_SEEDS}') AS failed_seeds"


@dataclass(frozen=True)
class StoredCheck:
    """A self-check of a measuring instrument on one base model, with the precision and attention kernel that scores are
    made with. `about` says what was compared.

    `measured` must not be above `at_most`; it is NaN where the check could not be done.
    """

    model: str
    precision: str
    attention: str
    name: str
    about: str
    measured: float
    at_most: float
    unit: str
    passed: bool


def all_suites(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Returns the name of every suite that was run, sorted by name."""
    return [row[0] for row in connection.execute("SELECT DISTINCT suite FROM runs ORDER BY 1").fetchall()]


def all_labels(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Returns every label of every run, sorted by name."""
    rows = connection.execute("SELECT DISTINCT label FROM members WHERE coalesce(role, '') <> 'study' ORDER BY 1")
    return [row[0] for row in rows.fetchall()]


def all_keys(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Returns the key of every cell and study of every run, sorted."""
    return [row[0] for row in connection.execute("SELECT DISTINCT key FROM members ORDER BY 1").fetchall()]


def all_environments(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Returns the digest of every environment in which an attempt has ended, the newest environment first."""
    rows = connection.execute("SELECT env_digest FROM environments ORDER BY created DESC").fetchall()
    return [row[0] for row in rows]


def counted_environments(connection: duckdb.DuckDBPyConnection) -> list[tuple[EnvironmentRecord, int, int]]:
    """Returns (environment, its attempts, those of them that are done) of every environment in which an attempt has
    ended, the newest environment first."""
    rows = connection.execute(
        "SELECT env_digest, count(attempt_id), count(attempt_id) FILTER (status = 'done') FROM environments "
        "LEFT JOIN attempts USING (env_digest) GROUP BY env_digest, created ORDER BY created DESC, env_digest"
    ).fetchall()
    return [(environment_of(connection, env_digest), attempts, done) for env_digest, attempts, done in rows]


def all_runs(connection: duckdb.DuckDBPyConnection) -> list[StoredRun]:
    """Returns every run, the newest first."""
    rows = select_rows(connection, f"SELECT {RUN} FROM runs ORDER BY started DESC, run_id DESC")
    environments = {row["env_digest"]: environment_of(connection, row["env_digest"]) for row in rows}
    return [StoredRun(**row, environment=environments[row["env_digest"]]) for row in rows]


def latest_run(connection: duckdb.DuckDBPyConnection, suite: str, tuned: bool = False) -> StoredRun | None:
    """Returns the newest run of the whole suite with this name; None when the suite has not been run.

    A run of some cells alone (`--only`) is taken where there is no other: the report of the whole suite shows these
    cells as well. With `tuned`, the newest run that has studies is taken, whatever part of the suite it covers, or the
    newest of all where none has.
    """
    rows = select_rows(
        connection,
        f"SELECT {RUN} FROM runs WHERE suite = ? "
        "ORDER BY CASE WHEN ? THEN run_id IN (SELECT run_id FROM members WHERE role = 'study') "
        "ELSE coalesce(len(only_cells), 0) = 0 END DESC, started DESC, run_id DESC LIMIT 1",
        [suite, tuned],
    )
    return StoredRun(**rows[0], environment=environment_of(connection, rows[0]["env_digest"])) if rows else None


def task_rows_of(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> dict[str, RowCounts]:
    """Returns {task: what became of its rows} of a run; empty for a run of an earlier tunebench."""
    rows = connection.execute("SELECT task_rows FROM runs WHERE run_id = ?", [run.run_id]).fetchall()
    return cast("dict[str, RowCounts]", json.loads(rows[0][0] or "{}")) if rows else {}


def environment_of(connection: duckdb.DuckDBPyConnection, env_digest: str) -> EnvironmentRecord:
    """Returns the environment with this digest; empty where no attempt has ended in it."""
    rows = select_rows(connection, "SELECT * FROM environments WHERE env_digest = ?", [env_digest])
    return cast(EnvironmentRecord, {**rows[0], "packages": json.loads(rows[0]["packages"])}) if rows else {}


def checks_of(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> list[StoredCheck]:
    """Returns the self-checks of the instruments for a run's environment and base models; per model, failed checks
    first.

    Only checks with the precision and attention kernel that the base models are scored with. Empty where none were
    done: the cells ran elsewhere, or were run by an earlier tunebench.
    """
    rows = select_rows(
        connection,
        """
        SELECT DISTINCT instruments.model, instruments.precision, instruments.attention, name, about, measured,
            at_most, unit, passed
        FROM members JOIN instruments ON instruments.model = members.model AND instruments.env_digest = $env
        LEFT JOIN cells ON cells.spec_digest = members.spec_digest
        WHERE members.run_id = $run AND members.baseline = ''
            AND instruments.precision = coalesce(cells.train ->> '$.precision', instruments.precision)
            AND instruments.attention = coalesce(cells.train ->> '$.attention', instruments.attention)
        ORDER BY ALL
        """,
        {"env": run.env_digest, "run": run.run_id},
    )
    return sorted((StoredCheck(**row) for row in rows), key=lambda check: (check.model, check.passed))


def fact_units(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, bool | None]]:
    """Returns the name of every stored fact -> (its unit, whether higher is better: None where neither end is)."""
    rows = connection.execute("SELECT name, any_value(unit), any_value(higher_is_better) FROM facts GROUP BY name")
    return {name: (unit or "", better) for name, unit, better in rows.fetchall()}
