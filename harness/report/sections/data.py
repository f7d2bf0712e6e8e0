"""Shows what became of the rows of each task's data: how many were read, which were left out and why, and which classes
each split has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.data import classes_text
from harness.records import RowCounts
from harness.report.elements import Element, Text, TextTable
from harness.report.sections.base import WRITTEN, Section, Subject

SPLITS = {"train": "train", "validation": "validation", "test": "scored"}
NOTE = (
    "Train is what can be learned, of which cells of a smaller size learn a part. Settings are chosen on validation; "
    "every score is that of the scored split."
)


class Data(Section):
    """The rows of each task that were read, dropped by reason, and kept in each split by class. Empty for runs of an
    earlier tunebench, which told them at `fetch` and `check` alone."""

    name = "data"
    title = "Data"
    order = 305
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Element]:
        counted = {task: counts for task, counts in subject.report.task_rows.items() if counts["kept"]}
        if not counted:
            return
        yield TextTable(
            "Rows of the data",
            ["task", "rows read", "dropped", *SPLITS.values()],
            [line(task, counts) for task, counts in counted.items()],
            file=("data", "rows"),
            numbers=(
                ["task", "what", "of", "rows"],
                [row for task, found in counted.items() for row in long(task, found)],
            ),
        )
        yield Text(NOTE, "footnote")


def line(task: str, counts: RowCounts) -> list[str]:
    """Returns a task's row of the table."""
    read = f"{sum(counts['read'].values()):,}" if counts["read"] else ""
    if len(counts["read"]) > 1:
        read += f" ({listed(counts['read'])})"
    dropped = f"{sum(counts['dropped'].values()):,}" + (f" ({listed(counts['dropped'])})" if counts["dropped"] else "")
    kept = [
        f"{sum(sizes.values()):,}{classes_text(sizes)}" if (sizes := counts["kept"].get(split)) else ""
        for split in SPLITS
    ]
    return [task, read, dropped if counts["read"] else "", *kept]


def long(task: str, counts: RowCounts) -> Iterator[tuple[str, str, str, int]]:
    """Yields (task, read, dropped or the split, of which file, for which reason or of which class, rows)."""
    for split, number in counts["read"].items():
        yield task, "read", split, number
    for reason, number in counts["dropped"].items():
        yield task, "dropped", reason, number
    for split, sizes in counts["kept"].items():
        for name, number in sizes.items():
            yield task, SPLITS.get(split, split), name, number


def listed(numbers: Mapping[str, int]) -> str:
    """Returns named numbers as text: "train 10, test 5"."""
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())
