"""What a mirror shows of an attempt, under the same names in every tracker. Reads files, writes none."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.records import CellResult, with_settings


@dataclass(frozen=True)
class Content:
    """`params`: what the cell is. `metrics`: what was found. `series`: by step. `tags`: where it comes from."""

    params: dict[str, Any]
    metrics: dict[str, float]
    series: dict[int, dict[str, float]]
    tags: dict[str, str]


def content(result: CellResult, folder: Path) -> Content:
    """Everything about an attempt that fits a tracker; items, documents and weights stay in `folder`."""
    return Content(params(result), metrics(result, base_scores(folder)), series(result), tags(result, folder))


def params(result: CellResult) -> dict[str, Any]:
    """The cell's names and settings; `settings` and `train` are dictionaries. An untrained cell has no seed."""
    cell = result.cell if result.cell.study else with_settings(result.cell, result.tuned)
    names = ("label", "method", "family", "model", "task", "n_train", "seed", "settings", "train", "data")
    found = {name: getattr(cell, name) for name in names}
    return {name: value for name, value in found.items() if value is not None and (value or name != "data")}


def metrics(result: CellResult, base: dict[tuple[str, str], float]) -> dict[str, float]:
    """`task/metric` with `_stderr`, and `_base` and `_change` beside the untouched model; phases; facts.

    The change of a score that is retained is its retention. Its sign is that of the difference, whether or
    not higher is better.
    """
    found: dict[str, float] = {"seconds": result.seconds}
    for score in result.scores:
        name = f"{score.task}/{score.metric}"
        found[name] = score.value
        if score.stderr is not None:
            found[f"{name}_stderr"] = score.stderr
        if (score.task, score.metric) in base:
            found[f"{name}_base"] = base[score.task, score.metric]
            found[f"{name}_change"] = score.value - base[score.task, score.metric]
    for phase in result.phases:
        for name, value in asdict(phase).items():
            if name != "phase" and value is not None:
                found[f"phase/{phase.phase}/{name}"] = value
    for fact in result.facts:
        found[f"fact/{fact.name}"] = fact.value
    return found


def series(result: CellResult) -> dict[int, dict[str, float]]:
    """Step -> `train/loss`, `train/learning_rate`, `validation/loss`, in the order of the steps."""
    found: dict[int, dict[str, float]] = {}
    for step in sorted(result.steps, key=lambda step: step.step):
        values = found.setdefault(step.step, {})
        values[f"{step.split}/loss"] = step.loss
        if step.learning_rate is not None:
            values[f"{step.split}/learning_rate"] = step.learning_rate
    return found


def tags(result: CellResult, folder: Path) -> dict[str, str]:
    """Identity, provenance, how it ended, and where the rest lies. Empty ones are left out."""
    cell, environment = result.cell, result.environment
    found = {
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
    return {name: value for name, value in found.items() if value}


def base_scores(folder: Path) -> dict[tuple[str, str], float]:
    """(task, metric) -> the untouched model's value, from the attempt that this one's job names.

    Empty where there is none. The attempt is looked for beside this one: a results folder may be moved.
    """
    try:
        baseline = json.loads((folder / "job.json").read_text())["baseline"]
        if not baseline:
            return {}
        place = Path(*Path(baseline).parts[-3:-1])  # of …/attempts/<two digits>/<attempt_id>/items.parquet
        stored = json.loads((folder.parents[1] / place / "result.json").read_text())
        return {(score["task"], score["metric"]): score["value"] for score in stored["scores"]}
    except (OSError, ValueError, KeyError):
        return {}
