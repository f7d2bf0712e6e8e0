"""Queries for the cells of a run, each with what its decisive attempt measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from harness.store.runs import StoredRun
from harness.store.select import Record, select_rows

if TYPE_CHECKING:
    import duckdb


Settings = dict[str, Any]  # as JSON has them: of a method, of training, of data, or the evidence of a flag


@dataclass(frozen=True)
class StoredScore:
    """A score of a cell over `n` items, with the base model's value of the same metric (None where there is none).

    `role` is "task" for a task that the cell learns and "retain" for one that it should not forget. `change_stderr` is
    the standard error of value − base_value, paired over the items; None where per-item values are not stored. Errors
    are clustered where items come in `clusters`, which the column `clustered_by` names (None and "" where they are
    independent).
    """

    task: str
    role: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool
    base_value: float | None
    change_stderr: float | None = None
    clusters: int | None = None
    clustered_by: str = ""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A task's value of one metric after `step` optimiser steps of training."""

    step: int
    task: str
    metric: str
    value: float


@dataclass(frozen=True)
class CellRow:
    """A cell of a run with its decisive attempt: the newest finished one in the run's environment, else the newest
    there.

    `status` is "missing" and `attempt_id` "" where it has not been attempted. `baseline` is the spec digest of the base
    model's cell, and `base_model` that cell's model; rows with the same one are compared. `learn` are the tasks that it
    learns. `data` says how the training data was chosen and corrupted (`data.Quality`); it is empty for clean data.
    `fingerprint` identifies the task's definition and documents. `phases` maps a phase to its seconds, tokens, bytes
    and joules, as far as measured; `facts` a fact to its value; `flags` a flag to its evidence. `study` is the spec
    digest of the study that chose some of its settings ("" where it was not tuned), `tuned` are these settings by full
    name, and `study_status` says how that study ended. `device` is where the attempt ran. `speed_off` is how far the
    machine's speed was off meanwhile, as a share of the usual one; the analysis sets it where that matters, the store
    never.
    """

    key: str
    label: str
    spec_digest: str
    method: str
    family: str
    model: str
    base_model: str
    task: str
    learn: tuple[str, ...]
    n_train: int
    seed: int | None
    baseline: str
    status: str
    reason: str
    attempt_id: str
    contended: bool
    started: datetime | None = None
    device: str = ""
    speed_off: float | None = None
    fingerprint: str = ""
    data: Settings = field(default_factory=dict)
    scores: list[StoredScore] = field(default_factory=list)
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    flags: dict[str, Settings] = field(default_factory=dict)
    losses: list[tuple[int, str, float | None]] = field(default_factory=list)  # (step, split, cross-entropy)
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)  # by step
    study: str = ""
    study_status: str = ""
    tuned: Settings = field(default_factory=dict)

    @property
    def disturbed(self) -> bool:
        """Whether the attempt's times, rates and energy say little, because other cells shared its device, or the
        machine's speed was off."""
        return self.contended or self.speed_off is not None


@dataclass(frozen=True)
class Design:
    """How a cell is made: `settings` are those of its method, `train` those of its training; `objectives` and
    `curriculum` map a name to its settings; `needs` are the spec digests of the cells and studies that must be done
    before it."""

    method: str
    settings: Settings
    train: Settings
    objectives: dict[str, Settings]
    curriculum: dict[str, Settings]
    needs: tuple[str, ...]


def member_rows(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> list[CellRow]:
    """Returns a row for every cell of a run, in the order of its plan, with all that its decisive attempt measured (see
    `CellRow`). Cells that have not been attempted have a row too; studies have none."""
    records = select_rows(
        connection,
        """
        WITH decisive AS (
            SELECT spec_digest, arg_max(attempt_id, (status = 'done', started, attempt_id)) AS attempt_id
            FROM attempts WHERE env_digest = $env GROUP BY spec_digest)
        SELECT members.key, members.label, members.spec_digest, members.model, members.task, members.n_train,
            members.seed, members.baseline, coalesce(members.data, '{}') AS data,
            coalesce(bare.model, members.model) AS base_model,
            coalesce(cells.method, '') AS method, coalesce(cells.family, '') AS family, cells.learn,
            coalesce(cells.fingerprints ->> ('$."' || members.task || '"'), '') AS fingerprint,
            coalesce(status, 'missing') AS status, coalesce(reason, '') AS reason,
            coalesce(attempts.attempt_id, '') AS attempt_id, coalesce(contended, false) AS contended,
            coalesce(cells.needs, []) AS needs, coalesce(attempts.tuned, '{}') AS tuned,
            attempts.started, coalesce(attempts.device, '') AS device
        FROM members
        LEFT JOIN members AS bare ON bare.run_id = members.run_id AND bare.spec_digest = members.baseline
        LEFT JOIN cells ON cells.spec_digest = members.spec_digest
        LEFT JOIN decisive ON decisive.spec_digest = members.spec_digest
        LEFT JOIN attempts ON attempts.attempt_id = decisive.attempt_id
        WHERE members.run_id = $run AND coalesce(members.role, '') <> 'study' ORDER BY members.position
        """,
        {"env": run.env_digest, "run": run.run_id},
    )
    studies = study_statuses(connection, run)
    rows = []
    for record in records:
        study = next((need for need in record.pop("needs") if need in studies), "")
        record |= {name: json.loads(record[name]) for name in ("data", "tuned")}
        record |= {"learn": tuple(record["learn"] or ()), "study": study, "study_status": studies.get(study, "")}
        rows.append(CellRow(**record))
    by_attempt = {row.attempt_id: row for row in rows if row.attempt_id}
    attempts = list(by_attempt)
    attempt_of_spec = {row.spec_digest: row.attempt_id for row in rows}
    base_of = {row.attempt_id: attempt_of_spec.get(row.baseline, "") for row in rows if row.attempt_id}
    paired = paired_errors(connection, base_of)
    stored: dict[str, list[Record]] = {}
    for score in select_rows(
        connection,
        "SELECT attempt_id, task, role, metric, value, stderr, n, higher_is_better, clusters, "
        "coalesce(clustered_by, '') AS clustered_by FROM scores "
        "WHERE attempt_id IN (SELECT unnest(?)) ORDER BY attempt_id, position",
        [attempts],
    ):
        stored.setdefault(score.pop("attempt_id"), []).append(score)
    for attempt, scores in stored.items():
        # The base is the one of this run: another suite may measure the same cell against another.
        base = {(score["task"], score["metric"]): score["value"] for score in stored.get(base_of[attempt], ())}
        for score in scores:
            metric = score["task"], score["metric"]
            by_attempt[attempt].scores.append(
                StoredScore(**score, base_value=base.get(metric), change_stderr=paired.get((attempt, *metric)))
            )
    for phase in select_rows(connection, "SELECT * FROM phases WHERE attempt_id IN (SELECT unnest(?))", [attempts]):
        by_attempt[phase["attempt_id"]].phases[phase["phase"]] = measured(phase)
    for fact in select_rows(connection, "SELECT * FROM facts WHERE attempt_id IN (SELECT unnest(?))", [attempts]):
        by_attempt[fact["attempt_id"]].facts[fact["name"]] = fact["value"]
    for flag in select_rows(connection, "SELECT * FROM flags WHERE attempt_id IN (SELECT unnest(?))", [attempts]):
        by_attempt[flag["attempt_id"]].flags[flag["name"]] = json.loads(flag["evidence"])
    for step in select_rows(
        connection,
        "SELECT attempt_id, step, split, cross_entropy FROM steps WHERE attempt_id IN (SELECT unnest(?)) ORDER BY step",
        [attempts],
    ):
        by_attempt[step["attempt_id"]].losses.append((step["step"], step["split"], step["cross_entropy"]))
    for checkpoint in select_rows(
        connection,
        "SELECT attempt_id, step, task, metric, value FROM checkpoints WHERE attempt_id IN (SELECT unnest(?)) "
        "ORDER BY step",
        [attempts],
    ):
        by_attempt[checkpoint.pop("attempt_id")].checkpoints.append(StoredCheckpoint(**checkpoint))
    return rows


def study_statuses(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> dict[str, str]:
    """Returns spec_digest -> status for each study of a run: that of its newest finished attempt in the run's
    environment, else of its newest there; "missing" for one without an attempt."""
    rows = connection.execute(
        """
        SELECT members.spec_digest, coalesce(arg_max(status, (status = 'done', started, attempt_id)), 'missing')
        FROM members LEFT JOIN attempts ON attempts.spec_digest = members.spec_digest AND env_digest = $env
        WHERE members.run_id = $run AND members.role = 'study' GROUP BY members.spec_digest
        """,
        {"env": run.env_digest, "run": run.run_id},
    ).fetchall()
    return dict(rows)


def paired_errors(connection: duckdb.DuckDBPyConnection, base_of: dict[str, str]) -> dict[tuple[str, str, str], float]:
    """Returns (attempt_id, task, metric) -> standard error of the mean difference from the base model, paired over
    items.

    `base_of` maps the id of an attempt to that of its base model's attempt ("" where there is none). A score is left
    out where some item was not answered by both, or where there are fewer than two items or clusters. A ratio such as
    log-likelihood per word is taken as the mean over its texts. Where items come in clusters the error is clustered, as
    `data.independent_units` has it.
    """
    pairs = {tuned: base for tuned, base in base_of.items() if base}
    rows = connection.execute(
        """
        WITH pairs AS (SELECT unnest($tuned) AS tuned_id, unnest($base) AS base_id),
        differences AS (
            SELECT scores.attempt_id, scores.task, scores.metric, scores.n, tuned.cluster,
                tuned.value - untouched.value AS difference
            FROM pairs
            JOIN scores ON scores.attempt_id = pairs.tuned_id
            JOIN items AS tuned ON tuned.attempt_id = pairs.tuned_id
                AND tuned.task = scores.task AND tuned.metric = scores.metric
            JOIN items AS untouched ON untouched.attempt_id = pairs.base_id
                AND untouched.task = tuned.task AND untouched.metric = tuned.metric
                AND untouched.doc_id = tuned.doc_id),
        by_cluster AS (
            SELECT attempt_id, task, metric, n, count(*) AS items, sum(difference) AS total
            FROM differences WHERE cluster IS NOT NULL GROUP BY attempt_id, task, metric, n, cluster),
        centred AS (
            SELECT *, total - items * (sum(total) OVER score / sum(items) OVER score) AS apart FROM by_cluster
            WINDOW score AS (PARTITION BY attempt_id, task, metric)),
        robust AS (
            SELECT attempt_id, task, metric, n, sum(items) AS items, sum(apart * apart) AS total,
                sum(items ** 2) / sum(items) ** 2 AS squares, sum(items ** 3) / sum(items) ** 3 AS cubes
            FROM centred GROUP BY attempt_id, task, metric, n HAVING count(*) > 1)
        SELECT attempt_id, task, metric, stddev_samp(difference) / sqrt(count(*))
        FROM differences WHERE cluster IS NULL GROUP BY attempt_id, task, metric, n
        HAVING count(*) > 1 AND count(*) = n
        UNION ALL
        SELECT attempt_id, task, metric, sqrt(squares / (squares - 2 * cubes + squares ** 2) * total) / items
        FROM robust WHERE items = n
        """,
        {"tuned": list(pairs), "base": list(pairs.values())},
    ).fetchall()
    return {(attempt, task, metric): error for attempt, task, metric, error in rows}


def measured(phase: Record) -> dict[str, float]:
    """Returns the numbers in a row of table `phases`, as {column: value}. Columns of text, and those not measured, are
    left out."""
    return {column: value for column, value in phase.items() if isinstance(value, int | float)}


def attempts_of(connection: duckdb.DuckDBPyConnection, row: CellRow) -> list[CellRow]:
    """Returns a cell's row once for each of its finished attempts in the environment of the row's own, the oldest
    first, with that attempt's facts, phases, device and start, and whether it was contended. All else, such as scores
    and flags, stays that of `row`.

    Where no attempt is finished, the row itself is returned.
    """
    attempts = connection.execute(
        """
        SELECT other.attempt_id, other.contended, other.started, coalesce(other.device, '') FROM attempts AS this
        JOIN attempts AS other USING (spec_digest, env_digest)
        WHERE this.attempt_id = ? AND other.status = 'done' ORDER BY other.started, other.attempt_id
        """,
        [row.attempt_id],
    ).fetchall()
    repeats = {
        attempt: replace(
            row,
            attempt_id=attempt,
            contended=contended,
            started=started,
            device=device,
            speed_off=None,
            facts={},
            phases={},
        )
        for attempt, contended, started, device in attempts
    }
    for table in ("facts", "phases"):
        query = f"SELECT * FROM {table} WHERE attempt_id IN (SELECT unnest(?))"
        for record in select_rows(connection, query, [list(repeats)]):
            repeat = repeats[record["attempt_id"]]
            if table == "facts":
                repeat.facts[record["name"]] = record["value"]
            else:
                repeat.phases[record["phase"]] = measured(record)
    return list(repeats.values()) or [row]


def designs_of(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> dict[str, Design]:
    """Returns spec_digest -> how the cell is made, for each cell and study of a run. Those that were never attempted,
    in this run or another, are absent, as their settings are not stored."""
    rows = select_rows(
        connection,
        """
        SELECT DISTINCT cells.spec_digest, method, settings, train, coalesce(objectives, '{}') AS objectives,
            coalesce(curriculum, '{}') AS curriculum, cells.needs
        FROM members JOIN cells USING (spec_digest) WHERE members.run_id = $run
        """,
        {"run": run.run_id},
    )
    blocks = ("settings", "train", "objectives", "curriculum")
    return {
        row["spec_digest"]: Design(
            method=row["method"],
            **{name: json.loads(row[name] or "{}") for name in blocks},
            needs=tuple(row["needs"] or ()),
        )
        for row in rows
    }
