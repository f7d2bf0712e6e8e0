"""`tunebench regress`: whether other versions of the libraries change anything, and which one does."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import show_json
from harness.cli.options import (
    AsJson,
    Only,
    Results,
    SuiteName,
    Threads,
    Trust,
    command,
    get_facts,
    project,
    quiet_libraries,
    read_suite,
    results,
)
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.suite import EnvironmentRequest, Suite


@command("Answer a question", "whether other library versions change anything, and which")
def regress(
    suite: SuiteName,
    environments: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="PACKAGES",
            help="an environment: peft==0.20.0, several packages joined by commas, a wheel, a folder, a commit of git, "
            "or `current`; repeatable, the first is the old one",
        ),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="stop after the probes; run no cell")] = False,
    bisect: Annotated[bool, typer.Option("--bisect", help="find the package and the release that made it")] = False,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="install every package anew, instead of sharing those that are alike")
    ] = False,
    repeats: Annotated[
        int, typer.Option(min=1, help="finished attempts at each cell in each environment; costs need three or more")
    ] = 1,
    gate: Annotated[bool, typer.Option("--gate", help="exit with 3 where anything is shown to be worse")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="with --gate, exit with 4 where anything is left open")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="write the comparison as JUnit XML to this file")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="write it as Markdown, for a pull request, to this file")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="compare with this file of --save-baseline, or results folder, as the old environment"),
    ] = None,
    save_baseline: Annotated[
        Path | None, typer.Option(help="keep what the last environment measured in this file (.json, .json.gz)")
    ] = None,
    only: Only = None,
    threads: Threads = None,
    allow_bad_instruments: Annotated[
        bool, typer.Option(help="run although a self-check failed; every result is flagged")
    ] = False,
    trust: Trust = None,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Run a suite in several environments and say what moved: scores, memory, time, or the meaning of settings.

    Example: tunebench regress quickstart --with peft==0.20.0 --with peft==0.21.2 --probe --bisect
    """
    from harness.cli.regression import Regression, exit_code, read_baseline, show
    from harness.environment import cores
    from harness.plan import make_plan, select_cells
    from harness.report import markdown_summary, write_junit
    from harness.store import write_atomically

    quiet_libraries()
    catalog = project()
    loaded = read_suite(suite, catalog)
    requests = wanted(loaded, environments or [], isolated, alone=bool(baseline or save_baseline))
    old = read_baseline(baseline, loaded) if baseline else None
    regression = Regression(loaded, requests, results(folder, catalog), threads or cores(), old)
    plan = None if probe else select_cells(make_plan(loaded, get_facts(catalog, loaded, trust or ())), only or ())
    regression.prepare()
    regression.probe()
    if bisect:
        regression.bisect_probes()
    if plan:
        regression.run_cells(plan, catalog, repeats, allow_bad_instruments)
        if bisect:
            regression.bisect_cells(plan, catalog.root)
    if save_baseline:
        regression.save_baseline(save_baseline)
    findings = regression.findings()
    findings.keep(regression.store.folder)
    if junit:
        write_junit(findings, junit)
    if markdown:
        write_atomically(markdown, markdown_summary(findings))
    if as_json:
        show_json(asdict(findings))
    else:
        show(findings)
    sys.exit(exit_code(findings, gate, strict))


def wanted(suite: Suite, texts: list[str], isolated: bool, alone: bool) -> list[EnvironmentRequest]:
    """Returns the environments that the command line names, else those of the suite. One is compared with the current
    one, but where it may stand `alone` (which is the current one then, where none is named). Raises UserError where
    there is none."""
    from harness.suite import CURRENT, parse_request

    requests = [parse_request(text, isolated) for text in texts] or list(suite.environments)
    if not requests and alone:
        return [parse_request(CURRENT, isolated)]
    if not requests:
        raise UserError(
            f"{suite.name}: name the environments to compare: --with peft==0.20.0 --with peft==0.21.2, "
            "or `environments:` in the suite. One alone is compared with the current installation."
        )
    if len(requests) == 1 and not alone:
        requests.append(parse_request(CURRENT, isolated))
    repeated = {one.name for one in requests if [other.name for other in requests].count(one.name) > 1}
    if repeated:
        raise UserError(
            f"--with {', '.join(sorted(repeated))} is given twice; an environment is compared with another."
        )
    return requests
