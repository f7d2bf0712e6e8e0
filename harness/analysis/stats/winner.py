"""Estimates the score of a method that was chosen for its score. Pure.

Whatever scored best of many had luck as well as skill: of twelve equal methods with three seeds the best looks three
points better than it is. Its expected score is the observed one less the luck that a choice like this one has.
How much that is comes from simulated tables. Their true scores are the observed ones, drawn together by a hierarchical
prior (a normal over the methods, whose variance is estimated as DerSimonian and Laird do, 1986,
doi:10.1016/0197-2456(86)90046-2), and in each of them the same rule chooses. Taking the shrunk score itself would not
do: one method that is far better than eleven alike is pulled down by them.

The interval's lower end holds for all methods that may have been chosen at once, so it holds for the chosen one; the
upper end is that of a single score, which choosing can only make safer. Where seeds of other methods fell
(`falls`), the lower end allows that those of the chosen one may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.analysis.stats.contrast import single_score
from harness.analysis.stats.falls import SEEN, UNSEEN, fallen
from harness.analysis.stats.intervals import LEVEL, Interval
from harness.analysis.stats.p_best import DRAWS, Runner, away_from, correlation, error_covariance, lowest, root_of
from harness.analysis.stats.reference import Reference

if TYPE_CHECKING:
    import numpy

    from harness.analysis.stats.intervals import Array

Chooser = Callable[["Array"], "Array"]  # merits [draws, methods] -> index [draws] of the one that is chosen
BELOW, ABOVE = 0.04, 0.03  # chances that the truth lies beyond an end, where several may have been chosen
ALONE = (1 - LEVEL) / 2
RIVAL = 3.0  # a method this many standard errors of the difference below the chosen one was no rival
LEAST_DRAWS = 40  # simulated tables in which the chosen one is chosen again, for its own luck to be known
TOGETHER = 0.12  # chance that the truth lies below, of errors and falls together: falls get more room than they take
LIKELY = 0.9  # quantile of the share of seeds that may fall unseen


def expected_score(
    chosen: str, runners: Mapping[str, Runner], choose: Chooser, seed: int = 0, floor: float = math.inf
) -> Interval | None:
    """Estimates the score that another training of the `chosen` method would reach, with its 95% interval; both in the
    metric's own direction. `choose` is the rule by which it was chosen, on merits [draws, methods] in the order of
    `runners`; `seed` is that of the draws, `floor` is as in `leads`.

    None where single items of the chosen one are not known, or it varies with its seed and was run with one: its spread
    is then unknown.
    """
    import numpy

    labels = list(runners)
    contestants = list(runners.values())
    place, runner = labels.index(chosen), runners[chosen]
    if not runner.arm or not runner.repeated:
        return None
    random = numpy.random.default_rng(seed)
    references = [reference_of(each) for each in contestants]
    deviation = numpy.array([math.sqrt(float(each.items + sum(each.seeds))) for each in references])
    correlations = correlation(error_covariance(contestants))
    covariance = deviation[:, None] * correlations * deviation
    noise = random.standard_normal((DRAWS, len(labels))) @ root_of(correlations).T
    merits = numpy.array([each.merit for each in contestants])

    truths = shrunk(merits, covariance)
    seen = truths + noise * deviation
    picked = choose(seen)
    again = picked == place
    if again.sum() >= LEAST_DRAWS:
        luck = float((seen[again, place] - truths[place]).mean())
    else:
        luck = float((seen[numpy.arange(DRAWS), picked] - truths[picked]).mean())

    apart = numpy.sqrt(numpy.maximum(deviation**2 + deviation[place] ** 2 - 2 * covariance[place], 0.0))
    rivals = merits >= merits[place] - RIVAL * apart
    below, above = ALONE, ALONE
    if rivals.sum() > 1:
        farthest = float(numpy.quantile(noise[:, rivals].max(axis=1), 1 - BELOW))
        below, above = 0.5 * math.erfc(farthest / math.sqrt(2)), ABOVE
    sign = 1.0 if runner.higher_is_better else -1.0
    tails = (below, above) if runner.higher_is_better else (above, below)
    ends = references[place].around(sign * merits[place], single_score(runner.arm)[1] if runner.is_share else 0, tails)
    low, high = sorted(sign * end for end in ends)
    farthest_away = away_from(references[place], noise[:, rivals].max(axis=1)) * deviation[place]
    low -= unseen_loss(place, contestants, floor, farthest_away, random)
    expected = min(max(float(merits[place]) - luck, low), high)
    ends = (low, high) if runner.higher_is_better else (-high, -low)
    return Interval(sign * expected, *ends)


def reference_of(runner: Runner) -> Reference:
    """Returns the squared standard error of a method's score, in its parts: of items and of seeds where single items
    are known."""
    return single_score(runner.arm)[0].reference if runner.arm else Reference((runner.stderr or 0.0) ** 2, math.inf)


def shrunk(merits: Array, covariance: Array) -> Array:
    """Draws scores [methods] together towards their mean, by a normal prior over methods whose variance is estimated.
    `covariance` [methods, methods] is that of their errors; errors that all scores share do not count, as they move no
    method against another."""
    import numpy

    count = merits.size
    if count < 2:
        return merits
    shared = float(covariance.sum() - numpy.trace(covariance)) / (count * (count - 1))
    own = numpy.maximum(numpy.diag(covariance) - shared, 1e-3 * numpy.diag(covariance))
    if not own.all():  # something that does not vary says where it is
        return merits
    weights = 1 / own
    scatter = float((weights * (merits - numpy.average(merits, weights=weights)) ** 2).sum())
    prior = max(scatter - (count - 1), 0.0) / float(weights.sum() - (weights**2).sum() / weights.sum())
    centre = float(numpy.average(merits, weights=1 / (own + prior)))
    towards: Array = centre + prior / (prior + own) * (merits - centre)
    return towards


def unseen_loss(
    place: int, contestants: list[Runner], floor: float, errors: Array, random: numpy.random.Generator
) -> float:
    """Returns by how much falls (trainings that fail) that the seeds of the contestant at `place` did not show move the
    lower end of its interval; 0 where its own seeds show some, or it has none. `errors` [draws] are those that the
    lower end allows for already, `floor` is as in `leads`.

    Where no seed of the table fell, the lower end allows for errors alone, or for errors and falls together with a
    larger chance (`TOGETHER`) that the truth lies below, whichever is lower; where one fell, for falls in addition.
    """
    import numpy

    scores = [each.seed_merits for each in contestants]
    bottom = lowest(contestants, floor)
    counts = fallen(scores, bottom)
    own = scores[place]
    if not own.size or counts[place]:
        return 0.0
    depth = max(contestants[place].merit - bottom, 0.0)
    if any(counts):
        return depth * float(numpy.quantile(random.beta(SEEN, own.size, DRAWS), LIKELY))
    losses = depth * random.beta(UNSEEN, own.size, DRAWS)
    return max(float(numpy.quantile(errors + losses, 1 - TOGETHER) - numpy.quantile(errors, 1 - BELOW)), 0.0)
