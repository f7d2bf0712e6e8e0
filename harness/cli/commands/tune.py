"""`tunebench tune`: the best settings of a suite's methods."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import show_json
from harness.cli.options import (
    AsJson,
    Jobs,
    Memory,
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
)
from harness.cli.running import check_executor, run_plan
from harness.cli.study_text import described, show_study, stored
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.suite import Suite


TRIALS = 12  # of each study, for a suite that has no `tune:` of its own


def with_budget(suite: Suite, trials: int | None, studies: int | None = None) -> Suite:
    """Returns the suite with tuning switched on: its own `tune:`, or 12 trials where it has none, with at most `trials`
    for each study and so many `studies` for each label where these are given. Raises SuiteError where the suite cannot
    be tuned so, such as with more studies than seeds."""
    from harness.errors import SuiteError
    from harness.suite import TuneSettings, check_tuning

    given = {name: value for name, value in {"trials": trials, "studies": studies}.items() if value}
    own = suite.tune or TuneSettings.model_validate({"trials": TRIALS})
    made = own.model_copy(update=given)
    if problems := list(check_tuning(made, list(suite.labels), suite.seeds, suite.lines)):
        raise SuiteError(problems)
    return replace(suite, tune=made)


@command("Run", "search for the best settings of a suite's methods")
def tune(
    suite: SuiteName,
    method: Annotated[
        list[str] | None, typer.Option(help="search only for these labels or methods; repeatable")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="trials of each study (default: the suite's; 12 without `tune:`)")
    ] = None,
    studies: Annotated[
        int | None, typer.Option(min=1, help="studies of each label, each of another seed (default: the suite's; 1)")
    ] = None,
    jobs: Jobs = None,
    threads: Threads = None,
    memory: Memory = None,
    executor: Annotated[str, typer.Option(help="where trials run: local, ray, slurm")] = "local",
    trust: Trust = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Search for the best settings of a suite's methods, on validation items alone.

    Nothing is scored on test items: `tunebench run` of a suite with a `tune:` does that. It reuses the settings that
    were found here; with another budget it reuses the trials.

    Example: tunebench tune tuned-peft-vs-full --method lora
    """
    from harness.execute import Choices
    from harness.plan import make_plan, select_cells

    catalog = project()
    loaded = with_budget(read_suite(suite, catalog), trials, studies)
    check_executor(executor)
    plan = make_plan(loaded, get_facts(catalog, loaded, trust or ()))
    by_key = {cell.key: cell for cell in plan.cells if cell.study}
    for name in method or ():
        known = dict.fromkeys(name for cell in by_key.values() for name in (cell.label, cell.method))
        if name not in known:
            raise UserError(unknown(f"tuned method of {loaded.name}", name, known))
    wanted = [key for key, cell in by_key.items() if not method or {cell.label, cell.method} & set(method)]
    if not wanted:
        raise UserError(f"{loaded.name} has nothing to tune: no label of it has settings to search.")
    choices = Choices(executor, jobs, threads or 0, memory=size_of(memory))
    store = results(folder, catalog)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        code = run_plan(select_cells(plan, wanted), choices, catalog, store)
    found = stored(store, loaded.name, {by_key[key].spec_digest for key in wanted})
    if as_json:
        show_json([described(study) for study in found])
    else:
        for study in found:
            show_study(study)
    sys.exit(code)
