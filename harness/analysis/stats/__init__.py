"""The statistics of results, one file for each question. In: numbers. Out: estimates with intervals. No input or
output."""

from __future__ import annotations

from harness.analysis.stats.contrast import Arm, Decision, compare_arms, decide
from harness.analysis.stats.crossover import Crossover, Scaling, find_crossover, lead_correlations, scaling
from harness.analysis.stats.intervals import Interval, Paired, Z, corrected, expected_best, expected_best_interval
from harness.analysis.stats.p_best import Leads, Runner, best_chances, leads
from harness.analysis.stats.power import ALPHA, Need
from harness.analysis.stats.rankings import (
    Ranking,
    friedman,
    interquartile_interval,
    interquartile_mean,
    on_front,
    performance_profile,
    probability_of_improvement,
)
from harness.analysis.stats.reference import Reference

__all__ = [
    "ALPHA",
    "Arm",
    "Crossover",
    "Decision",
    "Interval",
    "Leads",
    "Need",
    "Paired",
    "Ranking",
    "Reference",
    "Runner",
    "Scaling",
    "Z",
    "best_chances",
    "compare_arms",
    "corrected",
    "decide",
    "expected_best",
    "expected_best_interval",
    "find_crossover",
    "friedman",
    "interquartile_interval",
    "interquartile_mean",
    "lead_correlations",
    "leads",
    "on_front",
    "performance_profile",
    "probability_of_improvement",
    "scaling",
]
