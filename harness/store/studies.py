"""Queries for studies and their trials."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from harness.data import Quality
from harness.records import Trial
from harness.store.cells import Settings
from harness.store.runs import StoredRun
from harness.store.select import select_rows

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class StoredTrial(Trial):
    """A trial as the database holds it; `chosen` marks the one trial whose setting the study settled on."""

    chosen: bool = False


@dataclass(frozen=True)
class StoredStudy:
    """The tuning of one label for one model, task, data size and quality, with its trials.

    `condition` is the quality of its training data in words ("" for clean). `study` says what was searched and how
    (`plan.study_cell`). `facts` are those of the study's attempt by name. `edges` maps each setting whose best value
    lies at an end of its range to {value, end, range}. `trainable` is the share of the weights that its trials train.
    """

    key: str
    label: str
    method: str
    model: str
    task: str
    n_train: int
    condition: str
    study_digest: str
    status: str
    reason: str
    attempt_id: str
    study: Settings
    trials: tuple[StoredTrial, ...]
    facts: dict[str, float]
    edges: Settings
    trainable: float | None = None

    @property
    def goals(self) -> list[str]:
        """What was sought, the most important first: "score", and "retention" or "memory" beside it."""
        return list(self.study.get("goals", ["score"]))

    @property
    def seed(self) -> int:
        """The seed that draws and trains its trials; 0 for the only study of a label."""
        return int(self.study.get("seed", 0))

    @property
    def done(self) -> list[StoredTrial]:
        """The trials with status done, by number; those that were ended early are left out."""
        return [trial for trial in self.trials if trial.status == "done"]

    @property
    def sign(self) -> float:
        """1 where a higher value of the metric is better, else -1; 1 where no trial was finished."""
        return -1.0 if any(trial.value and trial.merits[0] == -trial.value for trial in self.done) else 1.0

    @property
    def best(self) -> StoredTrial | None:
        """The trial whose setting the study settled on; None where there is none."""
        return next((trial for trial in self.trials if trial.chosen), None)

    @property
    def metric(self) -> str:
        """The metric that was optimised; the task's headline where the suite names none."""
        named = self.study.get("metric")
        return str(named or next((next(iter(trial.values)) for trial in self.done if trial.values), ""))

    def importance(self, kind: str) -> dict[str, float]:
        """Returns setting -> its share of the variance of the score among the trials. `kind` says how it was computed,
        "fanova" or "ped_anova"; empty where it was not."""
        start = f"{kind}:"
        return {name.removeprefix(start): value for name, value in self.facts.items() if name.startswith(start)}


def studies_of(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> list[StoredStudy]:
    """Returns the studies of a run with their trials, in the order of its plan.

    Each has the trials of its newest finished attempt in the run's environment, else of its newest there; none where it
    was not attempted.
    """
    rows = select_rows(
        connection,
        """
        WITH decisive AS (
            SELECT spec_digest, arg_max(attempt_id, (status = 'done', started, attempt_id)) AS attempt_id
            FROM attempts WHERE env_digest = $env GROUP BY spec_digest)
        SELECT members.key, members.label, members.model, members.task, members.n_train,
            coalesce(members.data, '{}') AS data, members.spec_digest AS study_digest,
            coalesce(cells.method, '') AS method, coalesce(cells.study, '{}') AS study,
            coalesce(status, 'missing') AS status, coalesce(reason, '') AS reason,
            coalesce(attempts.attempt_id, '') AS attempt_id
        FROM members
        LEFT JOIN cells ON cells.spec_digest = members.spec_digest
        LEFT JOIN decisive ON decisive.spec_digest = members.spec_digest
        LEFT JOIN attempts ON attempts.attempt_id = decisive.attempt_id
        WHERE members.run_id = $run AND members.role = 'study' ORDER BY members.position
        """,
        {"env": run.env_digest, "run": run.run_id},
    )
    return [
        StoredStudy(
            **row,
            study=json.loads(study),
            condition=Quality.of(json.loads(data)).condition,
            trials=trials_of(connection, row["attempt_id"]),
            facts=dict(
                connection.execute("SELECT name, value FROM facts WHERE attempt_id = ?", [row["attempt_id"]]).fetchall()
            ),
            edges=edges_of(connection, row["attempt_id"]),
            trainable=trainable_of(connection, row["attempt_id"]),
        )
        for row in rows
        for study, data in [(row.pop("study"), row.pop("data"))]
    ]


def trials_of(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> tuple[StoredTrial, ...]:
    """Returns the trials of the study whose attempt this is, by number."""
    rows = select_rows(
        connection,
        "SELECT number, params, value, status, reason, seconds, tokens, peak_bytes, intermediate, measured AS values, "
        "merits, origin, trial_attempt_id AS attempt_id, front, chosen "
        "FROM trials WHERE attempt_id = ? ORDER BY number",
        [attempt_id],
    )
    for row in rows:
        row |= {name: json.loads(row[name]) for name in ("params", "values", "intermediate")}
        row |= {"merits": tuple(row["merits"]), "intermediate": tuple(row["intermediate"])}
    return tuple(StoredTrial(**row) for row in rows)


def trainable_of(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> float | None:
    """Returns the share of the model's weights that the trials of a study train, given the study's attempt; None where
    no trial says so."""
    rows = connection.execute(
        """
        SELECT max(facts.value) FILTER (facts.name = 'trainable_params') / max(facts.value) FILTER (
            facts.name = 'total_params')
        FROM trials JOIN facts ON facts.attempt_id = trials.trial_attempt_id WHERE trials.attempt_id = ?
        """,
        [attempt_id],
    ).fetchall()
    return cast("float | None", rows[0][0]) if rows else None


def edges_of(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> Settings:
    """Returns the settings whose best value lies at an end of its range, for the study whose attempt this is, as
    {setting: {value, end, range}}; empty where there are none."""
    query = "SELECT evidence FROM flags WHERE attempt_id = ? AND name = 'edge_of_space'"
    rows = connection.execute(query, [attempt_id]).fetchall()
    return cast(Settings, json.loads(rows[0][0])) if rows else {}
