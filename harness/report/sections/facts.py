"""Lists every other number that cells report about themselves, each with its own unit."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis import CostKind
from harness.records import bare_quantity, scales
from harness.report.columns import disturbed, name
from harness.report.elements import Folded, Text, TextTable, Value
from harness.report.sections import all_sections
from harness.report.sections.base import WRITTEN, Section, Subject
from harness.report.table import Block, Row, Unit

TITLE = "Other measurements"
NOTE = "Means over finished seeds. `tunebench show CELL` has those of one cell."


class Facts(Section):
    """The facts that no other section shows, a column each. A fact of a series ("after:stage:task") gets no column."""

    name = "facts"
    order = 195
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Folded]:
        block = subject.block
        names = names_of(block)
        rows = [row for row in block.rows if any(fact in row.facts for fact in names)]
        if not rows:
            return
        units = {fact: subject.report.units.get(fact, ("", None)) for fact in names}
        values: list[list[Value]] = [
            [row.label, row.n_train, row.condition, *(row.facts.get(fact) for fact in names)] for row in rows
        ]
        table = TextTable(
            TITLE,
            ["method", "examples", *(header(fact, units[fact][0]) for fact in names)],
            [[name(block, row), str(row.n_train or ""), *(text(row, f, units[f]) for f in names)] for row in rows],
            numbers=(["label", "n_train", "condition", *names], values),
            file=("facts", block.model, block.task),
        )
        yield Folded(TITLE, (table, Text(NOTE, "footnote")))


def names_of(block: Block) -> list[str]:
    """Returns the names of the facts of a block's rows that no section claims, in alphabetical order."""
    claimed = frozenset[str]().union(*(section.facts for section in all_sections()))
    return sorted({fact for row in block.rows for fact in row.facts if fact not in claimed and ":" not in fact})


def header(fact: str, unit: str) -> str:
    """Returns the fact's name in words, with its unit where neither the words nor the numbers show it."""
    words = fact.replace("_", " ")
    return words if not unit or scales(unit) or unit in words.split() else f"{words} ({unit})"


def text(row: Row, fact: str, unit: Unit) -> str:
    """Returns the text of a row's fact, marked where the row was disturbed and such a fact then says little; "" where
    the row has none. `unit` is (unit, whether more is better)."""
    if fact not in row.facts:
        return ""
    return bare_quantity(row.facts[fact], unit[0]) + disturbed(row) * CostKind(fact, *unit).disturbed
