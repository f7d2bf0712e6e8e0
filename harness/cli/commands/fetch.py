"""`tunebench fetch`: downloads all that a suite needs, for a run without network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cli.display import say
from harness.cli.options import SuiteName, Trust, command, get_facts, project, read_suite, revision_lines
from harness.errors import counted

if TYPE_CHECKING:
    pass


@command("Run", "download what a suite needs, for a run without network")
def fetch(suite: SuiteName, trust: Trust = None) -> None:
    """Download and prepare everything that a suite needs, for a run without network.

    Of each task it says what became of every row of its data.

    Example: tunebench fetch peft-vs-full
    """
    from harness.data import cache_root
    from harness.plan import data_lines, data_notes

    catalog = project()
    loaded = read_suite(suite, catalog)
    facts = get_facts(catalog, loaded, trust or ())
    names = ", ".join([*facts.models, *facts.tasks])
    what = f"{counted(len(facts.models), 'model')} and {counted(len(facts.tasks), 'task')}"
    notes = [f"note: {note}" for note in data_notes(loaded, facts)]
    for line in [*revision_lines(facts), *data_lines(loaded, facts), *notes]:
        say(line)
    say(f"{loaded.name}: {what} are in {cache_root()}: {names}")
