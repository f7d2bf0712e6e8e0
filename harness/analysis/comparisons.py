"""Compares what two names in the database stand for: finds the rows and values of both, and returns verdicts.

`resolve` is the way in. Not covered: how a verdict is inferred (`verdicts.py`, `group_comparison.py`,
`cost_ratios.py`), and how it is put in words (the command line).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from harness.analysis.cost_ratios import CostKind, cost_kind, cost_names, cost_side, cost_verdict
from harness.analysis.group_comparison import (
    EnvironmentChanges,
    GroupVerdicts,
    NamePair,
    cells_by_score,
    cells_in_both,
    environment_changes,
    environments_by_score,
    groups_by_cost,
    hardware_texts,
    runs_by_score,
)
from harness.analysis.machine_speed import Speeds, cell_speeds, drift_sentences, usual_speeds, with_speed_off
from harness.analysis.regression import common_shifts
from harness.analysis.tuning import UNTUNED
from harness.analysis.verdicts import (
    Point,
    Verdict,
    headlines,
    incomparable,
    side_of,
    sides,
    tables,
    verdict_of,
)
from harness.errors import UserError, unknown
from harness.store import (
    DIGITS,
    CellRow,
    StoredRun,
    all_environments,
    all_keys,
    all_labels,
    all_runs,
    all_suites,
    attempts_of,
    cell_is_named,
    cell_row,
    environment_of,
    fact_units,
    item_values,
    latest_run,
    member_rows,
)

if TYPE_CHECKING:
    import duckdb

    from harness.analysis.stats.intervals import Paired

SHORT = 12  # digits of an environment's digest that are shown


@dataclass(frozen=True)
class Request:
    """A filter and a yardstick for comparing two names: which tables count, by which metric, within which margin.

    `suite` is the suite in whose newest run labels are looked up. `margin` None means the run's own margin. `metric` ""
    means the task's headline. `task`, `model` and `size` (a number of training examples) leave out all other tables.
    """

    suite: str = ""
    margin: float | None = None
    metric: str = ""
    task: str = ""
    model: str = ""
    size: int | None = None

    def rows(self, rows: Iterable[CellRow]) -> list[CellRow]:
        """Returns the rows that the request's task, model and size let through. Untrained rows pass whatever the size,
        as they stand in tables of every size."""
        return [
            row
            for row in rows
            if self.task in ("", row.task)
            and self.model in ("", row.base_model)
            and (self.size is None or row.n_train in (0, self.size))
        ]

    def within(self, run: StoredRun) -> float:
        """Returns the margin of the request or, where it names none, the margin of the run."""
        return run.margin if self.margin is None else self.margin


@dataclass(frozen=True)
class GroupComparison:
    """The verdicts on two runs or two environments, `a` and `b`.

    `kind` is "run" or "environment". `descriptions` say in words what `a` and `b` stand for. `metric` is the one that
    was asked for, a score or a cost; "" is each task's headline. `changes` are the differences between the two
    environments, `notes` sentences on how far the machine's speed drifted in
    either, where a cost in time is compared, and on a shift that all labels share.
    """

    kind: str
    a: str
    b: str
    descriptions: tuple[str, str]
    metric: str
    margin: float
    verdicts: GroupVerdicts
    changes: EnvironmentChanges
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the comparison as JSON values: "verdicts", each with its table and label, and the names of what was
        not compared under "shared", "only_a" and "only_b"."""
        matched = [
            {"where": str(one.where), **one.where._asdict(), "label": one.label, **asdict(one.verdict)}
            for one in self.verdicts.matched
        ]
        rest = {name: value for name, value in asdict(self.verdicts).items() if name != "matched"}
        return {
            "kind": self.kind, "a": self.a, "b": self.b, "metric": self.metric, "margin": self.margin,
            "verdicts": matched, **rest, "changes": asdict(self.changes), "notes": self.notes,
        }  # fmt: skip


@dataclass(frozen=True)
class LabelComparison:
    """The verdicts on two labels of a suite: (table, verdict on the first against the second) for each table that holds
    both."""

    tables: list[tuple[Point, Verdict]]

    def to_json(self) -> list[dict[str, object]]:
        """Returns a mapping for each table: its task, model, size and quality, and the fields of the verdict."""
        return [{"where": str(where), **where._asdict(), **asdict(verdict)} for where, verdict in self.tables]


@dataclass(frozen=True)
class CellComparison:
    """The verdict on two cells, which holds for these two trained models alone, and the exact test of their items (None
    for a comparison of costs, or where the cells cannot be compared)."""

    verdict: Verdict
    exact: Paired | None

    def to_json(self) -> dict[str, object]:
        """Returns the fields of the verdict as a mapping, with the exact test under "paired" (None where there is
        none)."""
        return {"kind": "cell", **asdict(self.verdict), "paired": asdict(self.exact) if self.exact else None}


def resolve(
    connection: duckdb.DuckDBPyConnection, a: str, b: str, request: Request
) -> LabelComparison | CellComparison | GroupComparison:
    """Finds what the names `a` and `b` stand for (labels, cells, runs or environments) and returns the comparison of
    the two.

    Raises UserError for a name that stands for nothing (the message suggests the nearest known name), and for two names
    of different kinds.
    """
    kind = kind_of_names(connection, a, b)
    if kind == "label":
        return LabelComparison(compare_labels(connection, a, b, request))
    if kind == "cell":
        return CellComparison(*compare_cells(connection, a, b, request))
    if kind == "run":
        return compare_runs(connection, a, b, request)
    return compare_environments(connection, a, b, request)


# --- what names stand for ---


def kind_of_names(connection: duckdb.DuckDBPyConnection, a: str, b: str) -> str:
    """Returns the first of "label", "cell", "run" and "environment" that both names can stand for. Runs and
    environments may be shortened, to `DIGITS` characters at least. Raises UserError where no kind fits both names."""

    known = all_labels(connection)
    names = {"run": [run.run_id for run in all_runs(connection)], "environment": all_environments(connection)}

    def kinds_of(name: str) -> list[str]:
        kinds = ["label"] * (name in known) + ["cell"] * cell_is_named(connection, name)
        return kinds + [kind for kind in names if len(name) >= DIGITS and starting(name, names[kind])]

    first, second = kinds_of(a), kinds_of(b)
    if both := [kind for kind in first if kind in second]:
        return both[0]
    for name, kinds in ((a, first), (b, second)):
        if not kinds:
            every = [*known, *all_keys(connection), *names["run"], *names["environment"]]
            raise UserError(unknown("label, cell, run or environment", name, every))
    raise UserError(f"{a} is a {' or '.join(first)}, {b} a {' or '.join(second)}: two of a kind are compared.")


def starting(start: str, names: Iterable[str]) -> list[str]:
    """Returns those of `names` that begin with `start`; only `start` itself where it is one of them."""
    found = [name for name in names if name.startswith(start)]
    return [start] if start in found else found


def the_ones(kind: str, a: str, b: str, names: Sequence[str]) -> tuple[str, str]:
    """Completes two shortened names: returns the one of `names` that begins with `a` and the one that begins with `b`.
    `kind` ("run" or "environment") is for messages. Raises UserError where several begin alike, or where both stand for
    the same."""
    found = []
    for start in (a, b):
        those = starting(start, names)
        if len(those) > 1:
            raise UserError(
                f"{start!r} stands for {len(those)} {kind}s: {', '.join(those[:10])}. Give more of its name."
            )
        found += those
    if found[0] == found[1]:
        raise UserError(f"{a} and {b} are the same {kind}. Name another.")
    return found[0], found[1]


# --- labels ---


def compare_labels(
    connection: duckdb.DuckDBPyConnection, a: str, b: str, request: Request
) -> list[tuple[Point, Verdict]]:
    """Returns (table, verdict on `a` against `b`) for each table that holds both labels, from the newest run that has
    such a table. Only the newest run of each suite is searched. Raises UserError for a suite without results, an
    unknown label or metric, and labels that share no table."""
    suite, metric = request.suite, request.metric
    known = all_suites(connection)
    if suite and suite not in known:
        raise UserError(unknown("suite with results", suite, known))
    newest = [run for name in ([suite] if suite else known) if (run := latest_run(connection, name))]
    labels: dict[str, None] = {}
    for run in sorted(newest, key=lambda run: run.started, reverse=True):
        every = with_speed_off(member_rows(connection, run))
        labels |= dict.fromkeys(row.label for row in every)
        rows = request.rows(every)
        cost = cost_of(connection, rows, metric)
        verdicts = []
        for where, table in tables(rows).items():
            if not {a, b} <= table.keys():
                continue
            if cost:
                first, second = (cost_side(label, table[label], cost.name) for label in (a, b))
                made = cost_verdict(first, second, cost, request.within(run))
                verdicts.append((where, with_drift(made, drift_remarks(every, cost, request.within(run)))))
                continue
            scored = headlines((cell for cells in table.values() for cell in cells), metric)
            by_label = sides(table, item_values(connection, scored), metric, run.failed_seeds)
            verdicts.append((where, verdict_of(by_label[a], by_label[b], request.within(run))))
        if verdicts:
            return verdicts
    for name in (a, b):
        if name not in labels:
            raise UserError(unknown(f"label of {suite or 'any suite with results'}", name, labels))
    raise UserError(
        f"{a} and {b} stand in no table together: they have no task, model and data size in common"
        + (" that was asked for." if request.task or request.model or request.size is not None else ".")
    )


def drift_remarks(rows: Iterable[CellRow], cost: CostKind | None, margin: float) -> tuple[str, ...]:
    """Returns sentences on how far the machine's speed drifted while these cells ran, where that is more than `margin`,
    a relative difference of costs; () for a cost that no speed changes, and where no cost is compared (None)."""
    return tuple(drift_sentences(cell_speeds(rows), margin)) if cost and cost.timed else ()


def with_drift(verdict: Verdict, remarks: tuple[str, ...]) -> Verdict:
    """Adds remarks on the machine's drift to a verdict on costs; returns it unchanged where it has no ratio."""
    return replace(verdict, remarks=(*verdict.remarks, *remarks)) if verdict.ratio else verdict


def cost_of(connection: duckdb.DuckDBPyConnection, rows: Sequence[CellRow], metric: str) -> CostKind | None:
    """Returns the cost that `metric` names, or None where it names a score of these cells or is empty. Raises UserError
    where it names neither a score nor a cost."""

    scores = {score.metric for row in rows for score in row.scores if score.task == row.task}
    if not metric or metric in scores or not rows:
        return None
    if kind := cost_kind(metric, rows, fact_units(connection)):
        return kind
    raise UserError(unknown("metric", metric, [*scores, *cost_names(rows)]))


# --- cells ---


def compare_cells(
    connection: duckdb.DuckDBPyConnection, a: str, b: str, request: Request
) -> tuple[Verdict, Paired | None]:
    """Compares two cells, each named by its key or the start of its digest: returns the verdict and the exact test of
    their items, None where a cost is compared (over all attempts at each cell). Raises UserError for an unknown metric,
    for two names of one cell, and (StoreError) for a cell that is a row of no run, such as a trial."""

    (run, one), (other_run, other) = cell_row(connection, a), cell_row(connection, b)
    if one.spec_digest == other.spec_digest:
        raise UserError(f"{a} and {b} are the same cell. Name two environments to see what it did in each.")
    margin = request.within(max(run, other_run, key=lambda run: run.started))
    if kind := cost_of(connection, [one, other], request.metric):
        devices = hardware_texts(run.environment, other_run.environment)
        beside = with_speeds_of((run, other_run), [member_rows(connection, each) for each in (run, other_run)])
        costs = [
            replace(
                cost_side(row.key, with_speed_off(attempts_of(connection, row), usual), kind.name, device),
                tuning=UNTUNED,
            )
            for row, device, (_, usual) in zip((one, other), devices, beside, strict=True)
        ]
        remarks = dict.fromkeys(text for rows, _ in beside for text in drift_remarks(rows, kind, margin))
        return with_drift(cost_verdict(costs[0], costs[1], kind, margin), tuple(remarks)), None
    values = item_values(connection, headlines((one, other), request.metric))
    first, second = (side_of(row.key, [row], values, request.metric) for row in (one, other))
    if one.task != other.task:
        return incomparable(first, second, f"{one.key} learned {one.task}, {other.key} {other.task}"), None
    return cells_by_score(first, second, margin)


# --- runs and environments ---


def compare_runs(connection: duckdb.DuckDBPyConnection, a: str, b: str, request: Request) -> GroupComparison:
    """Compares every label in every table that two runs have in common. Raises UserError where a shortened name is
    ambiguous, both names stand for one run, or the request's metric is unknown."""

    known = {run.run_id: run for run in all_runs(connection)}
    one, other = (known[name] for name in the_ones("run", a, b, list(known)))
    beside = with_speeds_of((one, other), [member_rows(connection, run) for run in (one, other)])
    rows = [request.rows(every) for every, _ in beside]
    descriptions = tuple(f"{run.suite} of {str(run.started)[:16]}" for run in (one, other))
    newer = max(one, other, key=lambda run: run.started)
    return compare_groups(
        connection, "run", (one, other), rows, (one.run_id, other.run_id), descriptions, request.within(newer), request
    )


def compare_environments(connection: duckdb.DuckDBPyConnection, a: str, b: str, request: Request) -> GroupComparison:
    """Compares every cell that was done in both of two environments. Raises UserError where a shortened name is
    ambiguous, both names stand for one environment, or the request's metric is unknown."""

    digests = the_ones("environment", a, b, all_environments(connection))
    known = all_runs(connection)
    records = [environment_of(connection, digest) for digest in digests]
    rows: list[list[CellRow]] = [[], []]
    for side, digest in enumerate(digests):
        found: dict[str, CellRow] = {}
        for run in known:  # the newest first: it says under which label a cell is shown
            if run.env_digest in digests:
                there = replace(run, env_digest=digest)
                found = {row.spec_digest: row for row in member_rows(connection, there)} | found
        # Each side has its own usual speed: an upgrade may be what changed it, and is then what is asked about.
        rows[side] = request.rows(with_speed_off(list(found.values())))
    newest = next(run for run in known if run.env_digest in digests)
    ends = [
        replace(newest, env_digest=digest, environment=record) for digest, record in zip(digests, records, strict=True)
    ]
    descriptions = tuple(
        f"{record['cpu']}{', ' * bool(record['accelerator'])}{record['accelerator']}" for record in records
    )
    names = (digests[0][:SHORT], digests[1][:SHORT])
    found_here = compare_groups(
        connection, "environment", (ends[0], ends[1]), rows, names, descriptions, request.within(newest), request
    )
    if request.metric:
        return found_here
    old, new = sorted(range(2), key=lambda side: records[side]["created"])
    shifts = common_shifts(connection, digests[old], digests[new], request.rows)
    told = tuple(f"from {names[old]} to {names[new]}, {text}" for text in shifts)
    return replace(found_here, notes=(*found_here.notes, *told))


def with_speeds_of(
    runs: tuple[StoredRun, StoredRun], rows: Sequence[Sequence[CellRow]]
) -> list[tuple[list[CellRow], Speeds]]:
    """Returns for each of two runs its rows with `speed_off` set, and the usual speed that they were compared with. In
    one environment that is the median of both runs, so that a machine that was slower in one of them is noticed."""
    speeds = [cell_speeds(side) for side in rows]
    if runs[0].env_digest == runs[1].env_digest:
        speeds = [[*speeds[0], *speeds[1]]] * 2
    usual = [usual_speeds(cells) for cells in speeds]
    return [(with_speed_off(side, its), its) for side, its in zip(rows, usual, strict=True)]


def compare_groups(
    connection: duckdb.DuckDBPyConnection,
    kind: str,
    runs: tuple[StoredRun, StoredRun],
    rows: Sequence[Sequence[CellRow]],
    names: NamePair,
    descriptions: tuple[str, ...],
    margin: float,
    request: Request,
) -> GroupComparison:
    """Compares the cells of two runs or environments (`kind`), by a score or, where the request's metric names a cost,
    by that cost. `rows` are the cells of each of the two; `names` and `descriptions` are how they are shown; of `runs`
    the environments are compared, and the newer one says what seeds that ended badly count as."""

    a, b = rows
    apart = (runs[0].environment, runs[1].environment)
    cost = cost_of(connection, [*a, *b], request.metric)
    if cost and kind == "environment":
        a, b = cells_in_both(a, b)
    if cost:
        verdicts = groups_by_cost(a, b, cost, names, hardware_texts(*apart), margin)
    else:
        values = item_values(connection, headlines([*a, *b], request.metric))
        how: Callable[..., GroupVerdicts] = environments_by_score
        if kind == "run":
            how = partial(runs_by_score, failed_seeds=max(runs, key=lambda run: run.started).failed_seeds)
        verdicts = how(a, b, values, names, request.metric, margin)
    changes = environment_changes(*apart)
    notes = tuple(
        f"{name}: {text}" for name, side in zip(names, rows, strict=True) for text in drift_remarks(side, cost, margin)
    )
    return GroupComparison(
        kind, *names, (descriptions[0], descriptions[1]), request.metric, margin, verdicts, changes, notes
    )
