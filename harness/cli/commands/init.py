"""`tunebench init`: a task and a suite from one's own data file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import say
from harness.cli.options import command, project, quiet_libraries, read_suite

if TYPE_CHECKING:
    from harness.data import Catalog


@command("Begin", "a task and a suite from your own data, with comments")
def init(
    data: Annotated[
        str, typer.Argument(help="a file (CSV, TSV, JSONL, JSON, Parquet, Excel, …), a folder, or hf:org/name")
    ],
    name: Annotated[str, typer.Option(help="the task's and the suite's name (default: the file's)")] = "",
    kind: Annotated[str, typer.Option(help="classification, generation, chat or text (default: found)")] = "",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="COLUMN", help="a column that is asked; repeatable")
    ] = None,
    answer: Annotated[str, typer.Option(metavar="COLUMN", help="the column of the right answer or class")] = "",
    model: Annotated[str, typer.Option(help="the base model (default: smollm2-135m)")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="ask nothing: take what was found")] = False,
    force: Annotated[bool, typer.Option("--force", help="write over files that are there")] = False,
) -> None:
    """Look at a data file, and write suites/tasks/NAME.yaml and suites/NAME.yaml, which compare methods on it.

    It finds the columns and the kind of task, says what it took for what, and asks on a terminal. Where the base model
    is on this machine, it prints what each method will take in time and memory.

    Example: tunebench init reviews.csv --yes
    """
    from harness.cli.commands.plan import show_plan
    from harness.cli.drafting import Answers, can_ask, draft_files
    from harness.plan import fetch_suite

    quiet_libraries()
    catalog = project()
    said = Answers(kind, tuple(inputs or ()), answer, model)
    suite, files = draft_files(catalog, data, name, said, ask=can_ask() and not yes, force=force)
    for file in files:
        say(f"wrote {os.path.relpath(file)}")
    if not suite:
        name = files[0].stem
        say("running text asks nothing, so that no method can be compared on it alone. Name it in a suite:")
        say(f"  retain: [{name}]  # what must not be forgotten, or, of a label that learns another task:")
        say(f"  curriculum: {{continued_pretraining: {{text: {name}}}}}  # learned first")
        return
    catalog = project()  # with the task that was written
    loaded = read_suite(suite, catalog)
    missing = [one for one in loaded.model_names() if catalog.model_facts(one) is None and not is_here(catalog, one)]
    if missing:
        say(f"next: `tunebench fetch {suite}` downloads {', '.join(missing)}")
        say(f"then: `tunebench plan {suite}` says what each method will take")
    else:
        fetch_suite(catalog, loaded)
        show_plan(suite)
    say(f"next: `tunebench run {suite}`, then `tunebench report {suite}`")


def is_here(catalog: Catalog, model: str) -> bool:
    """Returns whether a model is a folder on this machine: nothing has to be downloaded."""
    return all(source.startswith("file:") for source in catalog.model(model).sources)
