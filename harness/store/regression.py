"""Queries for comparing environments: every attempt at every cell, with repeats, and the values of its items."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from harness.store.cells import CellRow, StoredScore, measured
from harness.store.items import ItemAnswer, ItemValues
from harness.store.select import Record, select_rows

if TYPE_CHECKING:
    import duckdb

ScoreName = tuple[str, str, str]  # attempt_id, task, metric


def environment_attempts(connection: duckdb.DuckDBPyConnection, env_digest: str, suite: str = "") -> list[CellRow]:
    """Returns a row for each attempt at a cell in one environment, repeats included, in the order in which they
    started. Interrupted attempts, studies and their trials are left out.

    Key, label and table of a cell are those that its newest run gives it, in whatever environment; `suite` restricts
    the rows to cells of that suite, and names them as its newest run does. `scores` have no base value.
    """
    records = select_rows(
        connection,
        """
        WITH named AS (
            SELECT members.*, coalesce(bare.model, members.model) AS base_model
            FROM members JOIN runs USING (run_id)
            LEFT JOIN members AS bare ON bare.run_id = members.run_id AND bare.spec_digest = members.baseline
            WHERE coalesce(members.role, '') <> 'study' AND ($suite = '' OR members.suite = $suite)
            QUALIFY row_number() OVER (
                PARTITION BY members.spec_digest ORDER BY runs.started DESC, members.run_id DESC, members.position) = 1)
        SELECT named.key, named.label, named.spec_digest, named.model, named.task, named.n_train, named.seed,
            named.baseline, coalesce(named.data, '{}') AS data, named.base_model,
            coalesce(cells.method, '') AS method, coalesce(cells.family, '') AS family, cells.learn,
            coalesce(cells.fingerprints ->> ('$."' || named.task || '"'), '') AS fingerprint,
            status, coalesce(reason, '') AS reason, attempt_id, coalesce(contended, false) AS contended,
            coalesce(attempts.tuned, '{}') AS tuned, attempts.started, coalesce(attempts.device, '') AS device
        FROM attempts JOIN named USING (spec_digest) LEFT JOIN cells USING (spec_digest)
        WHERE env_digest = $env AND status <> 'interrupted' ORDER BY attempts.started, attempt_id
        """,
        {"env": env_digest, "suite": suite},
    )
    rows = []
    for record in records:
        record |= {name: json.loads(record[name]) for name in ("data", "tuned")}
        rows.append(CellRow(**{**record, "learn": tuple(record["learn"] or ())}))
    fill(connection, {row.attempt_id: row for row in rows})
    return rows


def fill(connection: duckdb.DuckDBPyConnection, by_attempt: dict[str, CellRow]) -> None:
    """Adds scores, phases and facts to rows, given by the id of their attempt."""
    attempts = [list(by_attempt)]
    scores = (
        "SELECT attempt_id, task, role, metric, value, stderr, n, higher_is_better, clusters, "
        "coalesce(clustered_by, '') AS clustered_by FROM scores "
        "WHERE attempt_id IN (SELECT unnest(?)) ORDER BY attempt_id, position"
    )
    for score in select_rows(connection, scores, attempts):
        by_attempt[score.pop("attempt_id")].scores.append(StoredScore(**score, base_value=None))
    for phase in select_rows(connection, "SELECT * FROM phases WHERE attempt_id IN (SELECT unnest(?))", attempts):
        by_attempt[phase["attempt_id"]].phases[phase["phase"]] = measured(phase)
    for fact in select_rows(connection, "SELECT * FROM facts WHERE attempt_id IN (SELECT unnest(?))", attempts):
        by_attempt[fact["attempt_id"]].facts[fact["name"]] = fact["value"]


def outcome_digests(connection: duckdb.DuckDBPyConnection, attempts: Iterable[str]) -> dict[str, str]:
    """Returns attempt_id -> a text that two attempts share where all values of all their items, and the losses of all
    their steps, are the same to the last bit. Attempts without items are absent."""
    rows: list[Record] = select_rows(
        connection,
        """
        WITH wanted AS (SELECT unnest($attempts) AS attempt_id),
        answered AS (
            SELECT attempt_id, bit_xor(hash(task, doc_id, metric, value)) AS bits, count(*) AS number
            FROM items JOIN wanted USING (attempt_id) GROUP BY attempt_id),
        trained AS (
            SELECT attempt_id, bit_xor(hash(split, step, loss)) AS bits, count(*) AS number
            FROM steps JOIN wanted USING (attempt_id) GROUP BY attempt_id)
        SELECT answered.attempt_id, concat_ws('-', answered.bits, answered.number, trained.bits, trained.number) AS bits
        FROM answered LEFT JOIN trained USING (attempt_id)
        """,
        {"attempts": list(attempts)},
    )
    return {row["attempt_id"]: row["bits"] for row in rows}


def needs_without_training(
    connection: duckdb.DuckDBPyConnection, attempts: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Returns spec_digest -> the spec digests of its needs, for the cells of these attempts that have no training step
    of their own: what they are is made of what they need, as a merge is made of its experts."""
    rows = connection.execute(
        """
        WITH wanted AS (SELECT unnest($attempts) AS attempt_id),
        trained AS (SELECT DISTINCT attempt_id FROM steps JOIN wanted USING (attempt_id) WHERE split = 'train')
        SELECT spec_digest, any_value(coalesce(needs, [])) FROM attempts JOIN wanted USING (attempt_id)
        JOIN cells USING (spec_digest) LEFT JOIN trained USING (attempt_id)
        WHERE status = 'done' GROUP BY spec_digest HAVING count(trained.attempt_id) = 0
        """,
        {"attempts": list(attempts)},
    ).fetchall()
    return {spec: tuple(needs) for spec, needs in rows}


def score_values(connection: duckdb.DuckDBPyConnection, wanted: Iterable[ScoreName]) -> dict[ScoreName, ItemValues]:
    """Returns (attempt_id, task, metric) -> the values of its items, for each that is wanted; those without items are
    absent."""
    names = list(wanted)
    rows = connection.execute(
        """
        WITH wanted AS (SELECT unnest($attempts) AS attempt_id, unnest($tasks) AS task, unnest($metrics) AS metric)
        SELECT items.attempt_id, items.task, items.metric, items.doc_id, items.value, cluster
        FROM items JOIN wanted USING (attempt_id, task, metric)
        """,
        {
            "attempts": [attempt for attempt, _, _ in names],
            "tasks": [task for _, task, _ in names],
            "metrics": [metric for _, _, metric in names],
        },
    ).fetchall()
    answers: dict[ScoreName, dict[str, ItemAnswer]] = {}
    for attempt, task, metric, doc, value, cluster in rows:
        answers.setdefault((attempt, task, metric), {})[doc] = ItemAnswer(value, "", "", cluster)
    return {name: ItemValues(found) for name, found in answers.items()}


@dataclass(frozen=True)
class HistoryPoint:
    """What one environment measured of one cell: the mean `value` of a score or cost over its finished attempts, with
    what tells whether it may stand in one series with others.

    `created` is when the environment was first used, `packages`
    maps its packages to versions. `machine` is its hardware, which only costs depend on.
    """

    suite: str
    key: str
    label: str
    task: str
    role: str  # "task", "retain" or "cost"
    metric: str
    higher_is_better: bool | None
    value: float
    attempts: int
    env_digest: str
    created: datetime
    packages: dict[str, str]
    spec_digest: str
    fingerprint: str = ""
    result_version: int = 0
    machine: str = ""


# Costs of a series: facts, and columns of phases.
FACTS = ("trainable_params", "artifact_bytes", "latency_ms_p50", "whole_run_device_bytes")
PHASES = ("train", "evaluate")


def history_points(connection: duckdb.DuckDBPyConnection, suite: str = "") -> list[HistoryPoint]:
    """Returns what each environment measured of each cell, of one suite or ("") of all: the headline of each task, and
    costs. The oldest environment comes first. Contended attempts have no costs; trials and studies are left out."""
    rows = select_rows(
        connection,
        """
        WITH named AS (
            SELECT DISTINCT members.suite, members.key, members.label, members.spec_digest, members.task AS own_task
            FROM members WHERE coalesce(role, '') <> 'study' AND ($suite = '' OR members.suite = $suite)),
        done AS (SELECT * FROM attempts WHERE status = 'done'),
        headlines AS (
            SELECT attempt_id, task, role, metric, value, higher_is_better FROM scores
            QUALIFY row_number() OVER (PARTITION BY attempt_id, task, role ORDER BY position) = 1),
        costs AS (
            SELECT attempt_id, name AS metric, value, higher_is_better FROM facts WHERE list_contains($facts, name)
            UNION ALL
            SELECT attempt_id, phase || '_' || name, value, false
            FROM (SELECT attempt_id, phase, seconds, rss_bytes::DOUBLE AS rss_bytes,
                device_bytes::DOUBLE AS device_bytes FROM phases WHERE list_contains($phases, phase))
            UNPIVOT (value FOR name IN (seconds, rss_bytes, device_bytes))),
        measured AS (
            SELECT attempt_id, task, role, metric, value, higher_is_better FROM headlines
            UNION ALL
            SELECT attempt_id, '', 'cost', metric, value, higher_is_better FROM costs
            JOIN done USING (attempt_id) WHERE NOT coalesce(contended, false))
        SELECT named.suite, named.key, named.label,
            CASE WHEN measured.task = '' THEN named.own_task ELSE measured.task END AS task, measured.role,
            measured.metric, any_value(measured.higher_is_better) AS higher_is_better, avg(measured.value) AS value,
            count(*) AS attempts, done.env_digest, environments.created, environments.packages, named.spec_digest,
            coalesce(any_value(cells.fingerprints ->> ('$."' || named.own_task || '"')), '') AS fingerprint,
            coalesce(environments.result_version, 0) AS result_version,
            concat_ws(', ', nullif(environments.cpu, ''), nullif(environments.accelerator, ''),
                environments.threads || ' threads') AS machine
        FROM named JOIN done USING (spec_digest) JOIN measured USING (attempt_id)
        JOIN environments USING (env_digest) LEFT JOIN cells USING (spec_digest)
        WHERE measured.value IS NOT NULL AND isfinite(measured.value)
        GROUP BY ALL ORDER BY environments.created, done.env_digest, named.key, measured.metric
        """,
        {"suite": suite, "facts": list(FACTS), "phases": list(PHASES)},
    )
    return [HistoryPoint(**{**row, "packages": json.loads(row["packages"])}) for row in rows]
