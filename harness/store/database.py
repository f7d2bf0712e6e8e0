"""Stage 6 of 7. In: result folders. Out: `results/tunebench.duckdb`.

Files are the truth: `attempts/<attempt_id>/{result.json, items.parquet}`, `runs/<run_id>.json` and
`documents/<task fingerprint>.parquet`. The database can be made again from them (`rebuild`). DuckDB lets
one process in, so nobody holds it: every function here opens, does its work and closes, and waits while
somebody else has it open.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DamagedStore, StoreError
from harness.records import CellResult
from harness.store.schema import check_version, migrate

if TYPE_CHECKING:
    import duckdb

PER_ATTEMPT = ("scores", "items", "phases", "steps", "facts", "flags")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Store:
    """A results folder: its files, and the database beside them."""

    def __init__(self, folder: Path, wait_seconds: float = 60.0):
        self.folder = folder
        self.path = folder / "tunebench.duckdb"
        self.wait_seconds = wait_seconds

    def attempt_folder(self, attempt_id: str) -> Path:
        return self.folder / "attempts" / attempt_id

    @contextmanager
    def open(self, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for the length of a `with` block. Waits while another process has the file.

        Raises DamagedStore when the file is no DuckDB database, NewerStore when it is from a newer
        tunebench, StoreError when another process keeps it open for longer than `wait_seconds` or,
        reading, when there is none yet.
        """
        import duckdb

        broken = (duckdb.IOException, duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)
        connection = self._connect(read_only)
        try:
            if read_only:
                check_version(connection)
            else:
                migrate(connection)
            yield connection
        except broken as error:
            raise self._damaged(error) from error
        finally:
            connection.close()

    def _connect(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        import duckdb

        if read_only and not self.path.exists():
            raise StoreError(
                f"no database at {self.path}. Run a suite first (`tunebench run quickstart`), "
                "or `tunebench rebuild` to make it from result files."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise self._damaged(error) from error
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{self.path} is held open by another process for more than "
                        f"{self.wait_seconds:.0f} s. Close it there (a notebook, the duckdb shell) and run again. "
                        f"({str(error).splitlines()[0]})"
                    ) from error
                time.sleep(0.1)
            except duckdb.Error as error:
                raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DamagedStore:
        return DamagedStore(
            f"{self.path} cannot be read as a DuckDB database ({str(error).splitlines()[0]}). "
            "Nothing was written. The result files beside it are the truth: move it away and run "
            "`tunebench rebuild`."
        )

    # --- writing ---

    def result_files(self) -> list[Path]:
        return sorted(self.folder.glob("attempts/*/result.json"))

    def ingest(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Take in every finished attempt that the database does not have yet. Returns complaints.

        A damaged result file is left where it is, and reported; its cell then counts as not run.
        """
        import duckdb

        # A Parquet file that is no Parquet raises a duckdb.Error of one kind or another.
        damage = (ValueError, KeyError, TypeError, OSError, duckdb.Error)
        known = {row[0] for row in connection.execute("SELECT attempt_id FROM attempts").fetchall()}
        complaints = []
        for path in self.result_files():
            if path.parent.name in known:
                continue
            try:
                result = CellResult.from_json(json.loads(path.read_text(encoding="utf-8")))
                self._insert(connection, result, path.parent / "items.parquet")
            except damage as error:
                complaints.append(f"{path.parent} is damaged ({reason_of(error)}); left out, its cell will run again")
        for path in sorted(self.folder.glob("documents/*.parquet")):
            try:
                connection.execute(
                    "INSERT OR IGNORE INTO documents SELECT task, fingerprint, doc_id, text FROM read_parquet(?)",
                    [str(path)],
                )
            except damage as error:
                complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
        for path in sorted(self.folder.glob("runs/*.json")):
            try:
                self._insert_run(connection, json.loads(path.read_text(encoding="utf-8")))
            except damage as error:
                complaints.append(f"{path} is damaged ({reason_of(error)}); left out")
        self._fill_base_values(connection)
        return complaints

    def _insert(self, connection: duckdb.DuckDBPyConnection, result: CellResult, items: Path) -> None:
        cell, environment = result.cell, result.environment
        attempt = result.attempt_id
        connection.execute("BEGIN")
        try:
            insert(
                connection,
                "environments",
                [
                    [
                        *list(vars(environment).values())[:7],
                        json.dumps(environment.packages),
                        environment.commit,
                        environment.dirty,
                    ]
                ],
            )
            insert(
                connection,
                "cells",
                [[cell.spec_digest, cell.method, cell.family, cell.model, cell.task, cell.n_train, cell.seed,
                  json.dumps(cell.settings), json.dumps(cell.train), list(cell.learn), list(cell.retain),
                  list(cell.needs.values()), json.dumps(cell.fingerprints)]],
            )  # fmt: skip
            insert(
                connection,
                "attempts",
                [[attempt, result.run_id, cell.spec_digest, environment.env_digest, str(result.status),
                  result.reason, result.started, result.seconds, result.contended, environment.commit,
                  environment.dirty]],
            )  # fmt: skip
            insert(
                connection,
                "scores",
                [[attempt, *vars(score).values(), None, place] for place, score in enumerate(result.scores)],
            )
            insert(connection, "phases", [[attempt, *vars(phase).values()] for phase in result.phases])
            insert(connection, "steps", [[attempt, *vars(step).values()] for step in result.steps])
            insert(connection, "facts", [[attempt, *vars(fact).values()] for fact in result.facts])
            insert(
                connection,
                "flags",
                [[attempt, flag.name, json.dumps(flag.evidence)] for flag in result.flags],
            )
            if items.exists():
                connection.execute(
                    "INSERT INTO items SELECT ?, task, doc_id, metric, value, prediction, target FROM read_parquet(?)",
                    [attempt, str(items)],
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _fill_base_values(connection: duckdb.DuckDBPyConnection) -> None:
        """Set each score's `base_value`: the same metric of the bare base model, in the same environment.

        Which cell is the base is known to the runs: two suites may share a cell, each with a base of its own.
        """
        connection.execute(
            """
            UPDATE scores SET base_value = base.value
            FROM (
                SELECT tuned.attempt_id, score.task, score.metric, any_value(score.value) AS value
                FROM attempts AS tuned
                JOIN members ON members.spec_digest = tuned.spec_digest
                JOIN attempts AS bare ON bare.spec_digest = members.baseline
                    AND bare.env_digest = tuned.env_digest AND bare.status = 'done'
                JOIN scores AS score ON score.attempt_id = bare.attempt_id
                GROUP BY ALL
            ) AS base
            WHERE scores.attempt_id = base.attempt_id AND scores.task = base.task
                AND scores.metric = base.metric AND scores.base_value IS NULL
            """
        )

    def _insert_run(self, connection: duckdb.DuckDBPyConnection, run: dict[str, Any]) -> None:
        insert(
            connection,
            "runs",
            [[run["run_id"], run["suite"], run["question"], run["env_digest"], run["started"], run["finished"],
              run["status"], run["command"]]],
            replace=True,
        )  # fmt: skip
        insert(
            connection,
            "members",
            [[run["run_id"], run["suite"], member["key"], member["label"], member["spec_digest"], position,
              member["model"], member["task"], member["n_train"], member["seed"], member["baseline"]]
             for position, member in enumerate(run["members"])],
        )  # fmt: skip

    def rebuild(self) -> tuple[int, list[str]]:
        """Make the database again from the files. Returns the number of attempts, and complaints.

        The old database is replaced only when the new one is complete.
        """
        fresh = Store(self.folder, self.wait_seconds)
        fresh.path = self.folder / ".rebuild.duckdb"
        for leftover in self.folder.glob(".rebuild.duckdb*"):
            leftover.unlink()
        with fresh.open() as connection:
            complaints = fresh.ingest(connection)
            (count,) = connection.execute("SELECT count(*) FROM attempts").fetchall()[0]
        for stale in self.folder.glob("tunebench.duckdb.wal"):
            stale.unlink()
        fresh.path.replace(self.path)
        return count, complaints

    # --- asking ---

    def statuses(self, connection: duckdb.DuckDBPyConnection, env_digest: str) -> dict[str, str]:
        """spec_digest -> the status of its newest attempt in this environment."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(status, (started, attempt_id)) FROM attempts
               WHERE env_digest = ? GROUP BY spec_digest""",
            [env_digest],
        ).fetchall()
        return dict(rows)

    def finished(self, connection: duckdb.DuckDBPyConnection, env_digest: str) -> dict[str, str]:
        """spec_digest -> the attempt_id of its newest finished attempt in this environment."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(attempt_id, (started, attempt_id)) FROM attempts
               WHERE env_digest = ? AND status = 'done' GROUP BY spec_digest""",
            [env_digest],
        ).fetchall()
        return dict(rows)

    def method_seconds(self, connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
        """method -> mean seconds of its finished attempts, in any environment."""
        rows = connection.execute(
            "SELECT method, avg(seconds) FROM attempts JOIN cells USING (spec_digest) WHERE status = 'done' GROUP BY 1"
        ).fetchall()
        return dict(rows)

    def reasons(self, connection: duckdb.DuckDBPyConnection, specs: list[str]) -> dict[str, str]:
        """spec_digest -> the reason of its newest attempt."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(reason, (started, attempt_id)) FROM attempts
               WHERE list_contains(?, spec_digest) GROUP BY spec_digest""",
            [specs],
        ).fetchall()
        return dict(rows)


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[list[Any]], replace: bool = False) -> None:
    """Add rows to a table; a row whose primary key exists is left as it is, unless `replace`."""
    rows = list(rows)
    if rows:
        verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE" if has_key(table) else "INSERT"
        connection.executemany(f"{verb} INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def has_key(table: str) -> bool:
    return table not in PER_ATTEMPT
