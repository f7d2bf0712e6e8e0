"""MLflow: a run for each attempt, under one for the tunebench run, in an experiment named after the suite.

MLflow's own environment variables decide where that is: MLFLOW_TRACKING_URI (default: `mlflow.db` in the working
directory), MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_TOKEN. https://mlflow.org/docs/latest/ml/tracking/
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from harness.records import Status, canonical
from harness.trackers.base import Tracker
from harness.trackers.content import content

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records import CellResult, RunRecord

# MLflow takes 1,000 metrics and 100 params in one request, and 1,000 of both together.
METRICS_AT_ONCE = 800
PARAMS_AT_ONCE = 100
FAULTS = {Status.FAILED, Status.OOM, Status.DIVERGED, Status.TIMEOUT}


class MLflow(Tracker):
    """MLflow: one run for each attempt, nested in one for the tunebench run; the suite is the experiment."""

    name = "mlflow"
    package = "mlflow-skinny"
    at_least = "3.17"
    # With its default of 7 retries and growing pauses, MLflow takes over 100 s to report a refused connection.
    environment = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}

    def begin(self, run: RunRecord) -> None:
        """Create MLflow's run for the tunebench run, in the experiment of MLFLOW_EXPERIMENT_NAME or else of the suite's
        name."""
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run["suite"]
        experiment = self.client.get_experiment_by_name(name)
        self.experiment = experiment.experiment_id if experiment else self.client.create_experiment(name)
        about = {
            "run_id": run["run_id"],
            "suite": run["suite"],
            "question": run["question"],
            "command": run["command"],
            "env_digest": run["env_digest"],
        }
        tags = {name: value for name, value in about.items() if value}
        started = milliseconds(run["started"])
        parent = self.client.create_run(self.experiment, started, tags, run_name=run["run_id"])
        self.parent = parent.info.run_id

    def cell(self, result: CellResult, folder: Path) -> None:
        """Create a run of MLflow's for the attempt, nested in that of the tunebench run, and end it."""
        from mlflow.entities import Metric, Param

        shown = content(result, folder)
        started = milliseconds(result.started)
        ended = started + round(1000 * result.seconds)
        tags = {
            **shown.tags,
            "mlflow.parentRunId": self.parent,
            "mlflow.source.git.commit": result.environment.commit,
            "mlflow.note.content": result.reason,
        }
        run = self.client.create_run(self.experiment, started, tags, run_name=result.cell.key)
        params = [Param(accepted_name(name), value) for name, value in flattened(shown.params)]
        metrics = [Metric(accepted_name(name), value, ended, 0) for name, value in shown.metrics.items()]
        for step, values in shown.series.items():
            metrics += [Metric(accepted_name(name), value, started, step) for name, value in values.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(run.info.run_id, params=params[start : start + PARAMS_AT_ONCE])
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
        status = "FINISHED" if result.status is Status.DONE else "FAILED" if result.status in FAULTS else "KILLED"
        self.client.set_terminated(run.info.run_id, status, ended)

    def end(self, status: str) -> None:
        """End MLflow's run for the tunebench run."""
        mlflow_status = {"done": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
        self.client.set_terminated(self.parent, mlflow_status)


def milliseconds(moment: str) -> int:
    """Returns the milliseconds since 1970 of a moment in ISO 8601."""
    return round(1000 * datetime.fromisoformat(moment).timestamp())


def accepted_name(name: str) -> str:
    """Returns a name with every character that MLflow refuses replaced by "_" (allowed: letters, digits, _ - . / :
    blank)."""
    return re.sub(r"[^\w./: -]", "_", name)


def flattened(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, text) for each value of nested dictionaries: ("settings.rank", "8"). Other values than texts
    become JSON. `prefix` stands before every name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value if isinstance(value, str) else canonical(value)
