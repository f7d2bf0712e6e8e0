"""Shows predicted beside measured memory, as far as phases tell its parts apart."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.columns import name
from harness.report.elements import Folded, Text, TextTable
from harness.report.format import size
from harness.report.measurements import ADDED, PEAK, THROUGHOUT
from harness.report.sections.base import WRITTEN, Section, Subject
from harness.report.table import Block, Row

PARTS = ("comparing", *THROUGHOUT, *(part for parts in ADDED.values() for part in parts))
TITLE = "Memory: predicted / measured (ratio)"
NOTE = (
    "Memory is what torch allocates on a GPU, else resident memory; the largest over seeds. A prediction holds weights "
    "and process, and for load the checkpoint as it is read, for train gradients, optimizer state and activations, for "
    "evaluate a batch that is scored. Each part is a fact, predicted_…_bytes (tunebench show)."
)


class Memory(Section):
    """Predicted and measured memory of each phase, and their ratio."""

    name = "memory"
    order = 190
    per_block = True
    forms = WRITTEN
    facts = frozenset(["predicted_bytes", *(f"predicted_{part}_bytes" for part in PARTS)])

    def elements(self, subject: Subject) -> Iterator[Folded]:
        block = subject.block
        if headers := columns(block):
            table = TextTable(TITLE, headers, lines(block), file=("memory", block.model, block.task))
            yield Folded(TITLE, (table, Text(NOTE, "footnote")))


def columns(block: Block) -> list[str]:
    """Returns the headers of a block's table: one for each phase with a prediction; empty where nothing was
    predicted."""
    found = [phase for phase in (*ADDED, PEAK) if any(phase in row.memory for row in block.rows)]
    return ["method", "examples", *found] if found else []


def lines(block: Block) -> list[list[str]]:
    """Returns the texts of the table's rows: one for each row of the block with a prediction."""
    return [
        [name(block, row), str(row.n_train or ""), *(text(row, phase) for phase in columns(block)[2:])]
        for row in block.rows
        if row.memory
    ]


def text(row: Row, phase: str) -> str:
    """Returns a row's predicted and measured memory of a phase with their ratio, as text; "" where one of them is not
    known."""
    if phase not in row.memory:
        return ""
    predicted, measured = row.memory[phase]
    return f"{size(predicted)} / {size(measured)} ({predicted / measured:.2f})" if measured else ""
