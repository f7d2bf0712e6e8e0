"""Queries for per-item values and the texts of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def item_values(
    connection: duckdb.DuckDBPyConnection, metrics: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """Returns attempt_id -> {doc_id: value} of one metric for each attempt; `metrics` maps an attempt to (task,
    metric)."""
    answers = item_answers(connection, metrics)
    return {attempt: {doc: answer[0] for doc, answer in docs.items()} for attempt, docs in answers.items()}


def item_answers(
    connection: duckdb.DuckDBPyConnection, metrics: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, tuple[float, str, str]]]:
    """Returns attempt_id -> {doc_id: (value, prediction, target)}; `metrics` maps an attempt to (task, metric)."""
    rows = connection.execute(
        """
        WITH wanted AS (SELECT unnest($attempts) AS attempt_id, unnest($tasks) AS task, unnest($metrics) AS metric)
        SELECT items.attempt_id, items.doc_id, items.value, coalesce(prediction, ''), coalesce(target, '')
        FROM items JOIN wanted USING (attempt_id, task, metric)
        """,
        {
            "attempts": list(metrics),
            "tasks": [task for task, _ in metrics.values()],
            "metrics": [metric for _, metric in metrics.values()],
        },
    ).fetchall()
    answers: dict[str, dict[str, tuple[float, str, str]]] = {}
    for attempt, doc, value, prediction, target in rows:
        answers.setdefault(attempt, {})[doc] = (value, prediction, target)
    return answers


def document_texts(connection: duckdb.DuckDBPyConnection, tasks: Sequence[str]) -> dict[tuple[str, str], str]:
    """Returns (task, doc_id) -> the text that the model was shown, for these tasks."""
    rows = connection.execute(
        "SELECT task, doc_id, text FROM documents WHERE task IN (SELECT unnest(?))", [list(tasks)]
    ).fetchall()
    return {(task, doc): text for task, doc, text in rows}


@dataclass(frozen=True)
class SeededAttempt:
    """A cell's newest finished attempt in one environment. `setting` is everything that its seeds have in common."""

    attempt_id: str
    model: str
    task: str
    fingerprint: str  # of the task's definition and documents
    setting: tuple[str, ...]


def seeded_attempts(connection: duckdb.DuckDBPyConnection) -> list[SeededAttempt]:
    """Returns the newest finished attempt of every cell with a seed, once for each environment in which it is done.
    Trials of studies are left out."""
    rows = connection.execute(
        """
        SELECT attempts.attempt_id, cells.model, cells.task,
            coalesce(cells.fingerprints ->> ('$."' || cells.task || '"'), ''),
            [attempts.env_digest, method, settings::VARCHAR, train::VARCHAR, n_train::VARCHAR, learn::VARCHAR,
             objectives::VARCHAR, curriculum::VARCHAR, data::VARCHAR,
             (coalesce(attempts.tuned::VARCHAR, '{}') <> '{}')::VARCHAR]
        FROM cells JOIN attempts USING (spec_digest)
        WHERE attempts.status = 'done' AND seed IS NOT NULL AND coalesce(trial::VARCHAR, '{}') = '{}'
        QUALIFY row_number() OVER (
            PARTITION BY spec_digest, env_digest ORDER BY attempts.started DESC, attempts.attempt_id DESC) = 1
        """
    ).fetchall()
    return [
        SeededAttempt(attempt, model, task, fingerprint, tuple(map(str, setting)))
        for attempt, model, task, fingerprint, setting in rows
    ]
