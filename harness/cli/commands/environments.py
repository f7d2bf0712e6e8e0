"""`tunebench environments`: in which environments there are results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cli.display import say, show_json, show_table
from harness.cli.options import AsJson, Results, command, project, results
from harness.cli.verdict_text import listed

if TYPE_CHECKING:
    from harness.analysis import EnvironmentChanges
    from harness.store import EnvironmentRecord

DIGITS = 12  # of a digest: what `compare` takes


@command("Look", "environments that have results, to be compared")
def environments(folder: Results = None, as_json: AsJson = False) -> None:
    """List the environments in which results were made: when, how many attempts, and what differs from the current
    installation in what results depend on. Two of their digests are what `tunebench compare` takes.

    Example: tunebench environments
    """
    from harness.analysis import environment_changes
    from harness.store import counted_environments

    with results(folder, project()).open(read_only=True) as connection:
        found = counted_environments(connection)
    described = []
    for record, attempts, done in found:
        changes = environment_changes(record, current(record))
        row = {
            "digest": record["env_digest"],
            "created": record["created"].isoformat(),
            "attempts": attempts,
            "done": done,
            "current": record["env_digest"] == current(record)["env_digest"],
            "differs": {name: list(changes.packages[name]) for name in changes.decisive},
            "other_packages": len(changes.packages) - len(changes.decisive),
            "about": {name: list(pair) for name, pair in changes.about.items()},
        }
        described.append((row, changes))
    if as_json:
        show_json([row for row, _ in described])
        return
    rows = [
        [str(row["digest"])[:DIGITS], str(row["created"])[:10], row["attempts"], row["done"], difference(row, changes)]
        for row, changes in described
    ]
    columns = ["environment", "since", "attempts", "done", "differs from the current: there → here"]
    show_table("", columns, rows, frozenset({"attempts", "done"}))
    if len(rows) > 1:
        say(f"next: `tunebench compare {rows[0][0]} {rows[1][0]}` says whether results differ between two of them")


def current(record: EnvironmentRecord) -> EnvironmentRecord:
    """Returns the environment of this installation and machine with the threads of `record`, in the same form."""
    from dataclasses import asdict
    from typing import cast

    from harness.environment import cores, environment

    return cast("EnvironmentRecord", asdict(environment(record.get("threads") or cores())))


def difference(row: dict[str, object], changes: EnvironmentChanges) -> str:
    """Says what differs between an environment and the current one: packages on which results depend, hardware and the
    like, and the number of other packages. "nothing: it is the current one" where results count as the same."""
    if row["current"]:
        return "nothing: it is the current one"
    pairs = {name: changes.packages[name] for name in changes.decisive} | {**changes.about}
    texts = [f"{name} {old or 'none'} → {new or 'none'}" for name, (old, new) in pairs.items()]
    if others := len(changes.packages) - len(changes.decisive):
        texts.append(f"and {others} packages on which no result depends")
    return listed(texts, "; ") or "something that an earlier tunebench did not record"
