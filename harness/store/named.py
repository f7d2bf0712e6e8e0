"""What names stand for, and what is known across runs: runs and environments by the start of their names, repeats of a
cell, the spread between seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import StoreError
from harness.store.queries import (
    RUN,
    CellRow,
    StoredRun,
    cell_detail,
    environment_of,
    member_rows,
    records,
)

if TYPE_CHECKING:
    import duckdb

DIGITS = 6  # of a digest, at the least, as `show` takes them


def runs(connection: duckdb.DuckDBPyConnection) -> list[StoredRun]:
    """Every run, the newest first."""
    found = records(connection, f"SELECT {RUN} FROM runs ORDER BY started DESC, run_id DESC", [])
    known = {row["env_digest"]: environment_of(connection, row["env_digest"]) for row in found}
    return [StoredRun(**row, environment=known[row["env_digest"]]) for row in found]


def environments(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The digest of every environment in which something was attempted, the newest first."""
    found = connection.execute("SELECT env_digest FROM environments ORDER BY created DESC").fetchall()
    return [row[0] for row in found]


def labels(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Every label of every run."""
    found = connection.execute("SELECT DISTINCT label FROM members WHERE coalesce(role, '') <> 'study' ORDER BY 1")
    return [row[0] for row in found.fetchall()]


def units(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, bool | None]]:
    """Fact -> (unit, whether more of it is better), of every fact that is kept."""
    found = connection.execute("SELECT name, any_value(unit), any_value(higher_is_better) FROM facts GROUP BY name")
    return {name: (unit or "", better) for name, unit, better in found.fetchall()}


def cell_is_named(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether some cell has this key, or a digest that starts with it (6 digits or more)."""
    found = connection.execute(
        """
        SELECT 1 FROM members WHERE key = $name
        UNION ALL SELECT 1 FROM cells WHERE length($name) >= $digits AND starts_with(spec_digest, $name) LIMIT 1
        """,
        {"name": name, "digits": DIGITS},
    ).fetchall()
    return bool(found)


def cell_row(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[StoredRun, CellRow]:
    """A cell by its key or its digest's start, as it stands in the newest run in whose environment it is done, else in
    the newest of all. Raises StoreError for one that is part of no run's rows (a study, or a trial of one)."""
    detail = cell_detail(connection, name)
    spec = detail["spec_digest"] if detail else ""
    members = "SELECT run_id FROM members WHERE spec_digest = ? AND coalesce(role, '') <> 'study'"
    within = {row[0] for row in connection.execute(members, [spec]).fetchall()}
    found = []
    for run in runs(connection):
        if run.run_id in within:
            row = next(row for row in member_rows(connection, run) if row.spec_digest == spec)
            if row.status == "done":
                return run, row
            found.append((run, row))
    if not found:
        raise StoreError(f"{name!r} is no row of any run: a study or a trial is compared by `tunebench studies`.")
    return found[0]


def attempts_of(connection: duckdb.DuckDBPyConnection, row: CellRow) -> list[CellRow]:
    """A row once for each finished attempt at its cell in its environment, with what that one measured."""
    found = connection.execute(
        """
        SELECT other.attempt_id, other.contended FROM attempts AS this
        JOIN attempts AS other USING (spec_digest, env_digest)
        WHERE this.attempt_id = ? AND other.status = 'done' ORDER BY other.started, other.attempt_id
        """,
        [row.attempt_id],
    ).fetchall()
    repeats = {
        attempt: replace(row, attempt_id=attempt, contended=contended, facts={}, phases={})
        for attempt, contended in found
    }
    for table in ("facts", "phases"):
        query = f"SELECT * FROM {table} WHERE attempt_id IN (SELECT unnest(?))"
        for record in records(connection, query, [list(repeats)]):
            its = repeats[record["attempt_id"]]
            if table == "facts":
                its.facts[record["name"]] = record["value"]
            else:
                its.phases[record["phase"]] = record
    return list(repeats.values()) or [row]
