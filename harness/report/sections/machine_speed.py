"""Shows whether the machine computed at a steady speed while the cells ran, where it did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.analysis import CellSpeed, apart_text, cell_speeds, cells_off, drifts, usual_speeds
from harness.records import SPEED_AFTER, SPEED_BEFORE, quantity
from harness.report.chart_style import COLOURS, SOFT, spec
from harness.report.elements import Element, Folded, Plot, Text, TextTable
from harness.report.sections.base import WRITTEN, Section, Subject

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 660, 220
MOST = 12  # up to this many cells are listed unfolded
NOTE = (
    "Speed is that of a fixed fp32 matrix product before and after each cell, with the cell's threads or on its GPU. "
    "Times are not corrected by it. Cells that shared their device are left out."
)


class MachineSpeed(Section):
    """The drift of the machine's speed over the run, and the cells in which it was off. Empty where it was steady; on a
    terminal the answer says it."""

    name = "machine"
    title = "Speed of the machine"
    link = "Machine"
    order = 325
    forms = WRITTEN
    facts = frozenset([SPEED_BEFORE, SPEED_AFTER])

    def elements(self, subject: Subject) -> Iterator[Element]:
        report = subject.report
        if not report.machine:
            return
        yield from (Text(sentence, "warning") for sentence in report.machine)
        cells = cell_speeds(report.cells)
        if by_device := [
            [
                drift.device,
                str(drift.cells),
                apart_text(drift.change.value),
                f"{quantity(drift.change.low, 'share')} to {quantity(drift.change.high, 'share')}",
                f"{drift.spread:.2f}",
            ]
            for drift in drifts(cells)
        ]:
            headers = ["device", "cells", "first to last", "95% interval", "fastest / slowest"]
            yield TextTable("Drift of the machine's speed", headers, by_device)
        if off := off_lines(cells):
            table = TextTable("Cells at another speed", ["cell", "before", "after", "against the median"], off)
            yield Folded("Cells at another speed", (table,), open=len(off) <= MOST)
        yield Plot("Speed of the machine by cell", {"": spec(chart(cells))}, NOTE)


def off_lines(cells: Sequence[CellSpeed]) -> list[list[str]]:
    """Returns the texts (key, speed before, speed after, how far off) of each cell in which the machine's speed was
    off, the farthest first."""
    return [
        [
            cell.key,
            *(quantity(cell.speeds.get(name), "FLOP/s") for name in (SPEED_BEFORE, SPEED_AFTER)),
            apart_text(off),
        ]
        for cell, off in cells_off(cells)
    ]


def chart(cells: Sequence[CellSpeed]) -> alt.LayerChart:
    """Draws the machine's speed before and after each cell, in per cent of the median of the run, in the order in which
    the cells started. Cells that shared their device are left out."""
    import altair as alt

    usual = usual_speeds(cells)
    words = {SPEED_BEFORE: "before", SPEED_AFTER: "after"}
    points = [
        {"place": place, "speed": 100 * cell.speeds[name] / usual[name], "when": word, "cell": cell.key}
        for place, cell in enumerate((cell for cell in cells if not cell.contended), start=1)
        for name, word in words.items()
        if name in cell.speeds
    ]
    level = alt.Chart(alt.Data(values=[{"speed": 100.0}])).mark_rule(color=SOFT, strokeDash=[4, 4]).encode(y="speed:Q")
    dots = (
        alt.Chart(alt.Data(values=points), width=WIDTH, height=HEIGHT)
        .mark_point(filled=True, size=45)
        .encode(
            x=alt.X("place:Q", title="cell, in the order of their start", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("speed:Q", title="speed (% of the median)", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "when:N", title=None, scale=alt.Scale(domain=[*words.values()], range=list(COLOURS)[: len(words)])
            ),
            tooltip=["cell:N", "when:N", alt.Tooltip("speed:Q", format=".1f")],
        )
    )
    return alt.layer(level, dots)
