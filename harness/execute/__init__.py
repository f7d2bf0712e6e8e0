"""[3] In: a `Plan` and the cells of it that are still to do. Out: a result folder for each, wherever it ran.

An executor reaches the worker by a folder with a cell's JSON, and by nothing else."""

from __future__ import annotations

from harness.execute.attribution import Bisection, ProbeReader
from harness.execute.cell_reading import CellReader
from harness.execute.deciding import Aim, Decider, Decision, preview
from harness.execute.environments import Between, CannotMake, MadeEnvironment, make_environment, releases
from harness.execute.events import LiveStatus, live_status, progress_text, read_events, read_lines
from harness.execute.forecast import Row, forecast_cells, memory_predictor
from harness.execute.interleave import run_by_turns
from harness.execute.probing import CannotRun, ProbeRequest, probe
from harness.execute.races import Race, races_of
from harness.execute.running import Progress
from harness.execute.self_check_cache import check_anew
from harness.execute.session import Choices, Session

__all__ = [
    "Aim",
    "Between",
    "Bisection",
    "CannotMake",
    "CannotRun",
    "CellReader",
    "Choices",
    "Decider",
    "Decision",
    "LiveStatus",
    "MadeEnvironment",
    "ProbeReader",
    "ProbeRequest",
    "Progress",
    "Race",
    "Row",
    "Session",
    "check_anew",
    "forecast_cells",
    "live_status",
    "make_environment",
    "memory_predictor",
    "preview",
    "probe",
    "progress_text",
    "races_of",
    "read_events",
    "read_lines",
    "releases",
    "run_by_turns",
]
