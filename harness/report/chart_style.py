"""Holds what every plot shares: its colours, and the conversion of a chart to SVG or PNG, offline, by vl-convert.

One SVG serves light and dark: a stylesheet inside it changes our colours where the reader prefers dark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import altair as alt

Spec: TypeAlias = dict[str, object]  # Vega-Lite, as JSON

INK, SOFT, FAINT = "#1f2328", "#57606a", "#d0d7de"
DARK = {INK: "#e6edf3", SOFT: "#9aa4af", FAINT: "#30363d"}
# Colours of series and their dark twins. Contrast is at least 4.5 to 1, since names are set in them.
COLOURS = {
    "#2f62a8": "#79b0f2", "#b3541a": "#f0985a", "#23775a": "#5cc79b", "#a83a6b": "#ee8ab8",
    "#6a52b5": "#b3a0f5", "#7a5f14": "#d6b354", "#1f7488": "#63c4da", "#b53830": "#ff8f86",
    "#5a6b1d": "#b4c65f", "#7d4d32": "#d39b7c", "#4d5d7d": "#a0b2d6", "#8c4a9c": "#d895e6",
}  # fmt: skip


def colours(labels: list[str], chosen: list[str]) -> list[str]:
    """Returns a colour for each `chosen` label by its place in `labels`, all labels of a block: a label has the same
    colour in every plot of the block."""
    palette = list(COLOURS)
    return [palette[labels.index(label) % len(palette)] for label in chosen]


def legend(labels: list[str]) -> alt.Legend | None:
    """Makes a legend of lines on the right, in columns of twenty; None for a single label."""
    import altair as alt

    if len(labels) < 2:
        return None
    columns = 1 + (len(labels) - 1) // 20
    return alt.Legend(symbolType="stroke", symbolOpacity=1, labelLimit=220, symbolLimit=0, columns=columns)


def spec(chart: alt.TopLevelMixin) -> Spec:
    """Returns the Vega-Lite of a chart as the page draws it: transparent, in our type and colours."""
    styled = chart.configure(
        background="transparent",
        font="system-ui, sans-serif",
        padding={"left": 5, "top": 5, "bottom": 5, "right": 36},
    ).configure_view(stroke=None)
    styled = styled.configure_axis(
        labelColor=SOFT, titleColor=INK, titleFontWeight="normal", gridColor=FAINT, gridOpacity=0.6,
        domainColor=FAINT, tickColor=FAINT, labelFontSize=11, titleFontSize=12, titlePadding=10,
    )  # fmt: skip
    styled = styled.configure_legend(labelColor=INK, titleColor=INK, labelFontSize=11.5)
    styled = styled.configure_header(labelColor=INK)
    vega_lite: Spec = styled.to_dict(validate=False)  # to validate thousands of points takes seconds
    return vega_lite


def dark_rules(before: str = "", within: str | None = None) -> str:
    """Returns CSS that changes our colours to their dark twins in a drawn plot. `within` limits the rules to colours
    that occur in this text; `before` is put before each selector."""
    return "".join(
        f'{before}.marks [fill="{light}"]{{fill:{dark}}}{before}.marks [stroke="{light}"]{{stroke:{dark}}}'
        for light, dark in (DARK | COLOURS).items()
        if within is None or light in within
    )


def svg(vega_lite: Spec) -> str:
    """Returns the SVG text of a `spec`, with its dark colours in a stylesheet."""
    import vl_convert as vlc

    text = str(vlc.vegalite_to_svg(vega_lite))
    head, body = text.split(">", 1)
    rules = dark_rules(within=text)
    return f"{head}><style>@media screen and (prefers-color-scheme: dark){{{rules}}}</style>{body}"


def png(vega_lite: Spec) -> bytes:
    """Returns the picture of a `spec` as PNG bytes, on white, at twice its size: for slides and papers."""
    import vl_convert as vlc

    drawn: bytes = vlc.vegalite_to_png({**vega_lite, "background": "white"}, scale=2)
    return drawn
