"""What the labels of one table are to each other, and which of them are on a front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from results_factory import PROSE, TASK, Results, answered, cell, demo, items, scores

from harness.records import Score
from harness.report import load
from harness.report.pareto import COSTS, front, retention
from harness.report.ranking import SETTLED, TableRanking, turned
from harness.report.table import Block


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Block:
    (only,) = load(demo(tmp_path_factory.mktemp("ranking")), "demo").blocks
    return only


def test_labels_stand_by_score_and_each_pair_once(block: Block) -> None:
    ranking = block.ranking(128)
    assert ranking.labels == ("setfit", "full", "lora", "dora", "prompt", "base")
    assert len(ranking.pairs) == 15
    assert set(ranking.missing) == {"qlora", "late"}
    assert "oom" in ranking.missing["qlora"]
    assert sum(ranking.chances.values()) == pytest.approx(1.0)
    assert max(ranking.chances, key=lambda label: ranking.chances[label]) == ranking.best == "setfit"


def test_a_verdict_can_be_said_from_either_side(block: Block) -> None:
    ranking = block.ranking(128)
    one, other = ranking.between("setfit", "base"), ranking.between("base", "setfit")
    assert one
    assert other
    assert one.decision
    assert other.decision
    assert (one.verdict, other.verdict) == ("better", "worse")
    assert one.decision.effect == -other.decision.effect > 0
    assert (other.decision.interval.low, other.decision.interval.high) == (
        -one.decision.interval.high,
        -one.decision.interval.low,
    )
    assert turned(other) == one
    assert ranking.between("setfit", "qlora") is None


def test_those_nearest_to_the_best_know_what_would_settle_them(block: Block) -> None:
    ranking = block.ranking(32)
    open_ = [each for each in ranking.to_best("underpowered") if each.decision and each.decision.seeds_known]
    assert open_
    settled = [verdict for verdict in open_ if verdict.decision and verdict.decision.detectable]
    assert len(settled) == min(len(open_), SETTLED)


def lower(folder: Path) -> TableRanking:
    """good has the lower perplexity."""
    results = Results(folder)
    base = cell("base")
    random = numpy.random.default_rng(0)
    hard = random.normal(3, 1, 200)
    for label, level in (("base", 1.0), ("bad", 0.5), ("good", 0.0)):
        for seed in (0,) if label == "base" else (0, 1):
            values = hard + level + random.normal(0, 0.1, 200)
            one = base if label == "base" else cell(label, 32, seed, baseline=base.spec_digest)
            found = [Score(TASK, "task", "bits_per_byte", float(values.mean()), 0.1, 200, False)]
            results.add(one, found, items=items(TASK, "bits_per_byte", [float(value) for value in values]))
    (block,) = load(results.store(), "demo").blocks
    return block.ranking(32)


def test_where_lower_is_better_the_lowest_is_first(tmp_path: Path) -> None:
    ranking = lower(tmp_path)
    assert ranking.labels == ("good", "bad", "base")
    verdict = ranking.between("good", "bad")
    assert verdict
    assert verdict.decision
    assert verdict.verdict == "better"
    assert verdict.decision.effect < 0
    assert ranking.chances["good"] > 0.9


def test_one_seed_is_known_to_be_one(tmp_path: Path) -> None:
    results = Results(tmp_path)
    base = cell("base")
    results.add(base, scores(0.6), items=answered(0.6, 1))
    results.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.8), items=answered(0.8, 2))
    (block,) = load(results.store(), "demo").blocks
    assert not block.ranking(32).seeds_known
    assert block.ranking(64) == TableRanking(block.ranking(64).point, 0.02)  # nothing ran there


def test_the_front_is_of_those_that_learned(block: Block) -> None:
    rows = block.at(128)
    kept = front(block.ranking(128), rows, retention(PROSE))
    assert set(kept) == {"full", "lora", "dora"}  # setfit keeps no model, prompt learned nothing, base is no method
    assert kept["lora"] > 0.95  # it forgets least
    assert kept["full"] > 0.3
    assert kept["dora"] < 0.5
    assert block.fronts["lora", 128, ""] == kept["lora"]
    assert front(block.ranking(64), rows, retention(PROSE)) == {}


def test_a_cost_is_known_and_disturbed_times_are_no_goal(block: Block) -> None:
    seconds = next(goal for goal in COSTS if goal.name == "training time")
    rows = block.at(128)
    quick = front(block.ranking(128), rows, seconds)
    assert quick["setfit"] == 1.0  # the fastest of all
    assert quick["full"] < 0.2
    disturbed = [replace(row, contended=row.label == "setfit") for row in rows]
    assert "setfit" not in front(block.ranking(128), disturbed, seconds)
