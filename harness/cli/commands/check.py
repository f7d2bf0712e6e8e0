"""`tunebench check`: every mistake in a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cli.display import show_json
from harness.cli.options import AsJson, SuiteName, command, project, read_suite
from harness.cli.trusting import code_lines, codes_of, described

if TYPE_CHECKING:
    pass


@command("Run", "find every mistake in a suite, with file and line")
def check(suite: SuiteName, as_json: AsJson = False) -> None:
    """Find every mistake in a suite, with file and line, without loading anything heavy.

    It also lists the code that the suite's task YAMLs would run, and runs none of it.

    Example: tunebench check quickstart
    """
    from harness.plan import data_notes, fetched_facts, make_plan, model_notes

    catalog = project()
    loaded = read_suite(suite, catalog)
    codes = codes_of(catalog, loaded)
    facts, missing = fetched_facts(catalog, loaded)
    cells = None if missing else len(make_plan(loaded, facts).cells)
    odd = [] if missing else [*data_notes(loaded, facts), *model_notes(loaded, facts)]
    if as_json:
        show_json(
            {"suite": loaded.name, "cells": cells, "not_fetched": missing, "notes": odd, "code": described(codes)}
        )
    elif missing:
        print(f"{loaded.path}: no mistakes found. Not fetched yet, so sizes are unchecked: {', '.join(missing)}")
    else:
        print("\n".join([f"{loaded.path}: no mistakes found, {cells} cells", *(f"note: {line}" for line in odd)]))
    for line in () if as_json else code_lines(codes):
        print(line)
