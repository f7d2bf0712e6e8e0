"""A connection that reads reaches nothing but the database; a database that tunebench did not make is not read."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from harness.errors import DamagedStore
from harness.store import Store

ATTACKS = [
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM sniff_csv('{secret}')",
    "COPY runs TO '{folder}/written.csv'",
    "COPY (SELECT 1) TO '{folder}/written.parquet'",
    "PREPARE leak AS COPY runs TO '{folder}/written.csv'; EXECUTE leak",
    "EXPORT DATABASE '{folder}/written'",
    "ATTACH '{folder}/written.duckdb' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{secret}'",
    "INSERT INTO flags VALUES ('a', 'b', '1')",
    "CREATE TABLE more (a INTEGER)",
    "DROP TABLE runs",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "SET lock_configuration = false",
    "PRAGMA profile_output='{folder}/written'",
    "CALL enable_logging(storage='file', storage_path='{folder}/written')",
    "SELECT * FROM python_variable",
    "CREATE SECRET s (TYPE s3)",
]


@pytest.mark.parametrize("query", ATTACKS)
def test_a_reader_reads_the_database_and_writes_nothing(query: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\nsecret,1\n")
    python_variable = duckdb.sql("SELECT 'secret' AS a")  # noqa: F841
    store = Store(tmp_path / "results")
    with store.open():
        pass
    before = sorted(tmp_path.rglob("*"))
    with store.open(read_only=True) as connection, pytest.raises(duckdb.Error):
        connection.execute(query.format(secret=secret, folder=tmp_path)).fetchall()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_writer_reads_the_results_folder_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    (tmp_path / "results").mkdir()
    for path in (tmp_path / "results" / "a.txt", tmp_path / "a.txt", tmp_path / "results-of-others.txt"):
        path.write_text("x")
    with store.open() as connection:
        assert connection.execute("SELECT content FROM read_text(?)", [str(tmp_path / "results" / "a.txt")]).fetchall()
        for name in ("a.txt", "results-of-others.txt", "results/../a.txt"):
            with pytest.raises(duckdb.PermissionException):
                connection.execute("SELECT content FROM read_text(?)", [str(tmp_path / name)])


STRANGE = {
    "view items": "ALTER TABLE items RENAME TO real; CREATE VIEW items AS SELECT content FROM read_text('/etc/passwd')",
    "view more": "CREATE VIEW more AS SELECT content FROM read_text('/etc/passwd')",
    "macro arg_max": "CREATE MACRO arg_max(a, b) AS 'done'",
    "macro leak": "CREATE MACRO leak() AS TABLE SELECT * FROM read_text('/etc/passwd')",
    "table flags": "DROP TABLE flags; CREATE TABLE flags (attempt_id VARCHAR DEFAULT 'x', name VARCHAR, evidence JSON)",
    "table facts": "ALTER TABLE facts ADD COLUMN more INTEGER",
    "no table steps": "DROP TABLE steps",
    "type mood": "CREATE TYPE mood AS ENUM ('a')",
    "sequence s": "CREATE SEQUENCE s",
    "table schema_version": "DROP TABLE schema_version; CREATE TABLE schema_version AS SELECT {newest} AS version",
}


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_strangers_database_is_not_read_as_ours(what: str, read_only: bool, tmp_path: Path) -> None:
    from harness.store.schema import MIGRATIONS

    store = Store(tmp_path)
    with store.open():
        pass
    with duckdb.connect(str(store.path)) as connection:
        connection.execute(STRANGE[what].format(newest=len(MIGRATIONS)))
    with pytest.raises(DamagedStore, match=what), store.open(read_only=read_only):
        pass


def test_tables_of_ours_without_a_version_are_a_strangers(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "tunebench.duckdb")) as connection:
        connection.execute("CREATE TABLE runs (run_id VARCHAR)")
    with pytest.raises(DamagedStore, match="table runs"), Store(tmp_path).open():
        pass


def test_a_table_of_the_users_own_does_no_harm_and_a_view_can_be_dropped_by_rebuilding(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.open():
        pass
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("CREATE TABLE my_notes (note VARCHAR)")
    with store.open(read_only=True) as connection:
        assert connection.execute("SELECT * FROM my_notes").fetchall() == []
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("CREATE VIEW mine AS SELECT 1")
    _, complaints = store.rebuild()
    assert "could not be read" in complaints[0]
    with store.open(read_only=True):
        pass
