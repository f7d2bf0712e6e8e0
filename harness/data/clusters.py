"""Test items that come in clusters: which column names an item's cluster, and what clustered values are worth.

Several questions about one text are right or wrong together. A task names the column that holds what they share
(`metadata: {cluster: passage_id}` in its YAML), and every standard error is then clustered by it (Miller 2024,
arXiv:2411.00640). `independent_units` is the one place where values of items become values of clusters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.data.lm_eval_task import Document, Task
from harness.data.task_code import yaml_files
from harness.errors import Problem, counted, unknown

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Array = NDArray[numpy.float64]

KEY = "cluster"  # of a task YAML's `metadata`
PRIOR = 5  # clusters that the highest design effect counts as, beside those that vary


def cluster_column(config: Any) -> str:
    """Return the column that names the cluster of an item, "" where items are independent. `config` is the `metadata`
    of a task's YAML, or None."""
    named = config.get(KEY) if isinstance(config, dict) else None
    return "" if named is None else str(named)


def cluster_of(task: Task, document: Document) -> str | None:
    """Return the cluster of a document, None where the items of its task are independent, or where it has none."""
    column = cluster_column(task.config.metadata)
    value = document.get(column) if column else None
    return None if is_empty(value) else str(value)


def is_empty(value: object) -> bool:
    """Return whether a value names no cluster: it is missing or blank."""
    return value is None or str(value).strip() == ""


def cluster_problem(path: Path, column: str, scored: Sequence[Document]) -> Problem | None:
    """Return what is wrong with the cluster column that the task YAML `path` names, with the line that names it; None
    where every scored document has a cluster, and there are two or more."""
    columns = list(dict.fromkeys(name for document in scored for name in document))
    if not column or not scored:
        return None
    values = [document.get(column) for document in scored]
    empty = sum(map(is_empty, values))
    if column not in columns:
        message = unknown("column", column, columns)
    elif empty:
        message = (
            f"{empty} of {counted(len(scored), 'scored item')} have nothing in the column {column!r}. Fill it, or name "
            "a column that every item has."
        )
    elif len({str(value) for value in values}) < 2:
        message = (
            f"all {counted(len(scored), 'scored item')} are in one cluster ({column}: {str(values[0])!r}), which tells "
            "nothing of others. Name a column with two values or more."
        )
    else:
        return None
    file, line = line_of(path)
    return Problem(f"metadata.{KEY}: {message} Without the key, items count as independent.", str(file), line)


def line_of(path: Path) -> tuple[Path, int]:
    """Return (file, line from 1) where a task's YAML, or a YAML that it includes, names its cluster column; (`path`, 1)
    where none does."""
    for file in [path, *yaml_files(path)[1:]]:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if re.search(rf"(^|[\s{{,'\"]){KEY}['\"]?\s*:", line.partition("#")[0]):
                return file, number
    return path, 1


def count_clusters(column: str, scored: Iterable[Document]) -> int:
    """Return the number of clusters among documents, by the column that names a document's cluster; 0 where the column
    is ""."""
    return len({str(document.get(column)) for document in scored}) if column else 0


def items_text(items: int, clusters: int | None, column: str = "") -> str:
    """Return how many items there are in words, such as "200 items in 40 clusters (passage_id)"; `clusters` is 0 or
    None where items are independent, `column` the one that names an item's cluster."""
    if not clusters:
        return counted(items, "item")
    return f"{counted(items, 'item')} in {counted(clusters, 'cluster')}" + (f" ({column})" if column else "")


# --- values ---


class Membership(NamedTuple):
    """The items of a task by cluster: `order` sorts them by cluster, `starts` says where in that order each cluster
    begins, `sizes` how many items it has. `effective` is the effective number of clusters, `factor` the small-sample
    factor of the clustered variance."""

    order: NDArray[numpy.int64]
    starts: NDArray[numpy.int64]
    sizes: NDArray[numpy.int64]
    effective: float
    factor: float


@lru_cache(maxsize=64)
def membership(clusters: tuple[str, ...]) -> Membership:
    """Return the items of a task by cluster; `clusters` has the cluster of each item. With a single cluster `effective`
    is 1 and `factor` 0."""
    import numpy

    _, codes, sizes = numpy.unique(numpy.asarray(clusters), return_inverse=True, return_counts=True)
    order = numpy.argsort(codes, kind="stable")
    starts = numpy.concatenate([[0], numpy.cumsum(sizes)[:-1]])
    if len(sizes) < 2:
        return Membership(order, starts, sizes, 1.0, 0.0)
    shares = sizes / len(clusters)
    squares = float((shares**2).sum())
    kept = squares - 2 * float((shares**3).sum()) + squares**2  # what residuals keep of clusters that are all alike
    effective = len(clusters) ** 2 / int((sizes**2).sum())  # exactly their number, where they have one size
    return Membership(order, starts, sizes, max(effective, 2.0), squares / kept)


def effective_clusters(clusters: Sequence[str]) -> float:
    """Return how many clusters of one size are worth as much as these: (sum of sizes)² / (sum of squared sizes), which
    is their number where they have one size, and otherwise less (Kish 1965), but two at least where there are two.
    `clusters` holds one for each item."""
    return membership(tuple(clusters)).effective


def independent_units(values: Sequence[Sequence[float]] | Array, clusters: Sequence[str]) -> Array:
    """Return values [rows, clusters] whose mean is that of the `values` [rows, items], and whose error is clustered.

    Without `clusters`, or where each item is a cluster of its own, the values are returned as they are. Otherwise a row
    with the mean m over N items in G clusters becomes u_g = m + c * T_g, where T_g is the sum of (value - m) over the
    items of cluster g. The mean of u is m whatever the sizes, and c makes s²(u) / G the cluster-robust variance of m as
    a ratio of sums, F * sum(T_g²) / N². Of clusters of one size F is G / (G - 1), and the units are their means. Of
    others F is larger: 1 / F = 1 - 2 * sum(w_g³) / sum(w_g²) + sum(w_g²), where w_g is a cluster's share of the items.
    That makes the variance right where the items of a cluster are all alike, even if one cluster holds most items. The
    map is linear, so that the units of a difference are the differences of the units. Raises ValueError for another
    number of clusters than items.
    """
    import numpy

    rows = numpy.asarray(values, dtype=float)
    if not len(clusters):
        return rows
    items = rows.shape[1]
    if len(clusters) != items:
        raise ValueError(f"each item has one cluster; got {len(clusters)} clusters of {items} items")
    order, starts, sizes, _, factor = membership(tuple(clusters))
    number = len(sizes)
    if number == items:
        return rows
    means = rows.mean(axis=1, keepdims=True)
    # Not a product of matrices: rows that are equal must stay equal to the last bit.
    sums = numpy.add.reduceat(rows[:, order], starts, axis=1)
    units: Array = means + math.sqrt(factor * number * (number - 1)) / items * (sums - sizes * means)
    return units


def effective_items(values: Sequence[float] | Array, clusters: Sequence[str]) -> float:
    """Return the number of independent items that would leave as much error in the mean of `values` [items] as these
    clustered items do: their number over the design effect (Kish 1965). `clusters` has the cluster of each item;
    without it, all items count.

    Of few clusters in which anything varies the design effect is not known well. So it is averaged with the one of
    clusters whose items are all alike, which counts as `PRIOR` clusters; where nothing varies, that is what is left:
    `effective_clusters`.
    """
    import numpy

    row = numpy.asarray(values, dtype=float)
    if not len(clusters):
        return float(row.size)
    most = row.size / effective_clusters(clusters)  # the design effect of clusters whose items are all alike
    varying = len({cluster for cluster, differs in zip(clusters, row != numpy.median(row), strict=True) if differs})
    if not varying:
        return row.size / most
    units = independent_units(row[None, :], clusters)[0]
    clustered, alone = (float(each.var(ddof=1)) / each.size for each in (units, row))
    seen = min(max(clustered / alone, 1.0), most)
    return row.size * (varying + PRIOR) / (varying * seen + PRIOR * most)


def mean_test(values: Sequence[float] | Array, clusters: Sequence[str], limit: float = 0.0) -> float:
    """Return the one-sided p-value of "the mean of `values` [items] is above `limit`" for items in clusters (`clusters`
    has the cluster of each; empty: independent items): by Student's t over clusters, or by a sign test over them where
    they do not vary. 1 for a single cluster."""
    from scipy.special import stdtr

    units = independent_units([list(values)], clusters)[0] - limit
    count = effective_clusters(clusters)
    if len(units) < 2:
        return 1.0
    mean, error = float(units.mean()), float(units.std(ddof=1)) / math.sqrt(len(units))
    if error <= 1e-12 * max(1.0, abs(mean)):  # no more than rounding leaves
        return float(2.0**-count) if mean > 0 else 1.0
    return float(stdtr(count - 1, -mean / error))
