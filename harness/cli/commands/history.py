"""`tunebench history`: results over versions, and the steps in them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from harness.cli.display import show_json, show_table
from harness.cli.options import AsJson, Results, SuiteName, command, project, results, suite_name


@command("Answer a question", "since which version a result moved")
def history(
    suite: SuiteName,
    by: Annotated[str, typer.Option(help="order environments by the versions of this package (default: by date)")] = "",
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Show the series of a suite's results over environments, and the steps in those of five environments or more.

    Example: tunebench history quickstart --by peft
    """
    from harness.analysis.regression import series_over_versions
    from harness.errors import UserError, counted, unknown
    from harness.report import STEP_COLUMNS, step_rows
    from harness.store import all_suites, history_points

    name = suite_name(suite)
    with results(folder, project()).open(read_only=True) as connection:
        if name not in (known := all_suites(connection)):
            raise UserError(unknown("suite with results", name, known))
        series = series_over_versions(history_points(connection, name), by)
    if as_json:
        show_json([asdict(one) for one in series])
        return
    environments = {point.env_digest for one in series for point in one.points}
    longest = max((len(one.points) for one in series), default=0)
    steps = [step for one in series for step in one.steps if not step.negligible]
    print(
        f"{counted(len(series), 'series', 'series')} over {counted(len(environments), 'environment')}, the longest of "
        f"{counted(longest, 'environment')}; {counted(len(steps), 'step')}"
    )
    if longest < 5:
        print("Steps are looked for in series of 5 environments or more. Two environments: tunebench compare A B")
    if steps:
        show_table("", STEP_COLUMNS, list(step_rows(series)), frozenset({"step", "p"}))
    reasons = dict.fromkeys(one.reason for each in series for one in each.breaks)
    for reason in reasons:
        print(f"series that break, as {reason}: {sum(any(b.reason == reason for b in s.breaks) for s in series)}")
