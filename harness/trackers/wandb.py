"""Weights & Biases: a run for each attempt, grouped by the tunebench run, in a project named after the suite.

wandb's own environment variables decide where that is: WANDB_API_KEY or `wandb login`, WANDB_ENTITY, WANDB_PROJECT,
WANDB_BASE_URL, WANDB_DIR, and WANDB_MODE=offline for files that `wandb sync` uploads later. https://docs.wandb.ai/
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from harness.records import Status
from harness.trackers.base import Tracker
from harness.trackers.content import content

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records import CellResult, RunRecord

LONGEST_PROJECT = 128
LONGEST_TAG = 64


class WandB(Tracker):
    """Weights & Biases: one run for each attempt, grouped by the tunebench run; the suite is the project."""

    name = "wandb"
    package = "wandb"
    at_least = "0.30"
    environment = {
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",  # the output of this process is not the cell's
        "WANDB_X_DISABLE_STATS": "true",  # nor are the machine's figures, sampled after the cell has ended
        "WANDB_INIT_TIMEOUT": "30",
    }

    def begin(self, run: RunRecord) -> None:
        """Log in, and keep the names of project and group for the runs to come."""
        import wandb

        wandb.login(verify=True)  # reports a wrong key now; offline, it contacts nobody
        suite = re.sub(r"[/\\#?%:]", "-", run["suite"])[:LONGEST_PROJECT]
        self.project = os.environ.get("WANDB_PROJECT") or suite
        self.group = run["run_id"]

    def cell(self, result: CellResult, folder: Path) -> None:
        """Create a run of wandb's for the attempt, in the group of the tunebench run, and finish it."""
        import wandb

        shown = content(result, folder)
        cell = result.cell
        names = (cell.label, cell.method, cell.model, cell.task, str(result.status))
        run = wandb.init(
            project=self.project,
            group=self.group,
            job_type=cell.method,
            name=cell.key,
            id=result.attempt_id,  # the same attempt again is the same run, not a second one
            notes=result.reason or None,
            tags=list(dict.fromkeys(name[:LONGEST_TAG] for name in names if name)),
            config={**shown.params, **shown.tags, "started": result.started},
            reinit="create_new",
        )
        for step, values in shown.series.items():
            run.log(values, step=step)
        run.summary.update(shown.metrics)
        run.finish(exit_code=0 if result.status is Status.DONE else 1)
