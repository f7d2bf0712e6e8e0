"""From two names and a database to verdicts: what the names stand for, and the rows and values that are compared.

Not covered: how it is inferred (`verdicts.py`, `versus.py`, `costs.py`), and how it is told (`compare.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.analysis import Changes, Kind, Names, Point, Verdict, Versus
    from harness.analysis.stats import Paired
    from harness.store import CellRow, StoredRun

SHORT = 12  # digits of an environment's digest that are shown


@dataclass(frozen=True)
class Asked:
    """What is compared. `margin` None: that of the run; `task`, `model` and `size` leave out other tables."""

    suite: str = ""
    margin: float | None = None
    metric: str = ""
    task: str = ""
    model: str = ""
    size: int | None = None

    def rows(self, rows: Iterable[CellRow]) -> list[CellRow]:
        """Those of the tables that were asked for; untrained rows stand in tables of every size."""
        return [
            row
            for row in rows
            if self.task in ("", row.task)
            and self.model in ("", row.base_model)
            and (self.size is None or row.n_train in (0, self.size))
        ]

    def within(self, run: StoredRun) -> float:
        return run.margin if self.margin is None else self.margin


@dataclass(frozen=True)
class Sides:
    """Two runs or environments compared: their names, what they are, and what came out. `said` is what both names stand
    for, in words; `changes` what their environments differ in."""

    kind: str
    a: str
    b: str
    said: tuple[str, str]
    metric: str
    margin: float
    versus: Versus
    changes: Changes

    def to_json(self) -> dict[str, Any]:
        matched = [
            {"where": str(one.where), **one.where._asdict(), "label": one.label, **asdict(one.verdict)}
            for one in self.versus.matched
        ]
        rest = {name: value for name, value in asdict(self.versus).items() if name != "matched"}
        return {
            "kind": self.kind, "a": self.a, "b": self.b, "metric": self.metric, "margin": self.margin,
            "verdicts": matched, **rest, "changes": asdict(self.changes),
        }  # fmt: skip


# --- what names stand for ---


def kind_of_names(connection: Any, a: str, b: str) -> str:
    """The first of label, cell, run and environment that both names are. Raises UserError."""
    from harness.store import DIGITS, all_environments, all_keys, all_labels, all_runs, cell_is_named

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
    """The names that start so; one that is whole stands for itself alone."""
    found = [name for name in names if name.startswith(start)]
    return [start] if start in found else found


def the_ones(kind: str, a: str, b: str, names: Sequence[str]) -> tuple[str, str]:
    """The two names that start so. Raises UserError where one stands for several, or both for the same."""
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


def compared(
    connection: Any, a: str, b: str, suite: str, margin: float | None, metric: str, asked: Asked | None = None
) -> list[tuple[Point, Verdict]]:
    """(where, verdict) for each table of a suite's newest run in which both labels stand. Raises UserError."""
    from harness.analysis import cost_side, cost_verdict, headlines, sides, spread_of, tables, verdict_of
    from harness.store import all_suites, item_values, latest_run, member_rows

    asked = replace(asked or Asked(), suite=suite, margin=margin, metric=metric)
    known = all_suites(connection)
    if suite and suite not in known:
        raise UserError(unknown("suite with results", suite, known))
    runs = [run for name in ([suite] if suite else known) if (run := latest_run(connection, name))]
    labels: dict[str, None] = {}
    for run in sorted(runs, key=lambda run: run.started, reverse=True):
        every = member_rows(connection, run)
        labels |= dict.fromkeys(row.label for row in every)
        rows = asked.rows(every)
        kind = cost_of(connection, rows, metric)
        found = []
        for where, table in tables(rows).items():
            if not {a, b} <= table.keys():
                continue
            if kind:
                one, other = (cost_side(label, table[label], kind.name) for label in (a, b))
                found.append((where, cost_verdict(one, other, kind, asked.within(run))))
                continue
            scored = headlines((cell for cells in table.values() for cell in cells), metric)
            its = sides(table, item_values(connection, scored), metric)
            spread = spread_of(its.values(), its[a].metric)
            found.append((where, verdict_of(its[a], its[b], asked.within(run), spread)))
        if found:
            return found
    for name in (a, b):
        if name not in labels:
            raise UserError(unknown(f"label of {suite or 'any suite with results'}", name, labels))
    raise UserError(
        f"{a} and {b} stand in no table together: they have no task, model and data size in common"
        + (" that was asked for." if asked.task or asked.model or asked.size is not None else ".")
    )


def cost_of(connection: Any, rows: Sequence[CellRow], metric: str) -> Kind | None:
    """The cost that a metric names, where it is no score of these cells. Raises UserError where it is neither."""
    from harness.analysis import kind_of, names_of
    from harness.store import fact_units

    scores = {score.metric for row in rows for score in row.scores if score.task == row.task}
    if not metric or metric in scores or not rows:
        return None
    if kind := kind_of(metric, rows, fact_units(connection)):
        return kind
    raise UserError(unknown("metric", metric, [*scores, *names_of(rows)]))


# --- cells ---


def cells(connection: Any, a: str, b: str, asked: Asked) -> tuple[Verdict, Paired | None]:
    """Two cells, with what an exact test of their items says; a cost is compared over repeats. Raises UserError."""
    from harness.analysis import cells_by_score, cost_side, cost_verdict, hardware, headlines, refusal, side_of
    from harness.store import attempts_of, cell_row, item_values

    (run, one), (other_run, other) = cell_row(connection, a), cell_row(connection, b)
    if one.spec_digest == other.spec_digest:
        raise UserError(f"{a} and {b} are the same cell. Name two environments to see what it did in each.")
    margin = asked.within(max(run, other_run, key=lambda run: run.started))
    if kind := cost_of(connection, [one, other], asked.metric):
        devices = hardware(run.environment, other_run.environment)
        costs = [
            cost_side(row.key, attempts_of(connection, row), kind.name, device)
            for row, device in zip((one, other), devices, strict=True)
        ]
        return cost_verdict(costs[0], costs[1], kind, margin), None
    values = item_values(connection, headlines((one, other), asked.metric))
    first, second = (side_of(row.key, [row], values, asked.metric) for row in (one, other))
    if one.task != other.task:
        return refusal(first, second, f"{one.key} learned {one.task}, {other.key} {other.task}"), None
    return cells_by_score(first, second, margin)


# --- runs and environments ---


def runs(connection: Any, a: str, b: str, asked: Asked) -> Sides:
    """Every label and table that two runs have in common. Raises UserError."""
    from harness.store import all_runs, member_rows

    known = {run.run_id: run for run in all_runs(connection)}
    one, other = (known[name] for name in the_ones("run", a, b, list(known)))
    rows = [asked.rows(member_rows(connection, run)) for run in (one, other)]
    said = tuple(f"{run.suite} of {str(run.started)[:16]}" for run in (one, other))
    newer = max(one, other, key=lambda run: run.started)
    return both(connection, "run", (one, other), rows, (one.run_id, other.run_id), said, asked.within(newer), asked)


def environments(connection: Any, a: str, b: str, asked: Asked) -> Sides:
    """Every cell that was done in both of two environments. Raises UserError."""
    from harness.store import all_environments, all_runs, environment_of, member_rows

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
        rows[side] = asked.rows(found.values())
    newest = next(run for run in known if run.env_digest in digests)
    ends = [
        replace(newest, env_digest=digest, environment=record) for digest, record in zip(digests, records, strict=True)
    ]
    said = tuple(f"{record['cpu']}{', ' * bool(record['accelerator'])}{record['accelerator']}" for record in records)
    names = (digests[0][:SHORT], digests[1][:SHORT])
    return both(connection, "environment", (ends[0], ends[1]), rows, names, said, asked.within(newest), asked)


def both(
    connection: Any,
    kind: str,
    runs: tuple[StoredRun, StoredRun],
    rows: Sequence[Sequence[CellRow]],
    names: Names,
    said: tuple[str, ...],
    margin: float,
    asked: Asked,
) -> Sides:
    """Two lots of rows compared by a score or by a cost."""
    from harness.analysis import by_cost, changes, environments_by_score, hardware, headlines, in_both, runs_by_score
    from harness.store import item_values

    a, b = rows
    apart = (runs[0].environment, runs[1].environment)
    cost = cost_of(connection, [*a, *b], asked.metric)
    if cost and kind == "environment":
        a, b = in_both(a, b)
    if cost:
        versus = by_cost(a, b, cost, names, hardware(*apart), margin)
    else:
        values = item_values(connection, headlines([*a, *b], asked.metric))
        how: Callable[..., Versus] = environments_by_score if kind == "environment" else runs_by_score
        versus = how(a, b, values, names, asked.metric, margin)
    return Sides(kind, *names, (said[0], said[1]), asked.metric, margin, versus, changes(*apart))
