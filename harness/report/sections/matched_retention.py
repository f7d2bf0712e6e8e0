"""Shows how much each label had forgotten when all had learned equally much."""

from __future__ import annotations

from collections.abc import Iterator

from harness.report.columns import title, unit
from harness.report.elements import Footnote, TextTable
from harness.report.format import NA, digits_of, number
from harness.report.matched_retention import MatchedChange, MatchedRetention
from harness.report.sections.base import Section, Subject
from harness.report.table import Block, Report

NOTE = (
    "At matched task score: the target is the lowest final score among labels with checkpoints that are better than "
    "the base model. Steps and changes are read off where a label's mean curve first reaches it, linear between its "
    "points; in parentheses the standard deviation between seeds. The curves are scored on test items, and nothing is "
    "chosen by them."
)


class MatchedScore(Section):
    """The change on each retained task, read off at one task score."""

    name = "matched-retention"
    order = 180
    per_block = True

    def elements(self, subject: Subject) -> Iterator[TextTable]:
        block = subject.block
        for (n_train, condition), matched in block.matched.items():
            yield TextTable(
                f"{title_of(matched)}, {title(n_train, condition)}",
                headers(block),
                lines(block, matched),
                file=("matched-retention", block.model, block.task, f"n{n_train}", condition),
            )

    def footnotes(self, report: Report) -> Iterator[Footnote]:
        if any(block.matched for block in report.blocks):
            yield Footnote(NOTE)


def title_of(matched: MatchedRetention) -> str:
    """Returns the title of a table, with the score at which the labels are compared."""
    return f"Retention at matched task score ({matched.metric} {number(matched.target, digits_of(matched.metric))})"


def headers(block: Block) -> list[str]:
    """Returns the headers of a block's table: the label, its seeds, its step, and each retained task."""
    return ["method", "seeds", "step", *(f"Δ {task}" + unit(block, task) for task in block.retain)]


def lines(block: Block, matched: MatchedRetention) -> list[list[str]]:
    """Returns a line of texts for each label with a curve, in the order of `headers`; a label that never reached the
    target shows its best score instead."""
    texts = []
    for one in matched.matches:
        if one.step is None:
            best = number(one.best, digits_of(matched.metric))
            cells = [f"not reached: {best} at best", *[""] * len(block.retain)]
        else:
            cells = [f"{one.step:.0f}", *(interpolated(block, task, one.changes.get(task)) for task in block.retain)]
        texts.append([one.label, str(one.seeds), *cells])
    return texts


def interpolated(block: Block, task: str, change: MatchedChange | None) -> str:
    """Formats the change on a retained task, its mean and its standard deviation between seeds, such as "−0.105
    (0.012)"; "n/a" without a change."""
    if change is None:
        return NA
    metric = next((estimate.metric for row in block.rows if (estimate := row.retained.get(task))), "")
    digits = digits_of(metric)
    deviation = f" ({change.deviation:.{digits}f})" if change.deviation is not None else ""
    return number(change.mean, digits, signed=True) + deviation
