"""Decides which method to take: candidates and limits in, a ranked answer with reasons out. Pure: no store, no torch.

The rule. Candidates that failed, learned nothing or break a limit are ruled out, each with every reason. Of those that
fit, all that score within the margin of the highest score are good enough. Of these the cheapest counts, by total cost
of ownership, together with those that cost at most a quarter more, since times are measured no better. Among them fewer
parts to run, extra packages and settings to choose go first, then the score. Where one of the good-enough candidates
has disturbed times, costs do not decide. The other good ones follow by their cost, all others by their score.
Scores decide by their estimates and not by tests: if whatever cannot be told apart were good enough, a cheap method
would win by being measured badly. The answer says how certain it is.

Not covered: how candidates come from stored results (`report/candidates.py`), and words (`report/advice.py`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from harness.analysis.stats.contrast import Arm, Decision, compare_arms, decide, p_tied
from harness.analysis.stats.intervals import Interval, Z, corrected
from harness.analysis.stats.p_best import Runner, leads
from harness.analysis.stats.winner import expected_score
from harness.analysis.total_cost import Cost, Prices, Workload, ownership
from harness.analysis.tuning import UNTUNED, Tuning
from harness.records import MARGIN

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

ALIKE = 1.25  # costs up to this many times the lowest are similar: throughput is timed over three batches
LEAST_SAVING = 0.5  # an alternative is named where it costs at most this share of the first
LEAST_ENDED = 0.8  # the share of seeds that must have ended well; one of five may fail
UNKNOWN = Workload(None)
TINY = 1e-9  # tolerance of limits, so that the last bit of a sum does not decide
Rule = Literal["none", "only", "score", "cost", "simplicity", "score within the margin", "known"]
Limit = Literal["status", "ended", "learned", "memory", "forgetting", "latency", "budget"]


@dataclass(frozen=True)
class Change:
    """The change of a retained task against the base model, in the task's own unit; positive where the task became
    better."""

    value: float
    stderr: float | None
    unit: str


@dataclass(frozen=True)
class Candidate:
    """The measurements of a label at some number of examples: means over seeds, but for memory the highest.

    `memory` maps what was done (a phase) to its peak, in bytes. `values` are [seeds, items] of the score, in the order
    of `items`; without `seeded` the label would score the same again. `failure` says why there is no score. A field
    that is None was not measured.
    """

    label: str
    method: str = ""
    family: str = ""
    own_model: str = ""  # the model that the label starts from, where it is not the suite's
    n_train: int = 0
    seeds: int = 1
    metric: str = ""
    higher_is_better: bool = True
    score: float | None = None
    stderr: float | None = None
    learned: bool = True
    language_model: bool = True  # False: no language model is left that could retain or forget
    retained: Mapping[str, Change] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None  # the median of one request alone
    latency_ms_p90: float | None = None
    unfolded_ms: float | None = None  # the median with unfolded adapters, where they are served folded
    network: tuple[object, ...] | None = None  # labels with the same network are timed together; None: its own
    work: Workload = UNKNOWN
    trials: int = 0  # how many a study of its tuning made
    trials_to_good: int | None = None  # how many until the expected best is within the margin of the best
    artifact_bytes: float | None = None
    settings: tuple[str, ...] = ()  # names of the settings that somebody has to choose
    packages: tuple[str, ...] = ()  # extra ones, beyond those of every method
    parts: tuple[str, ...] = ("model",)  # what must be kept and run to answer
    described: bool = True  # False: this version does not know the method, so the three above are unknown
    made_of: tuple[str, ...] = ()  # other results that are needed first
    disturbed: bool = False  # its times are not its own: other work shared the machine, or its speed was off
    failure: str = ""
    values: tuple[tuple[float, ...], ...] = ()
    items: tuple[str, ...] = ()
    seeded: bool = True
    seed_numbers: tuple[int, ...] = ()  # those of the rows of `values`
    clusters: tuple[str, ...] = ()  # those of `items`; empty where items are independent
    ended: tuple[int, int] = (1, 1)  # (seeds that ended well, seeds that ended); the score counts both
    tuning: Tuning = UNTUNED

    @property
    def arm(self) -> Arm | None:
        """The candidate's item values as `compare_arms` takes them; None where single items are not known."""
        if not self.values:
            return None
        return Arm(self.values, self.seeded, self.seed_numbers, self.clusters, few_studies=self.tuning.few)

    @property
    def merit(self) -> float:
        """The score, with its sign turned where lower is better, so that more is always better; -inf without a
        score."""
        if self.score is None:
            return -math.inf
        return self.score if self.higher_is_better else -self.score

    @property
    def seed_merits(self) -> tuple[float, ...]:
        """The score of each seed, the mean of its items, with its sign turned where lower is better; () where single
        items are not known."""
        sign = 1.0 if self.higher_is_better else -1.0
        return tuple(sign * math.fsum(row) / len(row) for row in self.values if row)

    @property
    def repeated(self) -> bool:
        """Whether its score is known over seeds: it does not vary with them, or was run with two or more."""
        return self.arm.repeated if self.arm else self.seeds > 1 or not self.n_train

    @property
    def complexity(self) -> tuple[int, int, int]:
        """(parts, packages, settings): how many there are of each; larger than any other where they are not known."""
        many = 0 if self.described else sys.maxsize // 2
        return many + len(self.parts), many + len(self.packages), many + len(self.settings)

    @property
    def peak(self) -> tuple[str, float] | None:
        """(what was done, bytes) of the highest memory; None where memory was not measured."""
        return max(self.memory.items(), key=lambda item: (item[1], item[0]), default=None)


@dataclass(frozen=True)
class Wishes:
    """The limits of whoever asks, None where there is none, and the margin below which a difference of scores does not
    matter.

    `memory` is in bytes, `max_forgetting` in the unit of the retained task `forgetting_on`. `latency_ms` limits the
    median request, in milliseconds, and `budget` the cost of ownership, in the currency of the prices.
    """

    memory: float | None = None
    max_forgetting: float | None = None
    forgetting_on: str = ""
    latency_ms: float | None = None
    budget: float | None = None
    margin: float = MARGIN


@dataclass(frozen=True)
class Reason:
    """The reason why a candidate is ruled out, or a caution about a candidate that fits: its figure and the limit.

    `where` is the phase of the memory peak, the retained task, or a status. A `value` of None was not measured. `reach`
    is the far end of the interval of a figure, where it lies on the other side of the limit than the estimate.
    """

    limit: Limit
    value: float | None = None
    allowed: float | None = None
    where: str = ""
    unit: str = ""
    reach: float | None = None


@dataclass(frozen=True)
class Ranked:
    """A candidate that fits the limits. `close`: its score is within the margin of the best score. `decision`: the
    comparison of this candidate with the recommended one; None for the recommended one itself, and where single items
    are not known. `cautions`: limits that the intervals of its figures reach across."""

    candidate: Candidate
    cost: Cost | None
    close: bool
    decision: Decision | None = None
    cautions: tuple[Reason, ...] = ()
    no_model: bool = False  # no language model is left, so a limit of forgetting does not apply


@dataclass(frozen=True)
class RuledOut:
    """A candidate that does not fit, with every reason, and its cost of ownership (None: unknown)."""

    candidate: Candidate
    cost: Cost | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Confidence:
    """The certainty of a recommendation. `best`: the probability that the recommended candidate has the highest
    expected score of the `among` candidates that fit and can be compared. `good_enough`: the probability that it is at
    most the margin below the highest. Both are None where the recommended one varies with its seed and was run with one
    seed: another may change the order.

    `once`: labels that fit and are not counted, for the same reason. `paired`: computed from single items, which all
    candidates share; otherwise errors are taken as independent.
    """

    best: float | None
    good_enough: float | None
    among: int
    paired: bool
    once: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer to the wishes: candidates that fit, `ranked` from best to worst, and those `ruled_out`. `rule` says
    what put the first before the second. `expected` is the score of the first that another training may be expected to
    reach, with its interval: the measured one less the luck of having been chosen. None where it is not known."""

    ranked: tuple[Ranked, ...]
    ruled_out: tuple[RuledOut, ...]
    wishes: Wishes
    prices: Prices
    rule: Rule
    confidence: Confidence | None = None
    cheaper: Ranked | None = None  # costs at most half, and is not shown to be worse
    expected: Interval | None = None

    @property
    def first(self) -> Ranked | None:
        """The recommended candidate; None where nothing fits."""
        return self.ranked[0] if self.ranked else None

    @property
    def second(self) -> Ranked | None:
        """The runner-up of the recommended candidate; None where fewer than two fit."""
        return self.ranked[1] if self.ranked[1:] else None


def rank_candidates(
    candidates: Iterable[Candidate],
    wishes: Wishes | None = None,
    prices: Prices | None = None,
    seed: int = 0,
    among: Collection[str] = (),
) -> Answer:
    """Ranks candidates within the wishes (None: no limits), by the rule in this module's docstring; without `prices`
    nothing costs anything. Only the labels `among` may come first, where some of them fit (empty: all may). The order
    in which candidates are given has no effect. `seed` is that of the draws behind `confidence` and `expected`. Raises
    ValueError for scores of different metrics, or for a label that is given twice."""
    wishes, prices = wishes or Wishes(), prices or Prices(0.0)
    given = sorted(candidates, key=lambda candidate: candidate.label)
    metrics = {candidate.metric for candidate in given if candidate.score is not None}
    labels = [candidate.label for candidate in given]
    if len(metrics) > 1 or len(set(labels)) < len(labels):
        raise ValueError(f"candidates have one metric and a label each; got {sorted(metrics)} and {labels}")
    fit, out = [], []
    for candidate in given:
        cost = ownership(candidate.work, prices)
        reasons, cautions = judged(candidate, cost, wishes)
        if reasons:
            out.append(RuledOut(candidate, cost, tuple(reasons)))
        else:
            silent = wishes.max_forgetting is not None and not candidate.language_model
            fit.append(Ranked(candidate, cost, False, cautions=tuple(cautions), no_model=silent))
    if not fit:
        return Answer((), tuple(out), wishes, prices, "none")
    eligible = [each for each in fit if each.candidate.label in among] or fit
    best = max(each.candidate.merit for each in eligible)
    close = [each for each in eligible if best - each.candidate.merit <= wishes.margin + TINY]
    others = [each for each in fit if each not in close]
    priced = not any(each.candidate.disturbed for each in close)
    low = ALIKE * min(total(each) for each in close) if priced else math.inf
    first = sorted(
        close, key=lambda each: (total(each) > low, *(by_cost(each) if total(each) > low else simpler(each)))
    )
    rest = sorted(others, key=lambda each: (-each.candidate.merit, *by_cost(each)))
    chosen = first[0].candidate
    decisions = decided(chosen, [each.candidate for each in fit], wishes.margin)
    ranked = tuple(
        replace(each, close=each in close, decision=decisions.get(each.candidate.label)) for each in (*first, *rest)
    )
    floor = min(min(candidate.seed_merits, default=math.inf) for candidate in given)
    passed_over = any(each.candidate.merit >= best - wishes.margin for each in fit if each not in eligible)
    rule = "known" if passed_over else rule_of(ranked, priced)
    return Answer(
        ranked, tuple(out), wishes, prices, rule, confidence(ranked, wishes.margin, seed, floor),
        cheaper(ranked), expected(ranked, wishes.margin, priced, seed, floor),
    )  # fmt: skip


def choose(merits: Array, ranked: Sequence[Ranked], margin: float, priced: bool) -> Array:
    """Returns the index [draws] of the candidate that the rule of `rank_candidates` puts first, for each row of
    `merits` [draws, candidates in the order of `ranked`]: scores, more is better. Costs are compared only where
    `priced`."""
    import numpy

    kept = merits >= merits.max(axis=1, keepdims=True) - (margin + TINY)
    if priced:
        totals = numpy.where(kept, [total(each) for each in ranked], math.inf)
        kept &= ~(totals > ALIKE * totals.min(axis=1, keepdims=True))
    order = sorted({each.candidate.complexity for each in ranked})
    complexity = numpy.where(kept, [order.index(each.candidate.complexity) for each in ranked], len(order))
    kept &= complexity == complexity.min(axis=1, keepdims=True)
    first: Array = numpy.where(kept, merits, -math.inf).argmax(axis=1)
    return first


def judged(one: Candidate, cost: Cost | None, wishes: Wishes) -> tuple[list[Reason], list[Reason]]:
    """Returns (reasons that rule a candidate out, cautions). `cost` is its cost of ownership, None where unknown. A
    limit is met where the estimate meets it; a caution says that the 95% interval (of latency: the slowest tenth) does
    not. A figure that was not measured does not meet a limit."""
    if one.failure or one.score is None:
        return [Reason("status", where=one.failure or "has no score")], []
    reasons: list[Reason] = []
    cautions: list[Reason] = []
    well, of = one.ended
    if well < of:
        share = Reason("ended", well, of)
        (reasons if well / of < LEAST_ENDED else cautions).append(share)
    if one.n_train and not one.learned:
        reasons.append(Reason("learned"))
    if wishes.memory is not None:
        where, bytes_ = one.peak or ("", None)
        if bytes_ is None or bytes_ > wishes.memory:
            reasons.append(Reason("memory", bytes_, wishes.memory, where))
    if (limit := wishes.max_forgetting) is not None and one.language_model:
        change = one.retained.get(wishes.forgetting_on)
        drop, unit = (-change.value, change.unit) if change else (None, "")
        reach = Z * ((change.stderr if change else None) or 0.0)
        found = Reason("forgetting", drop, limit, wishes.forgetting_on, unit)
        if drop is None or drop > limit + TINY:
            within = drop is not None and drop - reach <= limit
            reasons.append(replace(found, reach=drop - reach if drop is not None and within else None))
        elif drop + reach > limit:
            cautions.append(replace(found, reach=drop + reach))
    if wishes.latency_ms is not None:
        if one.latency_ms is None or one.latency_ms > wishes.latency_ms:
            reasons.append(Reason("latency", one.latency_ms, wishes.latency_ms))
        elif one.latency_ms_p90 is not None and one.latency_ms_p90 > wishes.latency_ms:
            cautions.append(Reason("latency", one.latency_ms, wishes.latency_ms, reach=one.latency_ms_p90))
    if wishes.budget is not None and (cost is None or cost.total > wishes.budget):
        reasons.append(Reason("budget", cost.total if cost else None, wishes.budget))
    return reasons, cautions


def total(one: Ranked) -> float:
    """Returns a candidate's total cost of ownership, in the currency of the prices; infinite where it is unknown."""
    return one.cost.total if one.cost else math.inf


def simpler(one: Ranked) -> tuple[tuple[int, int, int], float, float, str]:
    """Sort key for candidates that are good enough and similar in cost: complexity, then score, cost and label."""
    return one.candidate.complexity, -one.candidate.merit, total(one), one.candidate.label


def by_cost(one: Ranked) -> tuple[float, tuple[int, int, int], float, float, str]:
    """Sort key that puts the cheapest candidate first; candidates of equal cost are ordered as by `simpler`."""
    return (total(one), *simpler(one))


def rule_of(ranked: Sequence[Ranked], priced: bool = True) -> Rule:
    """Names what put the first candidate before the second. `priced` is False where costs were not compared, and are
    then no reason."""
    if len(ranked) == 1:
        return "only"
    first, second = ranked[:2]
    if not second.close:
        return "score"
    if priced and total(second) > ALIKE * min(total(one) for one in ranked if one.close):
        return "cost"
    return "simplicity" if first.candidate.complexity != second.candidate.complexity else "score within the margin"


def cheaper(ranked: Sequence[Ranked]) -> Ranked | None:
    """Returns the cheapest candidate that costs at most half of the first and is not shown to be worse by its interval;
    None where there is none. Candidates whose times were disturbed, or whose difference from the first is untested, are
    left out."""
    first = ranked[0]
    found = [
        one
        for one in ranked[1:]
        if one.cost and first.cost and one.decision and not (one.candidate.disturbed or first.candidate.disturbed)
        and one.cost.total <= LEAST_SAVING * first.cost.total
        and one.cost.total < first.cost.total
        and one.decision.interval.low <= 0 <= one.decision.interval.high
    ]  # fmt: skip
    return min(found, key=by_cost, default=None)


# --- how sure it is ---


def comparable(a: Candidate, b: Candidate) -> bool:
    """Whether single items of both are known, and are the same ones in the same clusters, two or more."""
    return bool(a.values and b.values and (a.items, a.clusters) == (b.items, b.clusters) and len(a.items) > 1)


def decided(chosen: Candidate, fitting: Sequence[Candidate], margin: float) -> dict[str, Decision]:
    """Returns label -> the decision on that candidate against the `chosen` one. p-values are corrected by Holm for all
    pairs of the `fitting` candidates, since their scores decided which pairs are looked at. Candidates whose single
    items are unknown, or are others than those of the chosen one, are left out."""
    kept = [candidate for candidate in fitting if comparable(candidate, chosen)]
    arms = {candidate.label: candidate.arm for candidate in kept if candidate.arm}
    comparisons = {(a, b): compare_arms(arms[a], arms[b]) for a, b in combinations(arms, 2)}
    p_values = dict(zip(comparisons, corrected([each.p for each in comparisons.values()]), strict=True))
    p_within = dict(zip(comparisons, corrected([p_tied(each, margin) for each in comparisons.values()]), strict=True))
    decisions = {}
    for candidate in kept:
        if candidate is not chosen:
            pairs = ((candidate.label, chosen.label), (chosen.label, candidate.label))
            pair = next(pair for pair in pairs if pair in comparisons)
            decisions[candidate.label] = decide(
                compare_arms(arms[candidate.label], arms[chosen.label]), margin, p=p_values[pair],
                p_within=p_within[pair], pairs=len(comparisons), higher_is_better=candidate.higher_is_better,
                settle=False,
            )  # fmt: skip
    return decisions


def runners_of(ranked: Sequence[Ranked]) -> dict[str, Runner]:
    """Returns label -> the candidate as `leads` and `expected_score` take it, in the same order. Candidates that do not
    share the items of the first get independent errors."""
    first = ranked[0].candidate
    return {
        each.candidate.label: Runner(
            each.candidate.merit,
            each.candidate.arm if comparable(each.candidate, first) or each.candidate is first else None,
            each.candidate.stderr,
            each.candidate.higher_is_better,
            each.candidate.repeated,
        )
        for each in ranked
    }


def confidence(ranked: Sequence[Ranked], margin: float, seed: int = 0, floor: float = math.inf) -> Confidence:
    """Estimates how likely the first candidate has the best score of all, or one within the margin of the best, by
    draws from `seed`. `floor` is the lowest score of any seed of any candidate, ruled out or not (see `leads`)."""
    first = ranked[0].candidate
    once = tuple(each.candidate.label for each in ranked if not each.candidate.repeated)
    among = len(ranked) - len(once)
    if len(ranked) == 1:
        return Confidence(1.0, 1.0, 1, True)
    if first.label in once:
        return Confidence(None, None, among, True, once)
    counted = [each for each in ranked if each.candidate.repeated]
    ahead = leads(first.label, runners_of(counted), seed, floor)
    lead = ahead.draws.max(axis=1, initial=-math.inf)
    return Confidence(
        float((lead <= 0).mean()), float((lead <= margin + TINY).mean()), among, ahead.paired, once
    )  # fmt: skip


def expected(
    ranked: Sequence[Ranked], margin: float, priced: bool, seed: int = 0, floor: float = math.inf
) -> Interval | None:
    """Estimates the score that another training of the first candidate would reach: the measured one, corrected for
    having been chosen among the `ranked`. `priced`: costs took part in the choice. None where it is not known; `floor`
    is as in `confidence`."""
    runners = runners_of(ranked)
    return expected_score(
        ranked[0].candidate.label, runners, lambda merits: choose(merits, ranked, margin, priced), seed, floor
    )
