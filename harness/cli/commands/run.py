"""`tunebench run`: every cell of a suite that is not done yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.notifying import Webhooks
from harness.cli.options import (
    Jobs,
    Memory,
    Only,
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
from harness.cli.running import again, check_executor, run_plan, show_answer

if TYPE_CHECKING:
    pass


@command("Begin", "run what a suite still lacks, and say what it answers", place=1)
def run(
    suite: SuiteName,
    only: Only = None,
    jobs: Jobs = None,
    threads: Threads = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(help="run cells with this status again: failed, oom, diverged, …, done; repeatable"),
    ] = None,
    memory: Memory = None,
    executor: Annotated[str, typer.Option(help="where cells run: local, ray, slurm")] = "local",
    address: Annotated[str, typer.Option(help="address of a Ray cluster (default: start one on this machine)")] = "",
    tracker: Annotated[
        list[str] | None, typer.Option(help="report every attempt to this tracker too: mlflow, wandb; repeatable")
    ] = None,
    allow_bad_instruments: Annotated[
        bool, typer.Option(help="run although a self-check failed; every result is flagged")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="without the ways of saving work (train: {fast: []})")] = False,
    trust: Trust = None,
    folder: Results = None,
    answer: Annotated[bool, typer.Option("--answer/--no-answer", help="end with the suite's answer")] = True,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="post to this webhook when a cell fails, the run ends, an answer is there; repeatable"
        ),
    ] = None,
) -> None:
    """Run every cell of a suite that is not done in this environment, and say what the results answer.

    Example: tunebench run peft-vs-full --retry failed
    """
    from harness.execute import Choices
    from harness.plan import make_plan, select_cells

    catalog = project()
    loaded = read_suite(suite, catalog)
    loaded = loaded.plain if plain else loaded
    retried = again(retry or ())
    check_executor(executor)
    plan = select_cells(make_plan(loaded, get_facts(catalog, loaded, trust or ())), only or ())
    choices = Choices(executor, jobs, threads or 0, retried, size_of(memory), address)
    store = results(folder, catalog)
    hooks = Webhooks(notify or (), lambda message: warn([message]))
    code = run_plan(plan, choices, catalog, store, tracker or (), allow_bad_instruments, hooks=hooks)
    if answer and not only:
        hooks.tell("verdict", answer=show_answer(store, loaded.name))
    hooks.close()
    sys.exit(code)
