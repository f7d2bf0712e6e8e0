"""Explains the marks and columns that occur in the report."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.elements import Element, Footnote, LeftOut
from harness.report.sections import all_sections
from harness.report.sections.base import Section, Subject
from harness.report.table import Report


class Footnotes(Section):
    """The footnotes of every section, in one place."""

    name = "notes"
    title = "Notes"
    order = 300

    def elements(self, subject: Subject) -> Iterator[Element]:
        yield from footnotes(subject.report)

    def on_terminal(self, subject: Subject) -> Iterator[Element]:
        """Yields which columns were left out for lack of width, then the footnotes."""
        yield LeftOut()
        yield from self.elements(subject)

    def in_files(self, subject: Subject) -> tuple[()]:
        """Returns nothing: footnotes have no files."""
        return ()


def footnotes(report: Report) -> Iterator[Footnote]:
    """Yields the footnotes of every section, each text once."""
    texts: set[str] = set()
    for section in all_sections():
        for note in section.footnotes(report):
            if note.text not in texts:
                texts.add(note.text)
                yield note
