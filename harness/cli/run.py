"""Running a suite: `run`, and before and meanwhile `plan` and `status`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import show_json, watcher
from harness.cli.options import (
    AsJson,
    Jobs,
    Memory,
    Only,
    Results,
    SuiteName,
    Threads,
    app,
    get_facts,
    project,
    read_suite,
    results,
    size_of,
    warn,
)
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.analysis import TaskOutlook
    from harness.data import Catalog
    from harness.execute import Choices, Session
    from harness.plan import Plan
    from harness.store import Store

MOST_LINES = 50  # of unfinished cells after a run


@app.command()
def run(
    suite: SuiteName,
    only: Only = None,
    jobs: Jobs = None,
    threads: Threads = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="run cells again that ended so: failed, oom, diverged, …, done")
    ] = None,
    memory: Memory = None,
    executor: Annotated[str, typer.Option(help="where cells run: local, ray, slurm")] = "local",
    address: Annotated[str, typer.Option(help="of the Ray cluster; without it, one on this machine")] = "",
    tracker: Annotated[list[str] | None, typer.Option(help="tell another tracker as well: mlflow, wandb")] = None,
    allow_bad_instruments: Annotated[
        bool, typer.Option(help="go on when an instrument fails its own check; every result is marked")
    ] = False,
    folder: Results = None,
) -> None:
    """Run every cell of a suite that is not done yet in this environment.

    Example: tunebench run peft-vs-full --retry failed
    """
    from harness.execute import Choices
    from harness.plan import make_plan, narrow
    from harness.records import Status

    catalog = project()
    loaded = read_suite(suite, catalog)
    again = frozenset(retry or ())
    for status in again:
        if status not in set(Status):
            raise UserError(unknown("status", status, list(Status)))
    check_executor(executor)
    plan = narrow(make_plan(loaded, get_facts(catalog, loaded)), only or ())
    choices = Choices(executor, jobs, threads or 0, again, size_of(memory), address)
    sys.exit(run_plan(plan, choices, catalog, results(folder, catalog), tracker or (), allow_bad_instruments))


def check_executor(name: str) -> None:
    """Raises UserError for one that is unknown, or cannot be used here."""
    from harness.execute.executors import all_executors

    if name not in all_executors():
        raise UserError(unknown("executor", name, all_executors()))
    if reason := all_executors()[name].skip():
        raise UserError(f"executor {name}: {reason}")


def run_plan(
    plan: Plan, choices: Choices, catalog: Catalog, store: Store, tracker: Iterable[str] = (), allow_bad: bool = False
) -> int:
    """Run what is to do of a plan; the exit code. Without a number of threads in `choices`, the executor says it."""
    from harness.execute import Session
    from harness.execute.executors import all_executors
    from harness.store import sole_writer
    from harness.trackers import open_trackers

    trackers = open_trackers(tracker, lambda message: warn([message]))
    kind = all_executors()[choices.executor]
    environment, count = kind.environment(choices.threads or None, choices.jobs, choices.address)
    choices = replace(choices, threads=count)
    with sole_writer(store.folder):
        session = Session(plan, store, environment, choices, catalog.root, trackers)
        failed = session.check_instruments(lambda model: print(f"checking the instruments on {model}", file=sys.stderr))
        if failed and not allow_bad:
            told = "\n".join(failed)
            raise UserError(f"instruments fail their own checks:\n{told}\n--allow-bad-instruments marks every result.")
        warn(failed)
        return execute(session)


def execute(session: Session) -> int:
    """Run what is to do and say how it ended; the exit code."""
    from harness.analysis import short

    warn(session.complaints)
    total, waiting = len(session.plan.cells), session.waiting
    print(f"{session.plan.suite.name}: {total} cells, {total - waiting} finished before, {waiting} to run")
    if waiting and not session.plan.only_cells and (line := short(what_items_decide(session.plan, session.store))):
        print(line)
    with watcher(session.plan, session.states) as watch:
        stopped = session.run(shlex.join(["tunebench", *sys.argv[1:]]), watch)
    warn(session.complaints)
    unfinished = session.unfinished()
    for cell, status, reason in unfinished[:MOST_LINES]:
        print(f"{status}: {cell.key}" + (f": {reason}" if reason else ""), file=sys.stderr)
    if len(unfinished) > MOST_LINES:
        print(f"… and {len(unfinished) - MOST_LINES} more (tunebench status --json)", file=sys.stderr)
    if stopped:
        print("stopped; the same command goes on where this ended", file=sys.stderr)
    return 1 if unfinished else 0


def what_items_decide(plan: Plan, store: Store) -> list[TaskOutlook]:
    """What the plan's test items can decide, with the spread between seeds of what is stored."""
    from harness.analysis import outlooks, seed_spreads

    if not store.path.exists():
        return outlooks(plan, {})
    facts = plan.facts.tasks
    pairs = [(model, task) for model in plan.suite.models for task, _ in plan.suite.tasks]
    with store.open(read_only=True) as connection:
        known = {(model, task): (facts[task].metric, facts[task].fingerprint) for model, task in pairs}
        return outlooks(plan, seed_spreads(connection, known))


@app.command()
def status(
    suite: Annotated[str | None, typer.Argument(help="a suite; without one, whatever ran last")] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """How a run is getting on, from another terminal: what runs, what has ended and how, what is slow.

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


@app.command(name="plan")
def show_plan(
    suite: SuiteName,
    only: Only = None,
    jobs: Jobs = None,
    threads: Threads = None,
    memory: Memory = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """What would run, how long it may take, the memory it is predicted to need, what is done or cannot run here, and
    which differences its test items can find.

    Example: tunebench plan peft-vs-full
    """
    from harness.cli.display import show_forecast, show_outlooks
    from harness.execute import forecast_cells
    from harness.execute.executors import Executor
    from harness.plan import known_facts, make_plan, narrow

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts, missing = known_facts(catalog, loaded)
    if missing:
        raise UserError(
            f"not fetched yet: {', '.join(missing)}. Run `tunebench fetch {suite}` first: the plan needs the "
            "sizes and fingerprints of its data."
        )
    environment, _ = Executor.environment(threads, jobs, "")
    plan, store = make_plan(loaded, facts), results(folder, catalog)
    rows = forecast_cells(narrow(plan, only or ()), store, environment, size_of(memory))
    decided = what_items_decide(plan, store)
    if as_json:
        show_json({"cells": [asdict(row) for row in rows], "outlook": [asdict(one) for one in decided]})
    else:
        show_forecast(loaded.name, rows, jobs or 1)
        show_outlooks(decided)
