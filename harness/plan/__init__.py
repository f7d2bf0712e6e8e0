"""[2] In: a `Suite` and what is known of its models and tasks. Out: frozen cells, what each
needs, and what it will take.
"""

from __future__ import annotations

from harness.plan.about_data import data_lines, data_notes
from harness.plan.devices import devices_missing, devices_of
from harness.plan.feasibility import leaks_in_cell, model_notes
from harness.plan.fetch import downloads, fetch_suite, fetched_facts, is_complete, known_facts
from harness.plan.memory import ROLLING, Device, Prediction, predict_memory, room_to_compare
from harness.plan.plan import Plan, make_plan, narrow, select_cells
from harness.plan.search import (
    Proposal,
    StudySearch,
    best_trial,
    optuna_storage,
    pareto_front,
    rung_shares,
    setting_importances,
    should_prune,
    to_optuna_study,
)
from harness.plan.studies import range_edge, trial_cell

__all__ = [
    "ROLLING",
    "Device",
    "Plan",
    "Prediction",
    "Proposal",
    "StudySearch",
    "best_trial",
    "data_lines",
    "data_notes",
    "devices_missing",
    "devices_of",
    "downloads",
    "fetch_suite",
    "fetched_facts",
    "is_complete",
    "known_facts",
    "leaks_in_cell",
    "make_plan",
    "model_notes",
    "narrow",
    "optuna_storage",
    "pareto_front",
    "predict_memory",
    "range_edge",
    "room_to_compare",
    "rung_shares",
    "select_cells",
    "setting_importances",
    "should_prune",
    "to_optuna_study",
    "trial_cell",
]
