"""Reads result files into the database: many attempts at a time, each of them whole or not at all.

Not covered: opening the database (`database.py`), and which column holds what (`rows.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import CellResult, Check, RunRecord
from harness.store.files import INSTRUMENTS, ITEMS, RESULT, results, shard
from harness.store.rows import (
    Row,
    Rows,
    insert,
    insert_table,
    row_of_check,
    row_of_run,
    rows_of_members,
    rows_of_result,
    transaction,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow

# Several hundred at a time: DuckDB is made for few big inserts, and a batch's items still fit in memory.
BATCH = 500
PER_ATTEMPT = ("attempts", "scores", "items", "phases", "steps", "facts", "flags", "files", "checkpoints", "trials")
ITEM_COLUMNS = ("task", "doc_id", "metric", "value", "prediction", "target", "cluster")


def ingest_attempts(connection: duckdb.DuckDBPyConnection, paths: Iterable[Path]) -> list[str]:
    """Take in attempts, given the paths of their result files. Returns complaints, a sentence each: a damaged attempt
    is left out whole.

    An attempt that is in the database already (another command may have been quicker) is passed over.
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
            result_bytes, items_bytes = sizes(path.parent)
            size = {"attempt_id": result.attempt_id, "result_bytes": result_bytes, "items_bytes": items_bytes}
            for name, more in {**rows_of_result(result), "files": [size]}.items():
                rows.setdefault(name, []).extend(more)
            if table is not None:
                items.append(table)
        with transaction(connection):
            insert(connection, rows)
            if items:
                import pyarrow as pa

                insert_table(connection, "items", pa.concat_tables(items))
            fill_base_values(connection, [str(row["attempt_id"]) for row in rows.get("attempts", ())])
    return complaints


def sizes(folder: Path | str) -> tuple[int, int]:
    """Returns (bytes of an attempt's result, bytes of its items); 0 for a file that is not there."""

    def size(name: str) -> int:
        try:
            return os.stat(f"{folder}/{name}").st_size
        except OSError:
            return 0

    return size(RESULT), size(ITEMS)


def forget_changed(connection: duckdb.DuckDBPyConnection, root: Path) -> list[str]:
    """Drop the rows of attempts in the results folder `root` whose result or item file has another size than when it
    was taken in. Returns complaints, a sentence for each.

    A disk may have failed, or somebody deleted files. The files are the truth: they are read anew when attempts are
    next taken in. Attempts that lie where tunebench 0.1 put them are not checked.
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


def item_table(attempt_id: str, path: Path) -> pyarrow.Table | None:
    """Returns the per-item values in an attempt's file `path` as an Arrow table with the columns `attempt_id` and
    `ITEM_COLUMNS`; None where there is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    table = pq.ParquetFile(path).read(columns=list(ITEM_COLUMNS))
    if "cluster" not in table.column_names:  # items that were scored before there were any
        table = table.append_column("cluster", pa.nulls(len(table)))
    # A column without any cluster is written without a type.
    table = table.set_column(len(ITEM_COLUMNS) - 1, "cluster", table["cluster"].cast(pa.string()))
    ids = pa.array([attempt_id]).take(pa.array([0] * len(table)))
    return table.add_column(0, "attempt_id", ids).replace_schema_metadata(None)


def ingest_documents(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[str]:
    """Take in the scored texts of tasks from `folder`, a Parquet file for each fingerprint of a task. Files whose
    fingerprint is known are passed over. Returns complaints, a sentence for each damaged file, which is left out."""
    known = {row[0][:32] for row in connection.execute("SELECT DISTINCT fingerprint FROM documents").fetchall()}
    complaints = []
    for path in sorted(folder.glob("*.parquet")):
        if path.stem in known:
            continue
        try:
            connection.execute(
                "INSERT OR IGNORE INTO documents (task, fingerprint, doc_id, text) "
                "SELECT task, fingerprint, doc_id, text FROM read_parquet(?)",
                [str(path)],
            )
        except Exception as error:  # a Parquet file that is none raises a duckdb.Error of one kind or another
            complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
    return complaints


def ingest_runs(connection: duckdb.DuckDBPyConnection, folder: Path, new_only: bool = False) -> tuple[int, list[str]]:
    """Take in the records in `folder`, a JSON file for each run, of runs that are new or that had not ended when last
    read; with `new_only`, of new ones alone. Returns (how many, complaints: a sentence for each damaged file, which is
    left out)."""
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


def ingest_run(connection: duckdb.DuckDBPyConnection, run: RunRecord) -> None:
    """Take in one run's record and the cells it is made of. A known run's record is replaced; its cells stay as they
    are. Raises KeyError for what is no such record."""
    known = connection.execute("SELECT 1 FROM members WHERE run_id = ? LIMIT 1", [run["run_id"]]).fetchall()
    run_rows, members = [row_of_run(run)], rows_of_members(run)
    with transaction(connection):
        connection.execute("DELETE FROM runs WHERE run_id = ?", [run["run_id"]])
        insert(connection, {"runs": run_rows})
        if not known:
            insert(connection, {"members": members})


def ingest_instruments(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[str]:
    """Take in the self-checks of the instruments from the JSON files in `folder`. Returns complaints, a sentence for
    each damaged file, which is left out.

    For each environment, model, precision and attention kernel the newest checks are kept.
    """
    settings = ("env_digest", "model", "precision", "attention")
    query = "SELECT env_digest, model, precision, attention, max(created) FROM instruments GROUP BY ALL"
    newest = {tuple(key): created for *key, created in connection.execute(query).fetchall()}
    rows_by_key: dict[tuple[str, ...], list[Row]] = {}
    complaints = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            about = {name: record[name] for name in (*settings, "created")}
            key, created = tuple(record[name] for name in settings), datetime.fromisoformat(record["created"])
            rows = [{**about, **row_of_check(Check(**check))} for check in record["checks"]]
            newer = key not in newest or created > newest[key]
        except Exception as error:
            complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
            continue
        if newer:
            rows_by_key[key], newest[key] = rows, created
    if rows_by_key:
        with transaction(connection):
            for key in rows_by_key:
                connection.execute(
                    "DELETE FROM instruments WHERE env_digest = ? AND model = ? AND precision = ? AND attention = ?",
                    list(key),
                )
            insert(connection, {"instruments": [row for rows in rows_by_key.values() for row in rows]})
    return complaints


def fill_base_values(connection: duckdb.DuckDBPyConnection, attempts: list[str] | None = None) -> None:
    """Set `base_value` of scores: the same metric's value of the untouched base model, in the same environment. Values
    that are set stay.

    For the scores of the attempts with the ids `attempts`, or for all that have none. The runs say which cell is the
    base: two suites may share a cell, each with a base of its own.
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
    """Take in all that the results folder `root` holds and the database does not. Returns complaints, a sentence for
    each damaged file."""
    known = {row[0] for row in connection.execute("SELECT attempt_id FROM attempts").fetchall()}
    runs, complaints = ingest_runs(connection, root / "runs")
    fresh = list(results(root, known))
    complaints += ingest_attempts(connection, fresh)
    complaints += ingest_documents(connection, root / "documents")
    complaints += ingest_instruments(connection, root / INSTRUMENTS)
    if fresh or runs:
        fill_base_values(connection)  # of all: a base may have come after what is measured against it
    return complaints


def reason_of(error: Exception) -> str:
    """Returns an error as one line: its class, and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
