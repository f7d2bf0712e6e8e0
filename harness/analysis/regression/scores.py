"""Changes of scores between two environments: cell by cell, label by label, and of all labels together. Pure.

Cells of equal spec digest are compared item by item and seed by seed. What a change may be chance of depends on what is
known of the label:

- Nothing at work but its own (`pairs.undisturbed`: the other labels are identical to the last bit), or nothing is
  trained: the items alone. A trained label's change must then also stand out from the spread of its own seeds.
- Repeats in one environment that differ (a GPU, several threads): their spread.
- Two seeds or more: the spread of the changes from seed to seed, or of the scores between the seeds of each
  environment, which the spread of reruns cannot exceed on average. The smaller p-value of the two counts twice.
- One seed, in an environment that rounds differently: nothing is decided of this label. The labels together may tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from harness.analysis.regression.crossed import Estimate, ScoredUnit, estimate
from harness.analysis.regression.families import Tested, exact, judged
from harness.analysis.regression.pairs import CellPair, by_label, undisturbed
from harness.analysis.regression.patterns import Part, pattern_of
from harness.analysis.regression.records import SCORE_MARGIN, Change, MetricChanges, named, with_remarks
from harness.analysis.stats.intervals import paired
from harness.analysis.stats.power import ALPHA
from harness.analysis.stats.reference import Reference
from harness.analysis.verdicts import clusters_of
from harness.store import CellRow, ItemValues, ScoreName, StoredScore

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

Values = Mapping[ScoreName, ItemValues]
TINY = 1e-6
STEADY = 3.0  # times the median label's spread between seeds, beyond which a label counts less in a common shift
ONE_SEED = (
    "one seed, and other labels came out differently as well, so that rounding alone may have moved it. Run three "
    "seeds or more, or repeat the cell"
)
NO_ITEMS = "there are no values of single items, so it holds for these questions and says nothing of others"
VARIES = "its own seeds vary as much"


@dataclass(frozen=True)
class ScorePair:
    """A cell's score of one task in both environments: values [repeats, items], old and new, of the same items. Without
    `known_items` they are [repeats, 1], the scores themselves. `reason` says why they cannot be compared."""

    pair: CellPair
    task: str
    old: Array
    new: Array
    clusters: tuple[str, ...] = ()
    known_items: bool = True
    items: int = 0
    reason: str = ""

    @property
    def identical(self) -> bool:
        """Whether every item has one value in all repeats of both environments. Scores without items never are."""
        return self.known_items and bool((self.old == self.old[0]).all() and (self.new == self.old[0]).all())

    def unit(self, name: str, weight: float = 1.0) -> ScoredUnit:
        """The changes of the items, as those of the unit `name` with a weight."""
        return ScoredUnit(name, self.task, self.new.mean(0) - self.old.mean(0), self.clusters, self.known_items, weight)


Family = tuple[str, str]  # role, metric


def wanted_scores(rows: Sequence[CellRow]) -> list[ScoreName]:
    """Returns (attempt_id, task, metric) of the headline of each task that these attempts scored: what
    `store.score_values` is to fetch for `score_changes`."""
    return [(row.attempt_id, score.task, score.metric) for row in rows for score in headlines_of(row)]


def headlines_of(row: CellRow) -> list[StoredScore]:
    """Returns the first score of each task of an attempt, in their order."""
    first: dict[tuple[str, str], StoredScore] = {}
    for score in row.scores if row.status == "done" else ():
        first.setdefault((score.role, score.task), score)
    return list(first.values())


def score_changes(
    pairs: Sequence[CellPair],
    values: Values,
    digests: Mapping[str, str],
    margin: float = SCORE_MARGIN,
    cell_by_cell: bool = True,
) -> list[MetricChanges]:
    """Returns what each headline metric says of two environments: of learned tasks first, then of retained ones.

    `values` are (attempt_id, task, metric) -> items (`wanted_scores` says which), `digests` attempt_id -> what two
    attempts share that are the same to the last bit. `margin` is the difference that does not matter. Without
    `cell_by_cell` the single cells of a label that has several are left out, which is faster.
    """
    families: dict[Family, bool] = {}
    for pair in pairs:
        for row in (*pair.done[0], *pair.done[1]):
            for score in headlines_of(row):
                families.setdefault((score.role, score.metric), score.higher_is_better)
    quiet = undisturbed(pairs, digests)
    order = sorted(families, key=lambda family: family[0] != "task")
    return [
        MetricFamily(pairs, values, quiet, family, families[family], margin, cell_by_cell).changes()
        for family in order or [("task", "score")]
    ]


@dataclass(frozen=True)
class MetricFamily:
    """The comparison of one metric over all cells: builds what is tested, and judges it together."""

    pairs: Sequence[CellPair]
    values: Values
    quiet: frozenset[str]
    family: Family
    higher_is_better: bool
    margin: float
    cell_by_cell: bool = True

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return self.family[1]

    def changes(self) -> MetricChanges:
        """Returns the changes of all cells and labels, and of everything, with the pattern that they make."""
        scored = {
            label: [one for pair in own for one in self.scored(pair)] for label, own in by_label(self.pairs).items()
        }
        good = {label: [one for one in own if not one.reason] for label, own in scored.items()}
        good = {label: own for label, own in good.items() if own}
        points = all(side.min() >= 0 and side.max() <= 1 for own in good.values() for one in own for side in sides(one))
        labels = [self.label(label, own, points) for label, own in good.items()]
        cells: list[tuple[Tested, Estimate]] = []
        copied: list[tuple[Tested, Estimate]] = []
        for own in good.values():
            by_cell: dict[str, list[ScorePair]] = {}
            for one in own:
                by_cell.setdefault(one.pair.spec_digest, []).append(one)
            several = len(by_cell) > 1
            if several and not self.cell_by_cell:
                continue
            (cells if several else copied).extend(self.cell(mine, own, points) for mine in by_cell.values())
        weights = steadiness(good)
        everything = self.everything(good, weights, points)
        family = [*([everything] if everything else []), *labels, *cells]
        judgements = judged([one[0] for one in family], self.higher_is_better)
        whole = judgements.pop(0) if everything else None
        of_labels, of_cells = judgements[: len(labels)], judgements[len(labels) :]
        known = {change.name: change for change in of_labels}
        of_cells += [as_label(one.change, known[one.change.label]) for one, _ in copied]
        parts = [
            Part(change, found, [one.unit(change.name, weights[change.name]) for one in good[change.name]])
            for change, (_, found) in zip(of_labels, labels, strict=True)
        ]
        absent = [change for pair in self.pairs if (change := pair.absent(self.metric, self.margin))]
        refused = [self.refused(one) for own in scored.values() for one in own if one.reason]
        pattern = pattern_of(parts, whole, [*of_cells, *absent], points, self.margin)
        return MetricChanges(
            self.metric, self.family[0], self.margin, pattern, (*of_cells, *refused, *absent), tuple(of_labels), whole
        )

    # --- reading ---

    def scored(self, pair: CellPair) -> list[ScorePair]:
        """Returns the scores of a cell in this metric, one for each task that both environments scored."""
        old, new = pair.done
        tasks = [
            score.task for row in new[-1:] for score in headlines_of(row) if (score.role, score.metric) == self.family
        ]
        return [self.score_pair(pair, task, old, new) for task in tasks] if old else []

    def score_pair(self, pair: CellPair, task: str, old: Sequence[CellRow], new: Sequence[CellRow]) -> ScorePair:
        """Returns the values of one cell and task in both environments: of its items where all attempts have the same
        items and their mean is the score, else of the scores."""
        import numpy

        found = [[self.stored(row, task) for row in rows] for rows in (old, new)]
        scores = [[score for score in side if score] for side in found]
        if not all(scores) or any(len(have) < len(side) for have, side in zip(scores, found, strict=True)):
            nothing = numpy.zeros((1, 1))
            return ScorePair(pair, task, nothing, nothing, reason=f"an attempt was not scored by {self.metric}")
        items = [[self.values.get((row.attempt_id, task, self.metric)) for row in rows] for rows in (old, new)]
        known = [one for side in items for one in side if one]
        docs = sorted(known[0]) if known else []
        complete = len(known) == len(old) + len(new) and len(docs) > 1
        if complete and any(sorted(one) != docs for one in known):
            nothing = numpy.zeros((1, 1))
            return ScorePair(pair, task, nothing, nothing, reason="the two environments scored other items")
        if complete:
            tables = [numpy.array([[one[doc] for doc in docs] for one in side if one], float) for side in items]
            if all(
                abs(score.value - float(row.mean())) <= (score.stderr or TINY) + TINY and numpy.isfinite(row).all()
                for side, table in zip(scores, tables, strict=True)
                for score, row in zip(side, table, strict=True)
            ):
                return ScorePair(pair, task, tables[0], tables[1], clusters_of(known[0], docs), items=len(docs))
        plain = [numpy.array([[score.value] for score in side], float) for side in scores]
        if not all(numpy.isfinite(table).all() for table in plain):
            return ScorePair(pair, task, plain[0], plain[1], reason=f"a {self.metric} is no finite number")
        return ScorePair(pair, task, plain[0], plain[1], known_items=False)

    def stored(self, row: CellRow, task: str) -> StoredScore | None:
        """Returns an attempt's score of this family on a task; None where it has none."""
        return next((s for s in row.scores if (s.role, s.metric) == self.family and s.task == task), None)

    def refused(self, one: ScorePair) -> Change:
        """Returns the change of a cell that cannot be compared, with the reason."""
        pair = one.pair
        return Change(
            "cell", pair.key, self.metric, "cannot tell", self.margin, pair.label, pair.where, pair.spec_digest,
            reason=one.reason, cells=1,
        )  # fmt: skip

    # --- testing ---

    def everything(
        self, good: Mapping[str, Sequence[ScorePair]], weights: Mapping[str, float], points: bool
    ) -> tuple[Tested, Estimate] | None:
        """Returns the test of a shift that all labels share, each label one witness of its weight; None with fewer than
        two."""
        if len(good) < 2:
            return None
        found = estimate([one.unit(label, weights[label]) for label, own in good.items() for one in own], points)
        every = [one for own in good.values() for one in own]
        change = self.change("everything", "", every, found, points)
        if change.identical:
            return Tested(change), found
        if not all(one.known_items for one in every):
            change = with_remarks(change, NO_ITEMS)
        if less := [label for label, weight in weights.items() if weight < 1]:
            change = with_remarks(change, f"{named(less)} count less in the mean: their own seeds vary far more")
        return Tested(change, found.p, found.p_same(self.margin)), found

    def label(self, label: str, own: Sequence[ScorePair], points: bool) -> tuple[Tested, Estimate]:
        """Returns the test of one label over its cells, and the estimate that it rests on."""
        return self.tested("label", label, own, own, points)

    def cell(self, mine: Sequence[ScorePair], own: Sequence[ScorePair], points: bool) -> tuple[Tested, Estimate]:
        """Returns the test of one cell, whose scores are `mine`; `own` are those of all cells of its label, of which
        the spread between seeds is known."""
        return self.tested("cell", mine[0].pair.key, mine, own, points)

    def tested(
        self, level: str, name: str, mine: Sequence[ScorePair], own: Sequence[ScorePair], points: bool
    ) -> tuple[Tested, Estimate]:
        """Returns the test of a label or cell by what is known of its spread; see the docstring of this module."""
        units = [one.unit(one.pair.key) for one in mine]
        bare = estimate(units, points, spread_of_units=False)
        cells = len({one.pair.key for one in mine})
        known = all(one.known_items for one in mine)
        trained = any(one.pair.trained for one in mine)
        seeds = seed_spread(own)
        if known and (not trained or mine[0].pair.label in self.quiet):
            change = self.change(level, name, mine, bare, points)
            stands_out = not trained or seeds is None or confirmed(bare.effect, seeds, cells)
            p = exact_p(mine[0]) if len(mine) == 1 else bare.p
            if not stands_out:
                change = replace(change, reason=VARIES)
            return Tested(change, p, bare.p_same(self.margin), confirmed=stands_out), bare
        candidates = []
        if reruns := rerun_spread(own):
            repeats = math.fsum(1 / len(one.old) + 1 / len(one.new) for one in mine) / len(mine)
            candidates.append(with_spread(bare, reruns[0] * repeats / cells, reruns[1]))
        else:
            if cells > 1:
                candidates.append(estimate(units, points))
            if seeds:
                candidates.append(with_spread(bare, 2 * seeds[0] / cells, seeds[1]))
        if not candidates:
            change = self.change(level, name, mine, bare, points)
            reason = ONE_SEED if known else "one seed without values of single items: its spread is not known"
            return Tested(replace(change, interval=None, reason=reason), tested=False), bare
        best = min(candidates, key=lambda one: one.p)
        change = self.change(level, name, mine, best, points)
        p, p_same = (
            min(1.0, len(candidates) * min(found))
            for found in ([one.p for one in candidates], [one.p_same(self.margin) for one in candidates])
        )
        return Tested(change, p, p_same), best

    def change(self, level: str, name: str, of: Sequence[ScorePair], found: Estimate, points: bool) -> Change:
        """Returns a change that is not judged yet; one whose values are all identical is settled as the same."""
        pair = of[0].pair
        identical = all(one.identical for one in of)
        cell = level == "cell"
        return Change(
            level,  # type: ignore[arg-type]
            name,
            self.metric,
            "same" if identical else "cannot tell",
            self.margin,
            label="" if level == "everything" else pair.label,
            where=pair.where if cell else "",
            spec_digest=pair.spec_digest if cell else "",
            effect=found.effect,
            interval=exact(0.0) if identical else found.interval,
            points=points,
            identical=identical,
            p_same=0.0 if identical else 1.0,
            cells=len({one.pair.spec_digest for one in of}),
            items=found.items,
        )


def sides(one: ScorePair) -> tuple[Array, Array]:
    """Returns the values of a pair in both environments."""
    return one.old, one.new


def as_label(cell: Change, label: Change) -> Change:
    """Returns the change of a label's only cell, which is the label's: one test, told at both levels."""
    return replace(label, level="cell", name=cell.name, where=cell.where, spec_digest=cell.spec_digest)


def exact_p(one: ScorePair) -> float:
    """Returns the p-value of two trained models on the same items: McNemar's exact test or a paired t-test."""
    return paired(one.new.mean(0), one.old.mean(0), clusters=one.clusters).p


def seed_spread(own: Sequence[ScorePair]) -> tuple[float, float] | None:
    """Returns (the variance of a score between seeds, its degrees of freedom), pooled over the tables of a label and
    over both environments; None with one seed in each table."""
    tables: dict[tuple[str, str], list[ScorePair]] = {}
    for one in own:
        if one.pair.trained:
            tables.setdefault((one.pair.where, one.task), []).append(one)
    total = df = 0.0
    for several in tables.values():
        for values in ([float(one.old.mean()) for one in several], [float(one.new.mean()) for one in several]):
            middle = math.fsum(values) / len(values)
            total += math.fsum((value - middle) ** 2 for value in values)
        # The two environments share their seeds: where both came out alike, they are one witness and not two.
        df += 2 * (len(several) - 1) if any(a != b for a, b in both(several)) else len(several) - 1
    return (total / sum(2 * (len(several) - 1) for several in tables.values()), df) if df else None


def both(several: Sequence[ScorePair]) -> list[tuple[float, float]]:
    """Returns the scores of cells in the old and in the new environment."""
    return [(float(one.old.mean()), float(one.new.mean())) for one in several]


def steadiness(good: Mapping[str, Sequence[ScorePair]]) -> dict[str, float]:
    """Returns the weight of each label in a common shift: 1, and less for one whose scores vary between its seeds by
    far more than those of the median label, which would drown what the others share. How a label varies within an
    environment says nothing of how it differs between the two, so that no weight favours a change."""
    variances = {label: found[0] for label, own in good.items() if (found := seed_spread(own))}
    usual = statistics.median(variances.values()) if variances else 0.0
    most = STEADY**2 * usual
    return {label: min(1.0, most / variances[label]) if variances.get(label, 0) > most > 0 else 1.0 for label in good}


def confirmed(effect: float, seeds: tuple[float, float], cells: int) -> bool:
    """Whether a change of the mean of so many cells stands out from the label's own spread between seeds, at the 5%
    level. A label whose seeds all agree varies by nothing."""
    from scipy.special import stdtr

    variance, df = seeds
    stderr = math.sqrt(2 * variance / cells)
    return stderr == 0 or 2 * float(stdtr(df, -abs(effect) / stderr)) < ALPHA


def rerun_spread(own: Sequence[ScorePair]) -> tuple[float, float] | None:
    """Returns (the variance of a score between repeats of one cell in one environment, its degrees of freedom); None
    where no cell was repeated, or all repeats came out identical, which tells nothing of another environment."""
    total, df = 0.0, 0
    for one in own:
        for side in sides(one):
            means = [float(row.mean()) for row in side]
            total += math.fsum((value - math.fsum(means) / len(means)) ** 2 for value in means)
            df += len(means) - 1
    varies = any((a != b).any() for one in own for side in sides(one) for a, b in pairwise(side))
    return (total / df, float(df)) if df and varies else None


def with_spread(bare: Estimate, variance: float, df: float) -> Estimate:
    """Returns an estimate whose error also has a part of training again, of the given variance."""
    if not variance:
        return bare
    return replace(bare, reference=Reference(bare.reference.items, bare.reference.items_df, (variance,), (df,)))
