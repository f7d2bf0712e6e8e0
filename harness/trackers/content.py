"""Collects what a tracker shows of an attempt, under the same names in every tracker. Reads files, writes none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.records import CellResult, with_settings


@dataclass(frozen=True)
class Content:
    """An attempt as every tracker shows it.

    `params`: the cell's names and settings. `metrics`: scores, phases and facts. `series`: losses by step. `tags`:
    identity, provenance and status.
    """

    params: dict[str, object]
    metrics: dict[str, float]
    series: dict[int, dict[str, float]]
    tags: dict[str, str]


def content(result: CellResult, folder: Path) -> Content:
    """Returns everything about an attempt that fits a tracker; items, documents and weights stay in `folder`, the
    attempt's own."""
    return Content(params(result), metrics(result, base_scores(folder)), series(result), tags(result, folder))


def params(result: CellResult) -> dict[str, object]:
    """Returns the cell's names and settings, those that its study chose included; `settings`, `train` and `data` are
    dictionaries. Missing ones are left out, such as the seed of an untrained cell."""
    cell = result.cell if result.cell.study else with_settings(result.cell, result.tuned)
    params_by_name: dict[str, object] = {
        "label": cell.label,
        "method": cell.method,
        "family": cell.family,
        "model": cell.model,
        "task": cell.task,
        "n_train": cell.n_train,
        "seed": cell.seed,
        "settings": cell.settings,
        "train": cell.train.model_dump(),
        "data": cell.data or None,
    }
    return {name: value for name, value in params_by_name.items() if value is not None}


def metrics(result: CellResult, base: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Returns scores, phases and facts by name: `task/metric`, `phase/<phase>/<measure>`, `fact/<name>`, and `seconds`
    of the whole attempt.

    A score comes with `_stderr`, and with `_base` and `_change` against the base model where its value is known
    (`base`: (task, metric) -> value). The change is score minus base, whether or not higher is better.
    """
    values: dict[str, float] = {"seconds": result.seconds}
    for score in result.scores:
        name = f"{score.task}/{score.metric}"
        values[name] = score.value
        if score.stderr is not None:
            values[f"{name}_stderr"] = score.stderr
        if (score.task, score.metric) in base:
            values[f"{name}_base"] = base[score.task, score.metric]
            values[f"{name}_change"] = score.value - base[score.task, score.metric]
    for phase in result.phases:
        for name, value in asdict(phase).items():
            if name != "phase" and value is not None:
                values[f"phase/{phase.phase}/{name}"] = value
    for fact in result.facts:
        values[f"fact/{fact.name}"] = fact.value
    return values


def series(result: CellResult) -> dict[int, dict[str, float]]:
    """Returns step -> {`train/loss`, `train/cross_entropy`, `train/learning_rate`, `validation/loss`, …: value}, in the
    order of the steps."""
    by_step: dict[int, dict[str, float]] = {}
    for step in sorted(result.steps, key=lambda step: step.step):
        values = by_step.setdefault(step.step, {})
        values[f"{step.split}/loss"] = step.loss
        if step.cross_entropy is not None:
            values[f"{step.split}/cross_entropy"] = step.cross_entropy
        if step.learning_rate is not None:
            values[f"{step.split}/learning_rate"] = step.learning_rate
    return by_step


def tags(result: CellResult, folder: Path) -> dict[str, str]:
    """Returns identity, provenance, status, and the path of the attempt's folder, by name, as texts. Empty ones are
    left out."""
    cell, environment = result.cell, result.environment
    tags_by_name = {
        "run_id": result.run_id,
        "attempt_id": result.attempt_id,
        "key": cell.key,
        "spec_digest": cell.spec_digest,
        "env_digest": environment.env_digest,
        "commit": environment.commit,
        "dirty": "yes" if environment.dirty else "",
        "python": environment.python,
        "cpu": environment.cpu,
        "accelerator": environment.accelerator,
        "role": "study" if cell.study else "trial" if cell.trial else "",
        "status": str(result.status),
        "reason": result.reason,
        "flags": ", ".join(flag.name for flag in result.flags),
        "contended": "yes" if result.contended else "",
        "learned": ", ".join(cell.learn),
        "retained": ", ".join(cell.retain),
        "folder": str(folder),
    }
    return {name: value for name, value in tags_by_name.items() if value}


def base_scores(folder: Path) -> dict[tuple[str, str], float]:
    """Returns (task, metric) -> the base model's value, from the attempt of the base model's cell that this attempt's
    job names; `folder` is this attempt's.

    Empty where there is none. The attempt is looked for beside this one, since a results folder may have been moved.
    """
    try:
        baseline = json.loads((folder / "job.json").read_text())["baseline"]
        if not baseline:
            return {}
        base = Path(*Path(baseline).parts[-3:-1])  # of …/attempts/<two digits>/<attempt_id>/items.parquet
        stored = json.loads((folder.parents[1] / base / "result.json").read_text())
        return {(score["task"], score["metric"]): score["value"] for score in stored["scores"]}
    except (OSError, ValueError, KeyError):
        return {}
