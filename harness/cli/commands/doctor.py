"""`tunebench doctor`: whether this machine is fit to measure on."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.checkup import nearest
from harness.cli.display import say, show_json, show_table
from harness.cli.options import AsJson, Results, Threads, command, project, quiet_libraries, results
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data import Catalog
    from harness.records import Check, Environment

GIB = 2**30
SIGNS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@command("Keep", "what this machine has, and what is missing")
def doctor(
    instruments: Annotated[bool, typer.Option("--instruments", help="run the self-checks on a base model")] = False,
    model: Annotated[
        str | None, typer.Option(help="base model of the self-checks (default: every fetched one)")
    ] = None,
    threads: Threads = None,
    folder: Results = None,
    hub: Annotated[bool, typer.Option("--hub/--no-hub", help="ask the Hub whether it answers")] = True,
    as_json: AsJson = False,
) -> None:
    """Show what this machine has, what would spoil a run and the command that mends it, what is missing for some
    methods, and whether the self-checks pass.

    Packages are held against each other's requirements; 4-bit weights and attention kernels are tried on each device;
    disk, memory, cache, results and the Hub are looked at. A problem, or a self-check that fails, ends with exit code
    1.

    Example: tunebench doctor --instruments --model smollm2-135m
    """
    from harness.cli.checkup import findings
    from harness.data import cache_root
    from harness.environment import RESULT_PACKAGES
    from harness.execute.executors import Executor

    quiet_libraries()
    catalog = project()
    store = results(folder, catalog)
    environment, count = Executor.environment(threads, None, "")
    machine = about(environment, count, catalog, store.folder)
    found = findings(store, cache_root(), hub)
    missing = unavailable()
    checks = checked(catalog, model, environment, count) if instruments or model else []
    if as_json:
        show_json(
            {
                "machine": machine,
                "findings": [asdict(finding) for finding in found],
                "cannot_run": missing,
                "instruments": [{"model": name, **asdict(check), "passed": check.passed} for name, check in checks],
            }
        )
    else:
        show_table("machine", ["what", "value"], [[key, value] for key, value in machine.items()])
        rows = [[finding.name, SIGNS[finding.state], finding.said, finding.mend] for finding in found]
        show_table("findings", ["what", "", "found", "to mend it"], rows)
        versions = [[name, environment.packages.get(name, "missing")] for name in RESULT_PACKAGES]
        show_table("packages that results depend on", ["package", "version"], versions)
        if missing:
            show_table("cannot run here", ["method", "reason"], [[name, reason] for name, reason in missing.items()])
        if checks:
            show_table(
                "instruments",
                ["model", "check", "", "measured", "at most", "unit", "what was compared"],
                [[name, check.name, "passed" if check.passed else "FAILED", f"{check.measured:.3g}",
                  f"{check.limit:.3g}", check.unit, check.about] for name, check in checks],
                right=frozenset({"measured", "at most"}),
            )  # fmt: skip
    broken = any(finding.state == "problem" for finding in found)
    sys.exit(0 if not broken and all(check.passed for _, check in checks) else 1)


def about(environment: Environment, threads: int, catalog: Catalog, folder: Path) -> dict[str, str | int]:
    """Describes the machine in words: what -> its value. `threads` is what a cell gets, `folder` the results folder."""
    import psutil

    from harness.data import cache_root

    memory = psutil.virtual_memory()
    places = {"cache": cache_root(), "results": folder}
    room = {
        name: f"{path} ({shutil.disk_usage(nearest(path)).free / GIB:.0f} GiB free)" for name, path in places.items()
    }
    return {
        "environment": environment.env_digest[:16],
        "python": environment.python,
        "system": environment.os,
        "processor": environment.cpu,
        "threads a cell": threads,
        "accelerators": environment.accelerator or "none",
        "driver": environment.driver or "none",
        "memory": f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB",
        **room,
        "models": ", ".join(name for name in catalog.models if catalog.model_facts(name)) or "none fetched",
        "tunebench": f"{environment.commit[:12] or 'no checkout'}{', with changes' if environment.dirty else ''}",
    }


def unavailable() -> dict[str, str]:
    """Returns the name of each method, objective or curriculum that cannot run on this machine -> the reason why."""
    from harness.curricula import all_curricula
    from harness.methods import all_methods
    from harness.objectives import all_objectives

    found: dict[str, str] = {}
    for name, kind in {**all_methods(), **all_objectives(), **all_curricula()}.items():
        reason = kind().skip()
        if reason:
            found[name] = reason
    return found


def checked(catalog: Catalog, model: str | None, environment: Environment, threads: int) -> list[tuple[str, Check]]:
    """Runs the self-checks on a base model, or where `model` is None on every fetched one that is a causal language
    model: returns (model, check) for each. `threads` is what a check may use. Raises UserError where no such model is
    fetched."""
    from harness.execute import check_anew
    from harness.records import TrainSettings

    names = [model] if model else [name for name, entry in catalog.models.items() if entry.kind == "causal"]
    known = {name: facts for name in names if (facts := catalog.model_facts(name))}
    if not known:
        which = f"{model} is not" if model else "no model is"
        raise UserError(f"{which} fetched yet. `tunebench fetch SUITE` fetches those of a suite.")
    rows = []
    settings = TrainSettings.model_validate({"steps": 1})
    for name, facts in known.items():
        say(f"checking the instruments on {name}", file=sys.stderr)
        rows += [(name, check) for check in check_anew(facts, settings, environment, threads)]
    return rows
