"""Reads the result files of peft's own comparison of methods (`method_comparison/*/results/*.json` of its repository).

A file holds one training of one configuration: `run_info` (its settings), `train_info` (what was measured) and
`meta_info` (packages, data, machine). It has no values of single items. What is read becomes the result of an attempt
at a cell of an own suite. Not covered: finding the files (`versions.py`) and storing results (`imports.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict, TypeVar

from harness.records import (
    Cell,
    CellResult,
    Environment,
    Fact,
    JsonObject,
    Moment,
    Name,
    Phase,
    Score,
    Status,
    Step,
    TrainSettings,
    digest,
    read_record,
)

SUITE = "peft-method-comparison"
METHOD = "imported"  # of every imported cell: no method of this program made it
PARTS = ("run_info", "train_info", "meta_info")
# Settings that say nothing of what was trained: the version that wrote them, and a map that peft fills in itself.
NO_SETTING = ("peft_version", "auto_mapping")
LOWER_IS_BETTER = ("loss", "perplexity", "error")  # words in the names of test metrics; others are better when higher
FORGETTING = ("forgetting", "drift")  # what the base model lost; 0 is best
STATUSES = {"success": Status.DONE, "failed": Status.FAILED, "canceled": Status.FAILED, "cancelled": Status.FAILED}


Part = TypeVar("Part")


class OtherShape(ValueError):
    """A JSON file that is no such result; the message names the field. `foreign`: it has none of the three parts, so
    that it was never meant to be one."""

    def __init__(self, message: str, foreign: bool = False):
        super().__init__(message)
        self.foreign = foreign


class RunInfo(TypedDict):
    """The settings of a result. `experiment_name` is method/setting; without a `peft_config` all weights were
    trained."""

    created_at: Moment
    total_time: float
    experiment_name: Name
    train_config: JsonObject
    peft_config: NotRequired[JsonObject | None]
    error_msg: NotRequired[str | None]


class TrainInfo(TypedDict):
    """What was measured. `metrics` has an entry each for some steps, and the test scores in its last one."""

    train_time: float
    status: Name
    metrics: list[JsonObject]
    accelerator_memory_max: NotRequired[int | None]
    file_size: NotRequired[int | None]
    num_trainable_params: NotRequired[int | None]
    num_total_params: NotRequired[int | None]


class MetaInfo(TypedDict):
    """Where it was measured: versions by "<package>-version", checksums of model and data, the machine."""

    package_info: dict[str, str | None]
    system_info: JsonObject
    model_info: NotRequired[JsonObject | None]
    dataset_info: NotRequired[JsonObject | None]


@dataclass(frozen=True)
class Published:
    """One published result. `benchmark` names the task it was scored on."""

    benchmark: str
    run: RunInfo
    train: TrainInfo
    meta: MetaInfo
    complaints: list[str] = field(default_factory=list)


def read_published(where: str, content: bytes) -> Published:
    """Reads a result from the bytes of its file; `where` names the file, from whose folders the benchmark's name is
    taken. Raises OtherShape."""
    if not content:
        raise OtherShape("it is larger than any result", foreign=True)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OtherShape(f"it is no JSON ({error})") from None
    if not isinstance(data, dict) or not any(part in data for part in PARTS):
        raise OtherShape("it has no field run_info, train_info or meta_info", foreign=True)
    for part in PARTS:
        if part not in data:
            raise OtherShape(f"{part}: is missing")
    found = Published(
        benchmark_of(where),
        read_part(RunInfo, data["run_info"], "run_info"),
        read_part(TrainInfo, data["train_info"], "train_info"),
        read_part(MetaInfo, data["meta_info"], "meta_info"),
    )
    if found.train["status"] not in STATUSES:
        raise OtherShape(f"train_info.status: got {found.train['status']!a}, wanted one of {', '.join(STATUSES)}")
    for name in ("model_id", "seed"):
        if name not in found.run["train_config"]:
            raise OtherShape(f"run_info.train_config.{name}: is missing")
    seed = found.run["train_config"]["seed"]
    if type(seed) is not int or seed < 0:
        raise OtherShape(f"run_info.train_config.seed: got {seed!a}, wanted a whole number of at least 0")
    if found.train["status"] == "success" and not found.train["metrics"]:
        raise OtherShape("train_info.metrics: is empty, though the status is success")
    return found


def read_part(kind: type[Part], value: object, part: str) -> Part:
    """Returns one part of a file as its record; fields that the record does not declare are left out, as newer versions
    may write more. Raises OtherShape."""
    if not isinstance(value, dict):
        raise OtherShape(f"{part}: got {type(value).__name__}, wanted a mapping")
    try:
        return read_record(kind, {name: value[name] for name in kind.__annotations__ if name in value})
    except ValueError as error:
        text = str(error)
        raise OtherShape(f"{part}: {text[10:]}" if text.startswith("the file: ") else f"{part}.{text}") from None


def benchmark_of(where: str) -> str:
    """Returns the name of the benchmark that a file belongs to: the folder above `results`, "results" elsewhere."""
    path = where.rsplit(" at ", 1)[0]
    match = re.search(r"([^/:]+)/[a-z_]*results/[^/]+$", path)
    return match.group(1) if match else "results"


# --- to records ---


def result_of(published: Published) -> CellResult:
    """Returns a published result as the result of an attempt. The run's id is left open ("-": `imports.py` fills it
    in). Raises OtherShape for values that no result can hold, such as a seed of more than 64 bits."""
    try:
        made = unchecked(published)
        return CellResult.from_json(json.loads(json.dumps(made.to_json())))
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise OtherShape(f"it cannot be stored ({(str(error).splitlines() or [''])[0]})") from None


def unchecked(published: Published) -> CellResult:
    """Returns a published result as the result of an attempt, whatever its values are."""
    cell = cell_of(published)
    run, train = published.run, published.train
    status, reason = status_of(published)
    done = status is Status.DONE
    stamp = re.sub(r"\D", "", run["created_at"])[:14]
    return CellResult(
        attempt_id=f"{stamp}-imported-{cell.spec_digest[:12]}",
        run_id="-",
        cell=cell,
        environment=environment_of(published),
        status=status,
        reason=reason,
        started=run["created_at"],
        seconds=max(run["total_time"], 0.0),
        scores=scores_of(published) if done else (),
        phases=phases_of(train) if done else (),
        steps=steps_of(train),
        facts=facts_of(train) if done else (),
        device=str(published.meta["system_info"].get("accelerator") or ""),
    )


def status_of(published: Published) -> tuple[Status, str]:
    """Returns how the training ended, and why: out of memory is told by its message, a failure without one by its
    status."""
    status = STATUSES[published.train["status"]]
    reason = (published.run.get("error_msg") or "").strip()
    if status is Status.DONE:
        return status, ""
    if re.search(r"out ?of ?memory|\boom\b", reason, re.IGNORECASE):
        return Status.OOM, reason
    return status, reason or f"published with status {published.train['status']!r}"


def cell_of(published: Published) -> Cell:
    """Returns the cell that was trained. Its digest covers the suite, the experiment's name, its settings as far as
    they are set, and the revision of the model; so no cell of tunebench's own has it. Values that are empty
    (null, false, [] and {}) are left out: later versions add such settings without changing what is trained."""
    run, meta = published.run, published.meta
    train, adapter = run["train_config"], run.get("peft_config") or {}
    task, label = published.benchmark, run["experiment_name"].replace("/", "--")
    model = str(train["model_id"]).rsplit("/", 1)[-1]
    settings = {"experiment": run["experiment_name"], "train_config": filled(train), "peft_config": filled(adapter)}
    fingerprints = {
        task: digest([SUITE, task]),
        "model": digest(without_dates(meta.get("model_info") or {})),
    }
    size = size_of(published)
    steps = train.get("max_steps")
    batch = train.get("batch_size")
    return Cell(
        key=f"{label}/{model}/{task}/n{size}/s{train['seed']}",
        spec_digest=digest(["imported", SUITE, task, settings, fingerprints]),
        label=label,
        method=METHOD,
        family=str(adapter.get("peft_type") or "full").lower(),
        model=model,
        task=task,
        learn=(task,),
        n_train=size,
        seed=train["seed"],
        retain=(f"{task}-base",) if any(score.role == "retain" for score in scores_of(published)) else (),
        settings=settings,
        train=TrainSettings.model_validate(
            {
                name: value
                for name, value in (("steps", steps), ("batch_size", batch))
                if type(value) is int and value > 0
            }
        ),
        fingerprints=fingerprints,
    )


def filled(settings: Mapping[str, object]) -> JsonObject:
    """Returns the settings that have a value, with lists of names in order: peft writes sets."""
    return {
        name: sorted(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value
        for name, value in sorted(settings.items())
        if name not in NO_SETTING and value is not None and value is not False and value not in ([], {})
    }


def without_dates(value: object) -> object:
    """Returns checksums without the dates beside them."""
    if isinstance(value, dict):
        return {name: without_dates(inner) for name, inner in value.items() if name != "created_at"}
    return value


def size_of(published: Published) -> int:
    """Returns the number of training examples: what the longest-trained metrics say, else steps × batch size; 1 where
    nothing says it."""
    counts = [entry.get("train samples") for entry in published.train["metrics"]]
    known = [int(count) for count in counts if isinstance(count, int | float) and math.isfinite(count) and count > 0]
    steps, batch = (published.run["train_config"].get(name) for name in ("max_steps", "batch_size"))
    if published.train["status"] == "success" and known:
        return max(known)
    return steps * batch if type(steps) is int and type(batch) is int and steps * batch > 0 else 1


def environment_of(published: Published) -> Environment:
    """Returns the environment of a result: the versions of its packages, the revisions of its data sets on the Hub (as
    "dataset:name"; a new revision may be a new README, so that it makes no other cell, but it may be the cause of a
    change), and the accelerator. Two commits of one development version count as one environment, as they were
    published."""
    packages = {
        name.removesuffix("-version"): version
        for name, version in sorted(published.meta["package_info"].items())
        if name.endswith("-version") and version
    } | revisions_of(published.meta.get("dataset_info") or {})
    machine = published.meta["system_info"]
    accelerator = str(machine.get("accelerator") or "")
    return Environment(
        env_digest=digest(["imported", SUITE, packages, accelerator]),
        created=published.run["created_at"],
        python="",
        os=" ".join(str(machine[name]) for name in ("system", "release") if machine.get(name)),
        cpu=str(machine.get("processor") or ""),
        accelerator=accelerator,
        driver="",
        packages=packages,
        commit="",
        dirty=False,
    )


def revisions_of(data: Mapping[str, object]) -> dict[str, str]:
    """Returns "dataset:name" -> the first digits of its revision, from what a result says of its data sets: one alone,
    or several by name."""
    several = {"": data} if "sha" in data else data
    return {
        f"dataset:{name}".removesuffix(":"): str(one["sha"])[:10]
        for name, one in several.items()
        if isinstance(one, dict) and one.get("sha")
    }


def scores_of(published: Published) -> tuple[Score, ...]:
    """Returns the test scores, the benchmark's own first, then what the base model lost. A score that is no number is
    left out, and a complaint says so."""
    last = published.train["metrics"][-1] if published.train["metrics"] else {}
    task = published.benchmark
    scores = []
    for name, value in last.items():
        own, lost = name.startswith("test "), name in FORGETTING
        if not (own or lost) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            complaint = f"train_info.metrics[-1].{name}: got {value}, wanted a number; that score is left out"
            if complaint not in published.complaints:
                published.complaints.append(complaint)
            continue
        metric = name.removeprefix("test ").replace(" ", "_")
        higher = not lost and not any(word in metric for word in LOWER_IS_BETTER)
        role_task = (task, "task") if own else (f"{task}-base", "retain")
        scores.append(Score(role_task[0], role_task[1], metric, float(value), None, 0, higher))  # type: ignore[arg-type]
    return tuple(sorted(scores, key=lambda score: score.role == "retain"))


def phases_of(train: TrainInfo) -> tuple[Phase, ...]:
    """Returns the time of the training steps, and of the evaluations between them. (`train_time` holds more than
    training: it is kept as a fact.)"""
    found = []
    for phase, name in (("train", "train time"), ("evaluate", "eval time")):
        times = [entry.get(name) for entry in train["metrics"]]
        known = [float(time) for time in times if isinstance(time, int | float) and math.isfinite(time)]
        if known and sum(known) > 0:
            tokens = train["metrics"][-1].get("train total tokens") if phase == "train" else None
            count = int(tokens) if isinstance(tokens, int | float) and math.isfinite(tokens) and tokens > 0 else None
            found.append(Phase(phase, sum(known), tokens=count))
    return tuple(found)


def steps_of(train: TrainInfo) -> tuple[Step, ...]:
    """Returns the losses along training."""
    found = []
    for entry in train["metrics"]:
        step, loss = entry.get("step"), entry.get("train loss")
        if type(step) is int and step >= 0 and isinstance(loss, int | float) and math.isfinite(loss):
            found.append(Step(step, "train", float(loss), None, None, None))
    return tuple({one.step: one for one in found}.values())


def facts_of(train: TrainInfo) -> tuple[Fact, ...]:
    """Returns sizes, memory and the whole time as facts, under the names of tunebench's own where they mean the
    same."""
    known = (
        ("trainable_params", train.get("num_trainable_params"), "parameters", False),
        ("total_params", train.get("num_total_params"), "parameters", None),
        ("artifact_bytes", train.get("file_size"), "B", False),
        ("whole_run_device_bytes", train.get("accelerator_memory_max"), "B", False),
        ("whole_run_seconds", train["train_time"], "s", False),
    )
    return tuple(
        Fact(name, float(value), unit, better)
        for name, value, unit, better in known
        if value is not None and math.isfinite(value)
    )
