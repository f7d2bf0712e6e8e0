"""`tunebench studies`: every trial of a suite's studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import say, show_json
from harness.cli.options import (
    AsJson,
    Results,
    SuiteName,
    command,
    project,
    results,
    suite_name,
)
from harness.cli.study_text import described, show_study, stored
from harness.errors import counted

if TYPE_CHECKING:
    pass


@command("Look", "the trials of a suite that tunes")
def studies(
    suite: SuiteName,
    storage: Annotated[
        Path | None,
        typer.Option(help="write the studies for Optuna's tools: a new file.db (SQLite) or file.log (journal)"),
    ] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """List every study of a suite with its trials; with --storage, write them as Optuna studies to a file.

    Example: tunebench studies tuned-peft-vs-full --storage tuning.db && optuna-dashboard sqlite:///tuning.db
    """
    from harness.plan import optuna_storage, to_optuna_study

    name = suite_name(suite)
    found = stored(results(folder, project()), name)
    if storage is not None:
        goal = optuna_storage(storage)
        for study in found:
            if study.trials:
                to_optuna_study(study.study, study.trials, goal, study.key.removesuffix("/study"))
        say(f"{storage}: {counted(len(found), 'study', 'studies')}")
    elif as_json:
        show_json([described(study) for study in found])
    else:
        for study in found:
            show_study(study)
