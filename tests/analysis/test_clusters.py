"""Items that come in clusters: verdicts count clusters, and items without any are compared as before."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import MODEL, TASK, Results, cell, items, scores
from samples import plan as planned
from scipy.stats import norm

from harness.analysis.comparisons import Request, compare_labels
from harness.analysis.group_comparison import cells_by_score
from harness.analysis.planned_power import outlook_assumption, outlook_sentence, outlooks, seed_spreads
from harness.analysis.stats.contrast import Arm, compare, compare_arms, decide, p_tied, seed_spread
from harness.analysis.stats.intervals import paired
from harness.analysis.stats.p_best import Runner, leads
from harness.analysis.verdicts import Side, Verdict, interval_of, pairwise_verdicts, why_incomparable
from harness.cli.verdict_text import sentence
from harness.data.clusters import independent_units
from harness.store.database import Store

OWN = 3.0  # how far apart items are for one method alone, in standard deviations of a single answer
CLUSTERS = tuple(f"passage {place // 5}" for place in range(200))  # 40 of 5


def drawn(random: Any, clusters: tuple[str, ...], seeds: int = 3, within: float = 0.7) -> Any:
    """Right or wrong answers [2, seeds, items] of two methods that are equally good. What is hard for both, and what is
    hard for one alone, is correlated by `within` between the items of a cluster, on the probit scale; by 0.7 the
    differences of answers are correlated by about a half."""
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    of = numpy.array([names[name] for name in clusters])

    def hard() -> Any:
        shared = random.normal(0, 1, len(names))[of]
        return math.sqrt(within) * shared + math.sqrt(1 - within) * random.normal(0, 1, len(of))

    x = hard() + OWN * numpy.stack([hard()[None, :], hard()[None, :]])
    x = x + random.normal(0, 0.1, (2, seeds, 1))
    return (random.random(x.shape) < norm.cdf(x)).astype(float)


def test_identical_methods_on_clustered_items_are_seldom_told_apart() -> None:
    """40 clusters of 5, correlated by a half, and clusters of 1 to 9: taken as independent, 20% and more are told
    apart."""
    for number, sizes in enumerate(([5] * 40, [1, 2, 3, 5, 9] * 8)):
        clusters = tuple(f"c{place}" for place, size in enumerate(sizes) for _ in range(size))
        random = numpy.random.default_rng(number)
        apart = alone = covered = 0
        for _ in range(400):
            a, b = drawn(random, clusters)
            apart += compare(a, b, clusters=clusters).p < 0.05
            alone += compare(a, b).p < 0.05
            low, high = interval_of(side("a", a, clusters), True)
            covered += low <= 0.5 <= high
        assert apart <= 0.072 * 400
        assert alone >= 0.18 * 400
        assert 0.93 * 400 <= covered <= 0.98 * 400


def test_clusters_of_one_item_are_items() -> None:
    a, b = drawn(numpy.random.default_rng(1), CLUSTERS)
    each = [str(place) for place in range(200)]
    found, alone = compare(a, b, clusters=each), compare(a, b)
    assert found == alone
    assert alone == compare(a, b, clusters=())


def test_differences_are_those_of_the_means_of_clusters() -> None:
    a, b = drawn(numpy.random.default_rng(2), CLUSTERS)
    means = [values.reshape(3, 40, 5).mean(axis=2) for values in (a, b)]
    found, wanted = compare(a, b, clusters=CLUSTERS), compare(*means)
    assert (found.effect, found.stderr, found.p) == pytest.approx((wanted.effect, wanted.stderr, wanted.p))
    assert found.items == 40
    assert found.cluster_size == 5
    assert 40 <= found.answers <= 200


def test_what_would_settle_is_counted_in_items() -> None:
    a, b = drawn(numpy.random.default_rng(3), CLUSTERS, seeds=5)
    decision = decide(compare(a, b, clusters=CLUSTERS), 0.05)
    means = decide(compare(*(values.reshape(5, 40, 5).mean(axis=2) for values in (a, b))), 0.05)
    assert decision.to_differ
    assert means.to_differ
    assert means.to_differ.items
    assert decision.to_differ.items == 5 * means.to_differ.items
    assert decision.detectable == pytest.approx(means.detectable)


def test_a_tie_of_few_clusters_takes_more_than_one_of_as_many_items() -> None:
    right = numpy.ones((2, 300))
    clusters = [f"c{place // 10}" for place in range(300)]
    assert p_tied(compare(right, right), 0.02) < 0.05
    assert p_tied(compare(right, right, clusters=clusters), 0.02) > 0.05


def test_no_spread_at_all_is_a_sign_test_over_clusters() -> None:
    found = compare(numpy.ones((2, 20)), numpy.zeros((2, 20)), clusters=[f"c{place // 5}" for place in range(20)])
    assert found.p == pytest.approx(2.0**-3)
    with pytest.raises(ValueError, match="two clusters or more"):
        compare(numpy.ones((2, 20)), numpy.zeros((2, 20)), clusters=["one"] * 20)


def test_one_cluster_that_holds_nearly_all_items_settles_nothing() -> None:
    a, b = drawn(numpy.random.default_rng(9), ("one",) * 198 + ("two", "two"))
    found = decide(compare(a, b, clusters=("one",) * 198 + ("two", "two")), 0.02)
    assert found.verdict == "underpowered"
    assert found.detectable
    assert found.detectable > 0.1
    assert found.interval.low < -0.1 < 0.1 < found.interval.high


def side(label: str, values: Any, clusters: tuple[str, ...] = CLUSTERS) -> Side:
    docs = tuple(f"d{place:03}" for place in range(values.shape[1]))
    return Side(
        label, "acc", True, docs, tuple(map(tuple, values)), len(values) > 1, seeds=tuple(range(len(values))),
        clusters=clusters, clustered_by="passage_id" if clusters else "",
    )  # fmt: skip


def test_the_interval_of_all_right_counts_clusters() -> None:
    right = numpy.ones((1, 200))
    alone, clustered = (interval_of(side("a", right, clusters), True) for clusters in ((), CLUSTERS))
    assert clustered[0] < alone[0]
    assert clustered[1] == pytest.approx(1.0)
    few = interval_of(side("a", right.reshape(1, 200)[:, :40], ()), True)
    assert clustered == pytest.approx(few)


def test_sides_in_other_clusters_are_incomparable() -> None:
    a, b = drawn(numpy.random.default_rng(4), CLUSTERS)
    one, other = side("a", a), side("b", b, ())
    assert "200 items in 40 clusters (passage_id) and 200 items" in why_incomparable(one, other)
    with pytest.raises(ValueError, match="the same clusters"):
        compare_arms(one.arm, other.arm)


def test_every_pair_of_a_table_is_clustered() -> None:
    a, b = drawn(numpy.random.default_rng(5), CLUSTERS)
    (found,) = pairwise_verdicts([side("a", a), side("b", b)])
    assert (found.items, found.clusters, found.clustered_by) == (200, 40, "passage_id")
    assert found.p_alone == compare(a, b, clusters=CLUSTERS, paired_seeds=True).p


def test_chances_of_being_the_best_are_clustered() -> None:
    a, b = drawn(numpy.random.default_rng(6), CLUSTERS, within=0.95)
    spread = [
        float(leads("a", {"a": Runner(0.5, Arm(a, True, (), of)), "b": Runner(0.5, Arm(b, True, (), of))}).draws.std())
        for of in ((), CLUSTERS)
    ]
    assert spread[1] > 1.2 * spread[0]


def test_two_cells_are_compared_over_clusters() -> None:
    a, b = drawn(numpy.random.default_rng(7), CLUSTERS, within=0.95)
    one, other = side("a", a[:1]), side("b", b[:1])
    verdict, exact = cells_by_score(one, other)
    alone = paired(a[0], b[0])
    assert exact
    assert (exact.test, exact.wins, exact.losses) == ("t", alone.wins, alone.losses)
    assert exact.difference.high - exact.difference.low > alone.difference.high - alone.difference.low
    assert verdict.clustering == "200 items in 40 clusters (passage_id)"
    _, same = cells_by_score(one, replace(one, label="c"))
    assert same
    assert same.p == 1.0


def stored(folder: Path, clusters: tuple[str, ...], seeds: int = 3, **changes: Any) -> tuple[Store, Any]:
    results = Results(folder)
    values = drawn(numpy.random.default_rng(8), clusters, seeds, **changes)
    counts = {"clusters": len(set(clusters)), "clustered_by": "passage_id"}
    for label, rows in zip(("full", "lora"), values, strict=True):
        for seed, row in enumerate(rows):
            made = [
                replace(item, cluster=cluster)
                for item, cluster in zip(items(TASK, "acc", [float(value) for value in row]), clusters, strict=True)
            ]
            scored = [replace(score, **counts) for score in scores(0.5)]
            results.add(cell(label, 32, seed), scored, items=made)
    return results.store(), values


def test_a_stored_verdict_says_how_many_clusters_it_counts(tmp_path: Path) -> None:
    store, (a, b) = stored(tmp_path, CLUSTERS)
    with store.open(read_only=True) as connection:
        ((_, found),) = compare_labels(connection, "full", "lora", Request())
        spreads = seed_spreads(connection, {(MODEL, TASK): ("acc", "f" * 8)})
    assert isinstance(found, Verdict)
    # The items of the store are sorted by their name, and so are their clusters.
    assert found.p_alone == pytest.approx(compare(a, b, clusters=CLUSTERS, paired_seeds=True).p)
    assert ", paired by seed, 200 items in 40 clusters (passage_id)" in sentence(found)
    each = [seed_spread([independent_units(values, CLUSTERS)]) for values in (a, b)]
    assert spreads[MODEL, TASK].residual == pytest.approx(numpy.mean([one.residual for one in each if one]))


def test_a_plan_takes_the_items_of_a_cluster_as_alike(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    tasks = {**plan.facts.tasks, "a": replace(plan.facts.tasks["a"], metric="acc", n_test=200)}
    clustered = {**tasks, "a": replace(tasks["a"], cluster="passage_id", clusters=40)}
    (alone,), (found,) = (outlooks(replace(plan, facts=replace(plan.facts, tasks=of)), {}) for of in (tasks, clustered))
    assert found.figures.score_stderr == pytest.approx(alone.figures.score_stderr * math.sqrt(3), rel=0.01)
    assert found.figures.items_needed == pytest.approx(3 * (alone.figures.items_needed or 0), rel=0.01)
    assert "200 test items in 40 clusters (passage_id), so one score" in outlook_sentence(found)
    assert "items of one passage_id correlated by 0.5" in outlook_assumption(found)
