"""`tunebench import`: takes published results into the results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Results, command, project, results, warn


@command("Keep", "take in published results of peft's comparison", name="import")
def import_(
    path: Annotated[Path, typer.Argument(help="a folder, a zip, or a git directory with its history")],
    folder: Results = None,
) -> None:
    """Take the result files of peft's method_comparison into the results folder, as a suite of their own.

    Of a git directory, every version of every file is read, so that `report` and `compare` see the whole series.

    Example: tunebench import ../peft
    """
    from harness.errors import counted
    from harness.store import import_published, sole_writer

    store = results(folder, project())
    with sole_writer(store.folder):
        found = import_published(store.folder, path)
        with store.open() as connection:
            complaints = store.ingest(connection)
    warn([*found.complaints, *complaints])
    print(
        f"{counted(found.attempts, 'result')} taken in, {found.known} known already: suite {found.suite}, "
        f"{counted(found.cells, 'cell')} in {counted(len(found.environments), 'environment')}"
    )
    print(f"environments, the oldest first: {', '.join(environment[:12] for environment in found.environments)}")
    print(f"Look: tunebench report {found.suite}; tunebench compare ENVIRONMENT ENVIRONMENT")
