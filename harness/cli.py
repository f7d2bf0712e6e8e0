"""The commands. With `screen.py`, the only file that prints; the only one that exits.

Exit codes: 0 all is well; 1 a cell did not end as done; 2 the input is wrong (one message, no traceback).
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import TunebenchError, UserError, unknown
from harness.screen import download_bars, show_detail, show_json, show_table, watcher

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.execute.session import Session
    from harness.records import Environment
    from harness.store.database import Store
    from harness.suite import Suite

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="tunebench: which way of adapting a language model should I use?\n\nExample: tunebench run quickstart",
)

SuiteName = Annotated[str, typer.Argument(help="a name in suites/, or a path to a YAML file")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Results = Annotated[
    Path | None,
    typer.Option("--results", envvar="TUNEBENCH_RESULTS", help="results folder (default: results)"),
]


Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="cells at a time (default: one an accelerator); on a CPU they share the threads"),
]
Memory = Annotated[str | None, typer.Option(help="memory of a device, such as 16GiB, in place of what is found")]
MOST_LINES = 50  # of unfinished cells after a run
Threads = Annotated[int | None, typer.Option(min=1, help="threads a cell (default: all cores / jobs)")]


def main() -> None:
    """The entry point: errors that the user can mend become one message and exit code 2."""
    try:
        app()
    except TunebenchError as error:
        sys.exit(complain(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def complain(error: TunebenchError) -> int:
    print(f"error: {error}" if "\n" not in str(error) else f"errors:\n{error}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


# --- what commands share ---


def project() -> Catalog:
    from harness.catalog import find_root, load_catalog

    return load_catalog(find_root(Path.cwd()))


def results(folder: Path | None, catalog: Catalog) -> Store:
    from harness.store.database import Store

    return Store(folder or catalog.root / "results")


def read_suite(name: str, catalog: Catalog) -> Suite:
    from harness.suite import find_suite, load_suite

    return load_suite(find_suite(name, catalog.root), catalog)


def this_environment(threads: int | None, jobs: int | None = None) -> tuple[Environment, int]:
    from harness.environment import cores, environment

    count = threads or max(1, cores() // (jobs or 1))
    return environment(count), count


def quiet_libraries() -> None:
    """Libraries' own notices and bars would bury ours; what fails still raises."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def get_facts(catalog: Catalog, suite: Suite) -> Any:
    from harness.fetch import fetch, known_facts, uncounted

    facts, missing = known_facts(catalog, suite)
    if not missing and not uncounted(suite, facts):
        return facts
    quiet_libraries()
    with download_bars() as bars:
        return fetch(catalog, suite, bars)


# --- commands ---


@app.command()
def run(
    suite: SuiteName,
    jobs: Jobs = None,
    threads: Threads = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="run cells again that ended so: failed, oom, diverged, …, done")
    ] = None,
    memory: Memory = None,
    executor: Annotated[str, typer.Option(help="where cells run: local, ray, slurm")] = "local",
    address: Annotated[str, typer.Option(help="of the Ray cluster; without it, one on this machine")] = "",
    mirror: Annotated[list[str] | None, typer.Option(help="tell another tracker as well: mlflow, wandb")] = None,
    folder: Results = None,
) -> None:
    """Run every cell of a suite that is not done yet in this environment.

    Example: tunebench run peft-vs-full --retry failed
    """
    from harness.execute.executors import all_executors
    from harness.execute.session import Choices, Session
    from harness.mirrors import open_mirrors
    from harness.plan import make_plan
    from harness.records import Status
    from harness.store.files import sole_writer

    catalog = project()
    loaded = read_suite(suite, catalog)
    again = frozenset(retry or ())
    for status in again:
        if status not in set(Status):
            raise UserError(unknown("status", status, list(Status)))
    if executor not in all_executors():
        raise UserError(unknown("executor", executor, all_executors()))
    if reason := all_executors()[executor].skip():
        raise UserError(f"executor {executor}: {reason}")
    mirrors = open_mirrors(mirror or (), lambda message: warn([message]))
    plan = make_plan(loaded, get_facts(catalog, loaded))
    store = results(folder, catalog)
    environment, count = all_executors()[executor].environment(threads, jobs, address)
    choices = Choices(executor, jobs, count, again, size_of(memory), address)
    with sole_writer(store.folder):
        sys.exit(execute(Session(plan, store, environment, choices, catalog.root, mirrors)))


def size_of(text: str | None) -> int | None:
    """Bytes of "16GiB" or "500MB". Raises UserError."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"--memory: got {text!r}, wanted a size such as 16GiB or 500MB.") from None


def execute(session: Session) -> int:
    """Run what is to do and say how it ended; the exit code."""
    warn(session.complaints)
    total, waiting = len(session.plan.cells), session.waiting
    print(f"{session.plan.suite.name}: {total} cells, {total - waiting} finished before, {waiting} to run")
    with watcher(session.plan, session.states) as watch:
        stopped = session.run(" ".join(["tunebench", *sys.argv[1:]]), watch)
    warn(session.complaints)
    unfinished = session.unfinished()
    for cell, status, reason in unfinished[:MOST_LINES]:
        print(f"{status}: {cell.key}" + (f": {reason}" if reason else ""), file=sys.stderr)
    if len(unfinished) > MOST_LINES:
        print(f"… and {len(unfinished) - MOST_LINES} more (tunebench status --json)", file=sys.stderr)
    if stopped:
        print("stopped; the same command goes on where this ended", file=sys.stderr)
    return 1 if unfinished else 0


def warn(complaints: list[str]) -> None:
    for complaint in complaints:
        print(f"warning: {complaint}", file=sys.stderr)


@app.command()
def status(
    suite: Annotated[str | None, typer.Argument(help="a suite; without one, whatever ran last")] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """How a run is getting on, from another terminal: what runs, what has ended and how, what is slow.

    Example: tunebench status
    """
    from harness.execute.events import live_status
    from harness.screen import show_status

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
    jobs: Jobs = None,
    threads: Threads = None,
    memory: Memory = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """What would run, how long it may take, the memory it is predicted to need, and what is done or cannot run here.

    Example: tunebench plan peft-vs-full
    """
    from harness.execute.forecast import forecast
    from harness.fetch import known_facts
    from harness.plan import make_plan
    from harness.screen import show_forecast

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts, missing = known_facts(catalog, loaded)
    if missing:
        raise UserError(
            f"not fetched yet: {', '.join(missing)}. Run `tunebench fetch {suite}` first: the plan needs the "
            "sizes and fingerprints of its data."
        )
    environment, _ = this_environment(threads, jobs)
    rows = forecast(make_plan(loaded, facts), results(folder, catalog), environment, size_of(memory))
    if as_json:
        show_json([asdict(row) for row in rows])
    else:
        show_forecast(loaded.name, rows, jobs or 1)


@app.command()
def check(suite: SuiteName, as_json: AsJson = False) -> None:
    """Find every mistake in a suite, with file and line, without loading anything heavy.

    Example: tunebench check quickstart
    """
    from harness.fetch import known_facts
    from harness.plan import make_plan

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts, missing = known_facts(catalog, loaded)
    cells = None if missing else len(make_plan(loaded, facts).cells)
    if as_json:
        show_json({"suite": loaded.name, "cells": cells, "not_fetched": missing})
    elif missing:
        print(f"{loaded.path}: no mistakes found. Not fetched yet, so sizes are unchecked: {', '.join(missing)}")
    else:
        print(f"{loaded.path}: no mistakes found, {cells} cells")


@app.command()
def fetch(suite: SuiteName) -> None:
    """Download and prepare everything a suite needs, for a run with the network cut off.

    Example: tunebench fetch peft-vs-full
    """
    from harness.sources import cache_root

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts = get_facts(catalog, loaded)
    names = ", ".join([*facts.models, *facts.tasks])
    print(f"{loaded.name}: {len(facts.models)} models and {len(facts.tasks)} tasks are in {cache_root()}: {names}")


@app.command()
def report(suite: SuiteName, folder: Results = None) -> None:
    """Show a suite's results, and write reports/<suite>/index.html and report.md.

    Example: tunebench report quickstart
    """
    from rich.console import Console

    from harness.report import terminal, write_report

    catalog = project()
    store = results(folder, catalog)
    name = Path(suite).stem if suite.endswith((".yaml", ".yml")) else suite
    goal = catalog.root / "reports" / name
    try:
        paths = write_report(store, name, goal)
    except OSError as error:
        raise UserError(f"cannot write the report to {goal}: {error.strerror}.") from error
    Console().print(terminal(store, name))
    print(f"report: {os.path.relpath(paths.html)}")


@app.command()
def show(
    cell: Annotated[str, typer.Argument(help="a cell's key, the start of its digest, or an attempt id")],
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Everything stored about one cell.

    Example: tunebench show lora/smollm2-135m/bbc-topic/n128/s0
    """
    from harness.store.queries import cell_detail, keys

    store = results(folder, project())
    with store.open(read_only=True) as connection:
        detail = cell_detail(connection, cell)
        known = keys(connection) if detail is None else []
    if detail is None:
        raise UserError(unknown("cell", cell, known))
    if as_json:
        show_json(detail)
    else:
        show_detail(detail)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """The ways of adapting a model, with their settings and defaults.

    Example: tunebench methods --json
    """
    from harness.methods import all_methods

    rows: list[dict[str, Any]] = []
    for name, method in all_methods().items():
        about = (method.__doc__ or "").strip().splitlines()[0]
        rows.append({"name": name, "family": method.family, "about": about, "settings": method.fields()})
    if as_json:
        show_json(rows)
        return
    shown = []
    for row in rows:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items() if key != "init_text")
        shown.append([row["name"], row["family"], row["about"], settings])
    show_table("methods", ["method", "family", "what it does", "settings"], shown)


@app.command()
def tasks(
    everything: Annotated[bool, typer.Option("--all", help="also lm-eval's own tasks")] = False,
    as_json: AsJson = False,
) -> None:
    """The tasks that suites may learn or retain.

    Example: tunebench tasks --all
    """
    from harness.catalog import lm_eval_tasks

    catalog = project()
    paths = {**(lm_eval_tasks() if everything else {}), **catalog.tasks}
    rows = []
    for name, path in sorted(paths.items()):
        facts = catalog.task_facts(name) if name in catalog.tasks else None
        rows.append({**(asdict(facts) if facts else {}), "name": name, "path": str(path)})
    if as_json:
        show_json(rows)
        return
    show_table(
        "tasks (sizes are known once fetched)",
        ["task", "kind", "train", "validation", "test", "file"],
        [
            [r["name"], r.get("output_type", ""), r.get("n_train", ""), r.get("n_validation", ""),
             r.get("n_test", ""), short_path(r["path"], catalog.root)]
            for r in rows
        ],
        right=frozenset({"train", "validation", "test"}),
    )  # fmt: skip
    if not everything:
        print(f"and {len(lm_eval_tasks())} of lm-eval's own (tunebench tasks --all)")


def short_path(path: str, root: Path) -> str:
    return os.path.relpath(path, root) if Path(path).is_relative_to(root) else "lm-eval"


@app.command()
def models(as_json: AsJson = False) -> None:
    """The base models that suites may name; a source (hf:org/name, file:folder) works as well.

    Example: tunebench models
    """
    catalog = project()
    rows = [
        {**asdict(entry), "fetched": catalog.model_facts(name) is not None} for name, entry in catalog.models.items()
    ]
    if as_json:
        show_json(rows)
        return
    show_table(
        "models",
        ["model", "kind", "parameters", "licence", "fetched", "about"],
        [
            [r["name"], r["kind"], f"{r['parameters'] / 1e6:.0f}M", r["licence"],
             "yes" if r["fetched"] else "no", r["about"]]
            for r in rows
        ],
        right=frozenset({"parameters"}),
    )  # fmt: skip


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="SQL, run read-only")],
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Ask the results database a question of your own.

    Example: tunebench sql "select status, count(*) from attempts group by 1"
    """
    import duckdb

    store = results(folder, project())
    with store.open(read_only=True) as connection:
        try:
            cursor = connection.execute(query)
            columns = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchall()
        except duckdb.Error as error:
            raise UserError(f"the query failed: {error}") from error
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        show_table("", columns, [list(row) for row in rows])


@app.command()
def rebuild(folder: Results = None) -> None:
    """Make the database again from the result files beside it.

    Example: tunebench rebuild
    """
    from harness.store.files import sole_writer

    store = results(folder, project())
    with sole_writer(store.folder):
        count, complaints = store.rebuild()
    warn(complaints)
    print(f"{store.path}: {count} attempts")


if __name__ == "__main__":
    main()
