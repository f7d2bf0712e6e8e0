"""Defines the base of every section: a class that says what it contributes, and to which forms of the report.

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
    """The subject of a section: a whole report, or one block of it."""

    report: Report
    its_block: Block | None = None

    @property
    def block(self) -> Block:
        """The block that the section is about. Raises ValueError in a section of the whole report."""
        if self.its_block is None:
            raise ValueError("this section is about the whole report: set `per_block`")
        return self.its_block

    @property
    def names(self) -> tuple[str, ...]:
        """(task, model) of the block; () for a whole report."""
        return (self.its_block.task, self.its_block.model) if self.its_block else ()

    @property
    def anchor(self) -> str:
        """The name of the block's place in the page, such as "block-0-bbc-topic"."""
        return "-".join(["block", str(self.report.blocks.index(self.block)), slug(self.block.task)])


class Section:
    """A part of the report. A subclass with a `name`, in a file of this folder, is found and shown; it is listed
    nowhere else."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""  # its heading; none where its tables have titles of their own
    link: ClassVar[str] = ""  # what the page's navigation calls it; by default its title
    order: ClassVar[int] = 500
    terminal_order: ClassVar[int | None] = None  # its order on a terminal, where that is another
    per_block: ClassVar[bool] = False  # once for each model and task, not once for the report
    forms: ClassVar[frozenset[Form]] = EVERYWHERE
    facts: ClassVar[frozenset[str]] = frozenset()  # facts shown here, which the section `facts` leaves out

    def elements(self, subject: Subject) -> Iterable[Element]:
        """Returns texts, tables and plots in reading order; empty where the report has nothing for this section."""
        return ()

    def on_page(self, subject: Subject) -> Iterable[Element]:
        """Returns the elements that the page shows: those of `elements`, unless a section overrides this."""
        return self.elements(subject)

    def in_markdown(self, subject: Subject) -> Iterable[Element]:
        """Returns the elements that `report.md` shows: those of `elements`, unless a section overrides this."""
        return self.elements(subject)

    def on_terminal(self, subject: Subject) -> Iterable[Element]:
        """Returns the elements that a terminal shows: those of `elements`, unless a section overrides this."""
        return self.elements(subject)

    def in_files(self, subject: Subject) -> Iterable[Element]:
        """Returns the elements whose tables and plots are written as files beside the page: those of `elements`, unless
        a section overrides this."""
        return self.elements(subject)

    def footnotes(self, report: Report) -> Iterable[Footnote]:
        """Returns footnotes on those marks and columns of this section that occur in the report."""
        return ()

    def elements_in(self, form: Form, subject: Subject) -> tuple[Element, ...]:
        """Returns the elements for one form of the report; empty where the section is not part of that form."""
        if form not in self.forms:
            return ()
        hooks = {
            "page": self.on_page,
            "markdown": self.in_markdown,
            "terminal": self.on_terminal,
            "files": self.in_files,
        }
        return tuple(hooks[form](subject))
