"""`tunebench plan`: what would run, and what it would take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.cli.display import say, show_json
from harness.cli.options import (
    AsJson,
    Jobs,
    Memory,
    Only,
    Results,
    SuiteName,
    Threads,
    command,
    project,
    read_suite,
    results,
    revision_lines,
    size_of,
    unfetched_lines,
)
from harness.cli.running import what_items_decide
from harness.errors import UserError

if TYPE_CHECKING:
    pass


@command("Run", "what would run, what it takes, and what it can show", name="plan")
def show_plan(
    suite: SuiteName,
    only: Only = None,
    jobs: Jobs = None,
    threads: Threads = None,
    memory: Memory = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """List what would run: time, predicted memory, what is done, and what cannot run here.

    It also says how much is tuned, and which differences the suite's test items can show. Models and tasks of the Hub
    that are described with tunebench can be planned before they are fetched.

    Example: tunebench plan peft-vs-full
    """
    from harness.analysis import tuning_outlook, tuning_sentences
    from harness.cli.display import show_forecast, show_outlooks
    from harness.execute import forecast_cells
    from harness.execute.executors import Executor
    from harness.plan import data_lines, data_notes, known_facts, make_plan, select_cells

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts, missing = known_facts(catalog, loaded)
    if missing:
        raise UserError(
            f"not fetched yet: {', '.join(map(catalog.not_fetched, missing))}. Run `tunebench fetch {suite}` first: "
            "the plan needs the sizes and fingerprints of its data."
        )
    environment, _ = Executor.environment(threads, jobs, "")
    plan, store = make_plan(loaded, facts), results(folder, catalog)
    chosen = select_cells(plan, only or ())
    rows = forecast_cells(chosen, store, environment, size_of(memory))
    tuning = tuning_outlook(chosen)
    decided = what_items_decide(plan, store)
    if as_json:
        show_json(
            {
                "cells": [asdict(row) for row in rows],
                "not_fetched": sorted(facts.unfetched),
                "revisions": plan.revisions(),
                "data": data_lines(loaded, facts),
                "notes": list(data_notes(loaded, facts)),
                "tuning": asdict(tuning) if tuning else None,
                "outlook": [asdict(one) for one in decided],
            }
        )
    else:
        show_forecast(loaded.name, rows, jobs or 1, bounds=bool(facts.unfetched))
        for line in unfetched_lines(facts, suite):
            say(line)
        notes = [f"note: {note}" for note in data_notes(loaded, facts)]
        for line in [*revision_lines(facts), *data_lines(loaded, facts), *notes]:
            say(line)
        for line in tuning_sentences(tuning) if tuning else ():
            say(line)
        show_outlooks(decided)
