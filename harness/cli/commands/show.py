"""`tunebench show`: everything about one cell."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.display import show_detail, show_json
from harness.cli.options import AsJson, Results, command, project, results
from harness.errors import UserError, unknown
from harness.records import visible

if TYPE_CHECKING:
    import duckdb


@command("Look", "everything about one cell, and how to repeat it")
def show(
    cell: Annotated[str, typer.Argument(help="a cell's key, the start of its digest, or an attempt id")],
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Show everything stored about one cell, how far its repeats differ, and the command that repeats it.

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
            if remark := speed_remark(connection, detail, attempt):
                detail["machine_speed"] = remark
    how = again(**found, threads=threads_of(store.attempt_folder(attempt))) if found else None
    if as_json:
        show_json(detail | ({"again": asdict(how)} if how else {}))
        return
    if "facts" in detail:
        detail["facts"] = {fact["name"]: quantity(fact["value"], fact["unit"]) for fact in detail["facts"]}
    show_detail(detail)
    if attempt and (files := store.attempt_folder(attempt)).exists():
        print(f"its files: {os.path.relpath(files)} (weights, items, log)")
        print(f"to use it without tunebench: tunebench export {shlex.quote(detail['key'])} DIR")
    if how:
        print("to do it again:", *(f"# {visible(remark)}" for remark in how.remarks), how.command, sep="\n")


def speed_remark(connection: duckdb.DuckDBPyConnection, detail: dict[str, Any], attempt: str) -> str:
    """Says how far the machine's speed was off during `attempt` (an attempt id), against the cells of its run; "" where
    it was usual or is not known. `detail` is `store.cell_detail` of the cell."""
    from harness.analysis import apart_text, with_speed_off
    from harness.store import all_runs, member_rows

    made_by = next(row["run_id"] for row in detail["attempts"] if row["attempt_id"] == attempt)
    runs = [run for run in all_runs(connection) if run.run_id == made_by]
    rows = [row for run in runs for row in with_speed_off(member_rows(connection, run)) if row.attempt_id == attempt]
    if not rows or rows[0].speed_off is None:
        return ""
    return f"{apart_text(rows[0].speed_off)} than in the median cell of run {made_by}: its times decide nothing"
