"""Estimates how likely each of several methods is the best, from the items that they share and the seeds of each. Pure.

A method's lead over a reference has the error and the degrees of freedom of `contrast.compare`. Leads move together:
all hold the reference's own error, and a hard set of items moves all methods alike. Where the items of a method are not
known, or are others, its error is taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.stats.contrast import Arm, Comparison, compare_arms, seed_spread
from harness.analysis.stats.reference import Reference

if TYPE_CHECKING:
    from harness.analysis.stats.intervals import Array

DRAWS = 4000
UNPAIRED_DF = 30.0  # degrees of freedom of a lead without single items: close to a normal


@dataclass(frozen=True)
class Runner:
    """A method among those that may be the best. `merit` is its score, signed so that more is better. `arm` are its
    values on the shared items, None where they are not known or the items are others: the error of the score is then
    `stderr`."""

    merit: float
    arm: Arm | None = None
    stderr: float | None = None


@dataclass(frozen=True)
class Leads:
    """Draws [draws, labels] of true leads over the reference method. `labels` are all but the reference, in
    alphabetical order. `paired`: all were compared item by item. `at_most`: a spread between seeds is unknown, so that
    chances of being the best look too sure."""

    labels: tuple[str, ...]
    draws: Array
    paired: bool
    at_most: bool


def leads(reference: str, runners: Mapping[str, Runner], seed: int = 0) -> Leads:
    """Draws the leads of all other methods over `reference`: correlated normal noise around the estimates, each brought
    to the quantiles of its own comparison (`reference.Reference`)."""
    import numpy

    first = runners[reference]
    labels = tuple(sorted(label for label in runners if label != reference))
    others = [runners[label] for label in labels]
    comparisons = [compare_arms(runner.arm, first.arm) if runner.arm and first.arm else None for runner in others]
    at_most = any(not each.seeds_known for each in comparisons if each)
    if not others:
        return Leads((), numpy.zeros((DRAWS, 0)), True, False)
    effect = numpy.array([runner.merit - first.merit for runner in others])
    stderr = numpy.array(
        [error_of(runner, first, comparison) for runner, comparison in zip(others, comparisons, strict=True)]
    )
    random = numpy.random.default_rng(seed)
    values, vectors = numpy.linalg.eigh(correlation(first, others))
    root = vectors * numpy.sqrt(numpy.maximum(values, 0.0))
    noise = random.standard_normal((DRAWS, len(others))) @ root.T
    references = [each.reference if each else Reference(1.0, UNPAIRED_DF) for each in comparisons]
    away = numpy.stack([away_from(each, noise[:, place]) for place, each in enumerate(references)], axis=1)
    return Leads(labels, effect + stderr * away, all(comparisons), at_most)


def away_from(reference: Reference, noise: Array) -> Array:
    """Maps standard normal noise [draws] to the quantiles of a reference distribution, by interpolation."""
    import numpy
    from scipy.special import ndtr

    at = numpy.linspace(0.0, 6.0, 61)
    quantiles = numpy.array([0.0, *(float(reference.critical(float(ndtr(-z)))) for z in at[1:])])
    moved: Array = numpy.sign(noise) * numpy.interp(numpy.abs(noise), at, quantiles)
    return moved


def error_of(one: Runner, first: Runner, found: Comparison | None) -> float:
    """Returns the standard error of a lead: from the paired comparison `found`, or else as of two independent
    scores."""
    return found.stderr if found else math.hypot(one.stderr or 0.0, first.stderr or 0.0)


def correlation(first: Runner, others: Sequence[Runner]) -> Array:
    """Returns the correlations [others, others] of the leads over the `first` method.

    They come from the items, from the seeds of the first method, which all leads share, and from the seeds of each
    other method.
    """
    import numpy

    def scatter(one: Runner) -> float:
        spread = seed_spread([one.arm.rows]) if one.arm else None
        return spread.variance / len(one.arm.rows) if one.arm and spread else 0.0

    size = len(others)
    covariance = numpy.full((size, size), scatter(first)) + numpy.diag([scatter(one) for one in others])
    known = [place for place, one in enumerate(others) if one.arm and first.arm]
    if known and first.arm:
        base = numpy.asarray(first.arm.rows, dtype=float).mean(axis=0)
        means = [numpy.asarray(one.arm.rows, dtype=float).mean(axis=0) for one in others if one.arm]
        apart = numpy.stack([values - base for values in means])
        covariance[numpy.ix_(known, known)] += numpy.cov(apart).reshape(len(known), len(known)) / base.size
    for place in set(range(size)) - set(known):
        covariance[place, place] += (others[place].stderr or 0.0) ** 2 + (first.stderr or 0.0) ** 2
    deviation = numpy.sqrt(numpy.diag(covariance))
    scaled = numpy.where(deviation > 0, deviation, 1.0)
    found = covariance / scaled[:, None] / scaled
    numpy.fill_diagonal(found, 1.0)
    return found


def best_chances(reference: str, found: Leads) -> dict[str, float]:
    """Returns label -> the share of draws in which that method is the best; methods that are best together share a
    draw."""
    import numpy

    merits = numpy.concatenate([numpy.zeros((len(found.draws), 1)), found.draws], axis=1)
    best = merits == merits.max(axis=1, keepdims=True)
    shares = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip((reference, *found.labels), map(float, shares), strict=True))
