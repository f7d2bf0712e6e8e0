"""What has been found: `report`, `show`, `sql`, `rebuild`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.display import show_detail, show_json, show_table
from harness.cli.options import AsJson, Results, SuiteName, app, project, results, warn
from harness.errors import UserError, unknown


@app.command()
def report(suite: SuiteName, folder: Results = None) -> None:
    """Show a suite's results, and write reports/<suite>/index.html, report.md, plots and tables.

    Example: tunebench report quickstart
    """
    from rich.console import Console

    from harness.report import load, printable, write_contents, write_report

    catalog = project()
    store = results(folder, catalog)
    name = Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite
    goal = catalog.root / "reports" / name
    found = load(store, name)
    try:
        paths = write_report(found, goal)
        write_contents(store, goal.parent)
    except OSError as error:
        raise UserError(f"cannot write the report to {goal}: {error.strerror}.") from error
    Console().print(printable(found))
    print(f"report: {os.path.relpath(paths.html)}")


@app.command()
def show(
    cell: Annotated[str, typer.Argument(help="a cell's key, the start of its digest, or an attempt id")],
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Everything stored about one cell, how far its repeats are apart, and the command that does it again.

    Example: tunebench show lora/smollm2-135m/bbc-topic/n128/s0
    """
    from harness.cli.reproduce import again
    from harness.records import quantity
    from harness.store import all_keys, cell_detail, origin, repeats, threads_of

    store = results(folder, project())
    with store.open(read_only=True) as connection:
        detail = cell_detail(connection, cell)
        if detail is None:
            raise UserError(unknown("cell", cell, all_keys(connection)))
        attempt = detail.get("attempt_id", "")
        found = origin(connection, attempt) if attempt else None
        if attempt:
            detail["repeats"] = repeats(connection, attempt)
    how = again(**found, threads=threads_of(store.attempt_folder(attempt))) if found else None
    if as_json:
        show_json(detail | ({"again": asdict(how)} if how else {}))
        return
    if "facts" in detail:
        detail["facts"] = {fact["name"]: quantity(fact["value"], fact["unit"]) for fact in detail["facts"]}
    show_detail(detail)
    if how:
        print("to do it again:", *(f"# {remark}" for remark in how.remarks), how.command, sep="\n")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="SQL, run read-only")],
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Ask the results database a question of your own.

    Example: tunebench sql "select status, count(*) from attempts group by 1"
    """
    import duckdb

    store = results(folder, project())
    with store.open(read_only=True) as connection:
        try:
            cursor = connection.execute(query)
            columns = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchall()
        except duckdb.Error as error:
            raise UserError(f"the query failed: {error}") from error
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        show_table("", columns, [list(row) for row in rows])


@app.command()
def rebuild(folder: Results = None) -> None:
    """Make the database again from the result files beside it.

    Example: tunebench rebuild
    """
    from harness.store import sole_writer

    store = results(folder, project())
    with sole_writer(store.folder):
        count, complaints = store.rebuild()
    warn(complaints)
    print(f"{store.path}: {count} attempts")
