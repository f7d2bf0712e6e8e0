"""Which method to take: candidates and wishes in, a ranked answer with reasons out. Pure: no store, no torch.

The rule. What failed, what learned nothing and what breaks a limit is ruled out, each with every reason. Of those that
fit, the highest score is sought; what scores within the margin of it is good enough. Of these the cheapest counts, by
total cost of ownership, and what costs at most a quarter more, since times are measured no better: among them fewer
parts to run, extra packages and settings to choose go first, then the score. Where one of them was timed beside other
work, costs do not decide. The other good ones follow by their cost,
all others by their score. Scores decide by their estimates and not by tests: if whatever cannot be told
apart were good enough, a cheap method would win by being measured badly. The answer says how certain it is.

Not covered: how candidates come from stored results (`report/candidates.py`), and words (`report/advice.py`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

from harness.analysis.stats.contrast import Arm, Decision, compare_arms, decide, p_tied
from harness.analysis.stats.intervals import Z, corrected
from harness.analysis.stats.p_best import Runner, leads
from harness.analysis.total_cost import Cost, Prices, Workload, ownership
from harness.records import MARGIN

ALIKE = 1.25  # costs up to so many times the lowest are alike: throughput is timed over three batches
LEAST_SAVING = 0.5  # a cheaper alternative is named that costs at most this share
LEAST_ENDED = 0.8  # the share of seeds that must have ended well; one of five may fail
UNKNOWN = Workload(None)
TINY = 1e-9  # differences of sums: what is exactly at a limit must not depend on their last bit
Rule = Literal["none", "only", "score", "cost", "simplicity", "score within the margin"]
Limit = Literal["status", "ended", "learned", "memory", "forgetting", "latency", "budget"]


@dataclass(frozen=True)
class Change:
    """The change of a retained task against the base model, in its own unit; positive where it became better."""

    value: float
    stderr: float | None
    unit: str


@dataclass(frozen=True)
class Candidate:
    """What is known of a label at some number of examples: means over seeds, of memory the highest.

    `memory` maps what was done to its peak, in bytes. `values` are [seeds, items] of the score, in the order of
    `items`; where it is not `seeded` it would score the same again. `failure` says why there is no score. What is
    None was not measured.
    """

    label: str
    method: str = ""
    family: str = ""
    own_model: str = ""  # what it starts from, where that is not the suite's model
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
    unfolded_ms: float | None = None  # its median with the adapters beside the weights, where they are served folded
    network: tuple[object, ...] | None = None  # labels with the same one are timed together; None: it is its own
    work: Workload = UNKNOWN
    trials: int = 0  # of its tuning
    trials_to_good: int | None = None  # of them, until the expected best is within the margin of the best
    artifact_bytes: float | None = None
    settings: tuple[str, ...] = ()  # to choose
    packages: tuple[str, ...] = ()  # beside those that every method takes
    parts: tuple[str, ...] = ("model",)  # to keep and run for an answer
    described: bool = True  # False: of a method that is not known here, so that these three are not
    made_of: tuple[str, ...] = ()  # other results that it needs first
    contended: bool = False
    failure: str = ""
    values: tuple[tuple[float, ...], ...] = ()
    items: tuple[str, ...] = ()
    seeded: bool = True
    seed_numbers: tuple[int, ...] = ()  # of the rows of `values`
    ended: tuple[int, int] = (1, 1)  # seeds that ended well, of those that ended; the score counts the others too

    @property
    def arm(self) -> Arm | None:
        """Its values as `compare_arms` takes them; None where single items are not known."""
        return Arm(self.values, self.seeded, self.seed_numbers) if self.values else None

    @property
    def merit(self) -> float:
        """The score, more is better; -inf without one."""
        if self.score is None:
            return -math.inf
        return self.score if self.higher_is_better else -self.score

    @property
    def complexity(self) -> tuple[int, int, int]:
        """Parts, packages and settings; more than any where they are not known."""
        many = 0 if self.described else sys.maxsize // 2
        return many + len(self.parts), many + len(self.packages), many + len(self.settings)

    @property
    def peak(self) -> tuple[str, float] | None:
        """What had the highest memory, and its bytes; None where memory was not measured."""
        return max(self.memory.items(), key=lambda item: (item[1], item[0]), default=None)


@dataclass(frozen=True)
class Wishes:
    """Limits, None where there is none, and the margin below which a difference of scores does not matter.

    `memory` in bytes; `max_forgetting` in the unit of the retained task `forgetting_on`; `latency_ms` of the median
    request; `budget` of ownership, in the currency of the prices.
    """

    memory: float | None = None
    max_forgetting: float | None = None
    forgetting_on: str = ""
    latency_ms: float | None = None
    budget: float | None = None
    margin: float = MARGIN


@dataclass(frozen=True)
class Reason:
    """Why a candidate is ruled out, or a caution about one that fits: its figure and the limit.

    `where` is the phase of memory, the retained task, or a status. A `value` of None was not measured. `reach` is the
    far end of the interval of a figure whose estimate is on the other side of the limit.
    """

    limit: Limit
    value: float | None = None
    allowed: float | None = None
    where: str = ""
    unit: str = ""
    reach: float | None = None


@dataclass(frozen=True)
class Ranked:
    """A candidate that fits. `close`: within the margin of the best score. `decision`: what it is to the recommended
    one; None for itself, and where single items are not known. `cautions`: limits that its intervals reach across."""

    candidate: Candidate
    cost: Cost | None
    close: bool
    decision: Decision | None = None
    cautions: tuple[Reason, ...] = ()
    no_model: bool = False  # a limit of forgetting says nothing of it


@dataclass(frozen=True)
class RuledOut:
    candidate: Candidate
    cost: Cost | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Confidence:
    """The probability that the recommended one has the highest expected score of those that fit, and that it is at
    most the margin below the highest. `at_most`: seeds were not repeated, so that only items are in the errors.
    `paired`: from single items, which all share; else errors are taken as independent."""

    best: float
    good_enough: float
    among: int
    at_most: bool
    paired: bool


@dataclass(frozen=True)
class Answer:
    """`ranked` is best first; `rule` is what put the first before the second."""

    ranked: tuple[Ranked, ...]
    ruled_out: tuple[RuledOut, ...]
    wishes: Wishes
    prices: Prices
    rule: Rule
    confidence: Confidence | None = None
    cheaper: Ranked | None = None  # costs much less, and is not shown to be worse

    @property
    def first(self) -> Ranked | None:
        return self.ranked[0] if self.ranked else None

    @property
    def second(self) -> Ranked | None:
        return self.ranked[1] if self.ranked[1:] else None


def rank_candidates(
    candidates: Iterable[Candidate], wishes: Wishes | None = None, prices: Prices | None = None, seed: int = 0
) -> Answer:
    """The answer to the wishes, by the rule that this module's docstring states. The order of candidates is of no
    effect. Raises ValueError for scores of different metrics, or a label twice."""
    wishes, prices = wishes or Wishes(), prices or Prices(0.0)
    given = sorted(candidates, key=lambda one: one.label)
    metrics = {one.metric for one in given if one.score is not None}
    labels = [one.label for one in given]
    if len(metrics) > 1 or len(set(labels)) < len(labels):
        raise ValueError(f"candidates have one metric and a label each; got {sorted(metrics)} and {labels}")
    fit, out = [], []
    for one in given:
        cost = ownership(one.work, prices)
        reasons, cautions = judged(one, cost, wishes)
        if reasons:
            out.append(RuledOut(one, cost, tuple(reasons)))
        else:
            silent = wishes.max_forgetting is not None and not one.language_model
            fit.append(Ranked(one, cost, False, cautions=tuple(cautions), no_model=silent))
    if not fit:
        return Answer((), tuple(out), wishes, prices, "none")
    best = max(one.candidate.merit for one in fit)
    close = [one for one in fit if best - one.candidate.merit <= wishes.margin + TINY]
    others = [one for one in fit if one not in close]
    priced = not any(one.candidate.contended for one in close)
    low = ALIKE * min(total(one) for one in close) if priced else math.inf
    first = sorted(close, key=lambda one: (total(one) > low, *(by_cost(one) if total(one) > low else simpler(one))))
    rest = sorted(others, key=lambda one: (-one.candidate.merit, *by_cost(one)))
    chosen = first[0].candidate
    decisions = decided(chosen, [one.candidate for one in fit], wishes.margin)
    ranked = tuple(
        replace(one, close=one in close, decision=decisions.get(one.candidate.label)) for one in (*first, *rest)
    )
    return Answer(
        ranked, tuple(out), wishes, prices, rule_of(ranked, priced), confidence(ranked, wishes.margin, seed),
        cheaper(ranked),
    )  # fmt: skip


def judged(one: Candidate, cost: Cost | None, wishes: Wishes) -> tuple[list[Reason], list[Reason]]:
    """(reasons that rule a candidate out, cautions). A limit is met by an estimate that meets it; a caution says that
    the interval of 95% does not. What was not measured does not meet a limit."""
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
    """Cost of ownership; infinite where it is unknown."""
    return one.cost.total if one.cost else math.inf


def simpler(one: Ranked) -> tuple[tuple[int, int, int], float, float, str]:
    """The order among those that are good enough and alike in cost."""
    return one.candidate.complexity, -one.candidate.merit, total(one), one.candidate.label


def by_cost(one: Ranked) -> tuple[float, tuple[int, int, int], float, float, str]:
    """The order by cost alone."""
    return (total(one), *simpler(one))


def rule_of(ranked: Sequence[Ranked], priced: bool = True) -> Rule:
    """What put the first before the second; costs only where they are `priced`, that is compared."""
    if len(ranked) == 1:
        return "only"
    first, second = ranked[:2]
    if not second.close:
        return "score"
    if priced and total(second) > ALIKE * min(total(one) for one in ranked if one.close):
        return "cost"
    return "simplicity" if first.candidate.complexity != second.candidate.complexity else "score within the margin"


def cheaper(ranked: Sequence[Ranked]) -> Ranked | None:
    """The cheapest that costs at most half of the first, and of which the interval does not show that it is worse.
    None of what was timed beside other work."""
    first = ranked[0]
    found = [
        one
        for one in ranked[1:]
        if one.cost and first.cost and one.decision and not (one.candidate.contended or first.candidate.contended)
        and one.cost.total <= LEAST_SAVING * first.cost.total
        and one.cost.total < first.cost.total
        and one.decision.interval.low <= 0 <= one.decision.interval.high
    ]  # fmt: skip
    return min(found, key=by_cost, default=None)


# --- how sure it is ---


def comparable(a: Candidate, b: Candidate) -> bool:
    return bool(a.values and b.values and a.items == b.items and len(a.items) > 1)


def decided(chosen: Candidate, all_: Sequence[Candidate], margin: float) -> dict[str, Decision]:
    """label -> what it is to the chosen one. p-values are corrected by Holm for all pairs of those that fit: which two
    are looked at was chosen by their scores. Not of those whose single items are not known, or not the same."""
    kept = [one for one in all_ if comparable(one, chosen)]
    arms = {one.label: one.arm for one in kept if one.arm}
    fit = {(one, other): compare_arms(arms[one], arms[other]) for one, other in combinations(arms, 2)}
    p_values = dict(zip(fit, corrected([found.p for found in fit.values()]), strict=True))
    within = dict(zip(fit, corrected([p_tied(found, margin) for found in fit.values()]), strict=True))
    made = {}
    for one in kept:
        if one is not chosen:
            pair = next(pair for pair in ((one.label, chosen.label), (chosen.label, one.label)) if pair in fit)
            found = compare_arms(arms[one.label], arms[chosen.label])
            made[one.label] = decide(
                found, margin, p=p_values[pair], p_within=within[pair], pairs=len(fit),
                higher_is_better=one.higher_is_better, settle=False,
            )  # fmt: skip
    return made


def confidence(ranked: Sequence[Ranked], margin: float, seed: int = 0) -> Confidence:
    """How likely the first is the best of all, or close enough to it; see `leads`."""
    first = ranked[0].candidate
    if len(ranked) == 1:
        return Confidence(1.0, 1.0, 1, False, True)
    runners = {
        one.candidate.label: Runner(
            one.candidate.merit,
            one.candidate.arm if comparable(one.candidate, first) else None,
            one.candidate.stderr,
        )
        for one in ranked
    }
    found = leads(first.label, runners, seed)
    at_most = found.at_most or (not found.paired and first.seeds < 2)
    lead = found.draws.max(axis=1)
    return Confidence(
        float((lead <= 0).mean()), float((lead <= margin + TINY).mean()), len(ranked), bool(at_most), found.paired
    )
