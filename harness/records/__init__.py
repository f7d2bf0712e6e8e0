"""In: nothing. Out: the frozen records that travel between the stages, to and from JSON.

Nothing here computes a result or touches a disk.
"""

from __future__ import annotations

from harness.records.cell import BEST_TRIAL, LARGEST_SEED, OBJECTIVES, STUDY, TRAIN, WARM, Cell, Member, with_settings
from harness.records.digests import RESULT_VERSION, canonical, digest
from harness.records.job import JOB, EarlierTrial, Job
from harness.records.json_object import JsonObject
from harness.records.look import LookRecord
from harness.records.probe import LIBRARIES, MOST_MEMORY, Probe, ProbeRecord
from harness.records.reading import Count, Moment, Name, Seconds, check_positive, read_record
from harness.records.results import (
    FAILED_SEEDS,
    MARGIN,
    OPTIONAL_CHECKS,
    OWN_CHECK,
    SPEED_AFTER,
    SPEED_BEFORE,
    CellResult,
    Check,
    Checkpoint,
    Environment,
    Fact,
    FailedSeeds,
    Flag,
    InstrumentRecord,
    Item,
    Phase,
    Role,
    RowCounts,
    RungScore,
    RunRecord,
    Score,
    Status,
    Step,
    Trial,
)
from harness.records.shown import printable, shell_line, shell_word, visible
from harness.records.train_settings import FROZEN_LAYERS, FUSED, NEEDS, PACKING, SCORING, TRICKS, TrainSettings
from harness.records.units import bare_quantity, quantity, scales

__all__ = [
    "BEST_TRIAL",
    "FAILED_SEEDS",
    "FROZEN_LAYERS",
    "FUSED",
    "JOB",
    "LARGEST_SEED",
    "LIBRARIES",
    "MARGIN",
    "MOST_MEMORY",
    "NEEDS",
    "OBJECTIVES",
    "OPTIONAL_CHECKS",
    "OWN_CHECK",
    "PACKING",
    "RESULT_VERSION",
    "SCORING",
    "SPEED_AFTER",
    "SPEED_BEFORE",
    "STUDY",
    "TRAIN",
    "TRICKS",
    "WARM",
    "Cell",
    "CellResult",
    "Check",
    "Checkpoint",
    "Count",
    "EarlierTrial",
    "Environment",
    "Fact",
    "FailedSeeds",
    "Flag",
    "InstrumentRecord",
    "Item",
    "Job",
    "JsonObject",
    "LookRecord",
    "Member",
    "Moment",
    "Name",
    "Phase",
    "Probe",
    "ProbeRecord",
    "Role",
    "RowCounts",
    "RunRecord",
    "RungScore",
    "Score",
    "Seconds",
    "Status",
    "Step",
    "TrainSettings",
    "Trial",
    "bare_quantity",
    "canonical",
    "check_positive",
    "digest",
    "printable",
    "quantity",
    "read_record",
    "scales",
    "shell_line",
    "shell_word",
    "visible",
    "with_settings",
]
