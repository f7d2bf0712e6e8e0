"""Whether a difference is real: `compare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.shared import AsJson, Results, app, project, results
from harness.errors import UserError, unknown
from harness.screen import show_json

if TYPE_CHECKING:
    from harness.power import Need
    from harness.verdicts import Point, Verdict

NOTHING_WOULD = "Neither more seeds alone nor more items alone would settle it."


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="a label of the suite")],
    b: Annotated[str, typer.Argument(help="another: the verdict says what the first is to it")],
    suite: Annotated[str, typer.Option(help="whose newest run is looked at (default: the newest with both)")] = "",
    margin: Annotated[float, typer.Option(min=0, help="differences below it do not matter")] = 0.02,
    metric: Annotated[str, typer.Option(help="another metric than the task's headline")] = "",
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Whether one label is better than another, item by item and over seeds, and what it would take to know.

    Example: tunebench compare lora full --suite peft-vs-full
    """
    store = results(folder, project())
    with store.open(read_only=True) as connection:
        found = compared(connection, a, b, suite, margin, metric)
    if as_json:
        show_json([{"where": str(where), **where._asdict(), **asdict(verdict)} for where, verdict in found])
        return
    for where, verdict in found:
        print(f"{where}: {sentence(verdict)}")


def compared(connection: Any, a: str, b: str, suite: str, margin: float, metric: str) -> list[tuple[Point, Verdict]]:
    """(where, verdict) for each table of a suite's newest run in which both labels stand. Raises UserError."""
    from harness.store.queries import item_values, latest_run, member_rows, suites
    from harness.verdicts import headlines, sides, spread_of, tables, verdict_of

    known = suites(connection)
    if suite and suite not in known:
        raise UserError(unknown("suite with results", suite, known))
    runs = [run for name in ([suite] if suite else known) if (run := latest_run(connection, name))]
    labels: dict[str, None] = {}
    for run in sorted(runs, key=lambda run: run.started, reverse=True):
        rows = member_rows(connection, run)
        labels |= dict.fromkeys(row.label for row in rows)
        found = []
        for where, table in tables(rows).items():
            if {a, b} <= table.keys():
                asked = headlines((cell for cells in table.values() for cell in cells), metric)
                its = sides(table, item_values(connection, asked), metric)
                spread = spread_of(its.values(), its[a].metric)
                found.append((where, verdict_of(its[a], its[b], margin, spread)))
        if found:
            return found
    for name in (a, b):
        if name not in labels:
            raise UserError(unknown(f"label of {suite or 'any suite with results'}", name, labels))
    raise UserError(f"{a} and {b} stand in no table together: they have no task, model and data size in common.")


def sentence(verdict: Verdict) -> str:
    """A verdict in words, with its figures."""
    if verdict.decision is None:
        return f"{verdict.a} and {verdict.b} are incomparable: {verdict.reason}."
    found = verdict.decision
    figures = (
        f"{verdict.metric} {found.effect:+.3f}, 95% interval {found.interval.low:+.3f} to {found.interval.high:+.3f}, "
        f"p = {found.p:.2g}"
    )
    if verdict.verdict == "tied":
        return f"{verdict.a} and {verdict.b} are tied within {found.margin:g} ({figures})."
    if verdict.verdict != "underpowered":
        small = f", though by less than {found.margin:g}" if found.negligible else ""
        return f"{verdict.a} is {verdict.verdict} than {verdict.b}{small} ({figures})."
    needs = [
        f"{how} {what}"
        for what, need in (("to tell them apart", found.to_differ), ("to show a tie", found.to_tie))
        if need and (how := enough(need))
    ]
    told = f"It would take {'; '.join(needs)}." if needs else NOTHING_WOULD
    return f"{verdict.a} and {verdict.b} cannot be told apart ({figures}). {told}"


def enough(need: Need) -> str:
    """Numbers that would do, each by itself."""
    ways = [f"{need.items} items" if need.items else "", f"{need.seeds} seeds" if need.seeds else ""]
    return " or ".join(filter(None, ways))
