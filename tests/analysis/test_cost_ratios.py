"""Costs as ratios: against SciPy's own test, and what may not be compared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from results_factory import Results, cell, scores
from scipy.stats import ttest_ind

from harness.analysis.comparisons import Request, compare_labels
from harness.analysis.cost_ratios import CostKind, CostSide, cost_verdict, ratio
from harness.analysis.verdicts import Verdict
from harness.cli.verdict_text import sentence

SECONDS = CostKind("train_seconds", "s", False)
VALUES = some.lists(some.floats(1.0, 100.0), min_size=2, max_size=6)


def between(
    a: list[float], b: list[float], kind: CostKind = SECONDS, margin: float = 0.02, **changes: object
) -> Verdict:
    return cost_verdict(CostSide("a", tuple(a), **changes), CostSide("b", tuple(b)), kind, margin)  # type: ignore[arg-type]


@given(VALUES, VALUES)
def test_it_is_welchs_test_of_logarithms_and_turns_over_with_its_sides(a: list[float], b: list[float]) -> None:
    found, turned = ratio(a, b), ratio(b, a)
    assert found.value == pytest.approx(1 / turned.value)
    assert found.p == pytest.approx(turned.p, abs=1e-9)
    logs = [[math.log(value) for value in values] for values in (a, b)]
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found.p == pytest.approx(ttest_ind(*logs, equal_var=False).pvalue, rel=1e-6, abs=1e-9)
    assert found.interval
    assert found.interval.low <= found.value <= found.interval.high


def test_less_time_is_better_and_more_throughput_too() -> None:
    assert between([10.0, 10.2, 10.1], [20.0, 20.3, 19.9]).verdict == "better"
    assert between([10.0, 10.2], [20.0, 20.3], CostKind("tokens_per_second", "tokens/s", True)).verdict == "worse"
    found = between([10.0, 10.01, 9.99], [10.0, 10.01, 10.0])
    assert found.verdict == "tied"
    assert "tied within 0.02 of it" in sentence(found)


def test_one_seed_settles_nothing_but_what_never_varies_is_known() -> None:
    alone = between([10.0], [20.0, 20.1])
    assert alone.verdict == "underpowered"
    assert alone.ratio
    assert alone.ratio.interval is None
    assert "needs two seeds or repeats" in sentence(alone)
    size = CostKind("artifact_bytes", "B", False)
    assert between([5.0, 5.0], [10.0, 10.0], size).verdict == "better"
    assert between([5.0, 5.0], [5.0, 5.0], size).verdict == "tied"


def test_disturbed_times_other_devices_and_what_has_no_better_end_are_refused() -> None:
    disturbed = between([10.0, 11.0], [20.0, 21.0], contended=True)
    assert "other cells ran on the same device as those of a" in disturbed.reason
    size = CostKind("artifact_bytes", "B", False)
    assert between([5.0, 5.0], [10.0, 10.0], size, contended=True).verdict == "better"
    assert "different devices: a GPU; " in between([5.0, 5.0], [10.0, 10.0], size, device="a GPU").reason
    assert "neither more nor less" in between([5.0, 5.0], [1.0, 1.0], CostKind("optimizer_steps", "steps", None)).reason


def test_costs_are_read_from_facts_and_phases(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for label, seconds in (("quick", 10.0), ("slow", 30.0), ("pushed", 20.0)):
        for seed in range(3):
            results.add(
                cell(label, 32, seed), scores(0.7), train_seconds=seconds + seed / 10, contended=label == "pushed"
            )
    store = results.store()

    def verdict(a: str, b: str, metric: str) -> Verdict:
        with store.open(read_only=True) as connection:
            ((_, found),) = compare_labels(connection, a, b, Request("", None, metric))
        return found

    found = verdict("quick", "slow", "train_seconds")
    assert found.verdict == "better"
    assert found.ratio
    assert found.ratio.value == pytest.approx(10.1 / 30.1, rel=0.01)
    assert sentence(found).startswith("quick is better than slow (train_seconds 0.3")
    assert verdict("quick", "slow", "tokens_per_second").verdict == "better"
    assert verdict("quick", "slow", "peak_bytes").verdict == "tied"
    assert verdict("quick", "pushed", "train_seconds").verdict == "incomparable"
    assert verdict("quick", "pushed", "peak_bytes").verdict == "tied"
