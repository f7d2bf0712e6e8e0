"""Queries for per-item values and the texts of documents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import duckdb


class ItemAnswer(NamedTuple):
    """An item's `value` of one metric, the model's answer (`prediction`) and the right one (`target`), "" where there
    is none, and the item's cluster (None where items are independent)."""

    value: float
    prediction: str
    target: str
    cluster: str | None = None


class ItemValues(dict[str, float]):
    """The values of one attempt's items in one metric, doc_id -> value. `clusters` maps doc_id to the item's cluster;
    it is empty where items are independent."""

    def __init__(self, answers: Mapping[str, ItemAnswer]):
        super().__init__({doc: answer.value for doc, answer in answers.items()})
        self.clusters = {doc: answer.cluster for doc, answer in answers.items() if answer.cluster is not None}


def item_values(connection: duckdb.DuckDBPyConnection, metrics: Mapping[str, tuple[str, str]]) -> dict[str, ItemValues]:
    """Returns attempt_id -> the values of its items in one metric. `metrics` maps an attempt's id to the (task, metric)
    that is wanted of it; attempts without such items are absent."""
    return {attempt: ItemValues(docs) for attempt, docs in item_answers(connection, metrics).items()}


def item_answers(
    connection: duckdb.DuckDBPyConnection, metrics: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, ItemAnswer]]:
    """Returns attempt_id -> {doc_id: answer} in one metric. `metrics` maps an attempt's id to the (task, metric) that
    is wanted of it; attempts without such items are absent."""
    rows = connection.execute(
        """
        WITH wanted AS (SELECT unnest($attempts) AS attempt_id, unnest($tasks) AS task, unnest($metrics) AS metric)
        SELECT items.attempt_id, items.doc_id, items.value, coalesce(prediction, ''), coalesce(target, ''), cluster
        FROM items JOIN wanted USING (attempt_id, task, metric)
        """,
        {
            "attempts": list(metrics),
            "tasks": [task for task, _ in metrics.values()],
            "metrics": [metric for _, metric in metrics.values()],
        },
    ).fetchall()
    answers: dict[str, dict[str, ItemAnswer]] = {}
    for attempt, doc, *answer in rows:
        answers.setdefault(attempt, {})[doc] = ItemAnswer(*answer)
    return answers


def offered_choices(connection: duckdb.DuckDBPyConnection, attempt_id: str, task: str) -> dict[str, tuple[str, ...]]:
    """Returns doc_id -> the choices that a task's document offers, in their order; documents without choices are
    absent."""
    rows = connection.execute(
        "SELECT doc_id, prediction FROM items WHERE attempt_id = ? AND task = ? AND metric = 'log_likelihood' "
        "AND coalesce(prediction, '') <> '' ORDER BY rowid",
        [attempt_id, task],
    ).fetchall()
    offered: dict[str, list[str]] = {}
    for doc, choice in rows:
        offered.setdefault(doc, []).append(str(choice))
    return {doc: tuple(dict.fromkeys(choices)) for doc, choices in offered.items()}


def document_texts(connection: duckdb.DuckDBPyConnection, fingerprints: Collection[str]) -> dict[tuple[str, str], str]:
    """Returns (task, doc_id) -> the text that the model was shown, for the scored documents of the tasks with these
    `fingerprints`. A task that was changed has another one: a document may have been shown in other words then."""
    rows = connection.execute(
        "SELECT task, doc_id, text FROM documents WHERE fingerprint IN (SELECT unnest(?))", [list(fingerprints)]
    ).fetchall()
    return {(task, doc): text for task, doc, text in rows}


@dataclass(frozen=True)
class SeededAttempt:
    """A cell's newest finished attempt in one environment. `setting` is the same for cells of one environment that
    differ in model, task or seed alone: method, settings, size, quality, and whether it was tuned."""

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
