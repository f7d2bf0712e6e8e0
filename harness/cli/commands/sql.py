"""`tunebench sql`: a query of your own to the database."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.display import show_json, show_table
from harness.cli.options import AsJson, Results, command, project, results
from harness.errors import UserError


@command("Look", "a question of your own to the results")
def sql(
    query: Annotated[str, typer.Argument(help="SQL, run read-only")],
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Ask the results database a question of your own.

    The query reads the database and nothing else: no other file, and it writes none.

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
