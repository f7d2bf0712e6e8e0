"""Turns stored results into the candidates of `recommend`: each label at a number of examples, with its five
dimensions.

The time to make a method is that of its phases load, train and save, and those of the cells that it needs; scoring is
the benchmark's work. Answering is timed as it would be served, with adapters folded into the weights where they can be.
Labels whose network is then the same have one time, the median of all their cells: what differs is noise. Memory is the
highest of these phases and of answering (`infer`; where that is not stored, `evaluate`). Between two sizes that were
run every figure is a straight line over log10 of the examples, and of memory the higher one counts; the score's single
items are interpolated too, so that comparisons stay paired. Beyond the sizes that were run nothing is known: the
nearest size stands in, and the answer says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis import Candidate, Change, Prices, Values, Workload, fallback_of, hourly, side_of
from harness.analysis.stats import expected_best
from harness.curricula import all_curricula
from harness.errors import StoreError, UserError, unknown
from harness.report.complexity import method_of, packages, to_choose
from harness.report.estimates import Estimate
from harness.report.table import UNITS, Block, Report, Row, condition_of
from harness.store import CellRow, Design, StoredStudy
from harness.suite import BASE

MAKING = ("load", "train", "save")
TIMES = ("latency_ms_p50", "latency_ms_p90", "inference_documents_per_second")
UNFOLDED = "latency_ms_p50_unfolded"
ANSWERING = ("infer", "evaluate")  # phases of answering; the first that was measured counts
CORE = "CPU"


@dataclass(frozen=True)
class Question:
    """The candidates for one model and task at a number of examples, with the device they were measured on.

    `examples` is the number that the candidates stand for, between or at the `sizes` that were run; 0 where nothing was
    trained. `asked` is the number that was asked for, where it lies outside these sizes; else None. `condition` is the
    quality of the training data, `metric` the task's headline, `retain` the retained tasks.
    """

    model: str
    task: str
    condition: str
    examples: int
    sizes: tuple[int, ...]
    metric: str
    retain: tuple[str, ...]
    device: str
    resident: bool  # True: memory is that of the process, not of an accelerator
    candidates: tuple[Candidate, ...]
    asked: int | None = None
    several: bool = False  # True: several models are compared, so sentences name the model

    @property
    def between(self) -> bool:
        """Whether the figures are interpolated between two of the sizes that were run."""
        return bool(self.sizes) and self.examples not in self.sizes


def questions(
    report: Report, examples: int | None = None, task: str = "", model: str = "", margin: float | None = None
) -> list[Question]:
    """Returns the questions that a suite's report answers: one for each model and task, or only those that are named.
    `examples` is the number of training examples (None: the largest size that was run), `margin` a difference of scores
    that does not matter (None: the suite's).

    Tables that hold only what other cells need have no base model, and are returned only where their task is named.
    Raises UserError for an unknown task or model, StoreError where nothing has been scored.
    """
    found = [block for block in report.blocks if block.base or task]
    for kind, name, names in (
        ("task", task, {block.task for block in report.blocks}),
        ("model", model, {block.model for block in report.blocks}),
    ):
        if name and name not in names:
            raise UserError(unknown(f"{kind} of {report.run.suite}", name, names))
    found = [block for block in found if task in ("", block.task) and model in ("", block.model)]
    if not any(row.score for block in found for row in block.rows):
        raise StoreError(f"nothing of {report.run.suite} has been scored. `tunebench status` says how its run goes.")
    known = Known(report, report.designs, report.values, report.run.margin if margin is None else margin)
    return [question(block, known, examples) for block in found]


def prices_of(report: Report) -> Prices:
    """Returns the assumed price of an hour of the device on which a run was done, with assumed volumes."""
    environment = report.run.environment
    hour, of = hourly(environment.get("cpu") or "", environment.get("accelerator") or "")
    return Prices(hour, assumed=("hour", "requests", "months", "updates"), of=of)


@dataclass(frozen=True)
class Known:
    """The stored results in which single cells are looked up. `designs` are by spec digest, `values` by attempt and
    item; `margin` is the difference of scores that does not matter."""

    report: Report
    designs: Mapping[str, Design]
    values: Values
    margin: float

    def of(self, cells: Sequence[CellRow]) -> list[Design]:
        """Returns the designs of these cells, leaving out cells whose design is not stored."""
        return [design for cell in cells if (design := self.designs.get(cell.spec_digest))]

    def cells(self, block: Block, row: Row) -> list[CellRow]:
        """Returns the cells behind a row of a block, a seed each, in whatever way they ended."""
        what = block.model, block.task, row.label, row.n_train, row.condition
        return [
            cell
            for cell in self.report.cells
            if (cell.base_model, cell.task, cell.label, cell.n_train, condition_of(cell)) == what
        ]

    def needed(self, cell: CellRow) -> list[CellRow] | None:
        """Returns the cells that had to be made before this cell, each once; None where one of them is not known.
        Studies are left out."""
        studies = {study.study_digest for study in self.report.studies}
        by_spec = {other.spec_digest: other for other in self.report.cells}
        found: dict[str, CellRow] = {}
        asked = list(design.needs if (design := self.designs.get(cell.spec_digest)) else ())
        while asked:
            spec = asked.pop()
            if spec in studies or spec in found:
                continue
            if spec not in by_spec:
                return None
            found[spec] = by_spec[spec]
            asked += design.needs if (design := self.designs.get(spec)) else ()
        return list(found.values())

    def network(self, cell: CellRow) -> tuple[object, ...] | None:
        """Identifies the network that a cell would be served with: two cells with the same identifier are equally fast.
        None where the network is the cell's own, or where it is not known how the cell is made."""
        design = self.designs.get(cell.spec_digest)
        method = method_of(design)
        if design is None or method is None or not (method.is_language_model and method.foldable):
            return None
        if not method.served_folded or any(
            getattr(all_curricula().get(name), "chat", True) for name in design.curriculum
        ):
            return None
        size = cell.facts.get("served_bytes")
        return cell.base_model, cell.model, cell.task, design.train.get("eval_batch_size"), size

    def times(self, cells: Sequence[CellRow]) -> dict[str, float]:
        """Returns the figures of `TIMES` for a row's cells, by name. For a network that other cells share: the median
        over all cells with it that were measured as served. For a network of its own: the mean over seeds. A figure
        that some of the row's cells lack is then left out."""
        network = self.network(cells[0])
        alike = [
            cell
            for cell in self.report.cells
            if network and cell.status == "done" and self.network(cell) == network and self.measured_as_served(cell)
        ]
        alone = [cell for cell in alike if not cell.disturbed] or alike
        found: dict[str, float] = {}
        for name in TIMES:
            values = [cell.facts[name] for cell in alone or cells if name in cell.facts]
            if values and (alone or len(values) == len(cells)):
                found[name] = statistics.median(values) if alone else statistics.fmean(values)
        return found

    def measured_as_served(self, cell: CellRow) -> bool:
        """Whether a cell's times are those of its folded network, or the cell needs no folding."""
        method = method_of(self.designs.get(cell.spec_digest))
        return UNFOLDED in cell.facts or method is None or not method.wraps

    def studies(self, block: Block, row: Row) -> list[StoredStudy]:
        """Returns the studies that chose a row's settings, without those that have no trials yet."""
        what = row.label, block.model, block.task, row.n_train, row.condition
        every = self.report.studies
        return [s for s in every if (s.label, s.model, s.task, s.n_train, s.condition) == what and s.trials]


def question(block: Block, known: Known, examples: int | None) -> Question:
    """Makes the question of a block at a number of examples (None: the largest size that was run); a number outside the
    sizes that were run is replaced by the nearest size. Cells that only another label needs are no candidates."""
    condition = block.answered[1] if block.answered else block.tables[-1][1]
    sizes = tuple(
        n for n, its in block.tables
        if n and its == condition and any(row.score for row in block.rows if (row.n_train, row.condition) == (n, its))
    )  # fmt: skip
    within = examples is None or not sizes or sizes[0] <= examples <= sizes[-1]
    wanted = (examples if within else min(sizes, key=lambda n: abs(n - (examples or 0)))) or (sizes[-1] if sizes else 0)
    low = max((n for n in sizes if n <= wanted), default=0)
    high = min((n for n in sizes if n >= wanted), default=0)
    share = 0.0 if low == high else math.log10(wanted / low) / math.log10(high / low)
    rows: dict[str, dict[int, Row]] = {}
    for row in block.rows:
        if not row.n_train or (row.n_train in (low, high) and row.condition == condition):
            rows.setdefault(row.label, {})[row.n_train] = row
    elsewhere = [row for row in block.rows if row.label not in rows and row.condition == condition]
    own = intermediate(block, known)
    found = [
        joined(label, [candidate(block, row, known) for row in by_size.values()], (low, high), share)
        for label, by_size in rows.items()
        if label not in own
    ]
    for row in {row.label: row for row in elsewhere if row.label not in own}.values():
        why = "; ".join(dict.fromkeys(f"{status}: {reason}".removesuffix(": ") for _, status, reason in row.failures))
        found.append(Candidate(row.label, row.method, row.family, failure=why or f"was not run with {wanted} examples"))
    environment = known.report.run.environment
    accelerator = environment.get("accelerator") or ""
    return Question(
        model=block.model,
        task=block.task,
        condition=condition,
        examples=wanted if sizes else 0,
        sizes=sizes,
        metric=block.metric,
        retain=block.retain,
        device=accelerator or environment.get("cpu") or CORE,
        resident=not accelerator,
        candidates=tuple(found),
        asked=None if within else examples,
        several=len({other.model for other in known.report.blocks}) > 1,
    )


def intermediate(block: Block, known: Known) -> set[str]:
    """Returns the labels of cells that the suite does not list: cells that another label needs, and that are named
    after it."""
    cells = known.report.cells
    needed_by: dict[str, set[str]] = {}
    for cell in cells:
        design = known.designs.get(cell.spec_digest)
        for need in design.needs if design else ():
            needed_by.setdefault(need, set()).add(cell.label)
    return {
        cell.label
        for cell in cells
        for label in needed_by.get(cell.spec_digest, ())
        if cell.label.startswith(f"{label}.")
    }


def candidate(block: Block, row: Row, known: Known) -> Candidate:
    """Turns a row of the report into a candidate, with all figures that are stored of its cells."""
    cells = known.cells(block, row)
    done = [cell for cell in cells if cell.status == "done"]
    base = [cell for one in block.rows if one.label == BASE for cell in known.cells(block, one)]
    fallback = fallback_of(base, known.values, known.report.run.failed_seeds)
    side = side_of(row.label, cells, known.values, fallback=fallback)
    failures = dict.fromkeys(f"{status}: {reason}".removesuffix(": ") for _, status, reason in row.failures)
    score = row.score
    found = Candidate(
        row.label, row.method, row.family, row.model if row.model != block.model else "", row.n_train, row.seeds,
        score.metric if score else "",
        learned=row.learned, disturbed=row.disturbed,
        failure="" if score and score.metric == block.metric else "; ".join(failures) or "was not scored",
    )  # fmt: skip
    if not score or found.failure:
        return found

    def mean(pick: Callable[[CellRow], float | None]) -> float | None:
        values = [pick(cell) for cell in done]
        kept = [value for value in values if value is not None]
        return statistics.fmean(kept) if kept and len(kept) == len(values) else None

    def fact(name: str) -> float | None:
        return mean(lambda cell: cell.facts.get(name))

    untouched = all(cell.baseline == "" for cell in done)
    design, studies = known.designs.get(done[0].spec_digest), known.studies(block, row)
    method, needed = method_of(design), known.needed(done[0]) or []
    make = mean(lambda cell: making(cell, known))
    times = known.times(done)
    latency, throughput = (times.get(name) for name in ("latency_ms_p50", "inference_documents_per_second"))
    request = 1 / throughput if throughput else latency / 1000 if latency is not None else None
    shipped = row.artifact_bytes if row.artifact_bytes is not None or row.n_train else 0.0
    return replace(
        found,
        higher_is_better=score.higher_is_better,
        score=score.value,
        stderr=score.stderr,
        language_model=method.is_language_model if method else any(row.retained.values()),
        retained={
            name: change
            for name, estimate in row.retained.items()
            if estimate and (change := change_of(estimate, untouched))
        },
        memory=memory(done, needed),
        latency_ms=latency,
        latency_ms_p90=times.get("latency_ms_p90"),
        unfolded_ms=fact(UNFOLDED),
        network=known.network(done[0]),
        work=Workload(make, searching(studies), request, make, devices(done, known)),
        trials=max((len(study.trials) for study in studies), default=0),
        trials_to_good=trials_to_good(studies, known.margin),
        artifact_bytes=shipped,
        settings=to_choose(design, known.of(needed), *studies[:1]) if design else (),
        packages=packages(known.of([done[0], *needed])),
        parts=method.serves if method else ("model",),
        described=method is not None,
        made_of=tuple(f"{cell.label} on {cell.task}" for cell in needed),
        values=side.values,
        items=side.docs,
        seeded=side.seeded,
        seed_numbers=side.seeds,
        clusters=side.clusters,
        ended=row.ended if row.n_train else (1, 1),
        tuning=row.tuning,
    )  # fmt: skip


def change_of(estimate: Estimate, untouched: bool) -> Change | None:
    """Returns the change of a retained task against the base model, signed so that better is positive. 0 for the base
    model itself (`untouched`); None where the base model has no such score."""
    unit = UNITS.get(estimate.metric, estimate.metric)
    if estimate.gain is None:
        return Change(0.0, 0.0, unit) if untouched else None
    return Change(estimate.gain if estimate.higher_is_better else -estimate.gain, estimate.gain_stderr, unit)


def making(cell: CellRow, known: Known) -> float | None:
    """Returns the seconds that making a cell's result again takes, with the cells that it needs first; 0 for a cell
    that only loads a model, None where a needed cell is not known."""
    needed = known.needed(cell)
    if needed is None:
        return None
    return math.fsum(
        made.phases.get(phase, {}).get("seconds") or 0.0
        for made in (cell, *needed)
        if "train" in made.phases
        for phase in MAKING
    )


def memory(done: Sequence[CellRow], needed: Sequence[CellRow]) -> dict[str, float]:
    """Returns what was done (a phase) -> its highest peak over the `done` cells of a label, in bytes, with the training
    of the cells that they `needed`; empty where answering was not measured."""
    found: dict[str, float] = {}
    for cell in done:
        answering = next((phase for phase in ANSWERING if bytes_of(cell, phase) is not None), None)
        if answering is None:
            return {}
        for phase in (*MAKING, answering):
            if (held := bytes_of(cell, phase)) is not None:
                found[phase] = max(held, found.get(phase, 0.0))
    for cell in needed:
        if (held := bytes_of(cell, "train")) is not None:
            name = f"train {cell.label}, which it needs"
            found[name] = max(held, found.get(name, 0.0))
    return found


def bytes_of(cell: CellRow, phase: str) -> float | None:
    """Returns the peak bytes of a phase: of the whole device on a GPU (of torch alone where others shared it), else of
    the process. None where nothing was measured."""
    held = cell.phases.get(phase, {})
    kinds = ("reserved_bytes", "rss_bytes") if cell.contended else ("device_bytes", "reserved_bytes", "rss_bytes")
    return next((float(held[kind]) for kind in kinds if held.get(kind) is not None), None)


def devices(done: Sequence[CellRow], known: Known) -> int:
    """Returns the number of accelerators that a label was trained on, from the first of its `done` cells. 1 on a CPU,
    where processes share what is paid for."""
    design = known.designs.get(done[0].spec_digest)
    return int(design.train.get("devices") or 1) if design and known.report.run.environment.get("accelerator") else 1


def searching(studies: Sequence[StoredStudy]) -> float:
    """Returns the seconds of all trials of a study, those that ended early or failed included: the mean of a label's
    `studies`, as whoever tunes it needs one. 0 without a study."""
    seconds = [math.fsum(trial.seconds or 0.0 for trial in study.trials) for study in studies]
    return statistics.fmean(seconds) if seconds else 0.0


def trials_to_good(studies: Sequence[StoredStudy], margin: float) -> int | None:
    """Returns how many trials would have sufficed: the smallest k for which the best of k trials, drawn at random from
    a study's finished ones, is on average at most `margin` below the best of them (`expected_best`). The first goal
    counts. Of several studies, the largest of these numbers. None where no trial finished with a score."""
    counts = []
    for study in studies:
        if merits := [trial.merits[0] for trial in study.done if trial.merits]:
            counts.append(next(k for k in range(1, 10_000) if expected_best(merits, k) >= max(merits) - margin - 1e-9))
    return max(counts, default=None)


# --- between two sizes ---


def joined(label: str, found: Sequence[Candidate], ends: tuple[int, int], share: float) -> Candidate:
    """Returns a label's candidate at a number of examples, of those that were `found` at single sizes: an untrained
    label as it is, otherwise interpolated between the two sizes `ends`. `share` is how far the number lies from the
    lower size to the higher, 0 to 1. Where one of the two sizes is missing or failed, the candidate has a `failure` and
    no score."""
    by_size = {one.n_train: one for one in found}
    if 0 in by_size:
        return by_size[0]
    for size in ends:
        if size not in by_size:
            only = next(iter(by_size.values()))
            return replace(only, score=None, failure=f"was not run with {size} examples")
        if by_size[size].failure:
            where = f"with {size} examples: " if share else ""
            return replace(by_size[size], score=None, failure=where + by_size[size].failure)
    low, high = by_size[ends[0]], by_size[ends[1]]
    return low if low is high else between(low, high, share)


def between(low: Candidate, high: Candidate, share: float) -> Candidate:
    """Interpolates a candidate between two sizes, `share` of the way (0 to 1) from `low` to `high`. Memory is the
    higher of both, seeds are the fewer; single items are kept where both were scored on the same ones."""

    def line(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else (1 - share) * a + share * b

    seeds = min(len(low.values), len(high.values)) if low.items == high.items else 0
    near = low if share < 0.5 else high
    changes = {name: (low.retained[name], high.retained[name]) for name in low.retained if name in high.retained}
    return replace(
        near,
        score=line(low.score, high.score),
        stderr=line(low.stderr, high.stderr),  # the errors are of the same items and move together
        seeds=min(low.seeds, high.seeds),
        retained={
            name: Change(line(a.value, b.value) or 0.0, line(a.stderr, b.stderr), b.unit)
            for name, (a, b) in changes.items()
        },
        memory={name: max(one.memory.get(name, 0.0) for one in (low, high)) for name in {**low.memory, **high.memory}}
        if low.memory and high.memory
        else {},
        latency_ms=line(low.latency_ms, high.latency_ms),
        latency_ms_p90=line(low.latency_ms_p90, high.latency_ms_p90),
        unfolded_ms=line(low.unfolded_ms, high.unfolded_ms),
        work=Workload(
            line(low.work.make, high.work.make),
            line(low.work.search, high.work.search) or 0.0,
            line(low.work.request, high.work.request),
            line(low.work.update, high.work.update),
            high.work.devices,
        ),
        artifact_bytes=line(low.artifact_bytes, high.artifact_bytes),
        disturbed=low.disturbed or high.disturbed,
        values=tuple(
            tuple((1 - share) * a + share * b for a, b in zip(one, other, strict=True))
            for one, other in zip(low.values[:seeds], high.values[:seeds], strict=True)
        ),
        items=high.items if seeds else (),
        seed_numbers=low.seed_numbers if low.seed_numbers == high.seed_numbers else (),
        ended=min((low.ended, high.ended), key=lambda ended: ended[0] / ended[1]),
        tuning=replace(near.tuning, setting=""),  # each size has a study, and a setting, of its own
    )
