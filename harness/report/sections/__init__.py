"""Collects the report's sections, one file each, by walking this folder.

In: a report. Out: its parts in reading order, for the page, Markdown, a terminal and files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from harness.plugin import find_classes
from harness.report.elements import Element
from harness.report.sections.base import BLOCKS, EVERYWHERE, WRITTEN, Form, Section, Subject
from harness.report.table import Report

__all__ = ["EVERYWHERE", "WRITTEN", "Form", "Part", "Section", "Subject", "all_sections", "parts_of"]


@dataclass(frozen=True)
class Part:
    """The elements that one section contributes about its subject, in one form of the report."""

    section: Section
    subject: Subject
    elements: tuple[Element, ...]


@cache
def all_sections() -> tuple[Section, ...]:
    """Returns every section of this folder, by its `order`."""
    kinds = find_classes(__name__, __path__, Section).values()
    return tuple(sorted((kind() for kind in kinds), key=lambda section: (section.order, section.name)))


def parts_of(report: Report, form: Form) -> Iterator[Part]:
    """Yields the parts that are not empty: of the whole report, then block by block, then of the whole report again."""

    def order(section: Section) -> int:
        elsewhere = section.terminal_order if form == "terminal" else None
        return section.order if elsewhere is None else elsewhere

    sections = sorted(all_sections(), key=order)
    whole = [section for section in sections if not section.per_block]
    subjects = [(section, Subject(report)) for section in whole if order(section) < BLOCKS]
    subjects += [(s, Subject(report, block)) for block in report.blocks for s in sections if s.per_block]
    subjects += [(section, Subject(report)) for section in whole if order(section) >= BLOCKS]
    for section, subject in subjects:
        if elements := section.elements_in(form, subject):
            yield Part(section, subject, elements)
