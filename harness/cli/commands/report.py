"""`tunebench report`: the answer, tables and a page."""

from __future__ import annotations

import os
from pathlib import Path

from harness.cli.display import console, say
from harness.cli.options import Results, SuiteName, command, project, results, suite_name
from harness.errors import UserError


@command("Begin", "a suite's answer, tables, and a page to open", place=2)
def report(suite: SuiteName, folder: Results = None) -> None:
    """Show a suite's results, and write reports/<suite>/index.html, report.md, plots and tables.

    Example: tunebench report quickstart
    """
    from harness.report import load, printable, write_contents, write_report

    catalog = project()
    store = results(folder, catalog)
    name = suite_name(suite)
    goal = catalog.root / "reports" / name
    if name == ".." or Path(name).name != name:  # a run that tunebench did not write may have any name
        raise UserError(f"{name!r} cannot be the name of a folder in {goal.parent}, so there is no place for a report.")
    found = load(store, name)
    try:
        paths = write_report(found, goal)
        write_contents(store, goal.parent)
    except OSError as error:
        raise UserError(f"cannot write the report to {goal}: {error.strerror}.") from error
    console(fitted=True).print(printable(found))
    say(f"report: {os.path.relpath(paths.html)}")
