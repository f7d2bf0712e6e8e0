"""How a suite is decided with few cells: what is known, what is shown, what to run next. In: scores of items. Out:
looks. Pure: no store, no clock."""

from __future__ import annotations

from harness.analysis.deciding.bounds import Bounds, find_bounds, look_shares
from harness.analysis.deciding.evidence import Evidence, LabelEvidence
from harness.analysis.deciding.looks import LIKELY, Look, Stated, Step, confidence_in, leader, take_look, what_it_takes

__all__ = [
    "LIKELY",
    "Bounds",
    "Evidence",
    "LabelEvidence",
    "Look",
    "Stated",
    "Step",
    "confidence_in",
    "find_bounds",
    "leader",
    "look_shares",
    "take_look",
    "what_it_takes",
]
