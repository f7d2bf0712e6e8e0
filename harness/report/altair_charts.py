"""Turns the report's plots into charts of Altair, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.chart_style import Spec
from harness.report.files import FileNames, charts
from harness.report.table import Report

if TYPE_CHECKING:
    from altair import TopLevelMixin


def drawn_charts(report: Report) -> dict[str, TopLevelMixin]:
    """Returns every chart of a report as one of Altair, by the name that its files have in the folder of a report."""
    return {name: drawn(spec) for name, _, spec in charts(report, FileNames())}


def drawn(spec: Spec) -> TopLevelMixin:
    """Returns Vega-Lite as a chart of Altair. Altair finds the kind of chart by trying each, which takes seconds where
    there are thousands of points."""
    import altair

    kinds = {
        "layer": altair.LayerChart, "hconcat": altair.HConcatChart, "vconcat": altair.VConcatChart,
        "concat": altair.ConcatChart, "facet": altair.FacetChart, "repeat": altair.RepeatChart,
    }  # fmt: skip
    kind = next((kind for name, kind in kinds.items() if name in spec), altair.Chart)
    chart: TopLevelMixin = kind.from_dict(spec, validate=False)
    return chart
