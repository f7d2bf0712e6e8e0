"""The report on a terminal: the same texts, with the least important columns left out where it is narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report import answer, self_checks, tuning
from harness.report.columns import (
    SPARE,
    headers,
    matched_headers,
    matched_texts,
    matched_title,
    texts,
)
from harness.report.footnotes import footnotes
from harness.report.matched import Matched
from harness.report.table import Block, Report

GAP = 2  # blanks between columns
LEAST = 4  # columns that are always shown: the row's name, its score and gain, and the first retained task


@dataclass(frozen=True)
class Shown:
    """A rich renderable: the width is known only when it is printed."""

    report: Report

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        report = self.report
        left_out: dict[str, None] = {}
        for block in report.blocks:
            for n_train, condition in block.tables:
                shown, dropped = table(block, n_train, condition, options.max_width)
                left_out |= dict.fromkeys(dropped)
                yield shown
                yield ""
                if found := block.matched.get((n_train, condition)):
                    yield matched_table(block, found)
                    yield ""
        for title, studies in tuning.groups(report.studies).items():
            names, rows = tuning.headers(studies), tuning.lines(studies, report.blocks)
            kept = fit(names, widths(names, rows), options.max_width, tuning.SPARE)
            left_out |= dict.fromkeys(names[place] for place in range(len(names)) if place not in kept)
            lines = [[line[place] for place in kept] for line in rows]
            yield small_table(f"{tuning.TITLE}: {title}", [names[place] for place in kept], lines)
            yield ""
        for warning in tuning.warnings(report.studies):
            yield Text(warning, style="yellow")
        if left_out:
            yield Text(
                f"Left out for want of width: {', '.join(left_out)}. The written report has them.",
                style="dim",
            )
        for note in footnotes(report, left_out):
            yield Text(note, style="dim")
        bad = any(not check.passed for check in report.checks)
        yield Text(self_checks.summary(report), style="red" if bad else "dim")
        for cell in report.failures:
            yield Text(f"{cell.status}: {cell.key}" + (f"  {cell.reason}" if cell.reason else ""), style="red")
        yield ""
        if report.run.question:
            yield Text(report.run.question, style="bold")
        for line in within(answer.lines(report), len(answer.closing(report)), options.max_width):
            yield Text(line)


def within(lines: Sequence[str], last: int, width: int) -> Iterator[str]:
    """As many sentences as fill ten lines of a terminal, the `last` of them always; each wrapped between words."""
    wrapped = [textwrap.wrap(line, max(width, 20), initial_indent="• ", subsequent_indent="  ") for line in lines]
    closing = wrapped[len(wrapped) - last :]
    others = wrapped[: len(wrapped) - last]
    room = answer.LINES - sum(map(len, closing))
    more = sum(map(len, others)) > room  # one line is kept to say so
    shown: list[str] = []
    left = 0
    for parts in others:
        if shown and len(shown) + len(parts) > room - more:
            left += 1
        else:
            shown += parts
    if left:
        shown.append(f"  … and {left} more in the report.")
    yield from (*shown, *(part for parts in closing for part in parts))


def table(block: Block, n_train: int, condition: str, width: int) -> tuple[Any, list[str]]:
    """A rich table no wider than `width` where that is possible, and the columns left out for it."""
    from rich.markup import escape
    from rich.table import Table

    rows = block.at(n_train, condition)
    names = headers(block)
    cells = [texts(block, row) for row in rows]
    wide = widths(names, cells)
    kept = fit(names, wide, width)
    room = width - sum(wide[place] + GAP for place in kept) + GAP
    wide[0] = min(max(len(text) for text in (names[0], *(line[0] for line in cells))), wide[0] + max(0, room))
    title = ", ".join(filter(None, (block.task, block.model, f"{n_train} examples" if n_train else "", condition)))
    shown = Table(
        title=escape(title), title_justify="left", title_style="italic", box=None, pad_edge=False,
        padding=(0, GAP, 0, 0), collapse_padding=True, header_style="bold",
    )  # fmt: skip
    for place in kept:
        shown.add_column(escape(names[place]), justify="right" if place else "left", width=wide[place])
    for row, line in zip(rows, cells, strict=True):
        style = "dim" if not row.n_train else "" if row.seeds else "red"
        shown.add_row(*(escape(line[place]) for place in kept), style=style)
    return shown, [names[place] for place in range(len(names)) if place not in kept]


def matched_table(block: Block, found: Matched) -> Any:
    return small_table(matched_title(found), matched_headers(block), matched_texts(block, found))


def small_table(title: str, names: list[str], lines: list[list[str]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    shown = Table(
        title=escape(title), title_justify="left", title_style="italic", box=None, pad_edge=False,
        padding=(0, GAP, 0, 0), collapse_padding=True, header_style="bold",
    )  # fmt: skip
    wide = widths(names, lines)
    wide[0] = max((len(line[0]) for line in lines), default=0)
    for place, name in enumerate(names):
        shown.add_column(escape(name), justify="right" if place else "left", width=wide[place])
    for line in lines:
        shown.add_row(*map(escape, line))
    return shown


def widths(names: list[str], lines: list[list[str]]) -> list[int]:
    """How wide each column must be. Headers, and the names of rows, may wrap between words; values may not."""
    first = [word for line in lines for word in line[0].split()]
    values = [first, *([line[place] for line in lines] for place in range(1, len(names)))]
    return [max(map(len, [*name.split(), *texts])) for name, texts in zip(names, values, strict=True)]


def fit(names: list[str], wide: list[int], width: int, dispensable: Sequence[str] = SPARE) -> list[int]:
    """The places of the columns that fit, without the first of those that are `dispensable`."""
    kept = list(range(len(names)))

    def too_wide() -> bool:
        return sum(wide[place] + GAP for place in kept) - GAP > width

    for spare in dispensable:
        if not too_wide():
            break
        kept = [place for place in kept if not names[place].startswith(spare)]
    while too_wide() and len(kept) > LEAST:
        kept.pop()  # of several retained tasks the suite's first is the last to go
    return kept


def render(report: Report) -> Any:
    """A rich renderable."""
    return Shown(report)
