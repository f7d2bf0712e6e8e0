"""`tunebench try`: one's own questions, answered by the base model and the results of a suite side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.display import show_json
from harness.cli.options import AsJson, Results, SuiteName, command, project, quiet_libraries, results, suite_name


@command("Answer a question", "your own questions, answered by each label", name="try")
def try_(
    suite: SuiteName,
    text: Annotated[list[str] | None, typer.Argument(help="what stands in the column that the task asks about")] = None,
    file: Annotated[
        Path | None, typer.Option(help="questions of a file: rows with the task's columns, or lines of text")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="a label to ask beside the base model (default: all); repeatable"),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="take each text as the whole prompt")] = False,
    task: Annotated[str, typer.Option(help="the learned task (default: the suite's first)")] = "",
    model: Annotated[str, typer.Option(help="only this base model")] = "",
    size: Annotated[int | None, typer.Option(min=1, help="number of training examples (default: the largest)")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="the seed (default: the first)")] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Answer your own questions with the base model and the finished labels of a suite, side by side, from the stored
    weights: the answer, for classes the probability of each, and how long one question takes.

    Texts are put into the task's own question, as in scoring. A label whose weights were deleted is named and left out.

    Example: tunebench try quickstart "Shares fall after profit warning" --label lora
    """
    from harness.cli.asking import Asker, questions_of, shown_replies

    quiet_libraries()
    catalog = project()
    store = results(folder, catalog)
    asker = Asker(store, suite_name(suite), task, model, size, seed, tuple(label or ()))
    asked = asker.ask(questions_of(text or (), file), raw)
    if as_json:
        show_json(asked.as_json())
    else:
        shown_replies(asked)
