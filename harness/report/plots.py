"""Plot: learning against forgetting, a point for each label × data size."""

from __future__ import annotations

from typing import Any

from harness.report.labels import Box, place
from harness.report.picture import SOFT, colours, svg
from harness.report.table import UNITS, Block

WIDTH, HEIGHT = 660, 420
SHAPES = [
    "circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-left", "triangle-right", "wedge",
    "arrow",
]  # fmt: skip


def learning_against_forgetting(block: Block) -> str | None:
    """SVG: gain on the learned task (right is better) against the change on the first retained one (up is
    better). Hollow points are not shown to have learned. None when no row has both figures."""
    points = list(both_figures(block))
    if not points:
        return None
    import altair as alt

    across = span([0.0, *(value for point in points for value in (point["low"], point["high"]))])
    upright = span([0.0, *(value for point in points for value in (point["bottom"], point["top"]))])
    labels = list(dict.fromkeys(point["label"] for point in points))
    every = list(dict.fromkeys(row.label for row in block.rows))
    series = colours(every, labels)
    scale = alt.Scale(domain=labels, range=series)
    metric = points[0]["metric"]
    x = alt.X("gain:Q", title=f"gain in {block.metric} on {block.task}  (right: learned more)",
              scale=alt.Scale(domain=across, nice=False), axis=alt.Axis(tickCount=8))  # fmt: skip
    unit = UNITS.get(metric, metric)
    y = alt.Y("kept:Q", title=f"change on {block.retain[0]}, {unit}  (down: forgot more)",
              scale=alt.Scale(domain=upright, nice=False), axis=alt.Axis(tickCount=7))  # fmt: skip
    colour = alt.Color("label:N", legend=None, scale=scale)
    sizes = list(dict.fromkeys(point["size"] for point in sorted(points, key=lambda point: point["n_train"])))
    shape: Any = alt.Shape(
        "size:N",
        title=None,
        sort=sizes,
        scale=alt.Scale(domain=sizes, range=[SHAPES[rank % len(SHAPES)] for rank in range(len(sizes))]),
        legend=alt.Legend(orient="top", symbolStrokeColor=SOFT, symbolFillColor="transparent", columnPadding=28)
        if len(sizes) > 1
        else None,
    )
    chart = alt.Chart(alt.Data(values=points))
    zero = alt.Chart(alt.Data(values=[{"gain": 0.0, "kept": 0.0}]))
    layers = [
        zero.mark_rule(color=SOFT, strokeDash=[3, 3], opacity=0.7).encode(y=y),
        zero.mark_rule(color=SOFT, strokeDash=[3, 3], opacity=0.7).encode(x=x),
        chart.mark_line(strokeWidth=1, opacity=0.5).encode(
            x=x, y=y, color=colour, order="n_train:Q", detail="condition:N"
        ),
        chart.mark_rule(opacity=0.45).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        chart.mark_rule(opacity=0.45).encode(y="bottom:Q", y2="top:Q", x=x, color=colour),
    ]
    for filled in (True, False):
        dots = chart.mark_point(size=80, strokeWidth=2, filled=filled, opacity=1)
        layers.append(
            dots.transform_filter(f"datum.learned == {str(filled).lower()}").encode(x=x, y=y, color=colour, shape=shape)
        )
    layers.append(zero.mark_point(shape="cross", size=110, filled=True, color=SOFT, opacity=1).encode(x=x, y=y))
    for align, names in placed_names(points, across, upright).items():
        texts = alt.Chart(alt.Data(values=names)).mark_text(align=align, baseline="middle", fontSize=11.5)
        encoding = {
            "x": alt.X("at:Q", scale=alt.Scale(domain=across)),
            "y": alt.Y("on:Q", scale=alt.Scale(domain=upright)),
        }
        colouring = alt.Color("label:N", legend=None, scale=alt.Scale(domain=[*labels, "base"], range=[*series, SOFT]))
        layers.append(texts.encode(**encoding, text="label:N", color=colouring))
    drawn = alt.layer(*layers).resolve_scale(color="independent").properties(width=WIDTH, height=HEIGHT)
    return svg(drawn)


def both_figures(block: Block) -> Any:
    """A dict for each row that has a gain and a change on the first retained task."""
    for row in sorted(block.rows, key=lambda row: row.n_train):
        kept = row.retained.get(block.retain[0]) if block.retain else None
        if row.label == "base" or not row.score or row.score.gain is None:
            continue
        if kept is None or kept.gain is None or kept.learned:
            continue
        across = row.score.gain_stderr or 0.0
        upright = kept.gain_stderr or 0.0
        yield {
            "label": row.label,
            "n_train": row.n_train,
            "size": (f"{row.n_train} examples" if row.n_train else "untrained")
            + f", {row.condition}" * bool(row.condition),
            "condition": row.condition,
            "metric": kept.metric,
            "gain": row.score.gain,
            "low": row.score.gain - across,
            "high": row.score.gain + across,
            "kept": kept.gain,
            "bottom": kept.gain - upright,
            "top": kept.gain + upright,
            "learned": row.learned and row.n_train > 0,
        }


def span(values: list[float]) -> list[float]:
    """A domain with some air around the values."""
    low, high = min(values), max(values)
    air = 0.07 * (high - low) or 0.05
    return [low - air, high + air]


def bars(point: dict[str, Any], across: list[float], upright: list[float]) -> list[Box]:
    """A point's two error bars as thin boxes, in pixels."""
    x, y = pixel(point["gain"], point["kept"], across, upright)
    left, top = pixel(point["low"], point["top"], across, upright)
    right, bottom = pixel(point["high"], point["bottom"], across, upright)
    return [(left, y - 1, right, y + 1), (x - 1, top, x + 1, bottom)]


def pixel(gain: float, kept: float, across: list[float], upright: list[float]) -> tuple[float, float]:
    return (
        (gain - across[0]) / (across[1] - across[0]) * WIDTH,
        (upright[1] - kept) / (upright[1] - upright[0]) * HEIGHT,
    )


def placed_names(
    points: list[dict[str, Any]], across: list[float], upright: list[float]
) -> dict[str, list[dict[str, Any]]]:
    """align -> names with their places in the plot's units. Each label is named once, at its largest size."""
    last = {point["label"]: point for point in points}
    named = [{"label": "base", "gain": 0.0, "kept": 0.0}, *last.values()]
    others = [point for point in points if last[point["label"]] is not point]
    pixels = [pixel(point["gain"], point["kept"], across, upright) for point in (*named, *others)]
    lines = [box for point in points for box in bars(point, across, upright)]
    places = place(pixels, [point["label"] for point in named], WIDTH, HEIGHT, lines)
    found: dict[str, list[dict[str, Any]]] = {}
    for point, (x, y, align) in zip(named, places, strict=True):
        at = across[0] + x / WIDTH * (across[1] - across[0])
        on = upright[1] - y / HEIGHT * (upright[1] - upright[0])
        found.setdefault(align, []).append({"label": point["label"], "at": at, "on": on})
    return found
