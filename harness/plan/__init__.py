"""[2] In: a `Suite` and what is known of its models and tasks. Out: frozen cells, what each
needs, and what it will take.
"""

from __future__ import annotations

from harness.plan.devices import devices_missing, devices_of
from harness.plan.feasibility import leaks_of, notes
from harness.plan.fetch import fetch_suite, known_facts, uncounted, unseen
from harness.plan.memory import ROLLING, Device, Prediction, predict, room_to_compare
from harness.plan.plan import Plan, make_plan, narrow
from harness.plan.search import Asked, Search, as_optuna, choose, front, importances, lags, rung_shares, storage_at
from harness.plan.studies import at_edge, trial_of

__all__ = [
    "ROLLING",
    "Asked",
    "Device",
    "Plan",
    "Prediction",
    "Search",
    "as_optuna",
    "at_edge",
    "choose",
    "devices_missing",
    "devices_of",
    "fetch_suite",
    "front",
    "importances",
    "known_facts",
    "lags",
    "leaks_of",
    "make_plan",
    "narrow",
    "notes",
    "predict",
    "room_to_compare",
    "rung_shares",
    "storage_at",
    "trial_of",
    "uncounted",
    "unseen",
]
