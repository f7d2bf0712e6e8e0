"""Lists the cells that did not finish, and the flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.report.elements import Element, Entries, Entry, Folded, Text
from harness.report.sections.base import Section, Subject

OPEN = 12  # up to this many flags are shown unfolded


class Failures(Section):
    """Cells that have no result, each with its reason."""

    name = "failures"
    title = "Not finished"
    order = 310

    def elements(self, subject: Subject) -> Iterator[Element]:
        if failures := subject.report.failures:
            yield Entries([Entry(cell.key, cell.status, cell.reason, bad=True) for cell in failures])


class Flags(Section):
    """Warnings about finished cells, with the figures behind them."""

    name = "flags"
    title = "Flags"
    order = 311
    forms = frozenset({"page", "markdown"})

    def elements(self, subject: Subject) -> Iterator[Element]:
        flags = subject.report.flags
        if not flags:
            return
        counts = Counter(name for _, name, _ in flags)
        yield Text(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items()), "note")
        entries = [Entry(key, name.replace("_", " "), evidence) for key, name, evidence in flags]
        yield Folded("Every flag with its evidence", (Entries(entries),), open=len(flags) <= OPEN)
