"""`tunebench check`: every mistake in a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cli.display import say, show_json
from harness.cli.options import AsJson, SuiteName, command, project, read_suite, unfetched_lines
from harness.cli.trusting import code_lines, codes_of, described

if TYPE_CHECKING:
    pass


@command("Run", "find every mistake in a suite, with file and line")
def check(suite: SuiteName, as_json: AsJson = False) -> None:
    """Find every mistake in a suite, with file and line, without loading anything heavy.

    Of each fetched task it says what became of every row of its data. It also lists the code that the suite's task
    YAMLs would run, and runs none of it.

    Example: tunebench check quickstart
    """
    from harness.plan import data_lines, data_notes, known_facts, make_plan, model_notes

    catalog = project()
    loaded = read_suite(suite, catalog)
    codes = codes_of(catalog, loaded)
    facts, missing = known_facts(catalog, loaded)
    cells = None if missing else len(make_plan(loaded, facts).cells)
    odd = [] if missing else [*data_notes(loaded, facts), *model_notes(loaded, facts)]
    data = data_lines(loaded, facts)
    if as_json:
        show_json(
            {
                "suite": loaded.name,
                "problems": [],  # else the command ends with an error, which has them
                "cells": cells,
                "not_fetched": sorted({*missing, *facts.unfetched}),
                "data": data,
                "notes": odd,
                "code": described(codes),
            }
        )
    elif missing:
        lacking = ", ".join(map(catalog.not_fetched, missing))
        say(f"{loaded.path}: no mistakes found. Not fetched yet, so sizes are unchecked: {lacking}")
    else:
        say(f"{loaded.path}: no mistakes found, {cells} cells")
    for line in (
        ()
        if as_json
        else [*unfetched_lines(facts, suite), *data, *(f"note: {note}" for note in odd), *code_lines(codes)]
    ):
        say(line)
