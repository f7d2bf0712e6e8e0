"""Records reach their columns by name: whatever the order of their fields, and with none left out on either side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path

import duckdb
import pytest
from results_factory import cell, environment

from harness.records import CellResult, Check, Checkpoint, Fact, Flag, Phase, RunRecord, Score, Status, Step, Trial
from harness.store.database import Store
from harness.store.rows import Row, Rows, insert, row_of_check, row_of_run, rows_of_members, rows_of_result

RESULT = CellResult(
    "lora-0", "run-1", cell("lora", 8, 0), environment(), Status.DONE, "", "2026-01-01T00:00:00+00:00", 1.0,
    scores=(Score("topic", "task", "acc", 0.5, 0.1, 4, True),),
    phases=(Phase("train", 2.0, tokens=10, samples=4, rss_bytes=100),),
    steps=(Step(1, "train", 1.5, 1e-3, 10, 0.1),),
    facts=(Fact("latency_ms", 3.0, "ms", False),),
    flags=(Flag("overfitting", {"step": 3}),),
    checkpoints=(Checkpoint(1, "topic", "task", "acc", 0.25, None, 4, True),),
    trials=(Trial(0, {"rank": 8}, "done", value=0.5, values={"acc": 0.5}, merits=(0.5,), attempt_id="trial-0"),),
)  # fmt: skip
CHECK = Check("flops", "counted against known", 0.01, 0.05, "share", 1.5)
RUN: RunRecord = {
    "run_id": "run-1", "suite": "s", "question": "", "margin": 0.02, "env_digest": "e", "started": "2026-01-01",
    "finished": None, "status": "done", "command": "", "only_cells": [], "members": [RESULT.cell.member()],
}  # fmt: skip
FILLED_LATER = {"scores": {"base_value"}}  # by a query over several attempts


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with Store(tmp_path).open() as opened:
        yield opened


def all_rows() -> Rows:
    about: Row = dict.fromkeys(("env_digest", "model", "precision", "attention"), "x")
    check = {**about, "created": "2026-01-01", **row_of_check(CHECK)}
    return {
        **rows_of_result(RESULT),
        "instruments": [check],
        "runs": [row_of_run(RUN)],
        "members": rows_of_members(RUN),
    }


@pytest.mark.parametrize("table", sorted(all_rows()))
def test_every_field_has_a_column_and_every_column_a_field(table: str, connection: duckdb.DuckDBPyConnection) -> None:
    columns = {name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
    assert set(all_rows()[table][0]) == columns - FILLED_LATER.get(table, set())


def test_a_record_with_its_fields_in_another_order_is_stored_right(connection: duckdb.DuckDBPyConnection) -> None:
    reversed_phase = make_dataclass("Reversed", [*reversed(Phase.__annotations__)])
    phase = reversed_phase(**vars(RESULT.phases[0]))
    assert list(vars(phase)) == [*reversed(vars(RESULT.phases[0]))]
    insert(connection, rows_of_result(replace(RESULT, phases=(phase,))))
    stored = connection.execute("SELECT phase, seconds, tokens, samples, rss_bytes, energy_j FROM phases").fetchall()
    assert stored == [("train", 2.0, 10, 4, 100, None)]


def test_a_field_without_a_column_is_refused(connection: duckdb.DuckDBPyConnection) -> None:
    @dataclass(frozen=True)
    class Longer(Phase):
        water_l: float = 1.0

    phase = Longer(**vars(RESULT.phases[0]))
    with pytest.raises(duckdb.BinderException, match="water_l"):
        insert(connection, rows_of_result(replace(RESULT, phases=(phase,))))


def test_fields_with_columns_of_another_name_are_stored_there(connection: duckdb.DuckDBPyConnection) -> None:
    insert(connection, all_rows())
    trial = connection.execute("SELECT attempt_id, trial_attempt_id, measured, chosen FROM trials").fetchall()
    assert trial == [("lora-0", "trial-0", '{"acc": 0.5}', False)]
    assert connection.execute("SELECT measured, at_most, passed FROM instruments").fetchall() == [(0.01, 0.05, True)]


def test_of_two_environments_with_one_digest_the_earliest_is_kept(connection: duckdb.DuckDBPyConnection) -> None:
    for created in ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00"):
        later = replace(RESULT, environment=replace(RESULT.environment, created=created))
        insert(connection, {"environments": rows_of_result(later)["environments"]})
    stored = connection.execute("SELECT count(*), min(created::DATE)::VARCHAR FROM environments").fetchall()
    assert stored == [(1, "2026-01-01")]
