"""Turns records into rows by column name, and inserts rows: many at a time, each attempt whole or not at all.

A record's field goes to the column of its name; `RENAMED` lists the exceptions. So the order of a record's fields means
nothing, and a field without a column is refused by DuckDB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from harness.errors import FullDisk
from harness.records import BEST_TRIAL, Cell, CellResult, Check, Environment, RunRecord, Trial
from harness.store.files import says_full

if TYPE_CHECKING:
    import duckdb
    import pyarrow

Row = dict[str, object]  # column -> value
Rows = dict[str, list[Row]]  # table -> its rows

# Fields whose columns have another name.
RENAMED = {
    "trials": {"values": "measured", "attempt_id": "trial_attempt_id"},
    "instruments": {"limit": "at_most"},
}
# The same row of these tables comes with many attempts; the first column is its key. Of environments the earliest is
# kept, in whatever order attempts come, so that a rebuilt database is the same.
SHARED = {"environments": ("env_digest", "created"), "cells": ("spec_digest", "")}


def rows_of_result(result: CellResult) -> Rows:
    """Returns one attempt's rows as {table: rows}, each row as {column: value}. Tables `items` and `files` are left
    out, as they come from other files."""
    cell, environment = result.cell, result.environment
    attempt: Row = {"attempt_id": result.attempt_id}
    chosen = next((fact.value for fact in result.facts if fact.name == BEST_TRIAL), None)
    return {
        "environments": [row_of_environment(environment)],
        "cells": [row_of_cell(cell)],
        "attempts": [row_of_attempt(result)],
        "scores": [{**attempt, **vars(score), "position": place} for place, score in enumerate(result.scores)],
        "phases": [{**attempt, **vars(phase)} for phase in result.phases],
        "steps": [{**attempt, **vars(step)} for step in result.steps],
        "facts": [{**attempt, **vars(fact)} for fact in result.facts],
        "checkpoints": [{**attempt, **vars(checkpoint)} for checkpoint in result.checkpoints],
        "trials": [
            {**row_of_trial(trial), **attempt, "study_digest": cell.spec_digest, "chosen": trial.number == chosen}
            for trial in result.trials
        ],
        "flags": [{**attempt, "name": flag.name, "evidence": json.dumps(flag.evidence)} for flag in result.flags],
    }


def row_of_environment(environment: Environment) -> Row:
    """Returns an environment as a row of table `environments`, with its packages as JSON."""
    return {**vars(environment), "packages": json.dumps(environment.packages)}


def row_of_cell(cell: Cell) -> Row:
    """Returns a cell as a row of table `cells`. Its key and label are left out: they belong to a run
    (`rows_of_members`)."""
    return {
        "spec_digest": cell.spec_digest,
        "method": cell.method,
        "family": cell.family,
        "model": cell.model,
        "task": cell.task,
        "n_train": cell.n_train,
        "seed": cell.seed,
        "settings": json.dumps(cell.settings),
        "train": json.dumps(cell.train.model_dump()),
        "learn": list(cell.learn),
        "retain": list(cell.retain),
        "needs": list(cell.needs.values()),
        "fingerprints": json.dumps(cell.fingerprints),
        "objectives": json.dumps(cell.objectives),
        "curriculum": json.dumps(cell.curriculum),
        "data": json.dumps(cell.data),
        "study": json.dumps(cell.study),
        "trial": json.dumps(cell.trial),
    }


def row_of_attempt(result: CellResult) -> Row:
    """Returns what a result says of the attempt as a whole, as a row of table `attempts`."""
    return {
        "attempt_id": result.attempt_id,
        "run_id": result.run_id,
        "spec_digest": result.cell.spec_digest,
        "env_digest": result.environment.env_digest,
        "status": str(result.status),
        "reason": result.reason,
        "started": result.started,
        "seconds": result.seconds,
        "contended": result.contended,
        "commit": result.environment.commit,
        "dirty": result.environment.dirty,
        "beside": list(result.beside),
        "device": result.device,
        "tuned": json.dumps(result.tuned),
    }


def row_of_trial(trial: Trial) -> Row:
    """Returns a trial as a row of table `trials`, without the columns that its study's attempt adds: `attempt_id`,
    `study_digest` and `chosen`."""
    values = {
        **vars(trial),
        "params": json.dumps(trial.params),
        "values": json.dumps(trial.values),
        "intermediate": json.dumps(trial.intermediate),
        "merits": list(trial.merits),
    }
    return renamed("trials", values)


def row_of_check(check: Check) -> Row:
    """Returns a self-check of an instrument as a row of table `instruments`, without the environment, model and
    settings that it was done with. How long it took is left out."""
    values = {**vars(check), "passed": check.passed}
    del values["seconds"]  # how long the check took is not stored
    return renamed("instruments", values)


def row_of_run(run: RunRecord) -> Row:
    """Returns a run's record as a row of table `runs`. Raises KeyError for what is no run's record."""
    return {
        "run_id": run["run_id"],
        "suite": run["suite"],
        "question": run["question"],
        "env_digest": run["env_digest"],
        "started": run["started"],
        "finished": run["finished"],
        "status": run["status"],
        "command": run["command"],
        # Absent from records of an earlier tunebench.
        "only_cells": run.get("only_cells"),
        "margin": run.get("margin"),
        "failed_seeds": run.get("failed_seeds"),
        "revisions": json.dumps(run.get("revisions") or {}),
        "suite_text": run.get("suite_text"),
        "task_rows": json.dumps(run.get("task_rows") or {}),
    }


def rows_of_members(run: RunRecord) -> list[Row]:
    """Returns the cells and studies that a run is made of as rows of table `members`, in the order of its plan. Raises
    KeyError for what is no run's record."""
    return [
        {
            "run_id": run["run_id"],
            "suite": run["suite"],
            "key": member["key"],
            "label": member["label"],
            "spec_digest": member["spec_digest"],
            "position": position,
            "model": member["model"],
            "task": member["task"],
            "n_train": member["n_train"],
            "seed": member["seed"],
            "baseline": member["baseline"],
            "data": json.dumps(member.get("data", {})),
            "role": member.get("role"),
        }
        for position, member in enumerate(run["members"])
    ]


def renamed(table: str, values: Mapping[str, object]) -> Row:
    """Returns a record's values by the columns of a table: `RENAMED` lists the fields whose columns have another
    name."""
    columns = RENAMED.get(table, {})
    return {columns.get(name, name): value for name, value in values.items()}


# --- inserting ---


def is_of_values(error: Exception) -> bool:
    """Returns whether an error in reading or inserting rows is the fault of their values, so that others can still be
    stored; False for one of the database, its disk or memory."""
    import duckdb

    if isinstance(error, MemoryError | FullDisk) or says_full(error):
        return False
    of_values = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError, duckdb.NotSupportedError)
    return isinstance(error, of_values) or not isinstance(error, duckdb.Error)


class transaction:
    """Executes all statements of a `with` block, or none of them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.connection.execute("COMMIT")
            return
        with suppress(Exception):  # the block's own error matters more; on a full disk this fails as well
            self.connection.execute("ROLLBACK")


def insert(connection: duckdb.DuckDBPyConnection, rows_by_table: Mapping[str, Sequence[Row]]) -> None:
    """Insert rows, given as {table: rows}. In a table of `SHARED` one row is kept for each key: the one that is stored
    already or, of environments, the earliest.

    All rows of a table have the same columns. Raises KeyError when they do not.
    """
    import pyarrow as pa

    for table, given in rows_by_table.items():
        rows = without_repeats(table, given) if table in SHARED else given
        if rows:
            columns = list(rows[0])
            arrays = [pa.array([row[column] for row in rows]) for column in columns]
            insert_table(connection, table, pa.Table.from_arrays(arrays, names=columns))


def without_repeats(table: str, rows: Iterable[Row]) -> list[Row]:
    """Returns one row for each key of a table of `SHARED`: of environments the earliest, of cells the last."""
    key, earliest = SHARED[table]
    if earliest:
        rows = sorted(rows, key=lambda row: str(row[earliest]), reverse=True)
    return list({row[key]: row for row in rows}.values())


def insert_table(
    connection: duckdb.DuckDBPyConnection, table: str, rows: pyarrow.Table, new_only: bool = False
) -> None:
    """Insert an Arrow table by its column names; a table of `SHARED` keeps one row for each key, as `insert` says. With
    `new_only`, rows whose key is stored already are passed over. Raises duckdb.BinderException for a column that
    `table` lacks."""
    connection.register("incoming", rows)
    try:
        key, earliest = SHARED.get(table, ("", ""))
        if earliest:
            connection.execute(
                f"DELETE FROM {table} USING incoming WHERE {table}.{key} = incoming.{key} "
                f"AND {table}.{earliest} > incoming.{earliest}::TIMESTAMPTZ"
            )
        verb = "INSERT OR IGNORE" if key or new_only else "INSERT"
        columns = ", ".join(f'"{name}"' for name in rows.column_names)
        connection.execute(f"{verb} INTO {table} ({columns}) SELECT {columns} FROM incoming")
    finally:
        with suppress(Exception):  # refused after an error, which matters more; the next table takes its place
            connection.unregister("incoming")
