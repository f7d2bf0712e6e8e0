"""`tunebench export`: a cell's result in the form that other libraries load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.display import say
from harness.cli.options import Results, command, project, quiet_libraries, results


@command("Keep", "a cell's result for transformers, peft or setfit, with a card")
def export(
    cell: Annotated[str, typer.Argument(help="a cell's key, the start of its digest, or an attempt id")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="a new or empty folder")],
    folded: Annotated[
        bool, typer.Option("--folded", help="fold an adapter into plain weights, which need no base model")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="answer ten test items in a fresh Python, without tunebench")
    ] = True,
    folder: Results = None,
) -> None:
    """Write a result so that it can be used without tunebench, with a model card that says how it scores and how to
    load it.

    The card's own lines are run in a fresh Python on ten test items; answers that differ from the stored ones end with
    exit code 1.

    Example: tunebench export lora/smollm2-135m/bbc-topic/n128/s0 my-model --folded
    """
    from harness.cli.exporting import check_export, checked_text, export_cell

    quiet_libraries()
    catalog = project()
    export_cell(results(folder, catalog), catalog, cell, target, folded)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    say(f"{target}: {size / 2**20:,.1f} MiB; {target / 'README.md'} says how to load it")
    if check:
        count, wrong = check_export(target)
        say(checked_text(count, wrong))
        sys.exit(1 if wrong else 0)
