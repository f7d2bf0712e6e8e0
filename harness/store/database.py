"""Opens `results/tunebench.duckdb`, fills it from result folders, and asks how cells ended.

Files are the truth (`files.py` describes them); the database can be made again from them (`rebuild`). DuckDB lets one
process in, so no process keeps it open: whoever uses it opens it, does its work and closes it, and waits while another
process has it open.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.errors import BusyStore, DamagedStore, FullDisk, NewerStore, StoreError
from harness.store import files, ingest
from harness.store.confined import CONFINED, FOR_READING, confine_writer, strange_objects
from harness.store.schema import MIGRATIONS, check_version, migrate, version_of

if TYPE_CHECKING:
    import duckdb


class Store:
    """A results folder: the result files in `folder`, and the database at `path`, which is made from them and open only
    while it is used. `wait_seconds` is how long `open` waits while another process has the database open."""

    def __init__(self, folder: Path, wait_seconds: float = 60.0):
        self.folder = folder
        self.path = folder / "tunebench.duckdb"
        self.wait_seconds = wait_seconds
        self._made_here: tuple[int, int, int] | None = None  # the file as it was when it was last looked through

    def attempt_folder(self, attempt_id: str) -> Path:
        """Returns the folder of an attempt, whether or not it exists."""
        return files.attempt_folder(self.folder, attempt_id)

    @contextmanager
    def open(self, read_only: bool = False, wait_seconds: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection to the database for the length of a `with` block. Waits while another process has the file.

        To write (the default), a missing database is made, and one of an older tunebench is migrated, after a copy of
        it has been kept beside it. With `read_only` it is left as it is, and StoreError is raised where it is missing
        or older. No query reaches other files than the database (a writer's: than the results folder).

        Raises DamagedStore when the file is no DuckDB database or holds what tunebench does not make, NewerStore when
        it is from a newer tunebench, BusyStore when another process keeps it open for longer than `wait_seconds` (the
        store's own by default), FullDisk when the disk is full, and StoreError when the file may not be written or
        DuckDB fails for another reason while the database is whole.
        """
        import duckdb

        # A wrong query or value, which says nothing of the database, passes on as it is.
        broken = (
            duckdb.IOException, duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException,
            duckdb.TransactionException, duckdb.OutOfMemoryException,
        )  # fmt: skip
        patience = self.wait_seconds if wait_seconds is None else wait_seconds
        found = self._stamp()
        connection = self._connect(read_only, patience)
        made_here = False
        try:
            if read_only:
                check_version(connection)
            if self._made_here is None or self._made_here != found:
                self._check_made_here(connection)
            made_here = True
            if not read_only:
                if 0 < version_of(connection) < len(MIGRATIONS):
                    connection = self._backed_up(connection, patience)
                migrate(connection)
            yield connection
        except broken as error:
            connection.close()
            raise self._explained(error, self._is_whole()) from error
        finally:
            connection.close()
            self._made_here = self._stamp() if made_here else None

    def _stamp(self) -> tuple[int, int, int] | None:
        """Returns (inode, size, time of change) of the database file; None where there is none. To look through a
        database takes 40 ms, and a run opens it after every cell."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    @contextmanager
    def look(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection for the length of a `with` block to look at all that the results folder holds. Where it may
        be written, new results are taken in first; in a folder that is read-only or on a full disk, the database is
        used as it is, or, where there is none of this version, one in memory that is made from the files.

        Raises DamagedStore, NewerStore and BusyStore as `open` does.
        """
        import duckdb

        for read_only in (False, True):
            opened = ExitStack()
            try:
                connection = opened.enter_context(self.open(read_only))
                if not read_only:
                    self.ingest(connection)
            except (DamagedStore, NewerStore, BusyStore):
                raise
            except (StoreError, duckdb.Error) as error:
                opened.close()
                if not isinstance(error, StoreError) and not files.is_full(self.folder, error):
                    raise
                continue
            with opened:
                yield connection
            return
        with duckdb.connect(":memory:", config=CONFINED) as connection:
            migrate(connection)
            confine_writer(connection, self.folder)
            self.ingest(connection)
            yield connection

    def _connect(self, read_only: bool, patience: float) -> duckdb.DuckDBPyConnection:
        import duckdb

        if read_only and not self.path.exists():
            raise StoreError(
                f"no database at {self.path}. Run a suite first (`tunebench run quickstart`), "
                "or `tunebench rebuild` to make it from result files."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + patience
        while True:
            try:
                if read_only:
                    return duckdb.connect(str(self.path), read_only=True, config=FOR_READING)
                connection = duckdb.connect(str(self.path), config=CONFINED)
                confine_writer(connection, self.folder)
                return connection
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    raise self._explained(error) from error
                if time.monotonic() > deadline:
                    raise BusyStore(
                        f"{self.path} is held open by another process for more than {patience:.0f} s. "
                        "Close it there (a notebook, the duckdb shell) and run again. "
                        f"({str(error).splitlines()[0]})"
                    ) from error
                time.sleep(0.1)

    def _check_made_here(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raise DamagedStore where the database holds what tunebench does not make: it may be a stranger's."""
        strange = strange_objects(connection, version_of(connection))
        if strange:
            raise DamagedStore(
                f"{self.path} holds what tunebench does not make: {', '.join(strange[:5])}. It is not read. Drop what "
                "is yours, or let `tunebench rebuild` keep this file and make a new one from the result files."
            )

    def _backed_up(self, connection: duckdb.DuckDBPyConnection, patience: float) -> duckdb.DuckDBPyConnection:
        """Copy an older database beside itself before it is migrated. Returns a fresh connection to the original."""
        copy = self.path.with_name(f"tunebench.schema-{version_of(connection)}.duckdb")
        connection.execute("CHECKPOINT")
        connection.close()
        temporary = copy.with_suffix(".tmp")
        try:
            shutil.copyfile(self.path, temporary)
            files.settle(temporary, copy)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if files.is_full(self.folder, error):
                raise FullDisk(files.full_disk(self.folder)) from error
            raise StoreError(f"cannot write to {copy}: {error.strerror}") from error
        return self._connect(False, patience)

    def _is_whole(self) -> bool:
        """Returns whether the closed database can be opened, and every row of it read."""
        import duckdb

        try:
            with duckdb.connect(str(self.path), read_only=True) as connection:
                for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                    connection.execute(f'SELECT sum(hash(t)) FROM "{table}" AS t').fetchall()
        except duckdb.Error:
            return False
        return True

    def _explained(self, error: Exception, whole: bool = False) -> StoreError:
        """Returns DuckDB's own error as an error of tunebench: no space, no permission, too little memory, or a damaged
        file; another error where the database is known to be `whole`."""
        import duckdb

        text = str(error).splitlines()[0]
        if files.is_full(self.folder, error):
            return FullDisk(files.full_disk(self.folder))
        if isinstance(error, duckdb.OutOfMemoryException):
            return StoreError(f"too little memory to use {self.path} ({text}). Nothing was written.")
        if "Read-only file system" in text or "Permission denied" in text:
            return StoreError(f"cannot write to {self.path}: {text}")
        if whole:
            return StoreError(
                f"DuckDB could not do what was asked ({text}). Nothing was written; the database itself is whole."
            )
        return DamagedStore(
            f"{self.path} cannot be read as a DuckDB database ({text}). Nothing was written. The result files "
            "beside it are the truth: `tunebench rebuild` keeps the damaged file and makes a new one from them."
        )

    # --- writing ---

    def ingest(self, connection: duckdb.DuckDBPyConnection, attempts: Iterable[Path] | None = None) -> list[str]:
        """Take in the attempts in the folders `attempts`, with the records of new runs; or, without `attempts`,
        everything in the results folder that the database does not have yet.

        Returns complaints, a sentence for each damaged file: it is left where it is, and a damaged result's cell counts
        as not run. Attempts that are known already are passed over. Raises FullDisk and the database's other errors.
        """
        if attempts is None:
            return ingest.ingest_folder(connection, self.folder)
        _, complaints = ingest.ingest_runs(connection, self.folder / "runs", new_only=True)  # whose base is which cell
        return complaints + ingest.ingest_attempts(connection, [folder / files.RESULT for folder in attempts])

    def forget_changed(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Drop from the database the attempts whose result or item file has another size than when it was taken in, so
        that the next `ingest` reads them again. Returns complaints, a sentence for each. Attempts that lie where
        tunebench 0.1 put them are not checked."""
        return ingest.forget_changed(connection, self.folder)

    def rebuild(self) -> tuple[int, list[str]]:
        """Make the database again from the files. Returns (the number of attempts in it, complaints: a sentence for
        each damaged file, which is left out).

        The old database is replaced only when the new one is complete; one that cannot be read is kept beside it.
        """
        fresh = Store(self.folder, self.wait_seconds)
        fresh.path = self.folder / ".rebuild.duckdb"
        fresh.remove()
        try:
            with fresh.open() as connection:
                complaints = fresh.ingest(connection)
                (count,) = connection.execute("SELECT count(*) FROM attempts").fetchall()[0]
                connection.execute("CHECKPOINT")  # closing does this too, but keeps silent where the disk is full
            kept = self._set_aside()
            fresh.path.replace(self.path)
        except BaseException:
            with suppress(OSError):
                fresh.remove()
            raise
        return count, complaints + kept

    def remove(self) -> None:
        """Remove the database, if there is one, with its write-ahead log; the result files stay."""
        for path in self.folder.glob(f"{self.path.name}*"):
            path.unlink()

    def _set_aside(self) -> list[str]:
        """Keep a database that cannot be read under another name. Returns a sentence that says so, or nothing."""
        try:
            if self.path.exists():
                with self.open(read_only=True):
                    pass
        except DamagedStore:
            kept = self.path.with_name(f"tunebench.damaged-{time.strftime('%Y%m%dT%H%M%S')}.duckdb")
            self.path.replace(kept)
            return [f"{self.path} could not be read; it is kept as {kept.name}, and made anew from the result files"]
        except StoreError:
            pass  # older or newer: what it holds is in the files
        finally:
            for stale in self.folder.glob("tunebench.duckdb.wal"):
                stale.unlink()
        return []

    # --- reading ---

    def statuses(self, connection: duckdb.DuckDBPyConnection, env_digest: str) -> dict[str, str]:
        """Returns spec_digest -> how the newest attempt of that cell (or study) in the environment `env_digest` ended:
        done, failed, oom, … Those without an attempt there are absent."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(status, (started, attempt_id)) FROM attempts
               WHERE env_digest = ? GROUP BY spec_digest""",
            [env_digest],
        ).fetchall()
        return dict(rows)

    def finished(self, connection: duckdb.DuckDBPyConnection, env_digest: str) -> dict[str, str]:
        """Returns spec_digest -> the attempt_id of that cell's newest attempt with status done in the environment
        `env_digest`. Cells without one are absent."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(attempt_id, (started, attempt_id)) FROM attempts
               WHERE env_digest = ? AND status = 'done' GROUP BY spec_digest""",
            [env_digest],
        ).fetchall()
        return dict(rows)

    def settled(
        self, connection: duckdb.DuckDBPyConnection, env_digest: str, but: Iterable[str] = ()
    ) -> dict[str, str]:
        """Returns spec_digest -> the attempt_id of the attempt that decides about a cell in the environment
        `env_digest`: its newest with status done, else its newest. Attempts whose status is in `but` do not count;
        cells without another are absent."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(attempt_id, (status = 'done', started, attempt_id)) FROM attempts
               WHERE env_digest = ? AND NOT list_contains(?::VARCHAR[], status) GROUP BY spec_digest""",
            [env_digest, [str(status) for status in but]],
        ).fetchall()
        return dict(rows)

    def seconds(self, connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str, int, float]]:
        """Returns (method, model, task, number of training examples, mean seconds of an attempt) for each such
        combination, over the attempts with status done in all environments. The trials of a study count; the study as a
        whole does not."""
        rows = connection.execute(
            """SELECT method, model, task, n_train, avg(seconds) FROM attempts JOIN cells USING (spec_digest)
               WHERE status = 'done' AND attempt_id NOT IN (SELECT attempt_id FROM trials) GROUP BY ALL"""
        ).fetchall()
        return cast("list[tuple[str, str, str, int, float]]", rows)

    def parameters(self, connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
        """Returns the number of parameters of each model of which an attempt has ended, as counted there. It has those
        that a method added as well, which are few."""
        rows = connection.execute(
            """SELECT model, min(value) FROM facts JOIN attempts USING (attempt_id) JOIN cells USING (spec_digest)
               WHERE facts.name = 'total_params' GROUP BY model"""
        ).fetchall()
        return {model: value for model, value in rows if value}

    @staticmethod
    def attempt_ids(connection: duckdb.DuckDBPyConnection) -> set[str]:
        """Returns the ids of all attempts that the database has taken in."""
        return {row[0] for row in connection.execute("SELECT attempt_id FROM attempts").fetchall()}

    def reasons(self, connection: duckdb.DuckDBPyConnection, specs: list[str]) -> dict[str, str]:
        """Returns spec_digest -> why the cell's newest attempt, in any environment, ended as it did (skipped, failed,
        …). `specs` are spec digests; those never attempted are absent."""
        rows = connection.execute(
            """SELECT spec_digest, arg_max(reason, (started, attempt_id)) FROM attempts
               WHERE spec_digest IN (SELECT unnest(?)) GROUP BY spec_digest""",
            [specs],
        ).fetchall()
        return dict(rows)
