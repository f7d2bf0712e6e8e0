"""Draws scatter plots with a point for each label × data size: learning against forgetting, and score against costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from harness.report.chart_style import SOFT, colours
from harness.report.format import chance
from harness.report.label_placement import Box, place
from harness.report.pareto import COSTS, Goal, fronts
from harness.report.table import UNITS, Block, Row

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 660, 420
RING = "A ring is as strong as the probability that no other is better in both."
POINTS = (
    "Bars are one standard error where it is known. A line joins the data sizes of a label. Hollow: not trained, or "
    "not shown to have learned."
)
SHAPES = [
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left", "triangle-right", "wedge",
    "arrow",
]  # fmt: skip
GIB = 1024**3
SCALE = {"GiB": 1 / GIB, "%": 100.0}  # unit of an axis -> its factor on the stored value


@dataclass(frozen=True)
class Axis:
    """An axis of a scatter plot: its title, and whether it is logarithmic."""

    title: str
    log: bool = False

    def at(self, value: float) -> float:
        """Returns where a value lies on the axis: its log10 on a logarithmic axis, else the value."""
        return math.log10(value) if self.log else value


class Dot(TypedDict):
    """The point of a row: its two values with the ends of their error bars. `size` says in words what the row was
    trained on; `weight` is its probability of being on the Pareto front, `front` the same as text."""

    label: str
    n_train: int
    size: str
    condition: str
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    learned: bool
    front: str
    weight: float


class PlacedName(TypedDict):
    """The name of a label, and its place in the units of the axes: `at` across, `on` upwards."""

    label: str
    at: float
    on: float


def learning_against_forgetting(block: Block) -> alt.LayerChart | None:
    """Draws the gain on the learned task (right is better) against the change on the first retained task (up is
    better). Hollow points are not shown to have learned. None when no row has both figures."""
    dots = list(gains_and_changes(block))
    if not dots:
        return None
    kept = next(estimate for row in block.rows if (estimate := row.retained.get(block.retain[0])))
    metric = kept.metric
    return scatter(
        block,
        dots,
        Axis(f"{better(block.higher_is_better)} {block.metric} on {block.task}  (right: learned more)"),
        Axis(f"{better(kept.higher_is_better)} {UNITS.get(metric, metric)} on {block.retain[0]}  (down: forgot more)"),
        origin=True,
    )


def score_against(block: Block, goal: Goal) -> alt.LayerChart | None:
    """Draws what a label costs, by `goal` (left is better), against its score (`block.higher_is_better` says whether up
    is better). None where fewer than two different costs are known."""
    dots = list(costs_and_scores(block, goal))
    if len({dot["x"] for dot in dots}) < 2:
        return None
    log = min(dot["x"] for dot in dots) > 0 and max(dot["x"] for dot in dots) > 20 * min(dot["x"] for dot in dots)
    title = f"{goal.name}, {goal.unit}  (left: costs less)"
    which = "up" if block.higher_is_better else "down"
    return scatter(block, dots, Axis(title, log), Axis(f"{block.metric} on {block.task}  ({which}: better)"))


def better(higher_is_better: bool) -> str:
    """Returns the words before a metric on an axis on which more is better: "gain in", or "fall of" where lower is
    better."""
    return "gain in" if higher_is_better else "fall of"


def cost_charts(block: Block) -> dict[str, alt.LayerChart]:
    """Returns the name of each cost -> its chart, for costs that are known."""
    found = {goal.name: score_against(block, goal) for goal in COSTS}
    return {name: chart for name, chart in found.items() if chart is not None}


def gains_and_changes(block: Block) -> Iterator[Dot]:
    """Yields a dot for each row that has a gain and a change on the first retained task. The base model is left out,
    and rows that learned that task."""
    chances = block.fronts
    for row in sorted(block.rows, key=lambda row: row.n_train):
        kept = row.retained.get(block.retain[0]) if block.retain else None
        if row.label == "base" or not row.score or row.score.gain is None:
            continue
        if kept is None or kept.gain is None or kept.learned:
            continue
        x = row.score.gain if row.score.higher_is_better else -row.score.gain
        y = kept.gain if kept.higher_is_better else -kept.gain
        yield dot(row, (x, row.score.gain_stderr or 0.0), (y, kept.gain_stderr or 0.0), chances)


def costs_and_scores(block: Block, goal: Goal) -> Iterator[Dot]:
    """Yields a dot for each row that has a score and a figure for the goal."""
    chances = fronts(block, goal)
    for row in sorted(block.rows, key=lambda row: row.n_train):
        estimate = goal.read(row)
        if row.score and estimate is not None:
            scaled = estimate[0] * SCALE.get(goal.unit, 1.0)
            yield dot(row, (scaled, 0.0), (row.score.value, row.score.stderr or 0.0), chances)


def dot(row: Row, x: tuple[float, float], y: tuple[float, float], chances: dict[tuple[str, int, str], float]) -> Dot:
    """Makes a row's dot from two values, each with its standard error. `chances` map (label, n_train, condition) to the
    probability of being on the Pareto front."""
    size = (f"{row.n_train} examples" if row.n_train else "untrained") + f", {row.condition}" * bool(row.condition)
    sure = chances.get((row.label, row.n_train, row.condition))
    return {
        "label": row.label,
        "n_train": row.n_train,
        "size": size,
        "condition": row.condition,
        "x": x[0],
        "x_low": x[0] - x[1],
        "x_high": x[0] + x[1],
        "y": y[0],
        "y_low": y[0] - y[1],
        "y_high": y[0] + y[1],
        "learned": row.learned and row.n_train > 0,
        "front": chance(sure),
        "weight": sure or 0.0,
    }


def scatter(block: Block, dots: Sequence[Dot], x_axis: Axis, y_axis: Axis, origin: bool = False) -> alt.LayerChart:
    """Draws the layers of a scatter plot: points with error bars, a line through the sizes of each label, names that
    hide nothing, and a ring as strong as the probability of being on the front. `origin` puts the base model at (0,
    0)."""
    import altair as alt

    zero = [0.0] if origin else []
    across = span([x_axis.at(value) for value in zero + [v for d in dots for v in ends(d, "x")]])
    upright = span([y_axis.at(value) for value in zero + [v for d in dots for v in ends(d, "y")]])
    labels = list(dict.fromkeys(dot["label"] for dot in dots))
    series = colours(list(dict.fromkeys(row.label for row in block.rows)), labels)
    scale = alt.Scale(domain=labels, range=series)
    x_scale = alt.Scale(
        domain=[10**end for end in across] if x_axis.log else across, nice=False, type="log" if x_axis.log else "linear"
    )
    x = alt.X("x:Q", title=x_axis.title, scale=x_scale, axis=alt.Axis(tickCount=8))
    y = alt.Y("y:Q", title=y_axis.title, scale=alt.Scale(domain=upright, nice=False), axis=alt.Axis(tickCount=7))
    colour = alt.Color("label:N", legend=None, scale=scale)
    sizes = list(dict.fromkeys(dot["size"] for dot in dots))
    shape = alt.Shape(
        "size:N",
        title=None,
        sort=sizes,
        scale=alt.Scale(domain=sizes, range=[SHAPES[rank % len(SHAPES)] for rank in range(len(sizes))]),
        legend=alt.Legend(orient="top", symbolStrokeColor=SOFT, symbolFillColor="transparent", columnPadding=28)
        if len(sizes) > 1
        else None,
    )
    chart = alt.Chart(alt.Data(values=list(dots)))
    bare = alt.Chart(alt.Data(values=[{"x": 0.0, "y": 0.0}]))
    layers = []
    if origin:
        layers += [bare.mark_rule(color=SOFT, strokeDash=[3, 3], opacity=0.7).encode(**{way: of})
                   for way, of in (("y", y), ("x", x))]  # fmt: skip
    layers += [
        chart.mark_line(strokeWidth=1, opacity=0.5).encode(
            x=x, y=y, color=colour, order="n_train:Q", detail="condition:N"
        ),
        chart.mark_rule(opacity=0.45).encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour),
        chart.mark_rule(opacity=0.45).encode(y="y_low:Q", y2="y_high:Q", x=x, color=colour),
        chart.transform_filter("datum.weight > 0.01").mark_point(size=300, strokeWidth=1.5, filled=False).encode(
            x=x, y=y, color=colour, opacity=alt.Opacity("weight:Q", legend=None, scale=alt.Scale(domain=[0, 1]))
        ),
    ]  # fmt: skip
    told = [alt.Tooltip("label:N"), alt.Tooltip("size:N", title="trained on"),
            alt.Tooltip("x:Q", title=x_axis.title.split("  ")[0], format=".4g"),
            alt.Tooltip("y:Q", title=y_axis.title.split("  ")[0], format=".4g"),
            alt.Tooltip("front:N", title="on the front")]  # fmt: skip
    for filled in (True, False):
        points = chart.mark_point(size=80, strokeWidth=2, filled=filled, opacity=1)
        layers.append(
            points.transform_filter(f"datum.learned == {str(filled).lower()}").encode(
                x=x, y=y, color=colour, shape=shape, tooltip=told
            )
        )
    if origin:
        layers.append(bare.mark_point(shape="cross", size=110, filled=True, color=SOFT, opacity=1).encode(x=x, y=y))
    for align, names in placed_names(dots, x_axis, across, upright, origin).items():
        texts = alt.Chart(alt.Data(values=names)).mark_text(align=align, baseline="middle", fontSize=11.5)
        colouring = alt.Color("label:N", legend=None, scale=alt.Scale(domain=[*labels, "base"], range=[*series, SOFT]))
        on = {"x": alt.X("at:Q", scale=x_scale), "y": alt.Y("on:Q", scale=alt.Scale(domain=upright))}
        layers.append(texts.encode(**on, text="label:N", color=colouring))
    return alt.layer(*layers).resolve_scale(color="independent").properties(width=WIDTH, height=HEIGHT)


def ends(dot: Dot, way: str) -> list[float]:
    """Returns the two ends of a point's error bar along "x" or "y"."""
    return [dot["x_low"], dot["x_high"]] if way == "x" else [dot["y_low"], dot["y_high"]]


def span(values: list[float]) -> list[float]:
    """Returns the ends of an axis, with some air around the values."""
    low, high = min(values), max(values)
    air = 0.07 * (high - low) or 0.05
    return [low - air, high + air]


def placed_names(
    dots: Sequence[Dot], x_axis: Axis, across: list[float], upright: list[float], origin: bool
) -> dict[str, list[PlacedName]]:
    """Returns align ("left", "right", "center") -> names with their places in the plot's units. Each label is named
    once, at its largest size. `across` and `upright` are the ends of the two axes; with `origin` the base model is
    named at (0, 0)."""

    def pixel(x: float, y: float) -> tuple[float, float]:
        return (
            (x_axis.at(x) - across[0]) / (across[1] - across[0]) * WIDTH,
            (upright[1] - y) / (upright[1] - upright[0]) * HEIGHT,
        )

    def bars(dot: Dot) -> list[Box]:
        """Returns a point's two error bars as thin boxes."""
        x, y = pixel(dot["x"], dot["y"])
        left, top = pixel(dot["x_low"], dot["y_high"])
        right, bottom = pixel(dot["x_high"], dot["y_low"])
        return [(left, y - 1, right, y + 1), (x - 1, top, x + 1, bottom)]

    last = {dot["label"]: dot for dot in dots}
    named = [*([("base", 0.0, 0.0)] if origin else []), *((dot["label"], dot["x"], dot["y"]) for dot in last.values())]
    others = [dot for dot in dots if last[dot["label"]] is not dot]
    pixels = [pixel(x, y) for _, x, y in named] + [pixel(dot["x"], dot["y"]) for dot in others]
    lines = [box for dot in dots for box in bars(dot)]
    places = place(pixels, [label for label, _, _ in named], WIDTH, HEIGHT, lines)
    names: dict[str, list[PlacedName]] = {}
    for (label, _, _), (x, y, align) in zip(named, places, strict=True):
        at = across[0] + x / WIDTH * (across[1] - across[0])
        on = upright[1] - y / HEIGHT * (upright[1] - upright[0])
        names.setdefault(align, []).append({"label": label, "at": 10**at if x_axis.log else at, "on": on})
    return names
