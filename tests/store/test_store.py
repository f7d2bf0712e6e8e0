import json
import multiprocessing
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results_factory import Results

from harness.errors import DamagedStore, NewerStore, StoreError
from harness.records import MARGIN, Cell, CellResult, Check, Environment, Item, Score, Status, TrainSettings, digest
from harness.store import ingest, latest_run
from harness.store.database import Store
from harness.store.files import INSTRUMENTS, attempt_folder, threads_of, write_atomically
from harness.store.schema import MIGRATIONS
from harness.worker.cell import write_items

ENVIRONMENT = Environment("e" * 64, "2026-01-01T00:00:00+00:00", "3.11", "os", "cpu", "", "", {"torch": "1"}, "c", True)


def put(
    folder: Path, label: str, value: float, status: Status = Status.DONE, baseline: str = "", number: int = 0
) -> str:
    """Write a result as a worker would; its spec digest."""
    cell = Cell(
        f"{label}/m/t", digest(label), label, label, "family", "m", "t", ("t",), 0 if label == "base" else 8, 0,
        ("r",), {}, TrainSettings(), {}, baseline, fingerprints={"t": "f"},
    )  # fmt: skip
    attempt = f"{label}-{number}"
    scores = (
        Score("t", "task", "acc", value, 0.1, 4, True),
        Score("t", "task", "loss", 1 - value, 0.1, 4, False),
    )
    result = CellResult(
        attempt, "run", cell, ENVIRONMENT, status, "", f"2026-01-0{number + 1}T00:00:00+00:00", 1.0, False,
        scores if status is Status.DONE else (),
    )  # fmt: skip
    place = attempt_folder(folder, attempt)
    write_atomically(place / "result.json", json.dumps(result.to_json()))
    write_items(place / "items.parquet", [Item("t", "d-0", "acc", value, "x", "y")])
    run = {
        "run_id": f"run-{attempt}", "suite": "s", "question": "", "env_digest": "e" * 64, "status": "done",
        "started": "2026-01-01T00:00:00+00:00", "finished": None, "command": "", "members": [cell.member()],
    }  # fmt: skip
    write_atomically(folder / "runs" / f"run-{attempt}.json", json.dumps(run))
    return cell.spec_digest


def dump(store: Store) -> dict[str, list[Any]]:
    with store.open(read_only=True) as connection:
        tables = [row[0] for row in connection.execute("SHOW TABLES").fetchall() if row[0] != "schema_version"]
        return {table: sorted(map(str, connection.execute(f"FROM {table}").fetchall())) for table in tables}


def test_taking_in_twice_counts_once_and_rebuild_gives_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = put(tmp_path, "base", 0.5)
    put(tmp_path, "lora", 0.75, baseline=base)
    for _ in range(2):
        with store.open() as connection:
            assert store.ingest(connection) == []
    first = dump(store)
    assert len(first["attempts"]) == 2
    assert len(first["items"]) == 2
    assert store.rebuild() == (2, [])
    assert dump(store) == first
    store.path.unlink()
    assert store.rebuild() == (2, [])
    assert dump(store) == first


def test_an_attempt_that_another_command_took_in_first_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "base", 0.5)
    with store.open() as connection:
        store.ingest(connection)
        assert store.ingest(connection, [attempt_folder(tmp_path, "base-0")]) == []
        assert connection.execute("SELECT count(*) FROM scores").fetchall() == [(2,)]


def test_of_an_environment_the_earliest_is_kept_in_whatever_order_attempts_come(tmp_path: Path) -> None:
    for number, order in enumerate(([1, 3, 2], [3, 2, 1], [2, 1, 3])):
        store = Store(tmp_path / str(number))
        for day in order:
            spec = put(store.folder, f"label{day}", 0.5)
            path = attempt_folder(store.folder, f"label{day}-0") / "result.json"
            path.write_text(path.read_text().replace('"created": "2026-01-01T', f'"created": "2026-01-0{day}T'))
            with store.open() as connection:
                assert store.ingest(connection) == []
        assert spec
        with store.open() as connection:
            found = connection.execute("SELECT day(created AT TIME ZONE 'UTC') FROM environments").fetchall()
        assert found == [(1,)]
        before = dump(store)
        store.rebuild()
        assert dump(store) == before


def test_base_values_come_from_the_base_whenever_it_arrives(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "lora", 0.75, baseline=digest("base"))
    with store.open() as connection:
        store.ingest(connection)
    put(tmp_path, "base", 0.5)
    with store.open() as connection:
        store.ingest(connection)
        rows = connection.execute(
            "SELECT metric, base_value FROM scores WHERE attempt_id = 'lora-0' ORDER BY position"
        ).fetchall()
    assert rows == [("acc", 0.5), ("loss", 0.5)]


def test_finished_once_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    spec = put(tmp_path, "lora", 0.75)
    put(tmp_path, "lora", 0.0, Status.INTERRUPTED, number=1)
    with store.open() as connection:
        store.ingest(connection)
        assert store.statuses(connection, "e" * 64) == {spec: "interrupted"}
        assert store.finished(connection, "e" * 64) == {spec: "lora-0"}
        assert store.seconds(connection) == [("lora", "m", "t", 8, 1.0)]
        assert store.finished(connection, "f" * 64) == {}


def test_one_damaged_file_does_not_stop_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "base", 0.5)
    put(tmp_path, "lora", 0.75)
    (tmp_path / "attempts" / "0" / "base-0" / "items.parquet").write_bytes(b"PAR1 half a file")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "x.parquet").write_bytes(b"")
    with store.open() as connection:
        complaints = store.ingest(connection)
        assert connection.execute("SELECT attempt_id FROM attempts").fetchall() == [("lora-0",)]
    assert len(complaints) == 2
    assert "base-0 is damaged" in complaints[0]
    assert store.rebuild()[0] == 1


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database at"), Store(tmp_path).open(read_only=True):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"not a database", b"x" * 20000])
def test_a_damaged_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.path.write_bytes(content)
    with pytest.raises(DamagedStore, match="tunebench rebuild"), store.open():
        pass
    assert store.path.read_bytes() == content


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.open() as connection:
        connection.execute("INSERT INTO schema_version VALUES (999, now())")
    for read_only in (False, True):
        with pytest.raises(NewerStore, match="schema 999"), store.open(read_only=read_only):
            pass


def hold(path: str, ready: Any, release: Any) -> None:
    with duckdb.connect(path):
        ready.set()
        release.wait(30)


def test_it_waits_for_a_reader_and_names_the_fault_when_that_takes_too_long(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.open():
        pass
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(store.path), ready, release))
    other.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(StoreError, match="held open by another process"),
            Store(tmp_path, wait_seconds=0.3).open(),
        ):
            pass
        release.set()
        with Store(tmp_path, wait_seconds=30).open() as connection:
            assert connection.execute("SELECT count(*) FROM cells").fetchall() == [(0,)]
    finally:
        release.set()
        other.join()


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def put_checks(folder: Path, created: str, measured: float, model: str = "m") -> Path:
    """Checks of the instruments as a run keeps them."""
    check = Check("padding_side", "left or right", measured, 0.25, "ratio", 1.0)
    record = {
        "env_digest": "e" * 64, "model": model, "precision": "auto", "attention": "sdpa", "created": created,
        "checks": [vars(check), {**vars(check), "name": "same_seed"}],
    }  # fmt: skip
    path = folder / INSTRUMENTS / f"{digest(record)[:8]}.json"
    write_atomically(path, json.dumps(record))
    return path


def checks(store: Store) -> list[Any]:
    with store.open(read_only=True) as connection:
        query = "SELECT model, name, measured, at_most, passed FROM instruments ORDER BY ALL"
        return connection.execute(query).fetchall()


def take_in(store: Store) -> list[str]:
    with store.open() as connection:
        return store.ingest(connection)


@pytest.mark.parametrize("order", [("2026-01-01", "2026-01-02"), ("2026-01-02", "2026-01-01")])
def test_of_checks_of_the_same_the_newest_counts_in_whatever_order_they_come(tmp_path: Path, order: Any) -> None:
    store = Store(tmp_path)
    for day in order:
        put_checks(tmp_path, f"{day}T00:00:00.000+00:00", 0.5 if day == "2026-01-01" else 0.125)
        assert take_in(store) == []
    put_checks(tmp_path, "2026-01-01T00:00:00.000+00:00", float("nan"), "other")
    for _ in range(2):
        assert take_in(store) == []
    found = checks(store)
    assert found[:2] == [("m", "padding_side", 0.125, 0.25, True), ("m", "same_seed", 0.125, 0.25, True)]
    assert [(row[0], row[2] != row[2], row[4]) for row in found[2:]] == [("other", True, False)] * 2
    assert store.rebuild() == (0, [])
    assert str(checks(store)) == str(found)  # as text: NaN is not itself


def test_checks_that_are_damaged_are_left_out_and_said(tmp_path: Path) -> None:
    put_checks(tmp_path, "2026-01-01T00:00:00+00:00", 0.125)
    path = put_checks(tmp_path, "2026-01-01T00:00:00+00:00", 0.125, "other")
    path.write_text(path.read_text()[:-9])
    (complaint,) = take_in(Store(tmp_path))
    assert complaint.startswith(f"{path} is damaged (")
    assert [row[0] for row in checks(Store(tmp_path))] == ["m", "m"]


def test_an_older_database_gets_the_instruments_and_keeps_its_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = next(place for place, step in enumerate(MIGRATIONS) if step.__name__ == "what_the_instruments_said")
    with duckdb.connect(str(store.path)) as connection:  # as a tunebench made it that knew no such table
        connection.execute("CREATE TABLE schema_version (version INTEGER, applied TIMESTAMPTZ)")
        for number, step in enumerate(MIGRATIONS[:before], start=1):
            step(connection)
            connection.execute("INSERT INTO schema_version VALUES (?, now())", [number])
        connection.execute("INSERT INTO runs VALUES ('run-1', 's', '', 'e', now(), now(), 'done', 'tunebench run s')")
    put_checks(tmp_path, "2026-01-01T00:00:00+00:00", 0.125)
    with pytest.raises(StoreError, match=f"the database has schema {before}"), store.open(read_only=True):
        pass
    assert take_in(store) == []
    assert [row[1] for row in checks(store)] == ["padding_side", "same_seed"]
    with store.open(read_only=True) as connection:
        assert connection.execute("SELECT run_id, only_cells FROM runs").fetchall() == [("run-1", None)]
    assert (tmp_path / f"tunebench.schema-{before}.duckdb").exists()


def test_threads_stand_in_an_attempts_job(tmp_path: Path) -> None:
    assert threads_of(tmp_path) is None
    (tmp_path / "job.json").write_text('{"threads": 3}')
    assert threads_of(tmp_path) == 3
    (tmp_path / "job.json").write_text("{}")
    assert threads_of(tmp_path) is None


def test_a_database_of_before_checkpoints_is_migrated_and_its_results_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.store import database, schema

    names = [step.__name__ for step in schema.MIGRATIONS]
    older = schema.MIGRATIONS[: names.index("scores_along_training")]
    store = Store(tmp_path)
    with duckdb.connect(str(store.path)) as connection:
        monkeypatch.setattr(schema, "MIGRATIONS", older)
        schema.migrate(connection)
        monkeypatch.undo()
    assert database.MIGRATIONS is schema.MIGRATIONS
    put(tmp_path, "base", 0.5)
    path = attempt_folder(tmp_path, "base-0") / "result.json"
    stored = json.loads(path.read_text())
    assert stored.pop("checkpoints") == []
    path.write_text(json.dumps(stored))
    with pytest.raises(StoreError, match="rebuild"), store.open(read_only=True):
        pass
    with store.open() as connection:
        assert store.ingest(connection) == []
        assert connection.execute("SELECT count(*) FROM attempts").fetchall() == [(1,)]
        assert connection.execute("FROM checkpoints").fetchall() == []
    assert list(tmp_path.glob(f"tunebench.schema-{len(older)}.duckdb"))


def test_a_runs_margin_is_kept_in_its_file_and_restored_from_it(tmp_path: Path) -> None:
    store = Results(tmp_path, margin=0.05).store()
    Results(tmp_path, suite="older", run_id="run-0").store()  # whose record has none
    for _ in range(2):
        with store.open(read_only=True) as connection:
            margins = {name: run.margin for name in ("demo", "older") if (run := latest_run(connection, name))}
            assert connection.execute("SELECT margin FROM runs ORDER BY run_id").fetchall() == [(None,), (0.05,)]
        assert margins == {"demo": 0.05, "older": MARGIN}
        store.rebuild()


def test_items_of_before_clusters_are_read_and_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.store import schema

    names = [step.__name__ for step in schema.MIGRATIONS]
    older = schema.MIGRATIONS[: names.index("which_items_share_a_cluster")]
    store = Store(tmp_path)
    with duckdb.connect(str(store.path)) as connection:
        monkeypatch.setattr(schema, "MIGRATIONS", older)
        schema.migrate(connection)
        connection.execute("INSERT INTO items VALUES ('older', 't', 'd-0', 'acc', 1.0, 'x', 'x')")
        monkeypatch.undo()
    put(tmp_path, "base", 0.5)
    path = attempt_folder(tmp_path, "base-0") / "items.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["cluster"]), path)  # as an earlier tunebench wrote it
    put(tmp_path, "lora", 0.7)
    write_items(attempt_folder(tmp_path, "lora-0") / "items.parquet", [Item("t", "d-0", "acc", 1.0, "x", "y", "p7")])
    with store.open() as connection:
        assert store.ingest(connection) == []
        stored = connection.execute("SELECT attempt_id, cluster FROM items ORDER BY 1").fetchall()
        assert stored == [("base-0", None), ("lora-0", "p7"), ("older", None)]
        assert connection.execute("SELECT DISTINCT clusters, clustered_by FROM scores").fetchall() == [(None, "")]


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"n_train": 8', f'"n_train": {2**70}', "cell.n_train: got 1180591620717411303424"),
        ('"started": "2026', '"started": "20x6', "started: got '20x6-01-01T00:00:00.00:00'"),
        ('"reason": ""', r'"reason": "\ud800"', "reason: got '\\\\ud800'"),
        ('"value": 0.75', '"value": [0.75]', r"scores\[0\].value: got"),
    ],
)
def test_a_result_that_cannot_be_stored_is_named_and_the_rest_of_its_batch_goes_in(
    tmp_path: Path, before: str, after: str, reason: str
) -> None:
    store = Store(tmp_path)
    for label in ("base", "full", "lora", "top"):
        put(tmp_path, label, 0.75 if label == "lora" else 0.5)
    change(attempt_folder(tmp_path, "lora-0") / "result.json", before, after)
    (complaint,) = take_in(store)
    assert re.search(f"lora-0 is damaged \\({reason}.*left out, its cell will run again", complaint)
    with store.open(read_only=True) as connection:
        assert store.attempt_ids(connection) == {"base-0", "full-0", "top-0"}
    assert store.rebuild() == (3, [complaint])


def test_what_the_database_alone_refuses_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    for number in range(5):
        put(tmp_path, "lora", 0.5, number=number)
    write = ingest.insert

    def refusing(connection: Any, rows: Any) -> None:
        if any(row["attempt_id"] == "lora-3" for row in rows.get("attempts", ())):
            raise duckdb.ConversionException("Conversion Error: out of range")
        write(connection, rows)

    monkeypatch.setattr(ingest, "insert", refusing)
    (complaint,) = take_in(store)
    assert "lora-3 cannot be stored (ConversionException: Conversion Error: out of range); left out" in complaint
    with store.open(read_only=True) as connection:
        assert store.attempt_ids(connection) == {"lora-0", "lora-1", "lora-2", "lora-4"}


def test_a_seed_of_more_than_32_bits_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "lora", 0.5)
    change(attempt_folder(tmp_path, "lora-0") / "result.json", '"seed": 0', '"seed": 3000000000')
    change(tmp_path / "runs" / "run-lora-0.json", '"seed": 0', '"seed": 3000000000')
    assert take_in(store) == []
    with store.open(read_only=True) as connection:
        query = "SELECT cells.seed, members.seed FROM cells JOIN members USING (spec_digest)"
        assert connection.execute(query).fetchall() == [(3000000000, 3000000000)]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"value": ["0.5"]}, "column 'value' has the type string, wanted double"),
        ({"doc_id": None}, "has no column 'doc_id'"),
        ({"doc_id": [None]}, "column 'doc_id' has 1 missing values"),
        ({"target": [3]}, "column 'target' has the type int64, wanted string"),
        (dict.fromkeys((field.name for field in fields(Item)), 2), "a document has two values of one score"),
    ],
)
def test_items_of_another_form_are_named_and_take_no_others_with_them(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    put(tmp_path, "base", 0.5)
    put(tmp_path, "lora", 0.75)
    path = attempt_folder(tmp_path, "lora-0") / "items.parquet"
    values = pq.read_table(path).to_pydict()
    for name, value in columns.items():
        values[name] = values[name] * 2 if value == 2 else value
    pq.write_table(pa.table({name: value for name, value in values.items() if value is not None}), path)
    (complaint,) = take_in(Store(tmp_path))
    assert f"lora-0 is damaged (items.parquet: {reason}" in complaint


@pytest.mark.parametrize(("before", "after"), [('"measured": 0.5', '"measured": "x"'), ('"2026-', '"x-')])
def test_damaged_checks_of_the_instruments_are_named(tmp_path: Path, before: str, after: str) -> None:
    put(tmp_path, "lora", 0.5)
    put_checks(tmp_path, "2026-01-01T00:00:00.000+00:00", 0.5, "other")
    path = put_checks(tmp_path, "2026-01-01T00:00:00.000+00:00", 0.5)
    change(path, before, after)
    (complaint,) = take_in(Store(tmp_path))
    assert complaint.startswith(f"{path} is damaged (")
    assert {row[0] for row in checks(Store(tmp_path))} == {"other"}


def test_damaged_records_of_runs_are_told_when_some_attempts_are_taken_in(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "lora", 0.5)
    (tmp_path / "runs" / "run-9.json").write_text('{"run_id":')
    with store.open() as connection:
        (complaint,) = store.ingest(connection, [attempt_folder(tmp_path, "lora-0")])
    assert "run-9.json is damaged" in complaint
    assert "may be deleted" in complaint


def test_a_copied_record_of_a_run_does_not_take_the_place_of_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "lora", 0.5)
    path = tmp_path / "runs" / "run-lora-0.json"
    path.with_name("run-z.json").write_text(path.read_text().replace('"suite": "s"', '"suite": "other"'))
    (complaint,) = take_in(store)
    assert "run-z.json is damaged (it is a copy of run-lora-0)" in complaint


def test_a_record_of_a_run_that_names_a_cell_twice_is_left_out_alone(tmp_path: Path) -> None:
    put(tmp_path, "lora", 0.5)
    put(tmp_path, "full", 0.5)
    path = tmp_path / "runs" / "run-lora-0.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "members": record["members"] * 2}))
    (complaint,) = take_in(Store(tmp_path))
    assert "run-lora-0.json cannot be stored (ConstraintException: " in complaint
    assert len(dump(Store(tmp_path))["runs"]) == 1


def test_an_error_that_is_not_of_the_database_does_not_call_it_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(tmp_path, "lora", 0.5)
    take_in(store)
    with pytest.raises(StoreError) as raised, store.open() as connection:
        connection.execute("FROM read_csv(?)", [str(tmp_path / "nowhere" / "x.csv")])
    assert not isinstance(raised.value, DamagedStore)
    assert "the database itself is whole" in str(raised.value)
