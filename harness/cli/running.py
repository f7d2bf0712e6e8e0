"""Runs a plan from the command line, and prints what there is to say before, meanwhile and after."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.cli.display import clock_text, say, watcher
from harness.cli.notifying import NotifyingTrackers, without_addresses
from harness.cli.options import (
    warn,
)
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.analysis import TaskOutlook
    from harness.cli.notifying import Webhooks
    from harness.data import Catalog
    from harness.execute import Choices, Session
    from harness.plan import Plan
    from harness.store import Store


def check_executor(name: str) -> None:
    """Raises UserError for an executor of an unknown name, or one that cannot be used on this machine."""
    from harness.execute.executors import all_executors

    if name not in all_executors():
        raise UserError(unknown("executor", name, all_executors()))
    if reason := all_executors()[name].skip():
        raise UserError(f"executor {name}: {reason}")


def again(statuses: Iterable[str]) -> frozenset[str]:
    """Returns the statuses whose cells are to run again. Raises UserError for one that is unknown."""
    from harness.records import Status

    for status in (wanted := frozenset(statuses)):
        if status not in set(Status):
            raise UserError(unknown("status", status, list(Status)))
    return wanted


def run_plan(
    plan: Plan, choices: Choices, catalog: Catalog, store: Store, tracker: Iterable[str] = (), allow_bad: bool = False,
    command: str = "", hooks: Webhooks | None = None,
) -> int:  # fmt: skip
    """Runs the cells of a plan that are to do, after the self-checks; returns the exit code, 0 where all cells of the
    plan are done, else 1. `tracker` holds names of trackers to report to. Where `choices` have no number of threads
    (0), the executor chooses it. `command` is stored with the run: what does the same from a shell, by default the
    command line of this process. `hooks` are told of cells that fail, and of the end.

    Raises UserError where a self-check fails, unless `allow_bad`.
    """
    from harness.execute import Session
    from harness.execute.executors import all_executors
    from harness.store import sole_writer
    from harness.trackers import open_trackers

    group = open_trackers(tracker, lambda message: warn([message]))
    trackers = NotifyingTrackers(group, hooks) if hooks else group
    kind = all_executors()[choices.executor]
    environment, count = kind.environment(choices.threads or None, choices.jobs, choices.address)
    choices = replace(choices, threads=count)
    with sole_writer(store.folder):
        session = Session(plan, store, environment, choices, catalog.root, trackers)
        check_session(session, allow_bad)
        return execute(session, command or shlex.join(["tunebench", *without_addresses(sys.argv[1:])]))


def check_session(session: Session, allow_bad: bool) -> None:
    """Checks the instruments of a session. Raises UserError where a check fails, unless `allow_bad`; it is then
    printed."""
    failed = session.check_instruments(lambda model: say(f"checking the instruments on {model}", file=sys.stderr))
    if failed and not allow_bad:
        told = "\n".join(failed)
        raise UserError(f"instruments fail their own checks:\n{told}\n--allow-bad-instruments marks every result.")
    warn(failed)


def show_unfinished(session: Session) -> int:
    """Prints the cells of a session that did not end as done, with the reason; returns how many there are."""
    unfinished = session.unfinished()
    for cell, status, reason in unfinished[:MOST_LINES]:
        say(f"{status}: {cell.key}" + (f": {reason}" if reason else ""), file=sys.stderr)
    if len(unfinished) > MOST_LINES:
        say(f"… and {len(unfinished) - MOST_LINES} more (tunebench status --json)", file=sys.stderr)
    return len(unfinished)


def execute(session: Session, command: str) -> int:
    """Runs the cells of a session that are to do, showing progress, and prints those that did not end as done; returns
    the exit code, 0 where there are none of these, else 1. `command` is stored with the run."""
    from harness.analysis import outlook_warning

    warn(session.complaints)
    total, waiting = len(session.plan.cells), session.waiting
    seconds = session.seconds
    guess = f", about {clock_text(seconds / (session.choices.jobs or 1))}" if seconds else ""
    say(f"{session.plan.suite.name}: {total} cells, {total - waiting} finished before, {waiting} to run{guess}")
    if (
        waiting
        and not session.plan.only_cells
        and (line := outlook_warning(what_items_decide(session.plan, session.store)))
    ):
        say(line)
    with watcher(session.plan, session.states) as watch:
        stopped = session.run(command, watch)
    warn(session.complaints)
    unfinished = show_unfinished(session)
    if stopped:
        say("stopped; the same command goes on where this ended", file=sys.stderr)
    return 1 if unfinished else 0


def show_answer(store: Store, suite: str) -> list[str]:
    """Prints what the results of a suite answer, in at most ten sentences, and where the rest is; returns these
    sentences."""
    from harness.report import answer_lines, load

    say()
    lines = list(answer_lines(load(store, suite)))
    for line in lines:
        say(f"• {line}")
    say(f"next: `tunebench report {suite}` writes tables and a page, `tunebench recommend {suite}` weighs the costs")
    return lines


def what_items_decide(plan: Plan, store: Store) -> list[TaskOutlook]:
    """Forecasts for each learned task and model of a plan which differences its test items can show, given how far
    scores varied between seeds in the results of `store`; without results, that spread is taken as unknown."""
    from harness.analysis import outlooks, seed_spreads

    if not store.path.exists() and not (store.folder / "attempts").exists():
        return outlooks(plan, {})
    facts = plan.facts.tasks
    pairs = [(model, task) for model in plan.suite.models for task, _ in plan.suite.tasks]
    with store.look() as connection:
        known = {(model, task): (facts[task].metric, facts[task].fingerprint) for model, task in pairs}
        return outlooks(plan, seed_spreads(connection, known))


MOST_LINES = 50  # unfinished cells that are listed after a run
