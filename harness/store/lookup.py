"""Finds one cell by its key or digest, with everything that is stored about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from harness.errors import StoreError
from harness.store.cells import CellRow, member_rows
from harness.store.runs import StoredRun, all_runs
from harness.store.select import Record, select_rows

if TYPE_CHECKING:
    import duckdb


DIGITS = 6  # of a digest, the fewest that name a cell


def revision_of(connection: duckdb.DuckDBPyConnection, attempt_id: str, model: str) -> str:
    """Returns the commit of the Hub that an attempt's model was loaded at; "" where it is from elsewhere, or where the
    commit was not kept."""
    rows = connection.execute(
        "SELECT revisions FROM runs JOIN attempts USING (run_id) WHERE attempt_id = ?", [attempt_id]
    ).fetchall()
    return str(json.loads(rows[0][0] or "{}").get(model, "")) if rows else ""


def cell_is_named(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Returns whether some cell has the key `name`, or a digest that starts with `name` (`DIGITS` digits or more)."""
    matches = connection.execute(
        """
        SELECT 1 FROM members WHERE key = $name
        UNION ALL SELECT 1 FROM cells WHERE length($name) >= $digits AND starts_with(spec_digest, $name) LIMIT 1
        """,
        {"name": name, "digits": DIGITS},
    ).fetchall()
    return bool(matches)


def cell_row(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[StoredRun, CellRow]:
    """Returns (run, row) of a cell. `name` is its key, the start of its digest (`DIGITS` digits or more), or one of its
    attempts.

    The run is the newest in whose environment the cell is done, else the newest with the cell. Raises StoreError for a
    name that no run's row has, such as that of a study or one of its trials, and when several digests start with it.
    """
    detail = cell_detail(connection, name)
    spec = detail["spec_digest"] if detail else ""
    members = "SELECT run_id FROM members WHERE spec_digest = ? AND coalesce(role, '') <> 'study'"
    run_ids = {row[0] for row in connection.execute(members, [spec]).fetchall()}
    unfinished = []
    for run in all_runs(connection):
        if run.run_id in run_ids:
            row = next(row for row in member_rows(connection, run) if row.spec_digest == spec)
            if row.status == "done":
                return run, row
            unfinished.append((run, row))
    if not unfinished:
        raise StoreError(f"{name!r} is no row of any run: a study or a trial is compared by `tunebench studies`.")
    return unfinished[0]


def cell_detail(connection: duckdb.DuckDBPyConnection, name: str) -> Record | None:
    """Returns everything about one cell, named by key, by an attempt's id or by its digest's start (`DIGITS` or more).

    The keys are `key`, `suites` that have it, the columns of table `cells`, and `attempts`: its rows of that table, the
    oldest first. If there are any, `attempt_id` is the newest finished one in any environment, else the newest; its
    rows are under `scores`, `phases`, `facts`, `flags`, `checkpoints` and `trials`, with `tuned` and `environment`.

    A key may stand for several cells (another suite, other settings): the cell of the newest run is taken. None when
    nothing has that name. Raises StoreError when several digests start with it.
    """
    matches = connection.execute(
        """
        SELECT spec_digest FROM members JOIN runs USING (run_id) WHERE key = $name
        UNION ALL SELECT spec_digest FROM attempts WHERE attempt_id = $name
        UNION ALL SELECT spec_digest FROM cells WHERE length($name) >= $digits AND starts_with(spec_digest, $name)
        """,
        {"name": name, "digits": DIGITS},
    ).fetchall()
    if not matches:
        return None
    newest = connection.execute(
        "SELECT spec_digest FROM members JOIN runs USING (run_id) WHERE key = ? ORDER BY started DESC LIMIT 1",
        [name],
    ).fetchall()
    starts = sorted({row[0] for row in matches})
    if not newest and len(starts) > 1:
        raise StoreError(
            f"{name!r} stands for {len(starts)} cells: {', '.join(spec[:16] for spec in starts[:10])}. "
            "Give more digits, or a key."
        )
    spec = (newest or matches)[0][0]
    cells = select_rows(connection, "SELECT * FROM cells WHERE spec_digest = ?", [spec])
    members = select_rows(
        connection,
        "SELECT DISTINCT key, members.suite FROM members WHERE spec_digest = ? ORDER BY ALL",
        [spec],
    )
    detail: Record = {
        "key": members[0]["key"] if members else name,
        "suites": [m["suite"] for m in members],
    }
    if not cells:
        return {**detail, "spec_digest": spec, "attempts": []}
    cell = cells[0]
    for column in ("settings", "train", "fingerprints", "objectives", "curriculum", "data", "study", "trial"):
        cell[column] = json.loads(cell[column] or "{}")  # NULL in rows that are older than the column
    attempts = select_rows(connection, "SELECT * FROM attempts WHERE spec_digest = ? ORDER BY started", [spec])
    detail |= {**cell, "attempts": attempts}
    if attempts:
        last = max(attempts, key=lambda row: (row["status"] == "done", row["started"]))["attempt_id"]
        detail["attempt_id"] = last
        for attempt in attempts:
            attempt["tuned"] = json.loads(attempt["tuned"] or "{}")
        detail["revision"] = revision_of(connection, last, str(cell["model"]))
        detail["tuned"] = next(row["tuned"] for row in attempts if row["attempt_id"] == last)
        for table, order in (
            ("scores", "position"),
            ("phases", "phase"),
            ("facts", "name"),
            ("flags", "name"),
            ("checkpoints", "step"),
            ("trials", "number"),
        ):
            rows = select_rows(connection, f"SELECT * FROM {table} WHERE attempt_id = ? ORDER BY {order}", [last])
            detail[table] = [{k: v for k, v in row.items() if k not in ("attempt_id", "position")} for row in rows]
        environment = select_rows(
            connection,
            "SELECT environments.* FROM environments JOIN attempts USING (env_digest) WHERE attempt_id = ?",
            [last],
        )
        detail["environment"] = environment[0] if environment else {}
        if environment:  # with the commit of this attempt: the environment's own is that of its first
            made = next(row for row in attempts if row["attempt_id"] == last)
            environment[0] |= {"commit": made["commit"], "dirty": made["dirty"]}
            packages = json.loads(environment[0]["packages"])
            detail["environment"]["packages"] = " ".join(f"{name}=={value}" for name, value in packages.items())
    return detail


class Origin(TypedDict):
    """How an attempt came about: everything that is needed to run its cell again, except its number of threads.

    `command` is that of the run that made the attempt, "" where its record is lost; `knows_only` says whether the
    tunebench that ran it had `--only`; `commit` is that tunebench's, and `dirty` whether its files had been changed
    since; `packages` maps all installed packages to their versions.
    """

    suite: str
    key: str
    status: str
    knows_only: bool
    command: str
    commit: str
    dirty: bool
    packages: dict[str, str]


def origin(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> Origin | None:
    """Returns how an attempt came about; None when no run that has its cell is known.

    Suite and key are those of the run that made it; where its record is lost, of the newest run with the cell.
    """
    rows = select_rows(
        connection,
        """
        SELECT runs.suite, members.key, attempts.status, runs.only_cells IS NOT NULL AS knows_only,
            CASE WHEN runs.run_id = attempts.run_id THEN runs.command ELSE '' END AS command,
            attempts.commit, attempts.dirty, environments.packages
        FROM attempts
        JOIN members ON members.spec_digest = attempts.spec_digest
        JOIN runs ON runs.run_id = members.run_id
        JOIN environments ON environments.env_digest = attempts.env_digest
        WHERE attempt_id = ? ORDER BY members.run_id = attempts.run_id DESC, runs.started DESC LIMIT 1
        """,
        [attempt_id],
    )
    return cast(Origin, {**rows[0], "packages": json.loads(rows[0]["packages"])}) if rows else None


class Repeats(TypedDict):
    """`attempts`: the number of finished attempts that a cell has in one environment. `largest_difference`, absent with
    fewer than two: "task/metric" of each headline score -> its largest minus its smallest value."""

    attempts: int
    largest_difference: NotRequired[dict[str, float]]


def repeats(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> Repeats:
    """Returns how far apart the finished attempts of one cell are (its noise floor): the cell of `attempt_id`, in the
    environment of that attempt."""
    same = """
        SELECT other.attempt_id FROM attempts AS this JOIN attempts AS other USING (spec_digest, env_digest)
        WHERE this.attempt_id = ? AND other.status = 'done'
    """
    ((count,),) = connection.execute(f"SELECT count(*) FROM ({same})", [attempt_id]).fetchall()
    ranges = connection.execute(
        f"""
        WITH headlines AS (
            SELECT task, role, min(position) AS place, arg_min(metric, position) AS metric,
                arg_min(value, position) AS value
            FROM scores WHERE attempt_id IN ({same}) GROUP BY attempt_id, task, role)
        SELECT task, metric, max(value) - min(value) FROM headlines
        GROUP BY task, role, metric HAVING count(*) > 1 ORDER BY min(place)
        """,
        [attempt_id],
    ).fetchall()
    largest = {f"{task}/{metric}": difference for task, metric, difference in ranges}
    return {"attempts": count, "largest_difference": largest} if largest else {"attempts": count}


@dataclass(frozen=True)
class WeightsOf:
    """A finished attempt, whose weights may be stored: when it `started`, the `seconds` it took, and whether it is the
    newest finished one of its cell in its environment."""

    attempt_id: str
    started: datetime | None
    seconds: float
    is_decisive: bool


def stored_weights(connection: duckdb.DuckDBPyConnection, suite: str = "") -> list[WeightsOf]:
    """Returns every finished attempt, or those of cells that runs of a `suite` hold and no other suite's do."""
    rows = connection.execute(
        """
        SELECT attempt_id, started, coalesce(seconds, 0),
            attempt_id = arg_max(attempt_id, (started, attempt_id)) OVER (PARTITION BY spec_digest, env_digest)
        FROM attempts WHERE status = 'done' AND ($suite = '' OR (
            spec_digest IN (SELECT spec_digest FROM members WHERE suite = $suite)
            AND spec_digest NOT IN (SELECT spec_digest FROM members WHERE suite <> $suite)))
        ORDER BY attempt_id
        """,
        {"suite": suite},
    ).fetchall()
    return [WeightsOf(str(name), started, float(seconds), bool(last)) for name, started, seconds, last in rows]
