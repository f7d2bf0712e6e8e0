"""Clusters of test items: what a task may name, and that clustered values are those of the cluster-robust estimator."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as some
from tiny import PEOPLE, TASK, rows, write_csv

from harness.data import tasks
from harness.data.catalog import load_catalog
from harness.data.clusters import (
    effective_clusters,
    effective_items,
    independent_units,
    items_text,
    mean_test,
)
from harness.data.facts import TaskFacts

VALUES = some.lists(some.tuples(some.floats(-10, 10), some.integers(0, 6)), min_size=4, max_size=60)


def write_clustered(project: Path, metadata: str = "metadata: {cluster: person}") -> Path:
    """The task `colours` with a column `person`, and a line that names it."""
    folder = project / "suites" / "tasks"
    write_csv(folder / "colours.csv", [{**row, "person": row["text"].split()[0]} for row in rows()])
    (folder / "colours.yaml").write_text(f"{TASK.replace('{{', '{').replace('}}', '}')}{metadata}\n")
    return folder / "colours.yaml"


def facts(project: Path) -> TaskFacts:
    return tasks.prepare(load_catalog(project), "colours")


# --- values ---


def test_units_are_the_means_of_clusters_of_one_size() -> None:
    units = independent_units([[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]], ["a", "b", "b", "a", "c", "c"])
    assert units == pytest.approx(numpy.array([[1.0, 0.0, 1.0]]))


@given(VALUES)
def test_units_have_the_mean_and_the_cluster_robust_error(drawn: list[tuple[float, int]]) -> None:
    values, clusters = [value for value, _ in drawn], [str(cluster) for _, cluster in drawn]
    groups = set(clusters)
    if len(groups) < 2:
        return
    units = independent_units([values], clusters)[0]
    mean = math.fsum(values) / len(values)
    assert units.mean() == pytest.approx(mean, abs=1e-9)
    if len(groups) == len(values):
        assert list(units) == values
        return
    sums = [sum(value - mean for value, of in drawn if str(of) == group) for group in groups]
    shares = [clusters.count(group) / len(values) for group in groups]
    squares, cubes = (math.fsum(share**power for share in shares) for power in (2, 3))
    wanted = math.fsum(total**2 for total in sums) / len(values) ** 2 / (1 - 2 * cubes / squares + squares)
    assert units.var(ddof=1) / len(units) == pytest.approx(wanted, abs=1e-9)


def test_the_error_is_that_of_statsmodels_for_clusters_of_one_size() -> None:
    from statsmodels.regression.linear_model import OLS

    random = numpy.random.default_rng(1)
    clusters = [f"c{place % 12}" for place in range(60)]
    values = random.normal(0, 1, 60) + numpy.repeat(random.normal(0, 1, 12)[None, :], 5, axis=0).ravel()
    codes = numpy.array([int(cluster[1:]) for cluster in clusters])
    fit = OLS(values, numpy.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    units = independent_units([list(values)], clusters)[0]
    assert units.std(ddof=1) / math.sqrt(12) == pytest.approx(float(fit.bse[0]))


def test_the_map_is_linear_and_leaves_items_without_clusters_alone() -> None:
    random = numpy.random.default_rng(2)
    a, b = random.random((2, 3, 20))
    clusters = [f"c{place // 3}" for place in range(20)]
    apart = independent_units(a, clusters) - independent_units(b, clusters)
    assert apart == pytest.approx(independent_units(a - b, clusters))
    assert (independent_units(a, ()) == a).all()
    same = independent_units([a[0], a[1], a[0]], clusters)
    assert (same[0] == same[2]).all()
    with pytest.raises(ValueError, match="each item has one cluster; got 2 clusters of 20 items"):
        independent_units(a, ["x", "y"])


def test_clusters_of_other_sizes_count_as_fewer() -> None:
    assert effective_clusters(["a", "a", "b", "b"]) == 2
    assert effective_clusters(["a", "a", "a", "a", "b", "b", "c", "c"]) == pytest.approx(64 / 24)
    assert effective_clusters(["a", "a", "a", "b"]) == 2


def test_effective_items_lie_between_the_clusters_and_the_items() -> None:
    clusters = [f"c{place // 5}" for place in range(200)]
    random = numpy.random.default_rng(3)
    alike = numpy.repeat(random.random(40), 5)
    apart = random.random(200)
    assert effective_items(alike, clusters) == pytest.approx(40)
    assert 120 < effective_items(apart, clusters) <= 200
    assert effective_items(numpy.ones(200), clusters) == pytest.approx(40), "nothing varies, so clusters count"
    assert effective_items(apart, ()) == 200


def test_a_gain_in_clusters_is_tested_over_clusters() -> None:
    from scipy.stats import ttest_1samp

    clusters = [f"c{place // 4}" for place in range(40)]
    gains = numpy.random.default_rng(4).normal(0.3, 1, 40)
    wanted = ttest_1samp(gains.reshape(10, 4).mean(axis=1), 0.0, alternative="greater").pvalue
    assert mean_test(gains, clusters) == pytest.approx(float(wanted))
    assert mean_test([1.0] * 40, clusters) == pytest.approx(2.0**-10)
    assert mean_test([-1.0] * 40, clusters) == 1.0
    assert mean_test([1.0] * 4, ["a"] * 4) == 1.0


def test_counts_in_words() -> None:
    assert items_text(200, 40, "passage_id") == "200 items in 40 clusters (passage_id)"
    assert items_text(200, None) == "200 items"


# --- what a task may name ---


def test_the_column_is_part_of_what_a_task_is(project: Path) -> None:
    write_clustered(project, "metadata: {version: 1.0}")
    before = facts(project)
    assert (before.cluster, before.clusters, before.cluster_problem) == ("", 0, ())
    write_clustered(project)
    after = facts(project)
    assert (after.cluster, after.cluster_problem) == ("person", ())
    assert 2 < after.clusters <= len(PEOPLE)
    assert after.fingerprint != before.fingerprint
    write_clustered(project, "metadata: {version: 2.0}")
    assert facts(project).fingerprint == before.fingerprint, "other metadata changes nothing"


@pytest.mark.parametrize(
    ("metadata", "line", "said"),
    [
        (
            "metadata: {cluster: persn}",
            13,
            "unknown column 'persn'. Did you mean 'person'? Known: colour, person, text",
        ),
        ("metadata:\n  version: 1.0\n  cluster: '{{person}}'", 15, "Did you mean 'person'?"),
        ("metadata:\n  cluster: 7", 14, "unknown column '7'. Known: colour, person, text"),
    ],
)
def test_a_column_that_the_data_lack_is_refused_with_its_line(
    project: Path, metadata: str, line: int, said: str
) -> None:
    path = write_clustered(project, metadata)
    message, file, found = facts(project).cluster_problem
    assert said in message
    assert (file, found) == (str(path), line)


def test_a_column_with_gaps_or_with_one_value_is_refused(project: Path) -> None:
    path = write_clustered(project)
    data = path.with_name("colours.csv")
    write_csv(data, [{**row, "person": ""} for row in rows()])
    assert "30 of 30 scored items have nothing in the column 'person'" in facts(project).cluster_problem[0]
    write_csv(data, [{**row, "person": "Ada"} for row in rows()])
    assert "all 30 scored items are in one cluster (person: 'Ada')" in facts(project).cluster_problem[0]
