"""The result of an attempt at a cell, and its parts: scores, phases, steps, facts, flags."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

from harness.records.cell import Cell, Member
from harness.records.json_object import JsonObject
from harness.records.reading import Count, Moment, Name, Seconds, check_not_negative, read_record
from harness.records.units import quantity

if TYPE_CHECKING:
    from harness.records.job import Job


class Status(StrEnum):
    """How an attempt ended: "oom" is out of memory, "diverged" a loss that became NaN or infinite, "timeout" a passed
    time limit; "skipped" was never started (it cannot run here, or a need did not end well), and "interrupted" was cut
    short through no fault of its own, so that it runs again."""

    DONE = "done"
    FAILED = "failed"
    OOM = "oom"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Environment:
    """Where cells compute. `env_digest` covers what counts as able to change a result: the versions of the packages in
    `environment.RESULT_PACKAGES`, the accelerator, the CPU threads of a cell, and RESULT_VERSION.

    The rest tells where results come from. `packages` maps every installed package to its version; `accelerator` names
    the GPUs ("" for none); `commit` is the harness's own, and `dirty` says that its files differed from it. `threads`
    and `result_version` are None in records of an earlier tunebench, which kept them in the digest alone.
    """

    env_digest: Name
    created: Moment
    python: str
    os: str
    cpu: str
    accelerator: str
    driver: str
    packages: dict[str, str]
    commit: str
    dirty: bool
    threads: Count | None = None
    result_version: Count | None = None


@dataclass(frozen=True)
class Item:
    """One document's value of one metric. `doc_id` is the document's hash (16 digits), and after a dash how many equal
    documents came before it. `prediction` and `target` are the model's answer and the right one, as text. `cluster` is
    what the document shares with others (a passage), None where the items of its task are independent."""

    task: str
    doc_id: str
    metric: str
    value: float
    prediction: str
    target: str
    cluster: str | None = None


Role = Literal["task", "retain"]  # of a scored task: it is learned, or scored to measure forgetting


@dataclass(frozen=True)
class Score:
    """The value of a metric on one task, with its standard error over `n` items. `role` is "task" for a learned task,
    "retain" for one that is scored to measure forgetting.

    Where items come in clusters, the error is clustered: `clusters` is how many there are, and `clustered_by` the
    column that names an item's cluster. Otherwise they are None and "".
    """

    task: Name
    role: Role
    metric: Name
    value: float
    stderr: float | None
    n: Count
    higher_is_better: bool
    clusters: Count | None = None
    clustered_by: str = ""


# The phase of this program's own test of a method's start. It is no cost of the method: not every method has it.
OWN_CHECK = "check"
# Facts about the machine and not the cell: how fast it computed a fixed matrix product before and after the cell.
SPEED_BEFORE, SPEED_AFTER = "machine_speed_before", "machine_speed_after"


@dataclass(frozen=True)
class Phase:
    """A part of an attempt that is measured on its own: time, tokens, memory, energy.

    `phase` is one of load, check (within load: whether the method starts as it says), train, score_stages (between the
    stages of training), score_checkpoints and, of a trial, score_rungs (between its steps), evaluate, compare (with the
    base model), infer, save. `tokens` and `samples` are those that were worked through. Bytes are peaks within the
    phase: `allocated` and `reserved` by torch on the GPU, `device` in use on the whole GPU, `rss` resident in the
    process. None is "not measured".
    """

    phase: Name
    seconds: Seconds
    tokens: Count | None = None
    samples: Count | None = None
    allocated_bytes: Count | None = None
    reserved_bytes: Count | None = None
    device_bytes: Count | None = None
    rss_bytes: Count | None = None
    energy_j: float | None = None


@dataclass(frozen=True)
class Step:
    """One optimiser step (split "train") or one validation pass (split "validation", after `step` optimiser steps).

    `loss` is what was minimised, with every term that a method or an objective adds. `cross_entropy` is that of the
    task's answers alone, in nats per answer token; None where a step has no answer tokens (general text, a
    classification head, pairs of texts) or its loss is not made of them (preferences, rewards).
    """

    step: Count
    split: Name
    loss: float
    learning_rate: float | None
    tokens: Count | None
    seconds: float | None
    cross_entropy: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A score during training, after `step` optimiser steps, on the items that are scored in the end: for a curve,
    never for a choice.

    Step 0 is the attached model before the first step; it is recorded where that model does not score as the base
    model.
    """

    step: Count
    task: Name
    role: Role
    metric: Name
    value: float
    stderr: float | None
    n: Count
    higher_is_better: bool


@dataclass(frozen=True)
class Fact:
    """Any other number about an attempt, such as its trainable parameters. `unit` decides how it is shown (`quantity`);
    `higher_is_better` is None where neither direction is better."""

    name: Name
    value: float
    unit: str
    higher_is_better: bool | None = None

    @property
    def text(self) -> str:
        """The value with its unit, formatted for people."""
        return quantity(self.value, self.unit)


@dataclass(frozen=True)
class Flag:
    """A warning about an attempt, such as "overfitting"; `evidence` holds the figures behind it by name."""

    name: Name
    evidence: JsonObject


class RungScore(TypedDict):
    """The score of a trial at a rung, a point of its training at which it may be ended early."""

    rung: int  # from 1
    step: int  # optimiser steps done
    value: float  # as the metric counts
    merit: float  # turned so that more is better
    items: NotRequired[list[float]]  # a merit for each validation item, where the pruner compares by item


@dataclass(frozen=True)
class Trial:
    """One setting tried in a study, and its outcome.

    `number` is its place in the study, `params` the settings by full name. `status` is "done", "pruned", or how its
    attempt ended otherwise, for the given `reason`. `value` is the score that the study seeks, as its metric counts;
    `values` are all numbers by name; `merits` are the values of the study's goals in their order, turned so that more
    is better. `tokens` were trained on; `peak_bytes` is the most memory. `intermediate` are its scores at rungs.
    `origin` says who proposed it: "default", "warm start" or "sampler". `front`: the trial is on the Pareto front.
    """

    number: Count
    params: JsonObject
    status: str
    reason: str = ""
    value: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    merits: tuple[float, ...] = ()
    seconds: float = 0.0
    tokens: int | None = None
    peak_bytes: int | None = None
    intermediate: tuple[RungScore, ...] = ()
    origin: str = ""
    attempt_id: str = ""
    front: bool = False


# Self-checks that only some cells rest on (`Method.instruments`); all others are done for every base model.
OPTIONAL_CHECKS = ("null_adapter", "same_seed", "merge_of_one")


@dataclass(frozen=True)
class Check:
    """A self-check of one measuring instrument. `about` says what was compared, `measured` by how much (in `unit`) it
    was off, `limit` the most that passes; `seconds` is how long the check took."""

    name: Name
    about: str
    measured: float
    limit: float
    unit: str
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether `measured` is at most `limit`; False for NaN."""
        return self.measured <= self.limit  # False for NaN


@dataclass(frozen=True)
class CellResult:
    """The result of one attempt at a cell, as `result.json` holds it. Per-item values lie in `items.parquet` beside it.

    `reason` says why it ended with its `status`; `started` is in ISO 8601. `beside` lists the keys of cells that shared
    a device with it at some time; if there are any, the attempt is `contended` and its timings say little. `device` is
    where it ran: "cpu", "cuda:0", a node's name. `tuned` are settings, by full name, that a study chose: in a study's
    result its choice, in a cell's result those that it ran with. `trials` are those of a study, `intermediate` the
    scores of a trial at rungs.
    """

    attempt_id: Name
    run_id: Name
    cell: Cell
    environment: Environment
    status: Status
    reason: str
    started: Moment
    seconds: Seconds = 0.0
    contended: bool = False
    scores: tuple[Score, ...] = ()
    phases: tuple[Phase, ...] = ()
    steps: tuple[Step, ...] = ()
    facts: tuple[Fact, ...] = ()
    flags: tuple[Flag, ...] = ()
    beside: tuple[str, ...] = ()
    device: str = ""
    checkpoints: tuple[Checkpoint, ...] = ()
    tuned: JsonObject = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    intermediate: tuple[RungScore, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the result as values that JSON knows, as result.json holds it."""
        return {**asdict(replace(self, cell=None)), "cell": self.cell.to_json()}  # type: ignore[arg-type]

    @classmethod
    def of_job(
        cls, attempt_id: str, job: Job, status: Status, reason: str, started: str, **measured: Any
    ) -> CellResult:
        """Return the result of an attempt at a job; `started` is in ISO 8601, and `measured` are further fields of the
        result by name."""
        return cls(
            attempt_id, job.run_id, job.cell, job.environment, status, reason, started, tuned=job.tuned, **measured
        )

    @classmethod
    def from_json(cls, data: JsonObject) -> CellResult:
        """Return the result that `to_json` wrote. Raises ValueError for anything else; it names the wrong field."""
        return read_record(cls, data)


# What a seed that ended badly counts as, where a method's scores are joined: the base model's score, or the worst.
FailedSeeds = Literal["base", "worst"]
FAILED_SEEDS: FailedSeeds = "base"


class RowCounts(TypedDict):
    """What became of a task's rows: those `read` of each published split ("" for one file), those `dropped` by reason,
    and the documents `kept` in each split by class ("" without classes)."""

    read: dict[str, Count]
    dropped: dict[str, Count]
    kept: dict[str, dict[str, Count]]


class RunRecord(TypedDict):
    """A run of a suite, as `runs/<run_id>.json` holds it. `started` and `finished` are in ISO 8601; while it runs,
    `finished` is None and `status` "running", later "done", "failed" or "interrupted".

    `margin` is the difference of scores that does not matter; `failed_seeds` says what a seed that ended badly counts
    as. `command` is the command line, `only_cells` are the patterns of its `--only`, empty for the whole suite.
    `members` are the run's cells (`Cell.member`); `revisions` maps models from the Hub to the commits that were used.
    `suite_text` is the suite's file as it was read: it may be untracked, or change later. `task_rows` says for each
    task what became of its rows. What may be absent is so in records of an earlier tunebench.
    """

    run_id: Name
    suite: Name
    question: str
    margin: NotRequired[Annotated[float, check_not_negative] | None]
    failed_seeds: NotRequired[FailedSeeds | None]
    env_digest: Name
    started: Moment
    finished: Moment | None
    status: Name
    command: str
    only_cells: NotRequired[list[str] | None]
    revisions: NotRequired[dict[str, str] | None]
    members: list[Member]
    suite_text: NotRequired[str | None]
    task_rows: NotRequired[dict[str, RowCounts] | None]


# The difference of two scores below which they are said to be tied, where a suite names none.
MARGIN = 0.02


class InstrumentRecord(TypedDict):
    """The self-checks of the instruments on one model, as a file of `instruments/` holds them. `precision` and
    `attention` (the kernel) are those that the model is scored with; `created` is in ISO 8601."""

    env_digest: Name
    model: Name
    precision: Name
    attention: Name
    created: Moment
    checks: list[Check]
