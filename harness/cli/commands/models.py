"""`tunebench models`: the base models that have a name."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.cli.display import show_json, show_table
from harness.cli.options import AsJson, command, project

if TYPE_CHECKING:
    pass


@command("Look", "base models that have a name")
def models(as_json: AsJson = False) -> None:
    """List the base models that suites may name. A source (hf:org/name, file:folder) works too.

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
