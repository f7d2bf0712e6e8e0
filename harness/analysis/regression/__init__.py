"""Compares library versions. In: attempts at the same cells in two environments, or a series of environments. Out: what
moved (the axis, single labels, single cells), by how much, how sure that is, and since which version."""

from __future__ import annotations

from harness.analysis.regression.baseline import Baseline, old_pins, package_changes
from harness.analysis.regression.between import (
    Measured,
    changes_between,
    changes_of_measured,
    changes_of_rows,
    common_shifts,
    measured_in,
)
from harness.analysis.regression.costs import COSTS, cost_changes, margin_of
from harness.analysis.regression.findings import (
    Attribution,
    EnvironmentFindings,
    PairFindings,
    RegressionFindings,
    kept_findings,
)
from harness.analysis.regression.history import HistoryStep, Series, SeriesBreak, SeriesPoint, series_over_versions
from harness.analysis.regression.pairs import CellPair, matched_cells
from harness.analysis.regression.records import (
    MEMORY_MARGIN,
    SCORE_MARGIN,
    TIME_MARGIN,
    Answer,
    Change,
    MetricChanges,
    Pattern,
    Regression,
    named,
)
from harness.analysis.regression.repeats import Repeat, Session
from harness.analysis.regression.scores import score_changes, wanted_scores
from harness.analysis.regression.sides import Difference, differences, side_of

__all__ = [
    "COSTS",
    "MEMORY_MARGIN",
    "SCORE_MARGIN",
    "TIME_MARGIN",
    "Answer",
    "Attribution",
    "Baseline",
    "CellPair",
    "Change",
    "Difference",
    "EnvironmentFindings",
    "HistoryStep",
    "Measured",
    "MetricChanges",
    "PairFindings",
    "Pattern",
    "Regression",
    "RegressionFindings",
    "Repeat",
    "Series",
    "SeriesBreak",
    "SeriesPoint",
    "Session",
    "changes_between",
    "changes_of_measured",
    "changes_of_rows",
    "common_shifts",
    "cost_changes",
    "differences",
    "kept_findings",
    "margin_of",
    "matched_cells",
    "measured_in",
    "named",
    "old_pins",
    "package_changes",
    "score_changes",
    "series_over_versions",
    "side_of",
    "wanted_scores",
]
