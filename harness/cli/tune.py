"""Finding settings: `tune` for some methods of a suite, and `studies` for what was tried."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.display import show_json, show_table
from harness.cli.options import (
    AsJson,
    Jobs,
    Memory,
    Results,
    SuiteName,
    Threads,
    app,
    get_facts,
    project,
    read_suite,
    results,
    size_of,
)
from harness.cli.run import check_executor, run_plan
from harness.errors import UserError, counted, unknown

if TYPE_CHECKING:
    from harness.store import StoredStudy
    from harness.suite import Suite

TRIALS = 12  # of a suite that has no `tune:` of its own


@app.command()
def tune(
    suite: SuiteName,
    method: Annotated[list[str] | None, typer.Option(help="these labels or methods alone")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="in place of the suite's (without a tune: 12)")] = None,
    jobs: Jobs = None,
    threads: Threads = None,
    memory: Memory = None,
    executor: Annotated[str, typer.Option(help="where trials run: local, ray, slurm")] = "local",
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Search for the best settings of a suite's methods, by validation items alone, and say what they are.

    Nothing is scored on test items: `tunebench run` of a suite with a `tune:` does that. It takes over what was found
    here, and with another budget the trials.

    Example: tunebench tune tuned-peft-vs-full --method lora
    """
    from harness.execute import Choices
    from harness.plan import make_plan, narrow

    catalog = project()
    loaded = with_budget(read_suite(suite, catalog), trials)
    check_executor(executor)
    plan = make_plan(loaded, get_facts(catalog, loaded))
    studies = {cell.key: cell for cell in plan.cells if cell.study}
    for name in method or ():
        known = dict.fromkeys(name for cell in studies.values() for name in (cell.label, cell.method))
        if name not in known:
            raise UserError(unknown(f"tuned method of {loaded.name}", name, known))
    wanted = [key for key, cell in studies.items() if not method or {cell.label, cell.method} & set(method)]
    if not wanted:
        raise UserError(f"{loaded.name} has nothing to tune: no label of it has settings to search.")
    choices = Choices(executor, jobs, threads or 0, memory=size_of(memory))
    store = results(folder, catalog)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        code = run_plan(narrow(plan, wanted), choices, catalog, store)
    found = stored(store, loaded.name, {studies[key].spec_digest for key in wanted})
    if as_json:
        show_json([described(study) for study in found])
    else:
        for study in found:
            show_study(study)
    sys.exit(code)


@app.command()
def studies(
    suite: SuiteName,
    storage: Annotated[
        Path | None,
        typer.Option(help="write them for Optuna's own tools: a new file.db (SQLite) or file.log (journal)"),
    ] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Every study of a suite with its trials; with --storage, as Optuna studies in a file.

    Example: tunebench studies tuned-peft-vs-full --storage tuning.db && optuna-dashboard sqlite:///tuning.db
    """
    from harness.plan import as_optuna, storage_at

    name = Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite
    found = stored(results(folder, project()), name)
    if storage is not None:
        goal = storage_at(storage)
        for study in found:
            if study.trials:
                as_optuna(study.study, study.trials, goal, study.key.removesuffix("/study"))
        print(f"{storage}: {counted(len(found), 'study', 'studies')}")
    elif as_json:
        show_json([described(study) for study in found])
    else:
        for study in found:
            show_study(study)


def with_budget(suite: Suite, trials: int | None) -> Suite:
    """A suite that is tuned, with so many trials where they are given. Raises SuiteError."""
    from harness.errors import SuiteError
    from harness.suite import TuneSettings, check_tuning

    if suite.tune is None:
        made = TuneSettings.model_validate({"trials": trials or TRIALS})
        suite = replace(suite, tune=made)
        if problems := list(check_tuning(made, list(suite.labels), suite.lines)):
            raise SuiteError(problems)
        return suite
    changed = suite.tune.model_copy(update={"trials": trials}) if trials else suite.tune
    return replace(suite, tune=changed)


def stored(store: Any, suite: str, digests: set[str] | None = None) -> list[StoredStudy]:
    """The studies of a suite's newest run that has any, or some of them. Raises UserError."""
    from harness.store import all_suites, latest_run, studies_of

    with store.open(read_only=True) as connection:
        run = latest_run(connection, suite, tuned=True)
        if run is None:
            raise UserError(
                unknown("suite with results", suite, all_suites(connection), f"Run it: `tunebench run {suite}`.")
            )
        found = studies_of(connection, run)
    if not found:
        raise UserError(f"no run of {suite} has tuned anything. `tunebench tune {suite}` does.")
    return [study for study in found if digests is None or study.study_digest in digests]


def described(study: StoredStudy) -> dict[str, Any]:
    return {**asdict(study), "chosen": study.best.params if study.best else None}


def show_study(study: StoredStudy) -> None:
    """A study's trials, and what it chose in the form in which a suite takes it."""
    import yaml

    from harness.report import notes, value_text
    from harness.suite import short

    names = list(study.study.get("space", {}))
    rows = [
        [
            ("* " if trial.chosen else "") + str(trial.number),
            trial.origin,
            *(value_text(trial.params.get(name)) for name in names),
            "" if trial.value is None else f"{trial.value:.4g}",
            f"{trial.seconds:.1f}",
            trial.status + (f": {trial.reason}" if trial.reason else ""),
        ]
        for trial in study.trials
    ]
    columns = ["trial", "from", *map(short, names), study.metric or "score", "seconds", "status"]
    right = frozenset({"trial", "seconds", *columns[2 : 3 + len(names)]})
    show_table(study.key.removesuffix("/study"), columns, rows, right)
    if study.best:
        print("best, on validation items:", yaml.safe_dump(nested(study.best.params), default_flow_style=True).strip())
    for note in notes(study):
        print(note)
    print()


def nested(params: dict[str, Any]) -> dict[str, Any]:
    """Settings by full name, as a label of a suite has them."""
    made: dict[str, Any] = {}
    for name, value in params.items():
        *path, last = name.split(".")
        inner = made
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = float(f"{value:.4g}") if isinstance(value, float) else value
    return made
