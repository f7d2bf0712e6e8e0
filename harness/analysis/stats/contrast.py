"""Two methods across seeds and items: how far apart they are, how sure that is, and what would settle it. Pure.

What is inferred is the difference of two expected scores: over all seeds, on the population of items that these are
drawn from. Both sources of error count. More seeds do not shrink what the shared items leave open, and more items
do not shrink what the seeds leave open.

The model is the crossed one, score[method, seed, item] = method + item + method x item + seed + seed x item,
analysed by its mean squares. The error of the difference is that of the items, var(D) / n less what seeds add to
it, plus that of the seeds, s² (1 / seeds of A + 1 / seeds of B), where D are the differences per item of the means
over seeds and s² is the variance of scores between seeds, taken together for both methods (or for all of a suite).
The reference is Student's t with the degrees of freedom of Satterthwaite (1946, doi:10.2307/3002019). Bootstraps of
seeds are no substitute: from two seeds, half of all draws have no spread between seeds at all, and identical
methods are then told apart too often.

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
    degrees_of_freedom,
    minimum_detectable_effect,
    needed_to_differ,
    needed_to_tie,
)
from harness.records import MARGIN

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array, Matrix

Finding = Literal["better", "worse", "tied", "underpowered"]


@dataclass(frozen=True)
class Spread:
    """How far the scores of a method's seeds lie apart.

    `variance` of the mean score between seeds, with `df` degrees of freedom; `residual` is the part of it that
    comes from answers that change from seed to seed on single items, and that more items would shrink.
    """

    variance: float
    df: float
    residual: float


@dataclass(frozen=True)
class Comparison:
    """A - B, its standard error, degrees of freedom, two-sided p-value and interval.

    `seeds_known` is False where a method varies with its seed and none was repeated: the error is then that of the
    items alone, and too small.
    """

    effect: float
    stderr: float
    df: float
    p: float
    interval: Interval
    parts: Parts
    items: int
    seeds: tuple[int, int]
    seeds_known: bool = True


@dataclass(frozen=True)
class Decision:
    """What two methods are to each other, and the figures that it stands on.

    `negligible` tells of a difference that is real and yet surely within the margin. For an open question,
    `to_differ` is what would show a difference as large as that seen, `to_tie` what would show a tie of methods
    that are alike; both with a chance of 80%. `detectable` is the smallest true difference that these seeds and
    items find as often. These three take far longer to find than the verdict, and are None where they were not asked
    for. Without `seeds_known` a method was run with one seed alone: nothing is decided of it.
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


def seed_spread(tasks: Sequence[Matrix]) -> Spread | None:
    """The spread between the seeds of one method; `tasks` holds one array [seeds, items] for each task.

    None where there is one seed, or where all seeds give the same answers, as methods without training do.
    """
    return pooled_spread([found]) if (found := arm_spread(arrays(tasks))) else None


def pooled_spread(spreads: Sequence[Spread]) -> Spread:
    """One spread for several methods, each weighed by its degrees of freedom: that of all methods of a suite makes
    comparisons of few seeds far surer, if it is true that they scatter alike. Raises ValueError for none."""
    df = math.fsum(spread.df for spread in spreads)
    if not df:
        raise ValueError("no method was run with two seeds")
    return Spread(
        math.fsum(spread.variance * spread.df for spread in spreads) / df,
        df,
        math.fsum(spread.residual * spread.df for spread in spreads) / df,
    )


def rows(values: Sequence[Sequence[float]], seeded: bool) -> Sequence[Sequence[float]]:
    """Values [seeds, items] as `compare` takes them.

    A method without a seed would score the same again: its row is given twice.
    """
    return values if seeded else [*values[:1]] * 2


def common_spread(methods: Sequence[Matrix]) -> Spread | None:
    """`pooled_spread` of methods [seeds, items] that were run with two seeds or more; None where none was."""
    found = [spread for values in methods if (spread := seed_spread([values]))]
    return pooled_spread(found) if found else None


def compare(a: Matrix, b: Matrix, *, paired_seeds: bool = False, pooled: Spread | None = None) -> Comparison:
    """A - B of two arrays [seeds, items] on the same items, in the same order; see `compare_tasks`."""
    return compare_tasks([a], [b], paired_seeds=paired_seeds, pooled=pooled)


def compare_tasks(
    a: Sequence[Matrix], b: Sequence[Matrix], *, paired_seeds: bool = False, pooled: Spread | None = None
) -> Comparison:
    """A - B, averaged over tasks, each weighing the same; `a` and `b` hold one array [seeds, items] for each task.

    The seeds of a method stand in the same order in all tasks. `paired_seeds`: row s of A and of B share what is
    random (order of data, start of new weights), and their differences are taken; it halves the degrees of freedom,
    so it pays with many seeds. `pooled` is the spread between seeds of all methods of a suite, these two included,
    and takes the place of their own; it is not used with paired seeds. A method whose seeds all agree is taken to
    have no spread; one with a single seed to scatter as the other: where it cannot, give its row twice.

    The interval is of `LEVEL`. In the degrees of freedom the part of the seeds, with nu of its own, counts 1 + 2 /
    nu times, since E[s^4] = (1 + 2 / nu) sigma^4: without it, two seeds whose part is as large as that of the items
    give 8% of false differences at 5% (simulated), with it 4.4 to 6.1% whatever the parts.

    Raises ValueError for arrays of other shapes, fewer than two items, or unpaired numbers of seeds with
    `paired_seeds`.
    """
    from scipy.special import stdtr, stdtrit

    first, second = arrays(a), arrays(b)
    items = [found.shape[1] for found in first]
    if items != [found.shape[1] for found in second] or min(items) < 2:
        raise ValueError(f"the same items are compared, two or more for each task; A has {items} of them")
    seeds = (first[0].shape[0], second[0].shape[0])
    arms = [first, [-found for found in second]]
    if paired_seeds:
        if seeds[0] != seeds[1]:
            raise ValueError(f"paired seeds come in equal numbers; these are {seeds[0]} and {seeds[1]}")
        arms, pooled = [[one - other for one, other in zip(first, second, strict=True)]], None

    weight, total = 1 / len(items), sum(items)
    differences = [sum(arm[task].mean(axis=0) for arm in arms) for task in range(len(items))]
    effect = weight * math.fsum(float(found.mean()) for found in differences)
    of_items = [weight**2 * float(found.var(ddof=1)) / found.size for found in differences]

    varying = [arm for arm in arms if arm[0].shape[0] < 2 or arm_spread(arm)]
    known = [found for arm in varying if (found := arm_spread(arm))]
    spread = None if not varying else pooled or (pooled_spread(known) if known else None)
    share = math.fsum(1 / arm[0].shape[0] for arm in varying) if spread else 0.0
    spread = spread or Spread(0.0, 1.0, 0.0)
    item_part = max(math.fsum(of_items) - share * spread.residual, 0.0)
    seed_part = share * spread.variance
    if item_part + seed_part <= 1e-9 * math.fsum(of_items):  # seeds that chance to be right equally often
        item_part = math.fsum(of_items)
    degrees = float(degrees_of_freedom(item_part, of_items, items, seed_part, share * spread.residual, spread.df))

    stderr = math.sqrt(item_part + seed_part)
    others_df = spread.df - sum(arm[0].shape[0] - 1 for arm in varying) if share else 0.0
    parts = Parts(
        item_part * total,
        max(spread.variance - spread.residual, 0.0),
        spread.residual * total,
        len(varying),
        max(others_df, 0.0),
    )
    if stderr <= 1e-12 * max(1.0, abs(effect)):  # no spread at all to go by: the sign test over the items
        return Comparison(
            effect, 0.0, degrees, 2.0 ** (1 - total) if effect else 1.0, Interval(effect, effect, effect), parts,
            total, seeds, bool(share) or not varying,
        )  # fmt: skip
    p = 2 * float(stdtr(degrees, -abs(effect) / stderr))
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * stderr
    interval = Interval(effect, effect - reach, effect + reach)
    return Comparison(effect, stderr, degrees, p, interval, parts, total, seeds, bool(share) or not varying)


def p_tied(comparison: Comparison, margin: float = MARGIN) -> float:
    """p-value of "they differ by less than the margin": the larger of two one-sided t-tests (Schuirmann 1987,
    doi:10.1007/BF01068419)."""
    from scipy.special import stdtr

    room = margin - abs(comparison.effect)
    if comparison.stderr == 0:
        return 2.0 ** (1 - comparison.items) if room > 0 else 1.0
    return float(stdtr(comparison.df, -room / comparison.stderr))


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
) -> Decision:
    """What A is to B. `p` and `p_within` are the p-values of a difference and of a tie as corrected for all `pairs`
    shown, else those of the comparison alone.

    Better or worse where a difference is shown at `alpha`, also one within the margin, which is then `negligible`;
    else tied where two one-sided tests show that it is within; else underpowered. Without a repeated seed nothing
    is decided of methods that vary with it. Without `settle` it is not worked out what would settle the question; with
    it, at `alpha` / `pairs`, which no correction is stricter than.
    """
    used = comparison.p if p is None else p
    tied = p_tied(comparison, margin) if p_within is None else p_within
    verdict: Finding = "underpowered"
    if comparison.seeds_known and used < alpha:
        verdict = "better" if (comparison.effect > 0) == higher_is_better else "worse"
    elif comparison.seeds_known and tied < alpha:
        verdict = "tied"
    found = Decision(
        verdict, comparison.effect, comparison.interval, used, tied, margin,
        negligible=verdict in ("better", "worse") and tied < alpha, seeds_known=comparison.seeds_known,
    )  # fmt: skip
    if not settle or not comparison.seeds_known:
        return found
    alpha /= pairs
    seeds = max(min(comparison.seeds), 2 if comparison.parts.varying else 1)
    found = replace(found, detectable=minimum_detectable_effect(comparison.parts, comparison.items, seeds, alpha))
    if verdict != "underpowered":
        return found
    return replace(
        found,
        to_differ=needed_to_differ(comparison.parts, comparison.effect, comparison.items, seeds, alpha),
        to_tie=needed_to_tie(comparison.parts, margin, comparison.items, seeds, alpha),
    )


def arrays(tasks: Sequence[Matrix]) -> list[Array]:
    """One array [seeds, items] of floats for each task, with the same seeds. Raises ValueError for anything else."""
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
    """`seed_spread` of arrays [seeds, items] that `arrays` has checked."""
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
