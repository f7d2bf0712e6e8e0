"""Compares two methods across seeds and items: their difference, its error, and what would settle the question. Pure.

The quantity inferred is the difference of two expected scores: over all seeds, on the population of items that these
are drawn from. Both sources of error count. More seeds do not shrink what the shared items leave open, and more items
do not shrink what the seeds leave open.

The model is the crossed one, score[method, seed, item] = method + item + method x item + seed + seed x item,
analysed by its mean squares. The error of the difference is that of the items, var(D) / n less what seeds add to
it, plus that of the seeds, s² / seeds of either method, where D are the differences per item of the means over seeds
and s² is the variance of a method's own scores between its seeds. This variance is not pooled over several methods:
stable methods would be told apart too seldom, unstable ones beside them far too often (29% at a nominal 5%, simulated).
Where both methods were run with the same seeds, which draw the same training examples, the differences seed by seed are
taken in place of the two scores.

`reference.Reference` says how far from the truth such an estimate may lie. Bootstraps of seeds are no substitute: from
two seeds, half of all draws have no spread between seeds at all, and identical methods are then told apart too often.

Where items come in clusters (questions about one text), clusters are what is drawn: `data.independent_units` turns the
values of items into values of clusters, and all of the above is done with these in place of items.

Tasks are fixed: an average over tasks speaks of these tasks. For other tasks see `rankings.friedman`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from harness.analysis.stats.intervals import LEVEL, Interval
from harness.analysis.stats.power import (
    ALPHA,
    Need,
    Parts,
    least_variance,
    minimum_detectable_effect,
    moderated,
    needed_to_differ,
    needed_to_tie,
)
from harness.analysis.stats.reference import Reference, satterthwaite
from harness.data import effective_clusters, effective_items, independent_units
from harness.records import MARGIN

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array, Matrix

Finding = Literal["better", "worse", "tied", "underpowered"]


@dataclass(frozen=True)
class Spread:
    """The spread of a method's scores between its seeds.

    `variance` is that of the mean score between seeds, with `df` degrees of freedom. `residual` is the part of it that
    comes from answers that change from seed to seed on single items, and that more items would shrink.
    """

    variance: float
    df: float
    residual: float


@dataclass(frozen=True)
class Comparison:
    """The difference A - B of two scores with its standard error, two-sided p-value and interval.

    `reference` is the distribution that the standard error is used with. `seeds_known` is False where a method that
    varies with its seed was run with a single seed: its error is then a guess. `paired_seeds`: both methods were run
    with the same seeds, and their differences were taken seed by seed. `bounded`: all values lie between 0 and 1.
    `few_studies`: the seeds of a method are two studies, which is why its spread is not known.
    `items` counts what was drawn independently: items, or clusters, as if all had one size, `cluster_size` items.
    `answers` is how many independent items would leave as much error of the items.
    """

    effect: float
    stderr: float
    reference: Reference
    p: float
    interval: Interval
    parts: Parts
    items: float
    seeds: tuple[int, int]
    seeds_known: bool = True
    paired_seeds: bool = False
    bounded: bool = False
    cluster_size: float = 1.0
    answers: float = 0.0
    few_studies: bool = False


@dataclass(frozen=True)
class Decision:
    """The finding on two methods (better, worse, tied or underpowered), and the figures behind it.

    `negligible` marks a difference that is real and yet surely within the margin. For an open question, `to_differ` is
    what would show a difference as large as the margin, and `to_tie` what would show a tie of methods that are alike;
    both with a chance of 80%. The difference that was seen is no guide: where there is none, it still asks for some
    number of items. `detectable` is the smallest true difference that these seeds and items find as often. These three
    take far longer to compute than the verdict, and are None where they were not asked for. Without `seeds_known` a
    method was run with a single seed or, with `few_studies`, tuned by two studies, and nothing is decided of it.
    `paired_seeds`: the differences were taken seed by seed.
    """

    verdict: Finding
    effect: float
    interval: Interval
    p: float
    p_tied: float
    margin: float
    negligible: bool
    detectable: float | None = None
    to_differ: Need | None = None
    to_tie: Need | None = None
    seeds_known: bool = True
    paired_seeds: bool = False
    few_studies: bool = False


def seed_spread(tasks: Sequence[Matrix]) -> Spread | None:
    """Estimates the spread between the seeds of one method; `tasks` holds one array [seeds, items] for each task.

    None where there is one seed, or where all seeds give the same answers, as methods without training do.
    """
    return arm_spread(arrays(tasks))


def pooled_spread(spreads: Sequence[Spread]) -> Spread:
    """Averages the spreads of several methods, each weighted by its degrees of freedom: for a forecast, not for a
    verdict. Raises ValueError where there are no degrees of freedom."""
    df = math.fsum(spread.df for spread in spreads)
    if not df:
        raise ValueError("no method was run with two seeds")
    return Spread(
        math.fsum(spread.variance * spread.df for spread in spreads) / df,
        df,
        math.fsum(spread.residual * spread.df for spread in spreads) / df,
    )


@dataclass(frozen=True)
class Arm:
    """The values [seeds][items] of one method. `seeds` are the seed numbers of the rows, in rising order, () where they
    are not known. Without `seeded` the method is deterministic: its row is then compared as if it had been repeated.
    `clusters` are those of the items, () where items are independent.
    `few_studies`: the rows are those of two studies of a tuned method. Studies choose among settings that may lie far
    apart, and two choose the same by chance so often that the same procedure would be told apart from itself in up to
    an eighth of cases; so their spread counts as unknown."""

    values: Sequence[Sequence[float]]
    seeded: bool = True
    seeds: tuple[int, ...] = ()
    clusters: tuple[str, ...] = ()
    few_studies: bool = False

    @property
    def repeated(self) -> bool:
        """Whether the spread between seeds is known: there is none, or there are two seeds or more, which are not those
        of two studies."""
        return not self.seeded or (len(self.values) > 1 and not self.few_studies)

    @property
    def item_rows(self) -> Sequence[Sequence[float]]:
        """The values as `compare` takes them: [seeds][items], the row of a deterministic method twice."""
        return self.values if self.seeded else [*self.values[:1]] * 2

    @property
    def rows(self) -> Matrix:
        """The values of what was drawn independently: [seeds][items], or [seeds, clusters] where items come in
        clusters; the row of a deterministic method twice."""
        return independent_units(self.item_rows, self.clusters) if self.clusters else self.item_rows


def compare_arms(a: Arm, b: Arm) -> Comparison:
    """Compares A with B (A - B). The two are paired by seed where both were run with the same seeds, two or more: a
    seed draws the same training examples for all methods. Raises ValueError where their items come in other
    clusters."""
    if a.clusters != b.clusters:
        raise ValueError("the same items are compared, so they come in the same clusters")
    same = a.seeded and b.seeded and len(a.seeds) > 1 and a.seeds == b.seeds
    comparison = compare(a.item_rows, b.item_rows, paired_seeds=same, clusters=a.clusters)
    few = a.few_studies or b.few_studies
    return replace(comparison, seeds_known=comparison.seeds_known and not few, few_studies=few)


def single_score(arm: Arm) -> tuple[Comparison, float]:
    """Returns (a method's own score with its error, the number of independent answers behind it), the score as its
    difference from a method that scores 0 on every item."""
    import numpy

    items = len(arm.values[0])
    score = compare(arm.item_rows, numpy.zeros((2, items)), clusters=arm.clusters)
    # Where all are right, or all wrong, nothing says how far the items of a cluster are alike: only clusters count.
    independent = items if 0 < score.effect < 1 else score.items
    return score, independent * len(arm.values)


def compare(a: Matrix, b: Matrix, *, paired_seeds: bool = False, clusters: Sequence[str] = ()) -> Comparison:
    """Compares two arrays [seeds, items] on the same items in the same order (A - B); see `compare_tasks`. `clusters`
    are those of the items, () where items are independent."""
    return compare_tasks([a], [b], paired_seeds=paired_seeds, clusters=[clusters])


def compare_tasks(
    a: Sequence[Matrix],
    b: Sequence[Matrix],
    *,
    paired_seeds: bool = False,
    clusters: Sequence[Sequence[str]] | None = None,
) -> Comparison:
    """Compares A with B (A - B), averaged over tasks of equal weight; `a` and `b` hold one array [seeds, items] for
    each task.

    The seeds of a method stand in the same order in all tasks. `paired_seeds`: row s of A and of B share what is random
    (training examples, their order, the start of new weights), and their differences are taken. A method whose seeds
    all agree is taken to have no spread. A method with a single seed may have any spread: it borrows that of the other
    method, and `seeds_known` is False. Give the row of a method without seeds twice.

    `clusters` holds the cluster of each item for each task, () where items are independent. The interval is of `LEVEL`.
    Raises ValueError for arrays of other shapes, fewer than two items or clusters, or different numbers of seeds with
    `paired_seeds`.
    """
    first, second = arrays(a), arrays(b)
    items = [scores.shape[1] for scores in first]
    if items != [scores.shape[1] for scores in second] or min(items) < 2:
        raise ValueError(f"the same items are compared, two or more for each task; A has {items} of them")
    bounded = all(values.min() >= 0 and values.max() <= 1 for values in [*first, *second])
    scored, answers, counts = sum(items), float(sum(items)), [float(count) for count in items]
    if clusters and any(map(len, clusters)):
        first, second, answers, counts = clustered(first, second, clusters)
    seeds = (first[0].shape[0], second[0].shape[0])
    arms = [first, [-scores for scores in second]]
    if paired_seeds:
        if seeds[0] != seeds[1]:
            raise ValueError(f"paired seeds come in equal numbers; these are {seeds[0]} and {seeds[1]}")
        arms = [[one - other for one, other in zip(first, second, strict=True)]]

    weight, total = 1 / len(items), math.fsum(counts)
    differences = [sum(arm[task].mean(axis=0) for arm in arms) for task in range(len(items))]
    effect = weight * math.fsum(float(each.mean()) for each in differences)
    of_items = [weight**2 * float(each.var(ddof=1)) / each.size for each in differences]
    raw = math.fsum(of_items)

    spreads = [arm_spread(arm) for arm in arms]
    known = [spread for spread in spreads if spread]
    once = [arm[0].shape[0] < 2 for arm in arms]
    varying = [
        (arm[0].shape[0], spread or known[0])
        for arm, spread, single in zip(arms, spreads, once, strict=True)
        if spread or (single and known)
    ]
    noise = [spread.residual / count for count, spread in varying]
    of_seeds = [spread.variance / count for count, spread in varying]
    true_items = max(raw - math.fsum(noise), 0.0)
    # Seeds that chance to agree better than single answers vary leave the error of the items, and no less.
    item_part = true_items + math.fsum(max(n - s, 0.0) for n, s in zip(noise, of_seeds, strict=True))
    reference = Reference(
        item_part,
        satterthwaite(of_items, [count - 1 for count in counts]),
        tuple(of_seeds),
        tuple(spread.df for _, spread in varying),
    )
    parts = Parts(
        true_items * total,
        mean([max(spread.variance - spread.residual, 0.0) for _, spread in varying]),
        mean([spread.residual for _, spread in varying]) * total,
        len(varying),
    )
    stderr = math.sqrt(item_part + math.fsum(of_seeds))
    seeds_known = not any(once)
    if stderr <= 1e-12 * max(1.0, abs(effect)):  # no spread at all: the sign test over the items
        p, reach, stderr = 2.0 ** (1 - total) if effect else 1.0, 0.0, 0.0
    else:
        p = min(2 * reference.tail(abs(effect) / stderr), 1.0)
        reach = float(reference.critical((1 - LEVEL) / 2)) * stderr
    interval = Interval(effect, effect - reach, effect + reach)
    return Comparison(
        effect, stderr, reference, p, interval, replace(parts, bounded=bounded, answers=answers / total), total, seeds,
        seeds_known, paired_seeds, bounded, scored / total, answers,
    )  # fmt: skip


def clustered(
    first: Sequence[Array], second: Sequence[Array], clusters: Sequence[Sequence[str]]
) -> tuple[list[Array], list[Array], float, list[float]]:
    """Returns what `compare_tasks` compares where items come in clusters: the arrays of both sides [seeds, clusters],
    how many independent items would leave as much error of the items, and the effective number of clusters of each
    task. Raises ValueError for a task with a single cluster."""
    tasks = list(zip(first, second, clusters, strict=True))
    if any(len(set(of)) == 1 for of in clusters):
        raise ValueError("items come in two clusters or more; a task has one")
    return (
        [independent_units(scores, of) for scores, _, of in tasks],
        [independent_units(scores, of) for _, scores, of in tasks],
        math.fsum(effective_items(one.mean(axis=0) - other.mean(axis=0), of) for one, other, of in tasks),
        [effective_clusters(of) if len(of) else float(scores.shape[1]) for scores, _, of in tasks],
    )


def mean(values: Sequence[float]) -> float:
    """Returns the mean of some values; 0 where there are none."""
    return math.fsum(values) / len(values) if values else 0.0


def p_tied(comparison: Comparison, margin: float = MARGIN) -> float:
    """Returns the p-value of a tie ("they differ by less than the margin"): the larger of two one-sided t-tests
    (Schuirmann 1987, doi:10.1007/BF01068419).

    The hypothesis tested is that the methods differ by the margin, so the error is that of such a difference, as in
    Tango's score test of paired shares (1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B).
    Where the share of items on which one method alone is right exceeds that of the other by d, single differences vary
    by d (1 - d) more than what cancels out. The d used is the margin, not the difference that was seen. Without this,
    methods that are nearly always right would be tied by the few items that they were asked. The variance is added for
    all values between 0 and 1; items in clusters count as so many independent ones (`Comparison.answers`).
    """
    room = margin - abs(comparison.effect)
    unseen = least_variance(margin) - least_variance(abs(comparison.effect))
    missing = max(unseen, 0.0) / comparison.answers if comparison.bounded and room > 0 else 0.0
    stderr = math.sqrt(comparison.stderr**2 + missing)
    if stderr == 0:
        return 2.0 ** (1 - comparison.items) if room > 0 else 1.0
    reference = replace(comparison.reference, items=comparison.reference.items + missing)
    return reference.tail(room / stderr)


def decide(
    comparison: Comparison,
    margin: float = MARGIN,
    *,
    alpha: float = ALPHA,
    p: float | None = None,
    p_within: float | None = None,
    pairs: int = 1,
    higher_is_better: bool = True,
    settle: bool = True,
    beside: Sequence[Parts] = (),
) -> Decision:
    """Decides what A is to B: better, worse, tied or underpowered. `p` and `p_within` are the p-values of a difference
    and of a tie as corrected for all `pairs` shown; None takes those of the comparison alone.

    The verdict is better or worse where a difference is shown at `alpha`. Where that difference is also shown to lie
    within the margin, it is marked `negligible`. Otherwise the verdict is tied where two one-sided tests show that the
    difference is within the margin, and else underpowered. Of a method that varies with its seed and was run with one,
    nothing is decided. With `settle`, what would settle an open question is computed too, at `alpha` / `pairs`, which
    no correction is stricter than; it counts on a spread between seeds drawn towards that of the pairs `beside` this
    one (`power.moderated`).
    """
    used = comparison.p if p is None else p
    tied = p_tied(comparison, margin) if p_within is None else p_within
    verdict: Finding = "underpowered"
    if comparison.seeds_known and used < alpha:
        verdict = "better" if (comparison.effect > 0) == higher_is_better else "worse"
    elif comparison.seeds_known and tied < alpha:
        verdict = "tied"
    decision = Decision(
        verdict, comparison.effect, comparison.interval, used, tied, margin,
        negligible=verdict in ("better", "worse") and tied < alpha, seeds_known=comparison.seeds_known,
        paired_seeds=comparison.paired_seeds, few_studies=comparison.few_studies,
    )  # fmt: skip
    if not settle or not comparison.seeds_known:
        return decision
    alpha /= pairs
    seeds = max(min(comparison.seeds), 2 if comparison.parts.varying else 1)
    parts = moderated(comparison.parts, beside, comparison.items, math.fsum(comparison.reference.seeds_df))
    decision = replace(decision, detectable=minimum_detectable_effect(parts, comparison.items, seeds, alpha))
    if verdict != "underpowered":
        return decision
    return replace(
        decision,
        to_differ=in_items(needed_to_differ(parts, margin, comparison.items, seeds, alpha), comparison)
        if margin
        else None,
        to_tie=in_items(needed_to_tie(parts, margin, comparison.items, seeds, alpha), comparison),
    )


def in_items(need: Need, comparison: Comparison) -> Need:
    """Returns a need with its clusters converted to items, by the mean number of items in a cluster of the
    comparison."""
    return replace(need, items=need.items and math.ceil(need.items * comparison.cluster_size - 1e-9))


def arrays(tasks: Sequence[Matrix]) -> list[Array]:
    """Converts values to one float array [seeds, items] for each task, all with the same seeds. Raises ValueError for
    other shapes, and for values that are not finite."""
    import numpy

    found = [numpy.asarray(values, dtype=float) for values in tasks]
    if not found or any(values.ndim != 2 or 0 in values.shape for values in found):
        raise ValueError(f"scores come as [seeds, items] for each task; got {[values.shape for values in found]}")
    if len({values.shape[0] for values in found}) > 1:
        raise ValueError(f"all tasks have the same seeds; got {[values.shape[0] for values in found]}")
    if not all(numpy.isfinite(values).all() for values in found):
        raise ValueError("scores that are not finite cannot be compared")
    return found


def arm_spread(tasks: Sequence[Array]) -> Spread | None:
    """Estimates the spread between the seeds of one method, as `seed_spread` does, from arrays [seeds, items] that
    `arrays` has checked; one for each task. None for one seed, or seeds that all give the same values."""
    import numpy

    seeds = tasks[0].shape[0]
    if seeds < 2 or all((values == values[0]).all() for values in tasks):
        return None
    weight = 1 / len(tasks)
    scores = weight * numpy.sum([values.mean(axis=1) for values in tasks], axis=0)
    residual = 0.0
    for values in tasks:
        items = values.shape[1]
        left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        if items > 1:
            residual += weight**2 * float((left**2).sum()) / ((seeds - 1) * (items - 1)) / items
    return Spread(float(scores.var(ddof=1)), seeds - 1, residual)
