"""What may be named and whether it is right: `check`, `fetch`, `methods`, `tasks`, `models`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.display import show_json, show_table
from harness.cli.options import AsJson, SuiteName, app, get_facts, project, quiet_libraries, read_suite
from harness.errors import counted

if TYPE_CHECKING:
    from harness.methods import Method
    from harness.plugin import Configurable


@app.command()
def check(suite: SuiteName, as_json: AsJson = False) -> None:
    """Find every mistake in a suite, with file and line, without loading anything heavy.

    Example: tunebench check quickstart
    """
    from harness.plan import known_facts, make_plan, notes

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts, missing = known_facts(catalog, loaded)
    cells = None if missing else len(make_plan(loaded, facts).cells)
    odd = [] if missing else list(notes(loaded, facts))
    if as_json:
        show_json({"suite": loaded.name, "cells": cells, "not_fetched": missing, "notes": odd})
    elif missing:
        print(f"{loaded.path}: no mistakes found. Not fetched yet, so sizes are unchecked: {', '.join(missing)}")
    else:
        print("\n".join([f"{loaded.path}: no mistakes found, {cells} cells", *(f"note: {line}" for line in odd)]))


@app.command()
def fetch(suite: SuiteName) -> None:
    """Download and prepare everything a suite needs, for a run with the network cut off.

    Example: tunebench fetch peft-vs-full
    """
    from harness.data import cache_root

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts = get_facts(catalog, loaded)
    names = ", ".join([*facts.models, *facts.tasks])
    what = f"{counted(len(facts.models), 'model')} and {counted(len(facts.tasks), 'task')}"
    print(f"{loaded.name}: {what} are in {cache_root()}: {names}")


@app.command()
def methods(as_json: AsJson = False) -> None:
    """The ways of adapting a model, and what can be put beside one: objectives, curricula; with their settings.

    Example: tunebench methods --json
    """
    from harness.curricula import all_curricula
    from harness.methods import all_methods
    from harness.objectives import all_objectives

    quiet_libraries()
    found: dict[str, dict[str, Any]] = {
        "method": all_methods(),
        "objective": all_objectives(),
        "curriculum": all_curricula(),
    }
    rows = {kind: [describe(part) for part in parts.values()] for kind, parts in found.items()}
    if as_json:
        show_json([row for listed in rows.values() for row in listed])
        return
    for kind, listed in rows.items():
        if listed:
            columns = ["family", "paper", "folds"] if kind == "method" else ["paper"]
            show_table(plural(kind), [kind, *columns, "what it does"], [shown(row, columns) for row in listed])
    for row in rows["method"]:
        if row["variants"]:
            title = f"types of method {row['name']}, with the keys of their config (--json has the defaults)"
            types = [
                [name, about["paper"], yes(about["foldable"]), about["cannot"] or ", ".join(about["settings"])]
                for name, about in row["variants"].items()
            ]
            show_table(title, ["type", "paper", "folds", "keys, or why it cannot be used"], types)


def plural(kind: str) -> str:
    return "curricula" if kind == "curriculum" else f"{kind}s"


def describe(part: type[Configurable]) -> dict[str, Any]:
    """A method, objective or curriculum, for listings. `missing` says what it lacks on this machine, `space` what
    tuning may move."""
    from harness.methods import Method
    from harness.suite import as_range

    made = part()
    about: dict[str, Any] = {
        "kind": part.kind,
        "name": part.name,
        "about": (part.__doc__ or "").strip().splitlines()[0],
        "paper": part.paper,
        "settings": part.fields(),
        "space": {key: as_range(found) for key, found in getattr(made, "space", {}).items()},
        "packages": list(part.packages),
        "missing": made.skip() or "",
    }
    if isinstance(made, Method):
        variants = made.variants()
        about |= {"family": made.family, "foldable": bool(variants) or made.foldable, "variants": variants}
        about |= {"cannot": ", ".join(limits(made)), "starts_at_base": made.starts_at_base or "yes"}
    return about


def limits(method: Method) -> Iterator[str]:
    """What a method declares that it cannot do."""
    if not method.is_language_model:
        yield "be scored for retention"
    if method.own_trainer:
        yield "have objectives or a curriculum"
    if not method.distributes:
        yield "be trained on several devices"
    if method.trains and not method.trains_quantized:
        yield "have a quantised base"


def shown(row: dict[str, Any], columns: list[str]) -> list[str]:
    """A row's name, its columns, and a last one with all that is to be read."""
    cells = [yes(row["foldable"]) if name == "folds" else row[name] for name in columns]
    settings = ", ".join(key if value is None else f"{key}={brief(value)}" for key, value in row["settings"].items())
    cannot = f"Cannot {row['cannot']}." if row.get("cannot") else ""
    return [row["name"], *cells, "\n".join(filter(None, (row["about"], cannot, row["missing"], settings)))]


def yes(value: bool) -> str:
    return "yes" if value else "no"


def brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}…"


@app.command()
def tasks(
    everything: Annotated[bool, typer.Option("--all", help="also lm-eval's own tasks")] = False,
    as_json: AsJson = False,
) -> None:
    """The tasks that suites may learn or retain.

    Example: tunebench tasks --all
    """
    from harness.data import lm_eval_tasks

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
