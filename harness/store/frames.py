"""Makes tables of pandas from stored cells: one row for each cell, each score, each scored item.

Not covered: which attempt decides about a cell (`cells.py`), and any judgement on the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.store.cells import CellRow, Design

if TYPE_CHECKING:
    import duckdb
    import pandas

# What tells cells apart, in every table that is made here.
ABOUT = ("key", "label", "model", "task", "n_train", "seed")


def cell_frame(rows: Sequence[CellRow], designs: Mapping[str, Design]) -> pandas.DataFrame:
    """Returns a table with a row for each cell: what it is, how its decisive attempt ended, and what that measured.

    `score`, `stderr`, `base_score` and `change` are of the first metric of the cell's own task, which is `metric`; they
    are missing where nothing was scored. Each phase has columns such as `train_seconds` and `train_rss_bytes`, each
    fact a column of its name. `settings` are those of the method, `data` says how training data was chosen and
    spoilt, `flags` maps a flag to its evidence; all three are dictionaries.
    """
    import pandas

    records = []
    for row in rows:
        own = next((score for score in row.scores if score.task == row.task and score.role == "task"), None)
        design = designs.get(row.spec_digest)
        records.append(
            {
                **about(row),
                "method": row.method, "family": row.family, "base_model": row.base_model, "status": row.status,
                "reason": row.reason, "metric": own.metric if own else None, "score": own.value if own else None,
                "stderr": own.stderr if own else None, "base_score": own.base_value if own else None,
                "change": own.value - own.base_value if own and own.base_value is not None else None,
                "contended": row.contended, "device": row.device, "started": row.started,
                "attempt_id": row.attempt_id, "spec_digest": row.spec_digest,
                "settings": {**(design.settings if design else {}), **row.tuned}, "data": row.data, "flags": row.flags,
                **{f"{phase}_{name}": value for phase, found in row.phases.items() for name, value in found.items()},
                **row.facts,
            }
        )  # fmt: skip
    return with_whole_seeds(pandas.DataFrame(records))


def score_frame(rows: Sequence[CellRow]) -> pandas.DataFrame:
    """Returns a table with a row for each score of each cell, in the order of the cells: the task and metric that were
    scored, and the value with its standard error over `n` items. `learned` is the task that the cell learned; `role`
    is "task" or "retain"; `change` is the difference from the base model."""
    import pandas

    names = (
        *ABOUT, "role", "metric", "value", "stderr", "n", "higher_is_better", "base_value", "change", "change_stderr",
        "clusters", "clustered_by", "learned", "attempt_id",
    )  # fmt: skip
    records = [
        {
            **about(row), **vars(score), "learned": row.task, "attempt_id": row.attempt_id,
            "change": None if score.base_value is None else score.value - score.base_value,
        }
        for row in rows
        for score in row.scores
    ]  # fmt: skip
    return with_whole_seeds(pandas.DataFrame(records, columns=list(names)))


def item_frame(connection: duckdb.DuckDBPyConnection, rows: Sequence[CellRow]) -> pandas.DataFrame:
    """Returns a table with a row for each scored item of each cell and each metric: its value, the model's answer
    (`prediction`), the right one (`target`), and the `text` that the model was shown, where these were kept. `learned`
    is the task that the cell learned."""
    import pandas

    items = connection.execute(
        """
        SELECT items.attempt_id, items.task, items.doc_id, items.metric, items.value, items.prediction, items.target,
            items.cluster, documents.text
        FROM items JOIN attempts USING (attempt_id) JOIN cells USING (spec_digest)
        LEFT JOIN documents ON documents.doc_id = items.doc_id
            AND documents.fingerprint = cells.fingerprints ->> ('$."' || items.task || '"')
        WHERE items.attempt_id IN (SELECT unnest(?)) ORDER BY items.attempt_id, items.task, items.metric, items.doc_id
        """,
        [[row.attempt_id for row in rows if row.attempt_id]],
    ).df()
    cells = pandas.DataFrame(
        [{**about(row), "learned": row.task, "attempt_id": row.attempt_id} for row in rows],
        columns=[*ABOUT, "learned", "attempt_id"],
    ).drop(columns="task")
    merged = with_whole_seeds(cells).merge(items, on="attempt_id", how="inner")
    last = ("attempt_id",)
    first = (*ABOUT, "doc_id", "metric", "value", "prediction", "target", "cluster", "text", "learned")
    return merged[[*first, *last]]


def about(row: CellRow) -> dict[str, object]:
    """Returns what tells a cell apart, by column."""
    return {name: getattr(row, name) for name in ABOUT}


def with_whole_seeds(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Returns the table with seeds as whole numbers, of which some may be missing."""
    return frame.astype({"seed": "Int64"}) if "seed" in frame else frame
