"""Compares two environments over everything that is stored of them: reads the attempts, and judges scores and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.analysis.cost_ratios import Units
from harness.analysis.regression.costs import COSTS, cost_changes
from harness.analysis.regression.pairs import matched_cells, without_training
from harness.analysis.regression.records import SCORE_MARGIN, Regression
from harness.analysis.regression.scores import Values, score_changes, wanted_scores
from harness.store import (
    CellRow,
    environment_attempts,
    fact_units,
    needs_without_training,
    outcome_digests,
    score_values,
)

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Measured:
    """What one environment measured of a suite: a row for each attempt in the order in which they started, the items of
    the headline scores, what attempts share that came out identical, and the needs of cells that train nothing (see
    `changes_of_rows`)."""

    rows: list[CellRow]
    values: Values
    digests: Mapping[str, str]
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def measured_in(connection: duckdb.DuckDBPyConnection, env_digest: str, suite: str = "") -> Measured:
    """Returns what an environment measured of one `suite`, or ("") of all."""
    rows = environment_attempts(connection, env_digest, suite)
    attempts = [row.attempt_id for row in rows]
    return Measured(
        rows,
        score_values(connection, wanted_scores(rows)),
        outcome_digests(connection, attempts),
        needs_without_training(connection, attempts),
    )


def changes_between(
    connection: duckdb.DuckDBPyConnection,
    old: str,
    new: str,
    suite: str = "",
    score_margin: float = SCORE_MARGIN,
    costs: Iterable[str] = COSTS,
    cost_margins: Mapping[str, float] | None = None,
) -> Regression:
    """Compares the environments with the digests `old` and `new` over all attempts at cells that both have, of one
    `suite` or ("") of all. `costs` are the names of costs to compare, `cost_margins` maps some to another relative
    difference that does not matter."""
    sides = measured_in(connection, old, suite), measured_in(connection, new, suite)
    return changes_of_measured((old, new), sides, fact_units(connection), score_margin, costs, cost_margins)


def changes_of_measured(
    names: tuple[str, str],
    sides: tuple[Measured, Measured],
    units: Units,
    score_margin: float = SCORE_MARGIN,
    costs: Iterable[str] = COSTS,
    cost_margins: Mapping[str, float] | None = None,
) -> Regression:
    """Compares two environments by what each measured, (old, new), in whatever store."""
    old, new = sides
    return changes_of_rows(
        names, (old.rows, new.rows), {**old.values, **new.values}, {**old.digests, **new.digests}, units,
        {**old.needs, **new.needs}, score_margin, costs, cost_margins,
    )  # fmt: skip


def changes_of_rows(
    names: tuple[str, str],
    rows: tuple[Sequence[CellRow], Sequence[CellRow]],
    values: Values,
    digests: Mapping[str, str],
    units: Units,
    needs: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    score_margin: float = SCORE_MARGIN,
    costs: Iterable[str] = COSTS,
    cost_margins: Mapping[str, float] | None = None,
) -> Regression:
    """Compares two environments by their attempts, given as (old, new) in the order in which they started. `values` are
    (attempt_id, task, metric) -> values of items, `digests` attempt_id -> what attempts share that came out identical,
    `units` fact -> (unit, whether more is better), `needs` the spec digests of cells that train nothing -> those of the
    cells that they are made of."""
    pairs, only_old, only_new = matched_cells(*rows)
    pairs = without_training(pairs, needs, digests)
    if not pairs:
        return Regression(*names, (), only_old, only_new)
    scores = score_changes(pairs, values, digests, score_margin)
    return Regression(*names, (*scores, *cost_changes(pairs, units, costs, cost_margins)), only_old, only_new)


def common_shifts(
    connection: duckdb.DuckDBPyConnection,
    old: str,
    new: str,
    keep: Callable[[Iterable[CellRow]], list[CellRow]],
    margin: float = SCORE_MARGIN,
) -> list[str]:
    """Says of each headline metric whether all labels, or all but some, moved together from the environment `old` to
    `new`: a sentence each, none where no such shift is shown. `keep` chooses the rows that count."""
    first, second = (keep(environment_attempts(connection, digest)) for digest in (old, new))
    rows = [*first, *second]
    pairs, _, _ = matched_cells(first, second)
    if not pairs:
        return []
    digests = outcome_digests(connection, [row.attempt_id for row in rows])
    pairs = without_training(pairs, needs_without_training(connection, [row.attempt_id for row in rows]), digests)
    found = score_changes(pairs, score_values(connection, wanted_scores(rows)), digests, margin, cell_by_cell=False)
    together = [metric for metric in found if metric.pattern.shape in ("everything", "everything but")]
    remarks = {
        metric.metric: "".join(f"; {remark}" for remark in (metric.everything.remarks if metric.everything else ()))
        for metric in together
    }
    return [f"{metric.metric}: {metric.pattern.sentence}{remarks[metric.metric]}" for metric in together]
