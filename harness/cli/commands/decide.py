"""`tunebench decide`: which method to take, with as few cells as can say it."""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.commands.recommend import amount, duration, priced, rate
from harness.cli.deciding import (
    LimitJudge,
    as_json,
    decision_line,
    look_line,
    recommended,
    show_decision,
    time_line,
)
from harness.cli.display import clock_text, say, show_json, watcher
from harness.cli.options import (
    AsJson,
    Jobs,
    Results,
    SuiteName,
    Threads,
    Trust,
    command,
    get_facts,
    project,
    read_suite,
    results,
    size_of,
    warn,
)
from harness.cli.running import check_executor, check_session, show_unfinished
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.analysis import Prices, Wishes
    from harness.execute import Decider, Progress, Session
    from harness.suite import Suite

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@command("Answer a question", "the method to use, with as few cells as can say it")
def decide(
    suite: SuiteName,
    within: Annotated[
        str | None, typer.Option(help="time after which no cell starts: 30min, 2h (default: no limit)")
    ] = None,
    sure: Annotated[float, typer.Option(min=0.5, max=0.999, help="confidence at which it stops")] = 0.95,
    size: Annotated[
        int | None, typer.Option(min=1, help="number of training examples (default: the suite's largest)")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="memory of your device, such as 16GiB; rules labels out")] = None,
    max_forgetting: Annotated[
        float | None, typer.Option(min=0, help="the most that a retained task may lose, in the unit of its headline")
    ] = None,
    forgetting_on: Annotated[
        str, typer.Option(help="the retained task of --max-forgetting (default: the suite's first)")
    ] = "",
    latency: Annotated[str | None, typer.Option(help="median latency of a single request: 50ms, 0.05s")] = None,
    budget: Annotated[str | None, typer.Option(help="total cost of training, answering and updating: 5USD")] = None,
    price: Annotated[
        str | None, typer.Option(help="price of an hour of the device: 1.20USD/h (default: assumed by device)")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(min=0, help="the difference of scores that does not matter (default: the suite's margin)"),
    ] = None,
    task: Annotated[str, typer.Option(help="this task alone")] = "",
    model: Annotated[str, typer.Option(help="this base model alone")] = "",
    dry: Annotated[bool, typer.Option("--dry", help="say what would run first, and run nothing")] = False,
    jobs: Jobs = None,
    threads: Threads = None,
    executor: Annotated[str, typer.Option(help="where cells run: local, ray, slurm")] = "local",
    address: Annotated[str, typer.Option(help="address of a Ray cluster (default: start one on this machine)")] = "",
    allow_bad_instruments: Annotated[
        bool, typer.Option("--allow-bad-instruments", help="run although a self-check failed; every result is flagged")
    ] = False,
    trust: Trust = None,
    folder: Results = None,
    as_json_: AsJson = False,
) -> None:
    """Run the cells of a suite that decide which method to use, one after the other, and stop when it is settled.

    It stops, too, when the suite cannot settle it, or the time is used up, and says how sure the answer is then.
    `tunebench run` completes the grid later; nothing is done twice.

    Example: tunebench decide peft-vs-full --within 30min --sure 0.95
    """
    from harness.analysis import Wishes
    from harness.execute import Aim, Choices, Decider, Session, races_of
    from harness.execute.executors import all_executors
    from harness.plan import make_plan
    from harness.store import sole_writer
    from harness.trackers import open_trackers

    catalog = project()
    loaded = read_suite(suite, catalog)
    check_executor(executor)
    money, hourly = amount(budget) if budget else None, rate(price) if price else None
    wishes = Wishes(
        size_of(memory), max_forgetting, forgetting_on, duration(latency) if latency else None,
        money[0] if money else None, loaded.margin if margin is None else margin,
    )  # fmt: skip
    check_forgetting(loaded, wishes)
    aim = Aim(sure, seconds_of(within), wishes.margin)
    plan = make_plan(loaded, get_facts(catalog, loaded, trust or ()))
    races = races_of(plan, size, task, model)
    store = results(folder, catalog)
    kind = all_executors()[executor]
    environment, count = kind.environment(threads or None, jobs, address)

    def reprice(assumed: Prices) -> Prices:
        return priced(assumed, hourly, money)

    decider = Decider(plan, races, store, environment, aim, LimitJudge(plan, store, environment, wishes, reprice))
    choices = Choices(executor, jobs, count, address=address, choose=None if dry else decider.choose)
    if dry:
        show_first(decider)
        return
    with sole_writer(store.folder):
        session = Session(plan, store, environment, choices, catalog.root, open_trackers((), lambda text: warn([text])))
        check_session(session, allow_bad_instruments)
        decider.begin(session.run_id, session.plan_state.durations)
        progress = run(decider, session, as_json_)
    left = decider.left(progress)
    left_seconds = decider.seconds_of(left, progress)
    found = [recommended(decider, decision, wishes, reprice) for decision in decider.decisions]
    spent, chosen = decider.gone, session.started
    if as_json_:
        answers = [as_json(decider, *pair) for pair in zip(decider.decisions, found, strict=True)]
        show_json({"suite": loaded.name, "seconds": spent, "cells_run": chosen, "full_seconds": spent + left_seconds,
                   "cells_left": [cell.key for cell in left],
                   "answers": answers})  # fmt: skip
    else:
        for decision, one in zip(decider.decisions, found, strict=True):
            show_decision(decider, decision, one)
        say(time_line(spent, chosen, len(left), left_seconds))
        say(f"next: `tunebench run {suite}` runs the rest, `tunebench report {suite}` shows how it was decided")
    if session.stopped:
        say("stopped; the same command goes on where this ended", file=sys.stderr)
    sys.exit(0 if all(decision.reason == "settled" for decision in decider.decisions) else 1)


def check_forgetting(suite: Suite, wishes: Wishes) -> None:
    """Raises UserError for a limit of forgetting in a suite that retains nothing, or on a task that it does not
    retain."""
    if wishes.forgetting_on and wishes.forgetting_on not in suite.retain:
        raise UserError(unknown("retained task", wishes.forgetting_on, suite.retain))
    if wishes.max_forgetting is not None and not suite.retain:
        raise UserError(
            f"{suite.name} retains no task, so nothing would be known of forgetting. Leave --max-forgetting out, or "
            "add `retain:` to the suite."
        )


def seconds_of(text: str | None) -> float | None:
    """Returns the seconds of a text such as "30min", "2h" or "90s"; None for None. Raises UserError for other text."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(s|min|h)", text.strip())
    if not found or not float(found[1]):
        raise UserError(f"--within: got {text!r}, wanted a time with its unit, such as 30min, 2h or 90s.")
    return float(found[1]) * SECONDS[found[2]]


def run(decider: Decider, session: Session, quiet: bool) -> Progress:
    """Runs the cells that the decider chooses, and returns the progress at the end. Shows the answer as it stands,
    unless `quiet`."""
    from harness.execute import Progress

    warn(session.complaints)
    final: list[Progress] = []  # the newest
    show = (
        nullcontext(lambda progress: None)
        if quiet
        else watcher(session.plan, session.states, lambda: look_line(decider))
    )
    with show as watch:

        def watched(progress: Progress) -> None:
            final[:] = [progress]
            watch(progress)

        session.run(shlex.join(["tunebench", *sys.argv[1:]]), watched)
    progress = final[-1] if final else Progress(session.plan, session.states)
    decider.finish(progress)
    warn(session.complaints)
    show_unfinished(session)
    return progress


def show_first(decider: Decider) -> None:
    """Prints what would run first, and what all cells would take. Nothing runs."""
    from harness.execute import preview

    progress = preview(decider)
    for decision in decider.decisions:
        say(f"{decision.race.name}: {decision_line(decision)}")
        for label, why in sorted(decision.ruled_out.items()):
            say(f"  {label} is ruled out: {why}.")
        steps = decision.look.steps if decision.look else ()
        if len(steps) > 1:
            say(f"  then, unless the first says otherwise: {', '.join(step.label for step in steps[1:])}")
    left = decider.seconds_of(decider.left(progress), progress)
    say(f"all cells would take about {clock_text(left)}, one after the other")
