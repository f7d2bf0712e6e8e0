"""From result files to rows: many attempts at a time, each of them whole or not at all.

Not covered: opening the database and what is asked of it (`database.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import BEST_TRIAL, CellResult, Check
from harness.store.files import INSTRUMENTS, ITEMS, RESULT, results, shard

if TYPE_CHECKING:
    import duckdb

# Several hundred at a time: DuckDB is made for few big inserts, and a batch's items still fit in memory.
BATCH = 500
# The same row comes with many attempts; its first column is its key. Of an environment the earliest is kept, in
# whatever order attempts come: so a rebuilt database is the same.
SHARED = {"environments": "created", "cells": None}
PER_ATTEMPT = ("attempts", "scores", "items", "phases", "steps", "facts", "flags", "files", "checkpoints", "trials")
ITEM_COLUMNS = ("task", "doc_id", "metric", "value", "prediction", "target")
Rows = dict[str, list[tuple[Any, ...]]]


def ingest_attempts(connection: duckdb.DuckDBPyConnection, paths: Iterable[Path]) -> list[str]:
    """Take in attempts, given their result files. Returns complaints: a damaged one is left out whole.

    One that is in the database already (another command may have been quicker) is passed over.
    """
    complaints: list[str] = []
    waiting = iter(paths)
    while given := list(islice(waiting, BATCH)):
        names = [path.parent.name for path in given]
        query = "SELECT attempt_id FROM attempts WHERE attempt_id IN (SELECT unnest(?))"
        known = {row[0] for row in connection.execute(query, [names]).fetchall()}
        batch = [path for path in given if path.parent.name not in known]
        rows: Rows = {}
        items = []
        for path in batch:
            try:
                result = CellResult.from_json(json.loads(path.read_text(encoding="utf-8")))
                if result.attempt_id != path.parent.name:
                    raise ValueError(f"it is a copy of {result.attempt_id}")
                table = item_table(result.attempt_id, path.with_name(ITEMS))
            except Exception as error:  # whatever a damaged file makes json or pyarrow raise
                complaints.append(f"{path.parent} is damaged ({reason_of(error)}); left out, its cell will run again")
                continue
            add_rows(rows, result)
            rows.setdefault("files", []).append((result.attempt_id, *sizes(path.parent)))
            if table is not None:
                items.append(table)
        with transaction(connection):
            insert(connection, rows)
            if items:
                import pyarrow as pa

                insert_table(connection, "items", pa.concat_tables(items))
            fill_base_values(connection, [row[0] for row in rows.get("attempts", ())])
    return complaints


def sizes(folder: Path | str) -> tuple[int, int]:
    """Bytes of an attempt's result and of its items; 0 for a file that is not there."""

    def size(name: str) -> int:
        try:
            return os.stat(f"{folder}/{name}").st_size
        except OSError:
            return 0

    return size(RESULT), size(ITEMS)


def forget_changed(connection: duckdb.DuckDBPyConnection, root: Path) -> list[str]:
    """Drop the rows of attempts whose files have another size than when they were taken in. Returns complaints.

    A disk that failed, or a hand that deleted: the files are the truth, and the next taking in judges them anew.
    """
    known = connection.execute("SELECT attempt_id, result_bytes, items_bytes FROM files").fetchall()
    # Text and not Path: a hundred thousand of these are made at every start.
    folder = {attempt: f"{root}/attempts/{shard(attempt)}/{attempt}" for attempt, *_ in known}
    changed = [attempt for attempt, *before in known if sizes(folder[attempt]) != tuple(before)]
    changed = [attempt for attempt in changed if not os.path.isdir(f"{root}/attempts/{attempt}")]  # tunebench 0.1's
    if changed:
        with transaction(connection):
            for table in PER_ATTEMPT:
                connection.execute(f"DELETE FROM {table} WHERE attempt_id IN (SELECT unnest(?))", [changed])
    return [f"{folder[attempt]} has changed on the disk since it was taken in; it is read again" for attempt in changed]


def item_table(attempt_id: str, path: Path) -> Any:
    """An attempt's per-item values as an Arrow table with its id in front; None when it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    table = pq.ParquetFile(path).read(columns=list(ITEM_COLUMNS))
    ids = pa.array([attempt_id]).take(pa.array([0] * len(table)))
    return table.add_column(0, "attempt_id", ids).replace_schema_metadata(None)


def add_rows(rows: Rows, result: CellResult) -> None:
    """Add one result's rows, table by table, in the order of the tables' columns."""
    cell, environment = result.cell, result.environment
    attempt = result.attempt_id

    def add(table: str, found: Iterable[tuple[Any, ...]]) -> None:
        rows.setdefault(table, []).extend(found)

    *about, packages, commit, dirty = vars(environment).values()
    add("environments", [(*about, json.dumps(packages), commit, dirty)])
    add(
        "cells",
        [(cell.spec_digest, cell.method, cell.family, cell.model, cell.task, cell.n_train, cell.seed,
          json.dumps(cell.settings), json.dumps(cell.train.model_dump()), list(cell.learn), list(cell.retain),
          list(cell.needs.values()), json.dumps(cell.fingerprints), json.dumps(cell.objectives),
          json.dumps(cell.curriculum), json.dumps(cell.data), json.dumps(cell.study), json.dumps(cell.trial))],
    )  # fmt: skip
    add(
        "attempts",
        [(attempt, result.run_id, cell.spec_digest, environment.env_digest, str(result.status), result.reason,
          result.started, result.seconds, result.contended, commit, dirty, list(result.beside), result.device,
          json.dumps(result.tuned))],
    )  # fmt: skip
    add("scores", [(attempt, *vars(score).values(), None, place) for place, score in enumerate(result.scores)])
    add("phases", [(attempt, *vars(phase).values()) for phase in result.phases])
    add("steps", [(attempt, *vars(step).values()) for step in result.steps])
    add("facts", [(attempt, *vars(fact).values()) for fact in result.facts])
    add("checkpoints", [(attempt, *vars(checkpoint).values()) for checkpoint in result.checkpoints])
    chosen = next((fact.value for fact in result.facts if fact.name == BEST_TRIAL), None)
    add(
        "trials",
        [(attempt, cell.spec_digest, trial.number, json.dumps(trial.params), trial.value, trial.status, trial.reason,
          trial.seconds, trial.tokens, trial.peak_bytes, json.dumps(trial.intermediate), json.dumps(trial.values),
          list(trial.merits), trial.origin, trial.attempt_id, trial.front, trial.number == chosen)
         for trial in result.trials],
    )  # fmt: skip
    add("flags", [(attempt, flag.name, json.dumps(flag.evidence)) for flag in result.flags])


def ingest_documents(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[str]:
    """Take in the scored texts of tasks that are not known yet. Returns complaints."""
    known = {row[0][:32] for row in connection.execute("SELECT DISTINCT fingerprint FROM documents").fetchall()}
    complaints = []
    for path in sorted(folder.glob("*.parquet")):
        if path.stem in known:
            continue
        try:
            connection.execute(
                "INSERT OR IGNORE INTO documents SELECT task, fingerprint, doc_id, text FROM read_parquet(?)",
                [str(path)],
            )
        except Exception as error:  # a Parquet file that is none raises a duckdb.Error of one kind or another
            complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
    return complaints


def ingest_runs(connection: duckdb.DuckDBPyConnection, folder: Path, new_only: bool = False) -> tuple[int, list[str]]:
    """Take in the records of runs that are new, or (without `new_only`) were not ended: (how many, complaints)."""
    ended = "" if new_only else "WHERE status <> 'running'"
    known = {row[0] for row in connection.execute(f"SELECT run_id FROM runs {ended}").fetchall()}
    count = 0
    complaints = []
    for path in sorted(folder.glob("*.json")):
        if path.stem in known:
            continue
        try:
            ingest_run(connection, json.loads(path.read_text(encoding="utf-8")))
            count += 1
        except Exception as error:
            complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
    return count, complaints


def ingest_run(connection: duckdb.DuckDBPyConnection, run: dict[str, Any]) -> None:
    """Take in one run's record and the cells it is made of. Raises KeyError for what is no such record."""
    known = connection.execute("SELECT 1 FROM members WHERE run_id = ? LIMIT 1", [run["run_id"]]).fetchall()
    columns = ("run_id", "suite", "question", "env_digest", "started", "finished", "status", "command")
    members = [
        (run["run_id"], run["suite"], member["key"], member["label"], member["spec_digest"], position,
         member["model"], member["task"], member["n_train"], member["seed"], member["baseline"],
         json.dumps(member.get("data", {})), member.get("role"))
        for position, member in enumerate(run["members"])
    ]  # fmt: skip
    with transaction(connection):
        connection.execute("DELETE FROM runs WHERE run_id = ?", [run["run_id"]])
        insert(connection, {"runs": [(*(run[name] for name in columns), run.get("only_cells"), run.get("margin"))]})
        if not known:
            insert(connection, {"members": members})


def ingest_instruments(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[str]:
    """Take in the instruments' checks: of the same environment, model and settings the newest. Returns complaints."""
    query = "SELECT env_digest, model, precision, attention, max(created) FROM instruments GROUP BY ALL"
    newest = {tuple(what): created for *what, created in connection.execute(query).fetchall()}
    found: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    complaints = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            what = tuple(record[name] for name in ("env_digest", "model", "precision", "attention"))
            created = datetime.fromisoformat(record["created"])
            checks = [Check(**check) for check in record["checks"]]
            rows = [
                (
                    *what,
                    record["created"],
                    check.name,
                    check.about,
                    check.measured,
                    check.limit,
                    check.unit,
                    check.passed,
                )
                for check in checks
            ]
            newer = what not in newest or created > newest[what]
        except Exception as error:
            complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
            continue
        if newer:
            found[what], newest[what] = rows, created
    if found:
        with transaction(connection):
            for what in found:
                connection.execute(
                    "DELETE FROM instruments WHERE env_digest = ? AND model = ? AND precision = ? AND attention = ?",
                    list(what),
                )
            insert(connection, {"instruments": [row for rows in found.values() for row in rows]})
    return complaints


def fill_base_values(connection: duckdb.DuckDBPyConnection, attempts: list[str] | None = None) -> None:
    """Set each score's `base_value`: the same metric of the bare base model, in the same environment.

    For `attempts` alone, or for all that have none. Which cell is the base is known to the runs: two suites
    may share a cell, each with a base of its own.
    """
    chosen = "" if attempts is None else "AND tuned.attempt_id IN (SELECT unnest($attempts))"
    connection.execute(
        f"""
        UPDATE scores SET base_value = base.value
        FROM (
            SELECT tuned.attempt_id, score.task, score.metric, any_value(score.value) AS value
            FROM attempts AS tuned
            JOIN members ON members.spec_digest = tuned.spec_digest
            JOIN attempts AS bare ON bare.spec_digest = members.baseline
                AND bare.env_digest = tuned.env_digest AND bare.status = 'done'
            JOIN scores AS score ON score.attempt_id = bare.attempt_id
            WHERE tuned.status = 'done' {chosen}
            GROUP BY ALL
        ) AS base
        WHERE scores.attempt_id = base.attempt_id AND scores.task = base.task
            AND scores.metric = base.metric AND scores.base_value IS NULL
        """,
        {} if attempts is None else {"attempts": attempts},
    )


def ingest_folder(connection: duckdb.DuckDBPyConnection, root: Path) -> list[str]:
    """Take in all that a results folder holds and the database does not. Returns complaints."""
    known = {row[0] for row in connection.execute("SELECT attempt_id FROM attempts").fetchall()}
    runs, complaints = ingest_runs(connection, root / "runs")
    fresh = list(results(root, known))
    complaints += ingest_attempts(connection, fresh)
    complaints += ingest_documents(connection, root / "documents")
    complaints += ingest_instruments(connection, root / INSTRUMENTS)
    if fresh or runs:
        fill_base_values(connection)  # of all: a base may have come after what is measured against it
    return complaints


# --- inserting ---


class transaction:
    """All statements of a block, or none of them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.connection.execute("COMMIT")
            return
        with suppress(Exception):  # what went wrong in the block is the news; a full disk fails here too
            self.connection.execute("ROLLBACK")


def insert(connection: duckdb.DuckDBPyConnection, rows: Rows) -> None:
    """Add rows by table. A row whose key is there already is left as it is."""
    import pyarrow as pa

    for table, found in rows.items():
        if table in SHARED:
            latest_first = sorted(found, key=lambda row: str(row[1]), reverse=True)
            found = list({row[0]: row for row in latest_first}.values())
        if found:
            columns = [pa.array(column) for column in zip(*found, strict=True)]
            names = [f"c{place}" for place in range(len(columns))]
            insert_table(connection, table, pa.Table.from_arrays(columns, names=names))


def insert_table(connection: duckdb.DuckDBPyConnection, table: str, rows: Any) -> None:
    connection.register("incoming", rows)
    try:
        if earlier := SHARED.get(table):
            connection.execute(
                f"DELETE FROM {table} USING incoming "
                f"WHERE {table}.env_digest = incoming.c0 AND {table}.{earlier} > incoming.c1::TIMESTAMPTZ"
            )
        verb = "INSERT OR IGNORE" if table in SHARED else "INSERT"
        connection.execute(f"{verb} INTO {table} SELECT * FROM incoming")
    finally:
        connection.unregister("incoming")


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
