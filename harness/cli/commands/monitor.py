"""`tunebench monitor`: an exported result on fresh data."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.display import say, show_json, show_table
from harness.cli.options import AsJson, command


@command("Keep", "is an exported result still good on fresh data?")
def monitor(
    export: Annotated[Path, typer.Argument(help="the folder of an export")],
    data: Annotated[Path, typer.Option(help="fresh rows with the task's columns: CSV, JSONL, Parquet, …")],
    margin: Annotated[float, typer.Option(min=0, max=1, help="the loss of score that does not matter")] = 0.02,
    most: Annotated[int, typer.Option(min=1, help="rows that are answered, evenly spaced")] = 200,
    gate: Annotated[
        bool, typer.Option("--gate", help="exit with 3 where training again pays, 4 where that is open")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score an exported result on fresh labelled data against the score that was stored with it (pair by pair where
    items repeat), test whether inputs and answers have drifted, and say whether training again pays. Rows without
    labels are enough for drift.

    Example: tunebench monitor my-model --data this-week.jsonl
    """
    from harness.cli.monitoring import monitor as watch
    from harness.cli.monitoring import read_known, told

    known = read_known(export)
    found = watch(export, data, most, margin)
    if as_json:
        show_json({"cell": known.cell, "task": known.task, "metric": known.metric, "margin": margin, **asdict(found)})
    else:
        if found.drifts:
            rows = [[one.name, one.before, one.now, one.size, f"{one.p:.3f}"] for one in found.drifts]
            show_table("drift", ["of", "when scored", "now", "apart", "p"], rows, frozenset({"p"}))
        for line in told(known, found, margin):
            say(line)
    if gate:
        sys.exit({"retrain": 3, "open": 4, "no labels": 4}.get(found.advice, 0))
