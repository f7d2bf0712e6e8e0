"""[1] In: a suite's YAML file. Out: a `Suite` (labels with checked settings), or every mistake in it with its line."""

from __future__ import annotations

from harness.suite.drafting import draft_suite
from harness.suite.environments import CURRENT, EnvironmentRequest, package_names, parse_request
from harness.suite.instantiate import build_expert
from harness.suite.load import Suite, check_sizes, check_tuning, find_suite, load_suite, suite_files, suite_name
from harness.suite.recipe import Recipe
from harness.suite.search_space import (
    MOST_TRIALS,
    STUDY_SEED,
    Range,
    TuneSettings,
    range_of,
    searchable_settings,
    searched_space,
    setting_name,
)
from harness.suite.variants import BASE, Variant

__all__ = [
    "BASE",
    "CURRENT",
    "MOST_TRIALS",
    "STUDY_SEED",
    "EnvironmentRequest",
    "Range",
    "Recipe",
    "Suite",
    "TuneSettings",
    "Variant",
    "build_expert",
    "check_sizes",
    "check_tuning",
    "draft_suite",
    "find_suite",
    "load_suite",
    "package_names",
    "parse_request",
    "range_of",
    "searchable_settings",
    "searched_space",
    "setting_name",
    "suite_files",
    "suite_name",
]
