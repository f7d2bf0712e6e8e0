"""What a run's cells were made of, as the database has it: settings, and the cells that they need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.store.queries import StoredRun, records

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Design:
    """A cell's parts with their settings, and the spec digests of what it needs (studies among them)."""

    method: str
    settings: dict[str, Any]
    train: dict[str, Any]
    objectives: dict[str, dict[str, Any]]
    curriculum: dict[str, dict[str, Any]]
    needs: tuple[str, ...]


def designs_of(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> dict[str, Design]:
    """spec_digest -> the design of each member of a run that has been attempted."""
    found = records(
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
        for row in found
    }
