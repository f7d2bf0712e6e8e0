"""Plots the cross-entropy of the training answers by step, one small plot for each data size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.report.chart_style import colours, legend, spec
from harness.report.elements import Plot
from harness.report.sections.base import WRITTEN, Section, Subject
from harness.report.table import Block

if TYPE_CHECKING:
    import altair as alt


class Losses(Section):
    """The fall of the cross-entropy of the training answers, label by label."""

    name = "losses"
    order = 170
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Plot]:
        chart = losses(subject.block) if subject.block.compares else None
        if chart is not None:
            yield Plot("Training loss", {"": spec(chart)}, caption(subject.block))


def caption(block: Block) -> str:
    """Explains the curves of the training loss in words, and names the labels that have none."""
    said = (
        "Cross-entropy of the training answers, without penalties and other terms of a loss. "
        "Mean over finished seeds, running mean of five steps."
    )
    without = ", ".join(block.curveless)
    return f"{said} Not shown, as their loss is not made of answer tokens: {without}." if without else said


def losses(block: Block) -> alt.FacetChart | None:
    """Draws the cross-entropy of the training answers by step, one small plot for each data size and quality of data.
    None when nothing was trained on answers."""
    rows = [
        {"label": label, "size": facet_title(n_train, condition), "step": step, "loss": loss}
        for (label, n_train, condition), curve in block.curves.items()
        for step, loss in smooth(curve)
        if any(row.label == label and row.score and row.tokens_per_second for row in block.rows)
    ]
    if not rows:
        return None
    import altair as alt

    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    every = list(dict.fromkeys(row.label for row in block.rows))
    scale = alt.Scale(domain=labels, range=colours(every, labels))
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.6)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, tickCount=6)),
            y=alt.Y(
                "loss:Q",
                title="training loss, nats per answer token",
                scale=alt.Scale(type="symlog", constant=0.1, domainMin=0),
            ),
            color=alt.Color("label:N", title=None, scale=scale, legend=legend(labels)),
        )
        .properties(width=300, height=220)
        .facet(
            facet=alt.Facet("size:N", title=None, sort=[facet_title(*point) for point in block.tables]),
            columns=2,
        )
    )
    return chart


def facet_title(n_train: int, condition: str) -> str:
    """Returns the title of the small plot of one data size and quality."""
    return f"{n_train} examples" + (f", {condition}" if condition else "")


def smooth(curve: list[tuple[int, float]], width: int = 5) -> list[tuple[int, float]]:
    """Returns (step, running mean of the losses of the last `width` points up to it) for each point (step, loss) of a
    curve: single batches are too noisy to read."""
    return [
        (step, sum(loss for _, loss in curve[max(0, place - width + 1) : place + 1]) / min(place + 1, width))
        for place, (step, _) in enumerate(curve)
    ]
