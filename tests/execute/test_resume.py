"""What a killed command leaves is made whole before the next run, and nothing is counted twice."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from results_factory import Results, cell, items, scores
from samples import JOB
from tools import plan_of

from harness.data import Facts
from harness.environment import environment
from harness.errors import StoreError
from harness.execute.queue import TO_DO
from harness.execute.resume import mend, plan_state, weights_are_whole
from harness.plan.plan import Plan
from harness.records import Cell, CellResult, Fact, Status
from harness.store import files
from harness.store.database import Store
from harness.store.files import attempt_folder, sole_writer, write_atomically, write_job
from harness.store.schema import MIGRATIONS, migrate


def begun(store: Store, number: int, of: Cell) -> Path:
    """The folder of a cell whose command was killed: a job, half-written weights, no result."""
    folder = store.attempt_folder(f"run-9-{number:05d}-{of.spec_digest[:12]}")
    (folder / ".weights").mkdir(parents=True)
    (folder / ".weights" / "model.safetensors").write_bytes(b"half")
    (folder / ".result.json.77.tmp").write_text("{")
    write_job(folder, replace(JOB, run_id="run-9", cell=of, environment=environment(1)))
    return folder


def stored(store: Store, query: str) -> list[Any]:
    with store.open(read_only=True) as connection:
        return connection.execute(query).fetchall()


def test_a_killed_commands_cells_are_interrupted_and_cleared(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(cell("base"), scores(0.5))
    store = results.store()
    folder = begun(store, 1, cell("lora", 8, 0))
    unborn = store.attempt_folder("run-9-00002-abcdef012345")
    unborn.mkdir(parents=True)
    record = {
        "run_id": "run-9", "suite": "s", "question": "", "env_digest": "e", "started": "2026-01-01T00:00:00+00:00",
        "finished": None, "status": "running", "command": "", "members": [],
    }  # fmt: skip
    write_atomically(tmp_path / "runs" / "run-9.json", json.dumps(record, separators=(",", ":")))
    assert mend(store) == []
    assert sorted(path.name for path in folder.iterdir()) == ["job.json", "result.json"]
    result = CellResult.from_json(json.loads((folder / "result.json").read_text()))
    assert (result.status, result.reason) == (Status.INTERRUPTED, "the command that ran it was killed")
    assert not unborn.exists()
    assert json.loads((tmp_path / "runs" / "run-9.json").read_text())["status"] == "interrupted"
    assert mend(store) == []


def test_a_truncated_record_of_a_run_does_not_stop_the_next_one(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(cell("base"), scores(0.5))
    store = results.store()
    path = tmp_path / "runs" / "run-9.json"
    path.write_text('{"run_id":"run-9","suite":"s","status":"running","members":[{"ke')
    assert mend(store) == []
    with store.open() as connection:
        (complaint,) = store.ingest(connection)
    assert complaint.startswith(f"{path} is damaged (JSONDecodeError: ")
    assert path.read_text().endswith('[{"ke')


@pytest.mark.parametrize("name", ["result.json", "items.parquet"])
def test_a_file_truncated_after_it_was_taken_in_is_noticed(tmp_path: Path, name: str) -> None:
    results = Results(tmp_path)
    results.add(cell("base"), scores(0.5), items=items("topic", "acc", [1.0, 0.0]))
    lora = results.add(cell("lora", 8, 0), scores(0.7), items=items("topic", "acc", [1.0, 1.0]))
    store = results.store()
    assert len(stored(store, "FROM items")) == 4
    path = store.attempt_folder(lora) / name
    os.truncate(path, path.stat().st_size // 2)
    (complaint,) = mend(store)
    assert complaint == f"{path.parent} has changed on the disk since it was taken in; it is read again"
    with store.open() as connection:
        (complaint,) = store.ingest(connection)
    assert "is damaged" in complaint
    assert len(stored(store, "FROM items")) == 2
    assert stored(store, "SELECT count(*) FROM attempts") == [(1,)]


def test_a_truncated_database_is_kept_and_made_anew(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(cell("base"), scores(0.5), items=items("topic", "acc", [1.0, 0.0]))
    store = results.store()
    os.truncate(store.path, 5000)
    (complaint,) = mend(store)
    assert "it is kept as tunebench.damaged-" in complaint
    assert len(stored(store, "FROM items")) == 2
    assert [path.stat().st_size for path in tmp_path.glob("tunebench.damaged-*.duckdb")] == [5000]


def test_an_older_database_is_migrated_and_a_copy_of_it_kept(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(cell("base"), scores(0.5))
    store = results.store()
    new = store.path.rename(tmp_path / "new.duckdb")
    with duckdb.connect(str(store.path)) as connection:  # as tunebench 0.1 made it
        migrate(connection, MIGRATIONS[:1])
        connection.execute(f"ATTACH '{new}' AS new (READ_ONLY)")
        for table in ("environments", "runs", "cells", "members", "attempts", "scores", "phases"):
            columns = ", ".join(row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall())
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM new.{table}")
    new.unlink()
    with pytest.raises(StoreError, match="the database has schema 1"), store.open(read_only=True):
        pass
    with store.open() as connection:
        assert connection.execute("SELECT beside, device FROM attempts").fetchall() == [(None, None)]
    with duckdb.connect(str(tmp_path / "tunebench.schema-1.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchall() == [(1,)]
        assert "beside" not in [row[0] for row in connection.execute("DESCRIBE attempts").fetchall()]
    assert mend(store) == []
    assert store.rebuild() == (1, [])


def test_results_that_lie_flat_as_in_the_first_version_are_found(tmp_path: Path) -> None:
    results = Results(tmp_path)
    attempt = results.add(cell("base"), scores(0.5), items=items("topic", "acc", [1.0]))
    folder = attempt_folder(tmp_path, attempt)
    folder.rename(tmp_path / "attempts" / attempt)
    store = results.store()
    assert attempt_folder(tmp_path, attempt) == tmp_path / "attempts" / attempt
    assert mend(store) == []
    assert len(stored(store, "FROM items")) == 1


def test_a_copied_attempt_is_not_counted(tmp_path: Path) -> None:
    results = Results(tmp_path)
    attempt = results.add(cell("base"), scores(0.5))
    shutil.copytree(attempt_folder(tmp_path, attempt), tmp_path / "attempts" / "a copy of it")
    store = Store(tmp_path)
    with store.open() as connection:
        (complaint,) = store.ingest(connection)
    assert f"it is a copy of {attempt}" in complaint
    assert stored(store, "SELECT count(*) FROM attempts") == [(1,)]


def test_weights_count_as_there_only_when_they_are_whole(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "adapter.safetensors").write_bytes(b"12345678")
    results = Results(tmp_path / "results")
    attempt = results.add(cell("lora", 8, 0), facts=[Fact("artifact_bytes", 8.0, "B")], artifact=8.0)
    shutil.copy(attempt_folder(tmp_path / "results", attempt) / "result.json", folder)
    assert weights_are_whole(folder)
    os.truncate(folder / "weights" / "adapter.safetensors", 4)
    assert not weights_are_whole(folder)
    shutil.rmtree(folder / "weights")
    assert not weights_are_whole(folder)


def test_the_state_of_a_plan_names_the_folders_that_cells_to_do_look_into(project: Path) -> None:
    plan = plan_of(project)
    base, *others = plan.cells
    results = Results(project / "results", environment=environment(1))
    attempt = results.add(base, scores(0.5))
    store = results.store()
    found = plan_state(plan, store, environment(1).env_digest)
    assert found.states == {base.spec_digest: "done", **{other.spec_digest: "to do" for other in others}}
    assert found.done == {base.spec_digest: store.attempt_folder(attempt)}
    assert found.durations.seconds(base) == 60.0
    sizes = found.durations.parameters
    assert sizes["tiny"] == plan.facts.models["tiny"].network.parameters(), "as planned"
    Results(project / "results", run_id="more", environment=environment(1)).add(
        cell("lora", 8, 0, model="other"), scores(0.5), trainable=1e6
    )
    with Results(project / "results").store().open(read_only=True) as connection:
        assert store.parameters(connection)["other"] == 1e8, "as measured, where it is in no plan"


MERGED = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods:
  base: {}
  merged: {method: merge, experts: {method: lora, learn: [colours, names]}}
train: {steps: 2}
"""


@pytest.mark.parametrize(
    ("status", "reason", "state"),
    [
        (Status.SKIPPED, "needs lora/tiny/names/n8/s0 (interrupted)", "to do"),
        (Status.SKIPPED, "a package is missing", "skipped"),
        (Status.FAILED, "needs more", "failed"),
    ],
)
def test_what_was_skipped_for_a_need_runs_when_the_need_is_done(
    project: Path, status: Status, reason: str, state: str
) -> None:
    """The need was mended by a run that was killed before it came to what had waited for it."""
    plan = plan_of(project, MERGED)
    results = Results(project / "results", environment=environment(1))
    for made in plan.cells:
        if made.method == "merge":
            results.add(made, status=status, reason=reason)
        else:
            attempt = results.add(made, scores(0.5))
            weights = attempt_folder(project / "results", attempt) / "weights"
            weights.mkdir()
            (weights / "adapter").write_bytes(b"0" * (4 * 2**20))
    found = plan_state(plan, results.store(), environment(1).env_digest)
    assert {made.method: str(found.states[made.spec_digest]) for made in plan.cells} == {
        "base": "done", "lora": "done", "merge": state,
    }  # fmt: skip


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.is_full(tmp_path, OSError(28, "No space left on device"))
    assert files.is_full(tmp_path, RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not files.is_full(tmp_path, OSError(13, "Permission denied"))
    assert not files.is_full(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    assert files.is_full(tmp_path)


def test_one_writer_at_a_time_and_not_while_cells_of_another_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sole_writer(tmp_path):
        assert files.holder(tmp_path) == os.getpid()
    cell_lock = files.hold_for_cell(tmp_path)
    monkeypatch.setattr(files, "ORPHAN_SECONDS", 0.2)
    with (
        pytest.raises(StoreError, match="cells of an earlier command are still running .*process of another"),
        sole_writer(tmp_path),
    ):
        pass
    os.close(cell_lock)
    with sole_writer(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot write to the results folder"), sole_writer(tmp_path / "results"):
        pass


def test_of_some_cells_the_finished_ones_that_were_not_asked_for_are_left_alone(tmp_path: Path) -> None:
    results = Results(tmp_path)
    base = results.member(cell("base"))
    lora, full = (cell(label, 8, 0, baseline=base.spec_digest) for label in ("lora", "full"))
    results.add(base, scores(0.5))
    results.add(lora, scores(0.7))
    results.add(full, status=Status.FAILED)
    store = results.store()
    some: Any = Plan(None, Facts({}, {}), (base, full, lora), ("lora",), frozenset({lora.spec_digest}))  # type: ignore[arg-type]

    def to_do(plan: Plan, *retry: str) -> list[str]:
        states = plan_state(plan, store, results.environment.env_digest, frozenset(retry)).states
        return [of.label for of in plan.cells if states[of.spec_digest] == TO_DO]

    assert to_do(some) == []
    assert to_do(some, "done") == ["lora"]
    assert to_do(some, "done", "failed") == ["full", "lora"]  # what was asked for may need it
    assert to_do(replace(some, only_cells=(), chosen=frozenset()), "done") == ["base", "lora"]
