"""The base of every section: a class that says what it contributes, and to which forms of the report.

A section yields its elements once, for all forms. Where a form needs something else (the page a control, the terminal
fewer columns), the section overrides that form's hook.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.report.elements import Element, Footnote
from harness.report.format import slug
from harness.report.table import Block, Report

Form = Literal["page", "markdown", "terminal", "files"]
EVERYWHERE: frozenset[Form] = frozenset({"page", "markdown", "terminal", "files"})
WRITTEN: frozenset[Form] = frozenset({"page", "markdown", "files"})
BLOCKS = 100  # sections of a whole report with a lower order stand above those of its blocks


@dataclass(frozen=True)
class Subject:
    """What a section is about: a report, or one block of it."""

    report: Report
    its_block: Block | None = None

    @property
    def block(self) -> Block:
        """The block. Raises ValueError in a section of the whole report."""
        if self.its_block is None:
            raise ValueError("this section is about the whole report: set `per_block`")
        return self.its_block

    @property
    def names(self) -> tuple[str, ...]:
        """(task, model) of the block; nothing for a whole report."""
        return (self.its_block.task, self.its_block.model) if self.its_block else ()

    @property
    def anchor(self) -> str:
        """The block's place in the page: "block-0-bbc-topic"."""
        return "-".join(["block", str(self.report.blocks.index(self.block)), slug(self.block.task)])


class Section:
    """A part of the report. A subclass with a `name` in a file of this folder is shown; nothing else names it."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""  # its heading; none where its tables have titles of their own
    link: ClassVar[str] = ""  # what the page's navigation calls it; by default its title
    order: ClassVar[int] = 500
    terminal_order: ClassVar[int | None] = None  # where a terminal shows it at another place
    per_block: ClassVar[bool] = False  # once for each model and task, not once for the report
    forms: ClassVar[frozenset[Form]] = EVERYWHERE
    facts: ClassVar[frozenset[str]] = frozenset()  # the facts that it shows: the section of all others leaves them out

    def elements(self, subject: Subject) -> Iterable[Element]:
        """Texts, tables and plots, in reading order; nothing where the report has none of this."""
        return ()

    def on_page(self, subject: Subject) -> Iterable[Element]:
        return self.elements(subject)

    def in_markdown(self, subject: Subject) -> Iterable[Element]:
        return self.elements(subject)

    def on_terminal(self, subject: Subject) -> Iterable[Element]:
        return self.elements(subject)

    def in_files(self, subject: Subject) -> Iterable[Element]:
        """Elements whose tables and plots are written as files beside the page."""
        return self.elements(subject)

    def footnotes(self, report: Report) -> Iterable[Footnote]:
        """What marks and columns of this section mean, where they occur in the report."""
        return ()

    def elements_in(self, form: Form, subject: Subject) -> tuple[Element, ...]:
        """The elements of one form; nothing where the section is not part of it."""
        if form not in self.forms:
            return ()
        hooks = {
            "page": self.on_page,
            "markdown": self.in_markdown,
            "terminal": self.on_terminal,
            "files": self.in_files,
        }
        return tuple(hooks[form](subject))
