"""Ranks the labels of one table: a verdict for every pair of labels, and the probability that each is the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.analysis import (
    Outcome,
    Point,
    Side,
    Table,
    Tuning,
    Values,
    Verdict,
    pairwise_verdicts,
    sides,
    why_incomparable,
)
from harness.analysis import tables as tables_of
from harness.analysis.stats import Decision, Interval, Leads, Runner, best_chances, compare_arms, decide, leads
from harness.records import FAILED_SEEDS, FailedSeeds
from harness.store import CellRow

SETTLED = 5  # for this many open verdicts against the best label, what would settle them is computed
OPPOSITE: dict[Outcome, Outcome] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class TableRanking:
    """The labels of one table by score, with a verdict for every pair.

    `labels` are those that can be compared, the best score first; `missing` says why others cannot. p-values of `pairs`
    are corrected by Holm for all of them. `tunings` say of each label how it was tuned. `chances` are the probabilities
    of being the best of the labels that were repeated, counted in `leads`: draws of leads over the best label, None
    where nothing can be compared. They are empty where the best label was not repeated. `seeds_known` is False where
    every pair has a label that varies with its seed and was not repeated, or was tuned by two studies.
    """

    point: Point
    margin: float
    metric: str = ""
    higher_is_better: bool = True
    labels: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    tunings: dict[str, Tuning] = field(default_factory=dict)
    chances: dict[str, float] = field(default_factory=dict)
    leads: Leads | None = None
    sides: Mapping[str, Side] = field(default_factory=dict)  # label -> its values, of the labels that are compared
    seeds_known: bool = True

    @property
    def best(self) -> str | None:
        return self.labels[0] if self.labels else None

    def between(self, a: str, b: str) -> Verdict | None:
        """Returns the verdict on `a` against `b`; None where the two were not compared."""
        if (a, b) in self.pairs:
            return self.pairs[a, b]
        found = self.pairs.get((b, a))
        return turned(found) if found else None

    def to_best(self, word: Outcome) -> list[Verdict]:
        """Returns the verdicts on labels against the best label that are `word`, the highest score first."""
        found = (self.between(label, self.labels[0]) for label in self.labels[1:])
        return [verdict for verdict in found if verdict and verdict.verdict == word]


def turned(verdict: Verdict) -> Verdict:
    """Returns the same verdict seen from the other side: `b` against `a`."""
    found = verdict.decision
    if found is None:
        return replace(verdict, a=verdict.b, b=verdict.a)
    ends = Interval(-found.interval.value, -found.interval.high, -found.interval.low)
    opposite: Outcome = OPPOSITE.get(found.verdict, found.verdict)
    decision: Decision = replace(found, effect=-found.effect, interval=ends, verdict=opposite)  # type: ignore[arg-type]
    size = None if verdict.effect_size is None else -verdict.effect_size
    return replace(verdict, a=verdict.b, b=verdict.a, verdict=opposite, decision=decision, effect_size=size)


def rankings(
    rows: Iterable[CellRow], values: Values, margin: float, failed_seeds: FailedSeeds = FAILED_SEEDS
) -> dict[Point, TableRanking]:
    """Ranks the labels of every table of a run. `values` are those of the items of every row's headline score."""
    return {point: ranking(point, table, values, margin, failed_seeds) for point, table in tables_of(rows).items()}


def ranking(
    point: Point, table: Table, values: Values, margin: float, failed_seeds: FailedSeeds = FAILED_SEEDS
) -> TableRanking:
    found = sides(table, values, failed_seeds=failed_seeds)
    missing = {label: side.missing for label, side in found.items() if side.missing}
    alike = Counter((side.metric, side.docs, side.fingerprint) for side in found.values() if not side.missing)
    usual = max(alike, key=lambda what: alike[what], default=None)  # where items differ, those that most labels have
    first = next((side for side in found.values() if (side.metric, side.docs, side.fingerprint) == usual), None)
    if first is None or first.missing:
        return TableRanking(point, margin, missing=missing)
    kept = [side for side in found.values() if not side.missing and not why_incomparable(first, side)]
    missing |= {
        side.label: why_incomparable(first, side) for side in found.values() if side not in kept and not side.missing
    }
    kept.sort(key=lambda side: -score(side) if side.higher_is_better else score(side))
    pairs = {(verdict.a, verdict.b): verdict for verdict in pairwise_verdicts(kept, margin, settle=False)}
    pairs |= settled(kept, pairs, margin)
    sign = 1.0 if first.higher_is_better else -1.0
    runners = {
        side.label: Runner(
            sign * score(side),
            side.arm,
            higher_is_better=side.higher_is_better,
            repeated=side.arm.repeated,
        )
        for side in kept
    }
    ahead = leads(kept[0].label, runners)
    return TableRanking(
        point, margin, first.metric, first.higher_is_better,
        labels=tuple(side.label for side in kept),
        missing=missing,
        pairs=pairs,
        tunings={side.label: side.tuning for side in kept},
        chances=best_chances(kept[0].label, ahead),
        leads=ahead,
        sides={side.label: side for side in kept},
        seeds_known=any(each.decision and each.decision.seeds_known for each in pairs.values()) or not pairs,
    )  # fmt: skip


def settled(
    kept: Sequence[Side], pairs: Mapping[tuple[str, str], Verdict], margin: float
) -> dict[tuple[str, str], Verdict]:
    """Returns the first `SETTLED` open verdicts against the best label, the highest score first, with what would settle
    them."""
    comparisons = {(kept[0].label, side.label): compare_arms(kept[0].arm, side.arm) for side in kept[1:]}
    beside = [comparison.parts for comparison in comparisons.values()]
    verdicts: dict[tuple[str, str], Verdict] = {}
    for pair, comparison in comparisons.items():
        known = pairs[pair].decision
        if len(verdicts) < SETTLED and known and known.verdict == "underpowered":
            decision = decide(
                comparison, margin, p=known.p, p_within=known.p_tied, pairs=len(pairs),
                higher_is_better=kept[0].higher_is_better, beside=beside,
            )  # fmt: skip
            verdicts[pair] = replace(pairs[pair], decision=decision)
    return verdicts


def score(side: Side) -> float:
    """Returns the mean over seeds and items."""
    return sum(map(sum, side.values)) / sum(map(len, side.values))
