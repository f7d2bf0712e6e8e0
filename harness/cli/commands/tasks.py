"""`tunebench tasks`: what may be learned or retained."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.display import show_json, show_table
from harness.cli.options import AsJson, command, project

if TYPE_CHECKING:
    pass


def short_path(path: str, root: Path) -> str:
    """Returns a task's file relative to the project folder `root`; for one outside it, with whom it comes: "tunebench"
    or "lm-eval"."""
    from harness.data import places

    if Path(path).is_relative_to(root / "suites"):
        return os.path.relpath(path, root)
    with_us = any(Path(path).is_relative_to(place / "suites") for place in places(root))
    return "tunebench" if with_us else "lm-eval"


def tested(row: dict[str, Any]) -> str:
    """Returns the number of test items of a task as text, with the number of clusters where they come in some; ""
    before the task is fetched. `row` holds the task's facts by name."""
    number = row.get("n_test", "")
    return f"{number} in {row['clusters']} clusters" if row.get("clusters") else str(number)


@command("Look", "tasks that suites may learn or retain")
def tasks(
    everything: Annotated[bool, typer.Option("--all", help="list lm-eval's own tasks too")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tasks that suites may learn or retain.

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
             tested(r), short_path(r["path"], catalog.root)]
            for r in rows
        ],
        right=frozenset({"train", "validation", "test"}),
    )  # fmt: skip
    if not everything:
        print(f"and {len(lm_eval_tasks())} of lm-eval's own (tunebench tasks --all)")
