"""`tunebench rebuild`: makes the database again from the result files."""

from __future__ import annotations

from harness.cli.display import say
from harness.cli.options import Results, command, project, results, warn


@command("Keep", "make the database again from the result files")
def rebuild(folder: Results = None) -> None:
    """Make the database again from the result files.

    Example: tunebench rebuild
    """
    from harness.store import sole_writer

    store = results(folder, project())
    with sole_writer(store.folder):
        count, complaints = store.rebuild()
    warn(complaints)
    say(f"{store.path}: {count} attempts")
