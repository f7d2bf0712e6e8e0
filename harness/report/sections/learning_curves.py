"""Shows score against the number of training examples: which label leads at each size, and where the lead changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats import Crossover, Scaling, Z, find_crossover, lead_correlations, scaling
from harness.report.chart_style import colours, legend, spec
from harness.report.elements import Element, Plot, TextTable
from harness.report.format import chance, digits_of, number
from harness.report.ranking import TableRanking
from harness.report.sections.base import WRITTEN, Section, Subject
from harness.report.table import Block, Row

if TYPE_CHECKING:
    import altair as alt

    from harness.analysis.stats.intervals import Array

TITLE = "Score against data"
NOTE = (
    "Best: the probability of being the best of this table, from items drawn for all labels together and seeds drawn "
    "for each. The lead changes where the straight line between two sizes, over the logarithm of the examples, crosses "
    "zero; its interval is that of draws around the leads, with items and seeds drawn for all sizes together. Nothing "
    "is said beyond the sizes that were run."
)
LEADERS = 2  # labels whose bands are drawn
CONTENDERS = 4  # best labels of each size, between which changes of lead are sought
MOST = 6  # changes of lead that are listed
SURE = 0.8  # the least probability of a change that is listed: less likely ones are noise
LIKELY = 0.1  # a label with less chance to be the best is not named


class LearningCurves(Section):
    """The score by number of examples, the label that wins at each size, and where the lead changes."""

    name = "learning-curves"
    order = 160
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Element]:
        block = subject.block
        if not block.compares:
            return
        charts = {
            condition or "clean data": spec(drawn)
            for condition in block.conditions
            if (drawn := chart(block, condition)) is not None
        }
        if charts:
            yield Plot(TITLE, charts, NOTE)
        for condition in block.conditions:
            if len(sizes(block, condition)) < 2:
                continue
            ending = f", {condition}" * bool(condition)
            winners, changed = f"Which wins with how many examples{ending}", f"Where the lead changes{ending}"
            yield TextTable(winners, headers(), lines(block, condition), file=(winners, block.model, block.task))
            if found := change_lines(block, condition):
                yield TextTable(changed, change_headers(), found, file=(changed, block.model, block.task))


@dataclass(frozen=True)
class LeadChange:
    """A change of the lead: `label` leads `behind` at the largest size, but not at all sizes."""

    label: str
    behind: str
    found: Crossover


def sizes(block: Block, condition: str) -> list[int]:
    """Returns the data sizes, within one quality of data, at which a trained label can be compared."""
    trained = {row.label for row in block.rows if row.n_train}
    return [n for n, its in block.tables if its == condition and n and trained & {*block.ranking(n, its).labels}]


def changes(block: Block, condition: str) -> list[LeadChange]:
    """Returns the changes of lead between the sizes that were run that have a probability of `SURE` or more, the surest
    first."""
    ns = sizes(block, condition)
    if len(ns) < 2:
        return []
    held = [block.ranking(n, condition) for n in ns]
    everywhere = set(held[0].labels).intersection(*(ranking.labels for ranking in held))
    trained = {row.label for row in block.rows if row.n_train}
    named = dict.fromkeys(
        label for ranking in held for label in trained_first(ranking, trained)[:CONTENDERS] if label in everywhere
    )
    found = []
    for a, b in itertools.combinations(named, 2):
        leads = [lead(ranking, a, b) for ranking in held]
        if not all(value == value for pair in leads for value in pair):
            continue
        change = find_crossover(
            ns, [value for value, _ in leads], [error for _, error in leads], correlations=correlations_of(held, a, b)
        )
        if change.at is None or not math.isfinite(change.at.value) or not ns[0] < change.at.value <= ns[-1]:
            continue
        first, second = (a, b) if change.leads_last > 0 else (b, a)
        said = [verdict.verdict if (verdict := ranking.between(first, second)) else "" for ranking in held]
        if not any(word == "worse" and "better" in said[place:] for place, word in enumerate(said)):
            continue  # not shown to be behind at one size and ahead at a larger one, corrected as in the tables
        found.append(LeadChange(first, second, change))
    likely = [change for change in found if change.found.probability >= SURE]
    return sorted(likely, key=lambda change: -change.found.probability)[:MOST]


def trained_first(ranking: TableRanking, trained: set[str]) -> list[str]:
    return [label for label in ranking.labels if label in trained]


def lead(ranking: TableRanking, a: str, b: str) -> tuple[float, float]:
    """Returns (lead of `a` over `b`, its standard error), in the metric's unit, positive where `a` is better.

    The error is that of a normal with the same 95% interval. (nan, nan) where the two cannot be compared.
    """
    verdict = ranking.between(a, b)
    if verdict is None or verdict.decision is None:
        return math.nan, math.nan
    found = verdict.decision
    sign = 1.0 if ranking.higher_is_better else -1.0
    return sign * found.effect, (found.interval.high - found.interval.low) / 2 / Z


def correlations_of(held: Sequence[TableRanking], a: str, b: str) -> Array | None:
    """Returns the correlations [sizes, sizes] of the errors of the lead of `a` over `b` in the rankings of each size;
    None where the sizes were scored on different items."""
    sides = [(ranking.sides[a], ranking.sides[b]) for ranking in held]
    if len({(side.docs, side.clusters) for pair in sides for side in pair}) > 1:
        return None
    return lead_correlations([(first.arm, second.arm) for first, second in sides])


def sentence(change: LeadChange) -> str:
    """Says in words where a lead changes."""
    at, interval, sure = extent(change)
    return (
        f"{change.label} overtakes {change.behind} at about {at} examples (95% interval: {interval}; chance that it "
        f"does at all: {sure})."
    )


def headers() -> list[str]:
    return ["examples", "most likely best", "chance", "may be best too"]


def lines(block: Block, condition: str) -> list[list[str]]:
    """Returns a row of texts for each size: which label is most likely the best, and which others may be."""
    found = []
    for n in sizes(block, condition):
        ranked = sorted(block.ranking(n, condition).chances.items(), key=lambda pair: -pair[1])
        others = [f"{label} {chance(its)}" for label, its in ranked[1:] if its >= LIKELY]
        if ranked:
            found.append([str(n), ranked[0][0], chance(ranked[0][1]), ", ".join(others)])
    return found


def fits(block: Block, condition: str) -> dict[str, Scaling]:
    """Returns label -> the power law through its scores at one quality of the training data (`condition` in words, ""
    for clean data). Left out are labels with fewer than four sizes, those with a score without a standard error, and
    those whose law forecasts a size left out no better than the mean of the other sizes does."""
    found = {}
    for label, rows in by_label(block, condition).items():
        known = [(row.n_train, row.score.value, row.score.stderr) for row in rows if row.score and row.score.stderr]
        if len(known) == len(rows) and len(known) > 1:
            fit = scaling(*(list(column) for column in zip(*known, strict=True)))
            if fit:
                found[label] = fit
    return found


def by_label(block: Block, condition: str) -> dict[str, list[Row]]:
    """Returns the scored rows of each trained label, by rising size."""
    found: dict[str, list[Row]] = {}
    for row in sorted(block.rows, key=lambda row: row.n_train):
        if row.n_train and row.condition == condition and row.score:
            found.setdefault(row.label, []).append(row)
    return found


def chart(block: Block, condition: str) -> alt.LayerChart | None:
    """Draws score by number of examples with bands of 95%, dashed where a power law forecasts; None for one size."""
    if len(sizes(block, condition)) < 2:
        return None
    import altair as alt

    points = list(banded(block, condition))
    labels = list(dict.fromkeys(str(point["label"]) for point in points))
    every = list(dict.fromkeys(row.label for row in block.rows))
    scale = alt.Scale(domain=labels, range=colours(every, labels))
    x = alt.X("n:Q", title="training examples", scale=alt.Scale(type="log", nice=False),
              axis=alt.Axis(values=sizes(block, condition), format="d"))  # fmt: skip
    title = f"{block.metric} on {block.task}"
    y = alt.Y("score:Q", title=title, scale=alt.Scale(zero=False))
    colour = alt.Color("label:N", title=None, scale=scale, legend=legend(labels))
    chosen = alt.selection_point(fields=["label"], bind="legend", name="shown")
    strong = alt.condition(chosen, alt.value(1.0), alt.value(0.12))
    drawn = alt.Chart(alt.Data(values=points)).encode(x=x, color=colour)
    # All bands would hide each other: only those of the leaders, or of labels chosen in the legend, are shown.
    seen = [
        {"param": "shown", "empty": False, "value": 0.18},
        {"test": "datum.leads && !length(data('shown_store'))", "value": 0.1},
    ]
    layers = [
        drawn.mark_area().encode(
            y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)),
            y2="high:Q",
            opacity=alt.OpacityValue(0, condition=seen),
        ),
        drawn.mark_line(strokeWidth=1.8).encode(y=y, opacity=strong),
        drawn.mark_point(filled=True, size=55).encode(
            y=y, opacity=strong,
            tooltip=[alt.Tooltip("label:N"), alt.Tooltip("n:Q", title="examples"),
                     alt.Tooltip("score:Q", format=".3f", title=block.metric), alt.Tooltip("shown:N", title="95%")],
        ).add_params(chosen),
    ]  # fmt: skip
    if block.base and block.base.score:
        bare = alt.Chart(alt.Data(values=[{"score": block.base.score.value}]))
        layers.insert(0, bare.mark_rule(strokeDash=[3, 3], opacity=0.7).encode(y=y))
    if forecasts := list(forecast(block, condition)):
        dashed = alt.Chart(alt.Data(values=forecasts)).mark_line(strokeDash=[5, 4], strokeWidth=1.2)
        layers.append(dashed.encode(x=x, y=y, color=colour))
    return alt.layer(*layers).properties(width=620, height=320)


def banded(block: Block, condition: str) -> Iterator[dict[str, object]]:
    """Yields a point for each label and size; `leads` is True for the `LEADERS` best labels of the largest size."""
    digits = digits_of(block.metric)
    best = trained_first(block.ranking(sizes(block, condition)[-1], condition), set(by_label(block, condition)))
    for label, rows in by_label(block, condition).items():
        for row in rows:
            assert row.score
            low, high = row.score.ends or (row.score.value, row.score.value)
            yield {
                "label": label,
                "n": row.n_train,
                "score": row.score.value,
                "low": low,
                "high": high,
                "leads": label in best[:LEADERS],
                "shown": f"{number(low, digits)} to {number(high, digits)}",
            }


def forecast(block: Block, condition: str) -> Iterator[dict[str, object]]:
    """Yields points of the fitted curves, within the sizes that were run."""
    ns = sizes(block, condition)
    for label, fit in fits(block, condition).items():
        for step in range(25):
            n = ns[0] * (ns[-1] / ns[0]) ** (step / 24)
            yield {"label": label, "n": n, "score": fit.at(n)}


def change_headers() -> list[str]:
    return ["label", "overtakes", "at about", "95%", "chance that it does"]


def change_lines(block: Block, condition: str) -> list[list[str]]:
    """Returns a row of texts for each change of lead."""
    return [[change.label, change.behind, *extent(change)] for change in changes(block, condition)]


def extent(change: LeadChange) -> list[str]:
    """Returns as texts: the number of examples at which the lead changes, its interval, and the probability of the
    change."""
    at = change.found.at
    assert at is not None
    low = f"{at.low:.0f}" if at.low >= 1 else "the smallest size"
    high = f"{at.high:.0f}" if math.isfinite(at.high) else "beyond the largest"
    return [f"{at.value:.0f}", f"{low} to {high}", chance(change.found.probability)]
