"""Several tasks: figures as SciPy has them, and who is compared at all."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from results_factory import Results, answered, cell, renamed, scores
from scipy.stats import friedmanchisquare, trim_mean

from harness.report import load
from harness.report.sections import cross_task
from harness.report.sections.cross_task import TaskComparison
from harness.report.table import Report

TASKS = ("topic", "intent", "mood")


def several(folder: Path, tasks: tuple[str, ...] = TASKS) -> Report:
    """four labels on some tasks, two seeds; `half` ran on the first alone."""
    results = Results(folder)
    for task in tasks:
        base = cell("base", task=task)
        results.add(base, renamed(scores(0.4), task), items=renamed(answered(0.4, 1), task))
        for number, label in enumerate(("good", "fair", "poor", "half")):
            for seed in (0, 1):
                if label == "half" and task != tasks[0]:
                    continue
                share = 0.8 - 0.1 * number + 0.02 * seed
                one = cell(label, 32, seed, baseline=base.spec_digest, task=task)
                results.add(one, renamed(scores(share), task), items=renamed(answered(share, seed), task))
    return load(results.store(), "demo")


def only(report: Report) -> TaskComparison:
    (found,) = cross_task.across(report)
    return found


def test_figures_are_those_of_scipy(tmp_path: Path) -> None:
    found = only(several(tmp_path))
    assert found.tasks == TASKS
    assert set(found.scores) == {"good", "fair", "poor"}
    for label, values in found.scores.items():
        assert values.shape == (2, 3)
        assert found.means[label].value == pytest.approx(trim_mean(values, 0.25, axis=None))
        assert found.means[label].low <= found.means[label].value <= found.means[label].high
    assert found.ranking
    assert found.ranking.mean_ranks == (1.0, 2.0, 3.0)
    means = [values.mean(axis=0) for values in found.scores.values()]
    assert found.ranking.p == pytest.approx(friedmanchisquare(*means).pvalue)
    assert found.beats == {"good": 0.5, "fair": 0.0, "poor": 0.0}


def test_the_table_and_its_sentence(tmp_path: Path) -> None:
    found = only(several(tmp_path))
    lines = cross_task.lines(found)
    assert [line[:3] for line in lines] == [["good", "1.0", "a"], ["fair", "2.0", "ab"], ["poor", "3.0", "b"]]
    assert all(len(line) == len(cross_task.headers(found)) for line in lines)
    assert cross_task.sentence(found).startswith("Over 3 tasks ranks differ (Friedman's test, p = 0.0")


def test_one_task_is_not_several(tmp_path: Path) -> None:
    assert cross_task.across(several(tmp_path, ("topic",))) == ()


def test_the_interval_is_that_of_all_resamples_at_once() -> None:
    from harness.analysis.stats.rankings import interquartile_interval, interquartile_mean

    values = numpy.random.default_rng(0).normal(0.6, 0.1, (8, 5))
    found, random = interquartile_interval(values), numpy.random.default_rng(0)
    draws = [
        interquartile_mean(numpy.take_along_axis(values, random.integers(0, 8, (8, 5)), axis=0)) for _ in range(2000)
    ]
    assert found.value == interquartile_mean(values)
    assert (found.low, found.high) == pytest.approx(tuple(numpy.quantile(draws, [0.025, 0.975])), abs=0.004)


def test_a_row_of_scores_is_one_seed_on_every_task(tmp_path: Path) -> None:
    """`good` lacks seed 0 of one task and seed 2 of another: seed 1 alone is compared, and not seed 1 with seed 0."""
    results = Results(tmp_path)
    for place, task in enumerate(TASKS):
        base = cell("base", task=task)
        results.add(base, renamed(scores(0.4), task), items=renamed(answered(0.4, 1), task))
        for label in ("good", "fair"):
            for seed in (0, 1, 2):
                if label == "good" and (place, seed) in ((0, 0), (1, 2)):
                    continue
                share = 0.6 + 0.1 * seed
                one = cell(label, 32, seed, baseline=base.spec_digest, task=task)
                results.add(one, renamed(scores(share), task), items=renamed(answered(share, seed), task))
    found = only(load(results.store(), "demo"))
    assert found.scores["good"] == pytest.approx(numpy.array([[0.7, 0.7, 0.7]]))
    assert found.scores["fair"] == pytest.approx(numpy.array([[0.6] * 3, [0.7] * 3, [0.8] * 3]))
