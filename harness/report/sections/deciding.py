"""Shows how a suite was decided: the chance of each label to be the best, against the time that it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.errors import counted
from harness.records import LookRecord
from harness.report.chart_style import colours, legend, spec
from harness.report.elements import Element, Plot, Text, TextTable
from harness.report.format import NA
from harness.report.sections.base import WRITTEN, Section, Subject

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 620, 240
ENDS = {
    "settled": "It was settled",
    "out of reach": "All cells together would hardly have settled it",
    "exhausted": "Every cell that could say more was run",
    "out of time": "The time was used up",
    "open": "It was stopped",
}
CAPTION = (
    "Each point is a look, after a cell has ended. Chances say what was known then: they allow for items, seeds, and "
    "trainings that fail under seeds that were not run."
)
HEADERS = ["after", "seconds", "leads", "confidence", "seeds", "then ran"]


class Deciding(Section):
    """How `tunebench decide` came to its answer: each look, and why it ended. Empty for a suite that it did not
    decide."""

    name = "deciding"
    title = "How it was decided"
    link = "Decided"
    order = 165
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Element]:
        block = subject.block
        looks = [look for look in subject.report.looks if (look["model"], look["task"]) == (block.model, block.task)]
        if not looks:
            return
        yield Text(summary(looks[-1]), "note")
        points = [look for look in looks if look["chances"]]
        if points:
            labels = list(looks[-1]["seeds"])
            yield Plot(
                "Chance of being the best against time",
                {"": spec(chart(points, labels, [row.label for row in block.rows]))},
                CAPTION,
                file=("deciding", block.model, block.task),
            )
        yield TextTable(
            "Looks", HEADERS, [texts(look) for look in looks], numbers=numbers(looks),
            file=("looks", block.model, block.task),
        )  # fmt: skip


def summary(last: LookRecord) -> str:
    """Says in sentences why no further cell was run, and what was left out."""
    confidence = f", {last['confidence']:.0%} sure" if last["confidence"] is not None else ""
    leads = f"{last['answer'] or 'nothing'} led{confidence} ({last['sure']:.0%} was asked for)"
    sentences = [
        f"{ENDS.get(last['state'], last['state'])} after {counted(last['cells'], 'cell')} and {last['seconds']:.0f} s: "
        f"{leads}."
    ]
    sentences += [f"{label} was ruled out: {why}." for label, why in sorted(last["ruled_out"].items())]
    sentences += [
        f"{label} was left out after {counted(last['seeds'].get(label, 0), 'seed')}: {better} was shown to be better."
        for label, better in sorted(last["out"].items())
    ]
    return " ".join(sentences)


def texts(look: LookRecord) -> list[str]:
    """Returns the texts of a look, in the order of `HEADERS`."""
    return [
        counted(look["cells"], "cell"),
        f"{look['seconds']:.0f}",
        look["answer"] or NA,
        NA if look["confidence"] is None else f"{look['confidence']:.0%}",
        ", ".join(f"{label} {count}" for label, count in look["seeds"].items() if count) or "none",
        look["next"] or f"nothing: {look['state']}",
    ]


def numbers(looks: Sequence[LookRecord]) -> tuple[list[str], list[list[str | float | int | None]]]:
    """Returns the headers and rows of the looks' CSV file: a row for each look and label."""
    headers = ["cells", "seconds", "state", "label", "seeds", "chance_best", "leads", "confidence", "reach", "next"]
    rows: list[list[str | float | int | None]] = [
        [
            look["cells"], look["seconds"], look["state"], label, count, look["chances"].get(label),
            int(label == look["answer"]), look["confidence"], look["reach"], look["next"],
        ]
        for look in looks for label, count in look["seeds"].items()
    ]  # fmt: skip
    return headers, rows


def chart(looks: Sequence[LookRecord], labels: list[str], order: list[str]) -> alt.Chart:
    """Draws the chance of each of `labels` to be the best, in per cent, against the seconds since the run began.
    `order` are all labels of the block, which settles their colours."""
    import altair as alt

    points = [
        {"seconds": look["seconds"], "label": label, "chance": 100 * chance, "cells": look["cells"]}
        for look in looks
        for label, chance in look["chances"].items()
        if label in labels
    ]
    palette = colours(list(dict.fromkeys([*order, *labels])), labels)
    return (
        alt.Chart(alt.Data(values=points), width=WIDTH, height=HEIGHT)
        .mark_line(point=True, interpolate="step-after")
        .encode(
            x=alt.X("seconds:Q", title="seconds since the start"),
            y=alt.Y("chance:Q", title="chance of being the best (%)", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color(
                "label:N", title=None, scale=alt.Scale(domain=labels, range=palette), legend=legend(labels)
            ),
            tooltip=[
                "label:N",
                alt.Tooltip("chance:Q", format=".0f"),
                alt.Tooltip("seconds:Q", format=".0f"),
                "cells:Q",
            ],
        )
    )
