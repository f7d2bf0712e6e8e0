"""`tunebench run`: every cell of a suite that is not done yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    Jobs,
    Memory,
    Only,
    Results,
    SuiteName,
    Threads,
    command,
    get_facts,
    project,
    read_suite,
    results,
    size_of,
)
from harness.cli.running import check_executor, run_plan
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    pass


@command("Run", "run every cell of a suite that is not done yet")
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
