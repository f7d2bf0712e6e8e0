"""Compares stored scores: verdicts better, worse, tied, underpowered or incomparable, with the figures behind each.

In: the rows of a run (`store.CellRow`) and the values of their items. Out: a `Verdict` for each pair of labels that
stand in one table: one model, task, data size and quality of data. This module decides what may be compared at all;
`contrast.py` says what is inferred, and how. Not covered: which method to take (a recommendation weighs costs too).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, NamedTuple

from harness.analysis.stats.contrast import Arm, Comparison, Decision, compare_arms, decide, p_tied, single_score
from harness.analysis.stats.intervals import Interval, cohen_d, corrected
from harness.analysis.tuning import UNTUNED, Tuning, failed_study, study_groups, tuning_of
from harness.data import Quality, items_text
from harness.records import FAILED_SEEDS, MARGIN, FailedSeeds
from harness.store import CellRow, ItemValues
from harness.suite import BASE

TINY = 1e-6
ENDED_BADLY = frozenset({"failed", "diverged", "oom", "timeout"})
# attempt_id -> {doc_id: value}; `ItemValues` know the clusters of items too
Values = Mapping[str, Mapping[str, float]]
Outcome = Literal["better", "worse", "tied", "underpowered", "incomparable"]


class Point(NamedTuple):
    """The task, base model, number of training examples (0: untrained) and quality of the training data (`condition`,
    "" for clean) that the rows of one table share, so that they can be compared."""

    task: str
    model: str  # the base model
    n_train: int
    condition: str = ""

    def __str__(self) -> str:
        size = f"{self.n_train} examples" if self.n_train else "untrained"
        return ", ".join(filter(None, (self.task, self.model, size, self.condition)))


Table = dict[str, list[CellRow]]  # label -> its cells, a seed each


def tables(rows: Iterable[CellRow]) -> dict[Point, Table]:
    """Groups the rows of a run into tables. Untrained rows stand in every table of their task and model; where nothing
    was trained they have a table of their own."""
    by_point: dict[Point, Table] = {}
    untrained: dict[tuple[str, str], Table] = {}
    for row in rows:
        if row.n_train:
            point = Point(row.task, row.base_model, row.n_train, Quality.of(row.data).condition)
            by_point.setdefault(point, {}).setdefault(row.label, []).append(row)
        else:
            untrained.setdefault((row.task, row.base_model), {}).setdefault(row.label, []).append(row)
    for (task, model), table in untrained.items():
        theirs = [point for point in by_point if (point.task, point.model) == (task, model)]
        for point in theirs or [Point(task, model, 0)]:
            by_point[point] = {**table, **by_point.get(point, {})}
    return by_point


def headlines(rows: Iterable[CellRow], metric: str = "") -> dict[str, tuple[str, str]]:
    """Returns attempt_id -> (task, metric) of the score by which a cell is compared, as `store.item_values` takes it.
    `metric` "" means the task's first metric. Cells without such a score are left out."""
    return {
        row.attempt_id: (row.task, score.metric)
        for row in rows
        if (score := next((s for s in row.scores if s.task == row.task and metric in ("", s.metric)), None))
    }


def sides(table: Table, values: Values, metric: str = "", failed_seeds: FailedSeeds = FAILED_SEEDS) -> dict[str, Side]:
    """Returns label -> the label's values for every comparison within a table. `values` are attempt_id -> doc_id ->
    value; `metric` "" is the task's headline. `failed_seeds` says what seeds that ended badly count as; see
    `Fallback`."""
    fallback = fallback_of(table.get(BASE, ()), values, failed_seeds)
    return {label: side_of(label, cells, values, metric, fallback) for label, cells in table.items()}


@dataclass(frozen=True)
class Fallback:
    """The values that stand in for a seed that diverged, failed, or ran out of memory or time. How often a method ends
    well is part of what it does: without this, one of five seeds that happens to end well would speak for all.

    `how` "base": the seed counts as the base model, whose `values` are given, doc_id -> value. "worst": it counts as
    wrong answers to all items, where the values lie between 0 and 1 (other values have no worst, and count as the base
    model's).
    """

    how: FailedSeeds = FAILED_SEEDS
    values: Mapping[str, float] = field(default_factory=dict)

    def row(self, docs: Sequence[str], known: Sequence[Sequence[float]], higher: bool) -> tuple[float, ...] | None:
        """Returns the stand-in values of a seed, in the order of `docs`; None where the base model has none for these
        items. `known` are the values of the seeds that ended well, [seeds][items]; `higher`: a higher value is
        better."""
        bounded = all(0 <= value <= 1 for row in known for value in row)
        if self.how == "worst" and bounded:
            return (0.0 if higher else 1.0,) * len(docs)
        return tuple(self.values[doc] for doc in docs) if all(doc in self.values for doc in docs) else None


def fallback_of(base: Sequence[CellRow], values: Values, how: FailedSeeds) -> Fallback:
    """Makes the fallback of a table from the cells of its base model: the first finished one gives its values. `values`
    are attempt_id -> doc_id -> value; `how` says what a seed that ended badly counts as."""
    known = next((values.get(cell.attempt_id, {}) for cell in base if cell.status == "done"), {})
    return Fallback(how, known)


def ended_badly(cell: CellRow) -> bool:
    """Whether a cell was attempted in vain, or its study was: none of the study's trials ended well."""
    return cell.status in ENDED_BADLY or failed_study(cell)


def ended(cells: Iterable[CellRow]) -> tuple[int, int]:
    """Counts (seeds that ended well, seeds that ended). Cells that were not attempted, were interrupted, or were
    skipped for another reason than a failed study have not ended."""
    cells = list(cells)
    well = sum(cell.status == "done" for cell in cells)
    return well, well + sum(map(ended_badly, cells))


@dataclass(frozen=True)
class Side:
    """A label at one data size, as one side of a comparison: the value of every item, in the order of `docs`, for each
    seed. Of a label with several studies, of which each was trained with several seeds, there is a row for each study:
    the mean over its seeds, under the first of them."""

    label: str
    metric: str
    higher_is_better: bool
    docs: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]  # [seeds][items]
    seeded: bool = True  # False: the label trains nothing, and would score the same again
    missing: str = ""  # why it cannot be compared
    fingerprint: str = ""  # of the task's definition and documents, where it is known
    seeds: tuple[int, ...] = ()  # seed numbers of the rows of `values`, in rising order
    ended: tuple[int, int] = (1, 1)  # (seeds that ended well, seeds that ended); the others' values are a `Fallback`
    tuning: Tuning = UNTUNED
    clusters: tuple[str, ...] = ()  # the cluster of each of `docs`, empty where items are independent
    clustered_by: str = ""  # the column that names the cluster of an item

    @property
    def arm(self) -> Arm:
        """The values of this side as `compare_arms` takes them, with its seeds and clusters."""
        return Arm(self.values, self.seeded, self.seeds, self.clusters, few_studies=self.tuning.few)

    @property
    def counted(self) -> str:
        """The number of items in words, with their clusters where they come in some."""
        return items_text(len(self.docs), len(set(self.clusters)), self.clustered_by)


@dataclass(frozen=True)
class Ratio:
    """The ratio of two costs: how many times the first is the second (`cost_ratios.ratio`). `margin` is relative: 0.02
    is two per cent. `interval` is None where one side has a single value. `seeds` are the numbers of values of the two
    sides. `few_studies`: the values of a side are those of two studies, of which nothing is decided."""

    value: float
    interval: Interval | None
    p: float
    p_tied: float
    margin: float
    seeds: tuple[int, int]
    few_studies: bool = False


@dataclass(frozen=True)
class Verdict:
    """The verdict on two labels: whether `a` is better or worse than `b`, or tied with it.

    Scores have a `decision`, costs a `ratio`. Where the two cannot be compared, both are None and `reason` says why.
    The decision's p-value is corrected for all pairs that are shown; `p_alone` is not, and `q` is corrected by
    Benjamini and Hochberg. `effect_size` is the mean difference of items, in standard deviations of these differences
    (Cohen's d_z). `items` are counted, with their `clusters`, which the column `clustered_by` names; None and "" where
    items are independent.
    """

    a: str
    b: str
    verdict: Outcome
    metric: str = ""
    decision: Decision | None = None
    reason: str = ""
    ratio: Ratio | None = None
    p_alone: float | None = None
    q: float | None = None
    effect_size: float | None = None
    remarks: tuple[str, ...] = ()  # sentences on tuned labels, seeds that ended badly, a machine that drifted
    items: int | None = None
    clusters: int | None = None
    clustered_by: str = ""

    @property
    def clustering(self) -> str:
        """The number of items and clusters in words; "" where items are independent."""
        return items_text(self.items, self.clusters, self.clustered_by) if self.items and self.clusters else ""


def side_of(
    label: str, cells: Sequence[CellRow], values: Values, metric: str = "", fallback: Fallback | None = None
) -> Side:
    """Collects a label's cells, a seed each, on the task that they learned into one side of a comparison. `values` are
    attempt_id -> doc_id -> value; `metric` "" means the headline. Seeds that ended badly get the values of `fallback`;
    without one they are left out. Where the label cannot be compared, `missing` of the result says why."""

    def without(reason: str) -> Side:
        return Side(label, metric, True, (), (), missing=f"{label} {reason}")

    done = sorted((cell for cell in cells if cell.status == "done"), key=lambda cell: cell.seed or 0)
    if not done:
        reasons = sorted({f"{cell.status}: {cell.reason}".removesuffix(": ") for cell in cells})
        return without(f"has no finished cell ({'; '.join(reasons)})")
    own = [score for cell in done for score in cell.scores if score.task == cell.task]
    own_first = (
        next((s for s in cell.scores if s.task == cell.task and metric in ("", s.metric)), None) for cell in done
    )
    headline_scores = [score for score in own_first if score]
    if not headline_scores:
        stored_metrics = ", ".join(dict.fromkeys(score.metric for score in own)) or "none"
        return without(f"was not scored by {metric} (there is {stored_metrics})" if metric else "has no score")
    rows = [values.get(cell.attempt_id, {}) for cell in done]
    docs = tuple(sorted(rows[0]))
    if any(tuple(sorted(row)) != docs for row in rows):
        return without("was scored on other items under another seed")
    if len(docs) < 2:
        return without(f"has no values of single items for {headline_scores[0].metric}")
    clusters = clusters_of(rows[0], docs)
    if any(clusters_of(row, docs) != clusters for row in rows):
        return without("was scored on items in other clusters under another seed")
    if len(set(clusters)) == 1:
        return without("has items of a single cluster, which tells nothing of others")
    table = tuple(tuple(row[doc] for doc in docs) for row in rows)
    if not all(value is not None and math.isfinite(value) for row in table for value in row):
        return without("has values of single items that are no finite numbers")
    for score, row in zip(headline_scores, table, strict=False):
        if abs(score.value - math.fsum(row) / len(row)) > (score.stderr or TINY) + TINY:
            return without(f"has a {score.metric} that is no mean over items, so items cannot be compared")
    by_seed = {cell.seed: row for cell, row in zip(done, table, strict=True)}
    for cell in cells if fallback else ():
        if fallback and ended_badly(cell):
            stand_in = fallback.row(docs, table, headline_scores[0].higher_is_better)
            if stand_in is None:
                return without("has seeds that ended badly, and the base model was not scored on the same items")
            by_seed.setdefault(cell.seed, stand_in)
    of_seed = {cell.seed: cell for cell in reversed(cells) if cell.seed in by_seed}
    seeds = tuple(sorted(seed for seed in by_seed if seed is not None))
    groups = study_groups([of_seed[seed] for seed in seeds])
    return Side(
        label, headline_scores[0].metric, headline_scores[0].higher_is_better, docs,
        tuple(mean_row([by_seed[seeds[place]] for place in group]) for group in groups) if seeds else table,
        bool(seeds), "", done[0].fingerprint, tuple(seeds[group[0]] for group in groups),
        ended(cells) if fallback else (len(done), len(done)), tuning_of(cells),
        clusters, headline_scores[0].clustered_by if clusters else "",
    )  # fmt: skip


def mean_row(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Returns the means of [seeds][items] over seeds; a single row as it is."""
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)) if len(rows) > 1 else rows[0]


def clusters_of(row: Mapping[str, float], docs: Sequence[str]) -> tuple[str, ...]:
    """Returns the cluster of each of `docs`, () where items are independent. `row` is doc_id -> value, with clusters
    where it is an `ItemValues`. An item without a cluster beside others that have one is a cluster of its own."""
    by_doc = row.clusters if isinstance(row, ItemValues) else {}
    return tuple(by_doc.get(doc, f"item {doc}") for doc in docs) if by_doc else ()


def interval_of(side: Side, share: bool) -> tuple[float, float]:
    """Returns the ends of the 95% interval of a side's score, over seeds and items. `share`: each item is right or
    wrong."""
    score, answers = single_score(side.arm)
    return score.reference.around(score.effect, answers if share else 0)


def why_incomparable(a: Side, b: Side) -> str:
    """Returns the reason why two sides cannot be compared (one is missing; another metric, other items, clusters or
    task definition), "" where they can."""
    if a.missing or b.missing:
        return a.missing or b.missing
    if a.metric != b.metric:
        return f"{a.label} was scored by {a.metric}, {b.label} by {b.metric}"
    if a.docs != b.docs:
        shared = len(set(a.docs) & set(b.docs))
        return (
            f"they were scored on different items: {len(a.docs)} and {len(b.docs)}, of which {shared} are the same. "
            "Run both on the task as it is now"
        )
    if a.clusters != b.clusters:
        return f"their items are clustered otherwise: {a.counted} and {b.counted}. Run both on the task as it is now"
    if a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint:
        return (
            "the task was defined otherwise (its prompt, its choices, its metrics or its training documents have "
            "changed). Run both on the task as it is now"
        )
    return ""


def verdict_of(a: Side, b: Side, margin: float = MARGIN, pairs: int = 1) -> Verdict:
    """Returns the verdict on `a` against `b`, with the p-value of this pair alone; see `pairwise_verdicts` for several
    pairs. What would settle an open question is computed for a correction over so many `pairs`."""
    if reason := why_incomparable(a, b):
        return incomparable(a, b, reason)
    found = compare_arms(a.arm, b.arm)
    return verdict(a, b, found, decide(found, margin, pairs=pairs, higher_is_better=a.higher_is_better))


def pairwise_verdicts(
    sides: Iterable[Side],
    margin: float = MARGIN,
    against: str | None = None,
    settle: bool = True,
) -> list[Verdict]:
    """Returns a verdict on every pair of sides, or on every side against the one with the label `against`. The p-values
    of differences and of ties are corrected by Holm for all pairs that can be compared.

    Without `settle` it is not computed what would settle open questions: for thousands of pairs that takes long.
    """
    sides = list(sides)
    pairs = list(combinations(sides, 2))
    if against is not None:
        reference_side = next(side for side in sides if side.label == against)
        pairs = [(side, reference_side) for side in sides if side is not reference_side]
    comparisons = [compare_arms(a.arm, b.arm) for a, b in pairs if not why_incomparable(a, b)]
    alone = [comparison.p for comparison in comparisons]
    within = corrected([p_tied(comparison, margin) for comparison in comparisons], "holm")
    tests = zip(comparisons, corrected(alone, "holm"), within, corrected(alone, "benjamini-hochberg"), strict=True)
    verdicts = []
    for a, b in pairs:
        if reason := why_incomparable(a, b):
            verdicts.append(incomparable(a, b, reason))
        else:
            comparison, p, tied, q = next(tests)
            decision = decide(
                comparison,
                margin,
                p=p,
                p_within=tied,
                pairs=len(comparisons),
                higher_is_better=a.higher_is_better,
                settle=settle,
                beside=[each.parts for each in comparisons],
            )
            verdicts.append(replace(verdict(a, b, comparison, decision), q=q))
    return verdicts


def verdict(a: Side, b: Side, found: Comparison, decision: Decision) -> Verdict:
    """Builds the verdict on `a` against `b` from their comparison `found` and the decision on it, with remarks on
    tuning and on seeds that ended badly."""
    return Verdict(
        a.label, b.label, decision.verdict, a.metric, decision, p_alone=found.p, effect_size=effect_size(a, b),
        remarks=(
            *filter(None, (side.tuning.remark(side.label) for side in (a, b))),
            *(
                f"{side.label}: {side.ended[0]} of {side.ended[1]} seeds ended well"
                for side in (a, b) if side.ended[0] < side.ended[1]
            ),
        ),
        items=len(a.docs), clusters=len(set(a.clusters)) or None, clustered_by=a.clustered_by,
    )  # fmt: skip


def effect_size(a: Side, b: Side) -> float | None:
    """Returns Cohen's d_z of `a` against `b`: the mean of the items' differences, in standard deviations of these, of
    values that are means over seeds; None where all items differ by the same amount."""
    import numpy

    found = cohen_d(*(numpy.asarray(side.values).mean(axis=0) for side in (a, b)))
    return found if math.isfinite(found) else None


def incomparable(a: Side, b: Side, reason: str) -> Verdict:
    """Builds the verdict on two sides that cannot be compared; `reason` says why, in words."""
    return Verdict(a.label, b.label, "incomparable", reason=reason)
