"""`tunebench cache`: what is stored, and what it would cost to make again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from harness.cli.display import clock_text, say, show_json, show_table
from harness.cli.options import AsJson, Results, command, project, results, suite_name, warn
from harness.errors import UserError

MIB = 2**20


@command("Keep", "what takes disk space, and pruning it")
def cache(
    prune: Annotated[
        list[str] | None,
        typer.Option("--prune", metavar="PART", help="what to remove: weights, environments, …; repeatable"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="remove it; without this, only say what would go")] = False,
    suite: Annotated[str, typer.Option(help="of results, only what this suite's runs hold")] = "",
    older: Annotated[int, typer.Option(min=0, help="only what is this many days old or older")] = 0,
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """List what the cache and the results take on disk, what each part is good for, and what it costs to make again;
    with --prune, say what would be removed, and with --yes remove it.

    Of results only weights are removed: scores, items and logs stay, and no report changes.

    Example: tunebench cache --prune "superseded weights" --prune environments --older 30
    """
    from harness.cli.storage import DAY, choose, in_cache, in_results, remove
    from harness.data import cache_root
    from harness.store import sole_writer

    store = results(folder, project())
    parts = [*in_results(store, suite_name(suite), older * DAY), *in_cache(cache_root(), older * DAY)]
    chosen = choose(parts, prune or ())
    freed = None
    if yes and not prune:
        raise UserError("--yes removes what --prune names, and it names nothing.")
    if yes:
        with sole_writer(store.folder):
            freed = remove(chosen, lambda line: warn([line]))
    if as_json:
        listed = [
            {"name": part.name, "place": str(part.place), "bytes": part.bytes, "what": part.what, "again": part.again,
             "seconds": part.seconds, "chosen": part in chosen}
            for part in parts
        ]  # fmt: skip
        show_json({"parts": listed, "freed": freed})
        return
    if freed is not None:
        say(f"removed: {freed / MIB:,.0f} MiB")
        return
    shown = chosen if prune else parts
    rows = [
        [part.name, f"{part.bytes / MIB:,.1f}", day(part.newest), part.what,
         part.again + (f", {clock_text(part.seconds)}" if part.seconds else "")]
        for part in shown
    ]  # fmt: skip
    title = "would be removed" if prune else f"{cache_root()} and {store.folder}"
    show_table(title, ["part", "MiB", "newest", "what it is", "to make it again"], rows, frozenset({"MiB"}))
    say(
        "nothing was removed: the same command with --yes does it"
        if prune
        else '`--prune PART` says what would go; weights come first: `tunebench cache --prune "superseded weights"`'
    )


def day(moment: float) -> str:
    """Returns a moment (seconds since 1970) as a day; "" for none."""
    return datetime.fromtimestamp(moment, UTC).date().isoformat() if moment else ""
