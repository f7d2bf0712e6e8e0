"""Estimates how likely each of several methods is the best, from the items that they share and the seeds of each. Pure.

A method's lead over a reference has the error and the degrees of freedom of `contrast.compare`. Leads move together:
all hold the reference's own error, and a hard set of items moves all methods alike. Where the items of a method are not
known, or are others, its error is taken as independent. Each method may also fall under seeds that were not run; see
`falls`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats.contrast import Arm, Comparison, compare_arms, seed_spread
from harness.analysis.stats.falls import DEPTH, unseen_losses
from harness.analysis.stats.reference import Reference

if TYPE_CHECKING:
    import numpy

    from harness.analysis.stats.intervals import Array

DRAWS = 4000
UNPAIRED_DF = 30.0  # degrees of freedom of a lead without single items: close to a normal


@dataclass(frozen=True)
class Runner:
    """A method among those that may be the best. `merit` is its score, signed so that more is better. `arm` are its
    values on the shared items, None where they are not known or the items are others: the error of the score is then
    `stderr`. Without `repeated` the method varies with its seed and was run with one seed."""

    merit: float
    arm: Arm | None = None
    stderr: float | None = None
    higher_is_better: bool = True
    repeated: bool = True

    @property
    def is_share(self) -> bool:
        """Whether the score is a share of right answers: single items are known, and all are 0 or 1."""
        import numpy

        return bool(self.arm and numpy.isin(numpy.asarray(self.arm.values), (0, 1)).all())

    @property
    def seed_merits(self) -> Array:
        """The scores [seeds], signed so that more is better; empty for a method without seeds or single items."""
        import numpy

        if not self.arm or not self.arm.seeded:
            return numpy.zeros(0)
        scores: Array = numpy.asarray(self.arm.values, dtype=float).mean(axis=1)
        return scores if self.higher_is_better else -scores


@dataclass(frozen=True)
class Leads:
    """Draws [draws, labels] of true leads over the reference method. `labels` are all but the reference, in
    alphabetical order. `paired`: all were compared item by item. `once`: the methods, with the reference, that vary
    with their seed and were run with one: their leads look too sure."""

    labels: tuple[str, ...]
    draws: Array
    paired: bool
    once: frozenset[str] = frozenset()


def leads(reference: str, runners: Mapping[str, Runner], seed: int = 0, floor: float = math.inf) -> Leads:
    """Draws the leads of all other methods over `reference`: correlated normal noise around the estimates, each brought
    to the quantiles of its own comparison (`reference.Reference`), less what either may lose by falls (trainings that
    fail) that its seeds did not show.

    `floor` is the lowest merit of methods that are not among the `runners`: a fall may lead that far down too.
    """
    import numpy

    first = runners[reference]
    labels = tuple(sorted(label for label in runners if label != reference))
    others = [runners[label] for label in labels]
    once = frozenset(label for label, runner in runners.items() if not runner.repeated)
    if not others:
        return Leads((), numpy.zeros((DRAWS, 0)), True, once)
    comparisons = [compare_arms(runner.arm, first.arm) if runner.arm and first.arm else None for runner in others]
    effect = numpy.array([runner.merit - first.merit for runner in others])
    stderr = numpy.array(
        [error_of(runner, first, comparison) for runner, comparison in zip(others, comparisons, strict=True)]
    )
    random = numpy.random.default_rng(seed)
    noise = random.standard_normal((DRAWS, len(others))) @ root_of(lead_correlation(first, others)).T
    references = [each.reference if each else Reference(1.0, UNPAIRED_DF) for each in comparisons]
    away = numpy.stack([away_from(each, noise[:, place]) for place, each in enumerate(references)], axis=1)
    losses = losses_of([first, *others], floor, random)
    return Leads(labels, effect + stderr * away + losses[:, :1] - losses[:, 1:], all(comparisons), once)


def losses_of(runners: Sequence[Runner], floor: float, random: numpy.random.Generator) -> Array:
    """Draws [draws, runners] of what the score of each loses by falls (trainings that fail) that its seeds did not
    show. `floor` is as in `leads`."""
    merits = [runner.seed_merits for runner in runners]
    return unseen_losses(merits, lowest(runners, floor), DRAWS, random)


def lowest(runners: Sequence[Runner], floor: float = math.inf) -> float:
    """Returns the merit to which a fall (a training that fails) may lead: the lowest of any seed of the runners, or
    `floor` where that is lower; for shares of right answers at most 1 - `DEPTH` times the best."""
    merits = [runner.merit for runner in runners]
    depth = (
        (1 - DEPTH) * max(merits) if all(runner.is_share and runner.higher_is_better for runner in runners) else floor
    )
    return min([floor, depth, *merits, *(float(merit) for runner in runners for merit in runner.seed_merits)])


def away_from(reference: Reference, noise: Array) -> Array:
    """Maps standard normal noise [draws] to the quantiles of a reference distribution, by interpolation."""
    import numpy
    from scipy.special import ndtr

    at = numpy.linspace(0.0, 6.0, 61)
    quantiles = numpy.array([0.0, *(float(reference.critical(float(ndtr(-z)))) for z in at[1:])])
    moved: Array = numpy.sign(noise) * numpy.interp(numpy.abs(noise), at, quantiles)
    return moved


def error_of(one: Runner, first: Runner, comparison: Comparison | None) -> float:
    """Returns the standard error of the lead of `one` over `first`: from their paired `comparison`, or, where there is
    none, as of two independent scores."""
    return comparison.stderr if comparison else math.hypot(one.stderr or 0.0, first.stderr or 0.0)


def error_covariance(runners: Sequence[Runner]) -> Array:
    """Returns the covariance [runners, runners] of the errors of the scores: from the items, which move all alike, and
    from the seeds of each. The errors of scores without single items are independent of all others."""
    import numpy

    covariance = numpy.diag([(runner.stderr or 0.0) ** 2 if not runner.arm else 0.0 for runner in runners])
    known = [place for place, runner in enumerate(runners) if runner.arm]
    if known:
        means = [numpy.asarray(runner.arm.rows, dtype=float).mean(axis=0) for runner in runners if runner.arm]
        signs = numpy.array([1.0 if runners[place].higher_is_better else -1.0 for place in known])
        of_items = numpy.cov(numpy.stack(means)).reshape(len(known), len(known)) / means[0].size
        covariance[numpy.ix_(known, known)] += signs[:, None] * signs * of_items
    for place in known:
        arm = runners[place].arm
        spread = seed_spread([arm.rows]) if arm else None
        covariance[place, place] += spread.variance / len(arm.rows) if arm and spread else 0.0
    return covariance


def lead_correlation(first: Runner, others: Sequence[Runner]) -> Array:
    """Returns the correlations [others, others] of the errors of the leads over the `first` method."""
    errors = error_covariance([first, *others])
    return correlation(errors[1:, 1:] - errors[1:, :1] - errors[:1, 1:] + errors[0, 0])


def correlation(covariance: Array) -> Array:
    """Returns the correlations that belong to a covariance; 0 with what does not vary."""
    import numpy

    deviation = numpy.sqrt(numpy.maximum(numpy.diag(covariance), 0.0))
    scaled = numpy.where(deviation > 0, deviation, 1.0)
    correlations: Array = covariance / scaled[:, None] / scaled
    numpy.fill_diagonal(correlations, 1.0)
    return correlations


def root_of(matrix: Array) -> Array:
    """Returns R with R R' = `matrix`, which is symmetric and, but for rounding, has no negative eigenvalue."""
    import numpy

    values, vectors = numpy.linalg.eigh(matrix)
    root: Array = vectors * numpy.sqrt(numpy.maximum(values, 0.0))
    return root


def best_chances(reference: str, ahead: Leads) -> dict[str, float]:
    """Returns label -> the share of the draws `ahead` in which that method is the best of those that were repeated, the
    `reference` over which the leads are drawn among them; methods that are best together share a draw. Empty where the
    reference was run with one seed: another may change the order."""
    import numpy

    if reference in ahead.once:
        return {}
    kept = [place for place, label in enumerate(ahead.labels) if label not in ahead.once]
    merits = numpy.concatenate([numpy.zeros((len(ahead.draws), 1)), ahead.draws[:, kept]], axis=1)
    best = merits == merits.max(axis=1, keepdims=True)
    shares = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip((reference, *(ahead.labels[place] for place in kept)), map(float, shares), strict=True))
