"""`tunebench compare`: whether a difference is real."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import show_json
from harness.cli.options import AsJson, Results, command, project, results
from harness.cli.verdict_text import show_comparison
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.analysis import CellComparison, GroupComparison, LabelComparison

# What --fail-on can name -> the verdicts that it stands for, and the exit code of one (those of `tunebench regress`).
FAILURES = {
    "worse": ({"worse"}, 3),
    "different": ({"better", "worse"}, 3),
    "open": ({"underpowered", "incomparable"}, 4),
}


@command("Answer a question", "whether a difference between two labels, cells or runs is real")
def compare(
    a: Annotated[str, typer.Argument(help="a label, a cell, a run or an environment")],
    b: Annotated[str, typer.Argument(help="another of its kind: the verdict says what the first is to it")],
    suite: Annotated[
        str, typer.Option(help="suite whose newest run holds the labels (default: the suite that ran last)")
    ] = "",
    margin: Annotated[
        float | None,
        typer.Option(min=0, help="the difference of scores that does not matter (default: the suite's margin)"),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="another metric than the task's headline, or a cost such as train_seconds")
    ] = "",
    task: Annotated[str, typer.Option(help="only cells that learned this task")] = "",
    model: Annotated[str, typer.Option(help="only this base model")] = "",
    size: Annotated[int | None, typer.Option(min=0, help="only this number of training examples")] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="exit with 3 where a verdict is this: worse, different (better or worse); with 4 where it is open: "
            "underpowered, incomparable; repeatable"
        ),
    ] = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Say whether one label is better than another, item by item and over seeds, or what it would take to know.

    It also compares two cells (by key, or six digits of the digest), two runs or two environments (by the start of
    their names).

    Example: tunebench compare lora full --suite peft-vs-full
    """
    from harness.analysis import Request, resolve

    for name in fail_on or ():
        if name not in FAILURES:
            raise UserError(unknown("verdict of --fail-on", name, FAILURES))
    request = Request(suite, margin, metric, task, model, size)
    with results(folder, project()).open(read_only=True) as connection:
        comparison = resolve(connection, a, b, request)
    if as_json:
        show_json(comparison.to_json())
    else:
        show_comparison(comparison)
    sys.exit(exit_code(comparison, fail_on or ()))


def exit_code(comparison: LabelComparison | CellComparison | GroupComparison, fail_on: Iterable[str]) -> int:
    """Returns the lowest exit code of the names in `fail_on` (keys of `FAILURES`) for which the comparison has a
    verdict, 0 without any. Where nothing at all could be compared, that is open."""
    from harness.analysis import CellComparison, LabelComparison

    if isinstance(comparison, CellComparison):
        found = [comparison.verdict]
    elif isinstance(comparison, LabelComparison):
        found = [verdict for _, verdict in comparison.tables]
    else:
        found = [one.verdict for one in comparison.verdicts.matched]
    outcomes = {str(verdict.verdict) for verdict in found} or {"incomparable"}
    return min((code for verdicts, code in map(FAILURES.__getitem__, fail_on) if outcomes & verdicts), default=0)
