"""`tunebench status`: how a run is getting on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import show_json
from harness.cli.options import (
    AsJson,
    Results,
    command,
    project,
    results,
)
from harness.errors import UserError

if TYPE_CHECKING:
    pass


@command("Look", "progress of a run, from another terminal")
def status(
    suite: Annotated[str | None, typer.Argument(help="a suite; without one, whatever ran last")] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Show the progress of a run, from another terminal: what runs and how far it is (steps of training, requests of
    a task in evaluation), what has ended and how, what is slow, and whether the machine became slower.

    Example: tunebench status
    """
    from harness.cli.display import show_status
    from harness.execute import live_status

    store = results(folder, project())
    found = live_status(store.folder, suite)
    if found is None:
        raise UserError(f"no run{f' of {suite}' if suite else ''} in {store.folder}. `tunebench run SUITE` starts one.")
    if as_json:
        show_json(asdict(found))
    else:
        show_status(found)
