"""Compares many methods over many tasks and goals: interquartile means, differences in rank, and Pareto fronts.

Pure. Tasks, or seeds within tasks, are resampled here, never single items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats.intervals import LEVEL, RESAMPLES, Interval

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array, Mask, Matrix


def interquartile_mean(scores: Matrix) -> float:
    """Returns the mean of the middle half of all scores, of whatever shape (Agarwal et al. 2021, arXiv:2108.13264): a
    quarter is cut off either end. Outliers move it less than the mean, and it uses more of the runs than the median."""
    from scipy.stats import trim_mean

    return float(trim_mean(scores, 0.25, axis=None))


def probability_of_improvement(a: Matrix, b: Matrix) -> float:
    """Returns the chance that a run of A scores higher than a run of B on a task drawn at random; ties count half
    (arXiv:2108.13264).

    `a` is [seeds, tasks], `b` [other seeds, tasks].
    """
    import numpy

    first, second = numpy.asarray(a, dtype=float)[:, None, :], numpy.asarray(b, dtype=float)[None, :, :]
    return float(((first > second) + 0.5 * (first == second)).mean())


def performance_profile(scores: Matrix, thresholds: Sequence[float]) -> list[float]:
    """Returns the share of runs [seeds, tasks] that score above each threshold (Dolan and Moré 2002;
    arXiv:2108.13264)."""
    import numpy

    return [float(share) for share in (numpy.asarray(scores)[..., None] > numpy.asarray(thresholds)).mean(axis=(0, 1))]


def interquartile_interval(scores: Matrix, seed: int = 0) -> Interval:
    """Returns `interquartile_mean` of [seeds, tasks] with its stratified bootstrap interval (percentile).

    Seeds are drawn with replacement within each task, as rliable does; tasks are fixed. With fewer than five seeds the
    interval is too narrow, as any bootstrap of so few is.
    """
    import numpy

    random = numpy.random.default_rng(seed)
    values = numpy.asarray(scores, dtype=float)
    seeds, tasks = values.shape
    drawn = values[random.integers(0, seeds, (RESAMPLES, seeds, tasks)), numpy.arange(tasks)]
    ranked = numpy.sort(drawn.reshape(RESAMPLES, -1), axis=1)
    cut = int(0.25 * seeds * tasks)
    means = ranked[:, cut : seeds * tasks - cut].mean(axis=1)
    low, high = numpy.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(interquartile_mean(values), float(low), float(high))


@dataclass(frozen=True)
class Ranking:
    """The methods by their mean rank over tasks, 1 for the best.

    `p` is that of Friedman's test, for "all methods are alike". `critical_difference` is Nemenyi's: methods whose mean
    ranks are closer do not differ. `groups` are the largest sets of methods (by index, best first) that do not differ,
    each of two or more.
    """

    mean_ranks: tuple[float, ...]
    p: float
    critical_difference: float
    groups: tuple[tuple[int, ...], ...]


def friedman(scores: Matrix, alpha: float = 0.05, *, higher_is_better: bool = True) -> Ranking:
    """Ranks methods over tasks by Friedman's test and Nemenyi's groups (Demšar 2006, JMLR 7:1-30), from scores [tasks,
    methods].

    Here the tasks are a sample: the question is what holds on tasks like these. Where Friedman's test finds nothing,
    all methods are one group. Raises ValueError for fewer than three methods or two tasks, and for scores that are not
    finite.
    """
    import numpy
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    values = numpy.asarray(scores, dtype=float)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 3 or not numpy.isfinite(values).all():
        raise ValueError(f"ranks take finite scores of two tasks and three methods or more; got {values.shape}")
    tasks, methods = values.shape
    ranks = rankdata(-values if higher_is_better else values, axis=1).mean(axis=0)
    alike = (values == values[:, :1]).all()  # all ties: the statistic is 0 / 0
    p = 1.0 if alike else float(friedmanchisquare(*values.T).pvalue)
    apart = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    apart *= math.sqrt(methods * (methods + 1) / (6 * tasks))
    order = [int(place) for place in numpy.argsort(ranks, kind="stable")]
    reach = math.inf if p >= alpha else apart
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(method for method in order[start:] if ranks[method] - ranks[first] < reach)
        if len(group) > 1 and not any(set(group) <= set(other) for other in groups):
            groups.append(group)
    return Ranking(tuple(float(rank) for rank in ranks), p, apart, tuple(groups))


def pareto_front(goals: Matrix, higher_is_better: Sequence[bool]) -> Mask:
    """Finds the Pareto front: a mask [..., methods] of values [..., methods, goals], True for methods that no other
    beats.

    A method beats another if it is at least as good in all goals and better in one. Methods that are alike in all goals
    stay together.
    """
    import numpy

    values = numpy.asarray(goals, dtype=float) * numpy.where(higher_is_better, 1.0, -1.0)
    beaten = numpy.zeros(values.shape[:-1], dtype=bool)
    for other in range(values.shape[-2]):
        rival = values[..., other : other + 1, :]
        beaten |= (rival >= values).all(axis=-1) & (rival > values).any(axis=-1)
    return ~beaten


def on_front(draws: Array, higher_is_better: Sequence[bool]) -> list[float]:
    """Returns the share of the draws [draws, methods, goals] in which each method is on the Pareto front."""
    return [float(share) for share in pareto_front(draws, higher_is_better).mean(axis=0)]
