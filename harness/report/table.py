"""Turns stored cells into the rows of the report. Every report (terminal, Markdown, HTML) is made from these rows.

A row is label × data size × data quality; its figures are means over seeds. The standard error of a score joins two
things: the items (the same for every seed, so averaging over seeds does not shrink it) and the spread between seeds:
sqrt(mean(item stderr²) + var(seeds) / seeds). Seeds that share one of several studies of a tuned label count once, by
their mean. The standard error of a change against the base model is joined in the same way, from item errors paired
with the base model's answers to the same items.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.analysis import (
    RIGHT_OR_WRONG,
    UNTUNED,
    Fallback,
    Point,
    Tuning,
    Values,
    cell_speeds,
    ended,
    fallback_of,
    interval_of,
    side_of,
    speed_sentences,
    study_means,
    tuning_of,
    with_speed_off,
)
from harness.analysis.regression import RegressionFindings
from harness.data import Quality
from harness.records import FAILED_SEEDS, MARGIN, FailedSeeds, LookRecord, RowCounts
from harness.report.estimates import Estimate, estimate, learned, mean_change, with_failed_seeds
from harness.report.matched_retention import MatchedRetention, retention_at_matched_score
from harness.report.measurements import (
    average,
    headline,
    mean_curve,
    mean_facts,
    memory,
    peak_bytes,
    tokens_per_second,
    train_energy,
    trainable_share,
)
from harness.report.pareto import fronts, retention
from harness.report.ranking import TableRanking, rankings
from harness.store import CellRow, Design, ItemAnswer, ItemValues, StoredCheck, StoredRun, StoredStudy
from harness.suite import BASE

Unit = tuple[str, bool | None]
Answers = Mapping[str, Mapping[str, ItemAnswer]]  # attempt_id -> {doc_id: its value and answers}
# The headline metric of running text.
ROLLING = "log_likelihood_per_word"
# The KL to base on such text.
KL = "kl_to_base"
UNITS = {ROLLING: "nats/word", KL: "nats/token"}
# Columns for rows that learned several tasks -> the fact shown (the average is computed from the scores).
SEVERAL = {"average": "", "backward transfer": "backward_transfer", "forgetting": "forgetting"}


@dataclass(frozen=True)
class MeasuredCost:
    """A cost that is not known on every machine or of every method: how it is read off a cell, and its unit."""

    read: Callable[[CellRow], float | None]
    unit: str


COSTS = {  # by column
    "train energy": MeasuredCost(train_energy, "J"),
    "MFU": MeasuredCost(lambda cell: cell.facts.get("mfu"), "share"),
    "latency ms": MeasuredCost(lambda cell: cell.facts.get("latency_ms_p50"), "ms"),
}


@dataclass(frozen=True)
class Row:
    """A label at a data size (0: untrained), over its finished seeds, which `seeds` counts. `condition` says how its
    training data was chosen and spoilt, "" for clean data. `learned` is False where half of the seeds or more are not
    shown to have learned, `contended` is True where other cells shared the device of one."""

    label: str
    method: str
    family: str
    model: str
    n_train: int
    seeds: int
    score: Estimate | None
    retained: dict[str, Estimate | None]  # retain task -> estimate; None: not applicable
    train_seconds: float | None
    tokens_per_second: float | None
    peak_bytes: float | None
    trainable: float | None
    artifact_bytes: float | None
    learned: bool
    contended: bool
    failures: tuple[tuple[str, str, str], ...] = ()  # key, status, reason
    several: dict[str, float] = field(default_factory=dict)  # column of SEVERAL -> its figure, where known
    condition: str = ""
    doubtful: bool = False  # a seed is not shown to have learned; `learned` is False for half of them
    moved: dict[str, Estimate] = field(default_factory=dict)  # retained text -> KL to the base model, where it is known
    # metric -> the mean change of all retained tasks with that headline, where there are two or more
    mean_changes: dict[str, Estimate] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)  # column of COSTS -> its figure, where known
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)  # phase -> predicted and measured bytes
    facts: dict[str, float] = field(default_factory=dict)  # every fact of its cells, by name
    by_seed: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of MEASURED_COSTS: a value for each seed
    ended: tuple[int, int] = (0, 0)  # (seeds that ended well, seeds that ended); the score counts both
    tuning: Tuning = UNTUNED
    over_limit: dict[str, float] = field(default_factory=dict)  # retained task that is forgotten -> its limit of change
    speed_off: bool = False  # in a seed's cell the machine's speed was off

    @property
    def disturbed(self) -> bool:
        """Whether times, rates and energy say little: other cells shared the device, or the machine's speed was off."""
        return self.contended or self.speed_off

    @property
    def merit(self) -> float:
        """The score, signed so that more is better; -inf without a score."""
        if self.score is None:
            return -math.inf
        return self.score.value if self.score.higher_is_better else -self.score.value


@dataclass(frozen=True, eq=False)  # hashed by identity, so that results can be cached by block
class Block:
    """The rows of one base model on one learned task. `metric` is the task's headline, `retain` are the retained tasks.
    `curves` are (step, cross-entropy of the training answers) of each trained label."""

    model: str
    task: str
    metric: str
    retain: tuple[str, ...]
    rows: tuple[Row, ...]
    curves: dict[tuple[str, int, str], list[tuple[int, float]]] = field(default_factory=dict)  # label, size, condition
    matched: dict[tuple[int, str], MatchedRetention] = field(default_factory=dict)  # n_train, condition
    rankings: dict[tuple[int, str], TableRanking] = field(default_factory=dict)  # n_train, condition
    fronts: dict[tuple[str, int, str], float] = field(default_factory=dict)  # label, n_train, condition -> probability
    curveless: tuple[str, ...] = ()  # labels trained in steps without a cross-entropy of answers

    @property
    def compares(self) -> bool:
        """Whether the block has more than one trained label. It may hold only the experts of a merge."""
        return len({row.label for row in self.rows if row.n_train}) > 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of training examples of the trained rows, each once, the smallest first."""
        return tuple(sorted({row.n_train for row in self.rows if row.n_train}))

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the block's metric is better; True where nothing was scored."""
        return next((row.score.higher_is_better for row in self.rows if row.score), True)

    @property
    def answered(self) -> tuple[int, str] | None:
        """(n_train, condition) of the table that the answer is about: the largest size at which a trained label was
        scored, on clean data where there is some. None where no trained label was scored."""
        scored = [(n, its) for n, its in self.tables if n and any(row.score and row.n_train for row in self.at(n, its))]
        return max(scored, key=lambda point: (point[0], not point[1]), default=None)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The qualities of the training data: clean data ("") first, the others as planned."""
        found = dict.fromkeys(row.condition for row in self.rows if row.n_train)
        return tuple(sorted(found, key=bool))

    @property
    def tables(self) -> tuple[tuple[int, str], ...]:
        """(n_train, condition) of each table of rows that may be compared."""
        held = {(row.n_train, row.condition) for row in self.rows}
        return tuple((n, condition) for n in self.sizes for condition in self.conditions if (n, condition) in held) or (
            (0, ""),
        )

    def at(self, n_train: int, condition: str = "") -> list[Row]:
        """Returns the rows of one data size and quality: the untrained rows, then the best score first."""
        rows = [row for row in self.rows if not row.n_train or (row.n_train, row.condition) == (n_train, condition)]
        return sorted(rows, key=lambda row: (row.n_train > 0, row.score is None, -row.merit if row.score else 0.0))

    def ranking(self, n_train: int, condition: str = "") -> TableRanking:
        """Returns the ranking of one table; it has no labels where items are not stored."""
        found = self.rankings.get((n_train, condition))
        return found or TableRanking(Point(self.task, self.model, n_train, condition), MARGIN)

    @property
    def base(self) -> Row | None:
        """The row of the untouched base model; None where the block has none."""
        return next((row for row in self.rows if row.label == "base"), None)


@dataclass(frozen=True, eq=False)
class Report:
    """The newest run of a suite, ready to be shown: its cells, and the blocks of rows made of them. `answers` are those
    to the items of each cell's headline score, by attempt and item; `texts` what the items show. `versions` is what
    `tunebench regress` last found of the suite, `steps` are rows of the steps in its history. `task_rows` says for each
    task what became of the rows of its data. `looks` are those of the newest run that decided the suite."""

    run: StoredRun
    blocks: tuple[Block, ...]
    cells: tuple[CellRow, ...]
    checks: tuple[StoredCheck, ...] = ()
    studies: tuple[StoredStudy, ...] = ()
    answers: Answers = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)  # task, doc_id
    designs: Mapping[str, Design] = field(default_factory=dict)  # spec_digest
    units: Mapping[str, Unit] = field(default_factory=dict)  # fact -> its unit, and whether more is better
    versions: RegressionFindings | None = None
    steps: tuple[tuple[str, ...], ...] = ()
    task_rows: Mapping[str, RowCounts] = field(default_factory=dict)
    looks: tuple[LookRecord, ...] = ()

    @cached_property
    def values(self) -> dict[str, ItemValues]:
        """attempt_id -> the values of the items of each cell's headline score."""
        return {attempt: ItemValues(docs) for attempt, docs in self.answers.items()}

    @cached_property
    def machine(self) -> list[str]:
        """Sentences on the machine's speed, where it matters for costs; empty where it was steady."""
        return [f"{sentence}." for sentence in speed_sentences(cell_speeds(self.cells), self.run.margin)]

    @property
    def failures(self) -> list[CellRow]:
        """The cells that are not done, whether they ended badly or never ran."""
        return [cell for cell in self.cells if cell.status != "done"]

    @property
    def flags(self) -> list[tuple[str, str, str]]:
        """(key of the cell, flag, its evidence in one line) of every flag."""
        return [
            (cell.key, name, evidence_text(evidence)) for cell in self.cells for name, evidence in cell.flags.items()
        ]


def build(
    run: StoredRun,
    cells: Iterable[CellRow],
    checks: Iterable[StoredCheck] = (),
    studies: Iterable[StoredStudy] = (),
    answers: Answers | None = None,
    texts: dict[tuple[str, str], str] | None = None,
    designs: Mapping[str, Design] | None = None,
) -> Report:
    """Groups the cells of a run into blocks. `answers` hold the items of each cell's headline score, `texts` what these
    items show."""
    bare = Report(
        run,
        (),
        tuple(with_speed_off(list(cells))),
        tuple(checks),
        tuple(studies),
        answers or {},
        texts or {},
        designs or {},
    )
    cells = bare.cells
    stood = rankings(cells, bare.values, run.margin, run.failed_seeds)
    blocks = []
    for model, task in dict.fromkeys((cell.base_model, cell.task) for cell in cells):
        members = [cell for cell in cells if (cell.base_model, cell.task) == (model, task)]
        retain = [s.task for cell in members for s in cell.scores if s.role == "retain"]
        retain += [s.task for cell in members for s in cell.scores if s.role == "task" and s.task != task]
        untrained = [cell.label for cell in members if cell.n_train == 0]
        names = tuple(name for name in dict.fromkeys(retain) if any(name_kept(cell, name) for cell in members))
        groups: dict[tuple[int, str, str], list[CellRow]] = {}
        for cell in sorted(members, key=lambda cell: cell.n_train):
            groups.setdefault((cell.n_train, condition_of(cell), cell.label), []).append(cell)
        alike = capabilities(members, names)
        base = [cell for cell in members if cell.label == BASE]
        fallback = fallback_of(base, bare.values, run.failed_seeds)
        rows = tuple(
            with_interval(make_row(group, names, alike, run.failed_seeds), group, bare.values, fallback)
            for group in groups.values()
        )
        metric = next((row.score.metric for row in rows if row.score), "")
        curves, curveless = {}, []
        for (n_train, condition, label), group in groups.items():
            done = [cell for cell in group if cell.status == "done"]
            if not n_train or label in untrained:
                continue
            if curve := mean_curve(done):
                curves[label, n_train, condition] = curve
            elif any(cell.losses for cell in done):
                curveless.append(label)
        points = dict.fromkeys((n_train, condition) for n_train, condition, _ in groups if n_train)
        at_score = {
            point: found
            for point in points
            if (
                found := retention_at_matched_score(
                    {label: of for (*at, label), of in groups.items() if tuple(at) == point}, names
                )
            )
        }
        its = {point[2:]: found for point, found in stood.items() if (point.model, point.task) == (model, task)}
        block = Block(
            model, task, metric, names, rows, curves, at_score, its, curveless=tuple(dict.fromkeys(curveless))
        )
        blocks.append(replace(block, fronts=fronts(block, retention(names[0]))) if names else block)
    return replace(bare, blocks=tuple(blocks))


def capabilities(cells: Sequence[CellRow], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns metric -> the retained tasks that have it as their headline, where there are two or more. General text is
    not a capability task: its likelihood stands alone."""
    found: dict[str, list[str]] = {}
    for name in names:
        score = next((score for cell in cells if (score := headline(cell, name, "retain"))), None)
        if score and score.metric != ROLLING:
            found.setdefault(score.metric, []).append(name)
    return {metric: tuple(tasks) for metric, tasks in found.items() if len(tasks) > 1}


def condition_of(cell: CellRow) -> str:
    """Returns the quality of a cell's training data as text, such as "labels 0.2"; "" for clean data."""
    return Quality.of(cell.data).condition


def evidence_text(evidence: Mapping[str, object]) -> str:
    """Returns the figures behind a flag in one line; figures about a task follow its name."""
    return ", ".join(
        f"{key}: {evidence_text(value)}" if isinstance(value, dict) else f"{key.replace('_', ' ')} {shown(value)}"
        for key, value in evidence.items()
    )


def shown(value: object) -> str:
    """Returns a value as text, a float with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def name_kept(cell: CellRow, task: str) -> bool:
    """Whether a trained cell retains or learns a task. (The base model is also scored on tasks that other cells
    learn.)"""
    return cell.n_train > 0 and any(score.task == task for score in cell.scores)


MEASURED_COSTS: dict[str, Callable[[CellRow], float | None]] = {
    "train_seconds": lambda cell: cell.phases.get("train", {}).get("seconds"),
    "peak_bytes": lambda cell: peak_bytes(cell) or None,
    "artifact_bytes": lambda cell: cell.facts.get("artifact_bytes"),
}


def make_row(
    cells: Sequence[CellRow],
    retain: Sequence[str],
    alike: Mapping[str, tuple[str, ...]],
    failed_seeds: FailedSeeds = FAILED_SEEDS,
) -> Row:
    """Makes the row of one label at one data size and quality from its cells, a seed each. `retain` are the retained
    tasks, `alike` maps a metric to those whose changes are averaged. `failed_seeds` says what a seed that ended badly
    counts as."""
    done = [cell for cell in cells if cell.status == "done"]
    first = cells[0]

    def mean(pick: Callable[[CellRow], float | None]) -> float | None:
        values = [value for cell in done if (value := pick(cell)) is not None]
        return statistics.fmean(values) if values else None

    by_seed = {}
    for name, read in MEASURED_COSTS.items():
        measured = [(cell, value) for cell in done if (value := read(cell)) is not None]
        by_seed[name] = tuple(study_means([cell for cell, _ in measured], [value for _, value in measured]))
    seconds, artifact = by_seed["train_seconds"], by_seed["artifact_bytes"]
    return Row(
        label=first.label,
        method=first.method,
        family=first.family,
        model=first.model,
        n_train=first.n_train,
        seeds=len(done),
        score=with_failed_seeds(estimate(done, first.task, "task"), done, cells, failed_seeds),
        retained={name: estimate(done, name, "retain") or learned(done, name) for name in retain},
        train_seconds=statistics.fmean(seconds) if seconds else None,
        tokens_per_second=mean(tokens_per_second),
        peak_bytes=max(by_seed["peak_bytes"], default=None),
        trainable=mean(trainable_share),
        artifact_bytes=statistics.fmean(artifact) if artifact else None,
        learned=not done or 2 * sum("learned_nothing" in cell.flags for cell in done) < len(done),
        doubtful=any("learned_nothing" in cell.flags for cell in done),
        over_limit={task: found["limit"] for cell in done for task, found in cell.flags.get("forgetting", {}).items()},
        contended=any(cell.contended for cell in done),
        failures=tuple((cell.key, cell.status, cell.reason) for cell in cells if cell.status != "done"),
        several={name: value for name in SEVERAL if (value := mean(several(name))) is not None},
        condition=condition_of(first),
        moved={name: found for name in retain if (found := estimate(done, name, "retain", KL))},
        mean_changes={metric: found for metric, tasks in alike.items() if (found := mean_change(done, tasks))},
        costs={name: value for name, cost in COSTS.items() if (value := mean(cost.read)) is not None},
        memory=memory(done),
        facts=mean_facts(done),
        by_seed=by_seed,
        ended=ended(cells),
        tuning=tuning_of(cells),
        speed_off=any(cell.speed_off is not None for cell in done),
    )


def several(name: str) -> Callable[[CellRow], float | None]:
    """Returns a function that reads the column `name` of `SEVERAL` off a cell; the function gives None where it has no
    figure."""
    fact = SEVERAL[name]
    return (lambda cell: cell.facts.get(fact)) if fact else average


def with_interval(row: Row, cells: Sequence[CellRow], values: Values, fallback: Fallback) -> Row:
    """Returns the row with the interval of its score computed from the single items of its `cells`, where these are
    stored; else unchanged. This counts once what varies both between items and between seeds. `values` are attempt_id
    -> doc_id -> value; `fallback` stands in for seeds that ended badly."""
    side = side_of(row.label, cells, values, fallback=fallback)
    if row.score is None or side.missing or side.metric != row.score.metric:
        return row
    return replace(row, score=replace(row.score, ends=interval_of(side, side.metric in RIGHT_OR_WRONG)))
