"""What may be named and whether it is right: `check`, `fetch`, `methods`, `tasks`, `models`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.shared import AsJson, SuiteName, app, get_facts, project, read_suite
from harness.screen import show_json, show_table


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
