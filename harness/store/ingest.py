"""Reads result files into the database: many attempts at a time, each of them whole or not at all.

Not covered: opening the database (`database.py`), and which column holds what (`rows.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.records import InstrumentRecord, RunRecord, Score, read_record
from harness.store.files import INSTRUMENTS, ITEMS, RESULT, read_json, read_result, results, shard
from harness.store.rows import (
    Row,
    Rows,
    insert,
    insert_table,
    is_of_values,
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
KEY_OF_CHECKS = ("env_digest", "model", "precision", "attention")
ITEM_OPTIONAL = ("prediction", "target", "cluster")  # `cluster`: items that were scored before there were any lack it
ITEM_NULLABLE = (*ITEM_OPTIONAL, "value")  # a value that is no number (nan) is written as null


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
        batch = []
        for path in given:
            if path.parent.name in known:
                continue
            try:
                batch.append(read_attempt(path.parent))
            except Exception as error:  # whatever a damaged file makes json or pyarrow raise
                if not is_of_values(error):
                    raise
                complaints.append(f"{path.parent} {fault_of(error)}; left out, its cell will run again")
        complaints += insert_attempts(connection, batch)
    return complaints


class Attempt(NamedTuple):
    """What an attempt's files hold: rows by table, and the per-item values as an Arrow table (None without any)."""

    folder: Path
    rows: Rows
    items: pyarrow.Table | None


def read_attempt(folder: Path) -> Attempt:
    """Read the files of an attempt. Raises OSError where one cannot be read, and ValueError or one of pyarrow's errors
    where one is damaged."""
    result = read_result(folder)
    if result.attempt_id != folder.name:
        raise ValueError(f"it is a copy of {result.attempt_id}")
    spec = folder.name.rsplit("-", 1)[-1]
    if re.fullmatch("[0-9a-f]{12}", spec) and not result.cell.spec_digest.startswith(spec):
        raise ValueError(f"cell.spec_digest: got {result.cell.spec_digest!a}, wanted one that starts with {spec}")
    result_bytes, items_bytes = sizes(folder)
    size: Row = {"attempt_id": result.attempt_id, "result_bytes": result_bytes, "items_bytes": items_bytes}
    items = item_table(result.attempt_id, folder / ITEMS)
    if items is not None:
        check_items(items, result.scores)
    return Attempt(folder, {**rows_of_result(result), "files": [size]}, items)


def check_items(items: pyarrow.Table, scores: Sequence[Score]) -> None:
    """Raise ValueError where a document has two values of a metric that was scored: they would count twice wherever
    attempts are compared by item. (A multiple-choice document has a log-likelihood for each of its choices.)"""
    import pyarrow as pa

    scored = pa.table({"task": [s.task for s in scores], "metric": [s.metric for s in scores]})
    if len(scored):
        of_scores = items.join(scored, ["task", "metric"], join_type="left semi", use_threads=False)
        documents = of_scores.group_by(["task", "metric", "doc_id"], use_threads=False).aggregate([])
        if len(documents) != len(of_scores):
            raise ValueError(f"{ITEMS}: a document has two values of one score")


def insert_attempts(connection: duckdb.DuckDBPyConnection, batch: Sequence[Attempt]) -> list[str]:
    """Insert attempts in one transaction. Where the database refuses a value, the halves of the batch are inserted by
    themselves, and so on, until the attempt with that value is left out alone. Returns complaints, a sentence for each
    that was. Raises the database's errors that no value caused."""
    if not batch:
        return []
    rows: Rows = {}
    for attempt in batch:
        for name, more in attempt.rows.items():
            rows.setdefault(name, []).extend(more)
    items = [attempt.items for attempt in batch if attempt.items is not None]
    try:
        with transaction(connection):
            insert(connection, rows)
            if items:
                import pyarrow as pa

                insert_table(connection, "items", pa.concat_tables(items))
            fill_base_values(connection, [str(row["attempt_id"]) for row in rows["attempts"]])
    except Exception as error:
        if not is_of_values(error):
            raise
        if len(batch) == 1:
            return [f"{batch[0].folder} cannot be stored ({reason_of(error)}); left out, its cell will run again"]
        middle = len(batch) // 2
        return insert_attempts(connection, batch[:middle]) + insert_attempts(connection, batch[middle:])
    return []


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
    `ITEM_COLUMNS`; None where there is no such file. Raises ValueError or one of pyarrow's errors for a damaged
    file."""
    import pyarrow as pa

    if not path.exists():
        return None
    types = {name: "double" if name == "value" else "string" for name in ITEM_COLUMNS}
    table = read_table(path, types, ITEM_NULLABLE, ITEM_OPTIONAL)
    ids = pa.array([attempt_id]).take(pa.array([0] * len(table)))
    return table.add_column(0, "attempt_id", ids)


def read_table(
    path: Path, types: Mapping[str, str], nullable: Collection[str] = (), optional: Collection[str] = ()
) -> pyarrow.Table:
    """Returns the columns of a Parquet file with the given types, {column: Arrow's name of its type}. Columns that are
    `nullable` may have nulls, and those that are `optional` may be missing. Raises ValueError or one of pyarrow's
    errors for a file that has not these columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read(columns=list(types))
    columns = []
    for name, kind in types.items():
        wanted = pa.type_for_alias(kind)
        if name not in table.column_names:
            if name not in optional:
                raise ValueError(f"{path.name}: has no column {name!r}")
            columns.append(pa.nulls(len(table), wanted))
            continue
        column = table[name]
        alike = is_number if wanted == pa.float64() else is_text
        if not alike(column.type) and not pa.types.is_null(column.type):
            raise ValueError(f"{path.name}: column {name!r} has the type {column.type}, wanted {wanted}")
        if column.null_count and name not in nullable:
            raise ValueError(f"{path.name}: column {name!r} has {column.null_count} missing values")
        columns.append(column.cast(wanted))
    made = pa.table(columns, names=list(types))
    made.validate(full=True)  # a damaged page may hold what is no UTF-8
    return made


def is_number(kind: pyarrow.DataType) -> bool:
    """Returns whether an Arrow type is one of numbers."""
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def is_text(kind: pyarrow.DataType) -> bool:
    """Returns whether an Arrow type is one of text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def ingest_documents(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[str]:
    """Take in the scored texts of tasks from `folder`, a Parquet file for each fingerprint of a task. Files whose
    fingerprint is known are passed over. Returns complaints, a sentence for each damaged file, which is left out."""
    known = {row[0][:32] for row in connection.execute("SELECT DISTINCT fingerprint FROM documents").fetchall()}
    complaints = []
    for path in sorted(folder.glob("*.parquet")):
        if path.stem in known:
            continue
        try:
            texts = read_table(path, dict.fromkeys(("task", "fingerprint", "doc_id", "text"), "string"))
            insert_table(connection, "documents", texts, new_only=True)
        except Exception as error:
            if not is_of_values(error):
                raise
            complaints.append(f"{path} {fault_of(error)}; left out")
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
            run = read_record(RunRecord, read_json(path))
            if run["run_id"] != path.stem:
                raise ValueError(f"it is a copy of {run['run_id']}")
            ingest_run(connection, run)
            count += 1
        except Exception as error:
            if not is_of_values(error):
                raise
            complaints.append(
                f"{path} {fault_of(error)}; left out. The results of its cells are kept; the next run of its suite "
                "has a record of its own, so that this one may be deleted"
            )
    return count, complaints


def ingest_run(connection: duckdb.DuckDBPyConnection, run: RunRecord) -> None:
    """Take in one run's record and the cells it is made of. A known run's record is replaced; its cells stay as they
    are. Raises duckdb.Error where the database refuses it."""
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
    columns = ", ".join(KEY_OF_CHECKS)
    query = f"SELECT {columns}, max(created) FROM instruments GROUP BY ALL"
    newest = {tuple(key): created for *key, created in connection.execute(query).fetchall()}
    complaints = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_record(InstrumentRecord, read_json(path))
            key = record["env_digest"], record["model"], record["precision"], record["attention"]
            created = datetime.fromisoformat(record["created"])
            if key in newest and created <= newest[key]:
                continue
            about: Row = {name: record[name] for name in (*KEY_OF_CHECKS, "created")}  # type: ignore[literal-required]
            with transaction(connection):
                connection.execute(f"DELETE FROM instruments WHERE ({columns}) = (?, ?, ?, ?)", list(key))
                insert(connection, {"instruments": [{**about, **row_of_check(check)} for check in record["checks"]]})
            newest[key] = created
        except Exception as error:
            if not is_of_values(error):
                raise
            complaints.append(f"{path} {fault_of(error)}; left out")
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


def fault_of(error: Exception) -> str:
    """Returns what is wrong with a file, as the end of a sentence that begins with its path."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    return f"{'cannot be stored' if is_of_database(error) else 'is damaged'} ({reason_of(error)})"


def is_of_database(error: Exception) -> bool:
    """Returns whether DuckDB raised an error."""
    import duckdb

    return isinstance(error, duckdb.Error)


def reason_of(error: Exception) -> str:
    """Returns an error as one line: the first line of its message, after its class where that is not ValueError."""
    text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return (text.splitlines() or [type(error).__name__])[0]
