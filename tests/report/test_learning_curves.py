"""Score against examples in the report: who wins where, and where the lead changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from results_factory import TASK, Results, answered, cell, scores

from harness.records import Score
from harness.report import load
from harness.report.chart_style import spec
from harness.report.sections import learning_curves
from harness.report.table import Block


def crossed(folder: Path, sizes: tuple[int, ...] = (16, 64, 256), lower: bool = False) -> Block:
    """few starts high and stays, many starts low and overtakes it at 64 examples; third is always behind."""
    results = Results(folder)
    base = cell("base")
    metric = "error" if lower else "acc"

    def add(one, share: float, seed: int) -> None:  # type: ignore[no-untyped-def]
        found = answered(share, seed)
        values = [(1 - item.value) if lower else item.value for item in found]
        found = [type(item)(item.task, item.doc_id, metric, v, "p", "t") for item, v in zip(found, values, strict=True)]
        score = Score(TASK, "task", metric, float(numpy.mean(values)), 0.03, len(values), not lower)
        results.add(one, [score], items=found, train_seconds=5.0)

    add(base, 0.3, 1)
    for place, n_train in enumerate(sizes):
        gap = 0.12 * (place - (len(sizes) - 1) / 2)
        for seed in (0, 1, 2):
            for number, (label, share) in enumerate((("few", 0.7), ("many", 0.7 + gap), ("third", 0.45))):
                add(cell(label, n_train, seed, baseline=base.spec_digest), share, 100 * number + 10 * place + seed)
    (block,) = load(results.store(), "demo").blocks
    return block


@pytest.mark.parametrize("lower", [False, True])
def test_the_lead_changes_where_it_does(tmp_path: Path, lower: bool) -> None:
    block = crossed(tmp_path, lower=lower)
    (change,) = learning_curves.changes(block, "")
    assert (change.label, change.behind) == ("many", "few")
    assert change.found.at
    assert 45 < change.found.at.value < 90
    assert 16 <= change.found.at.low < change.found.at.value < change.found.at.high <= 256
    assert change.found.probability > 0.95
    assert learning_curves.sentence(change).startswith("many overtakes few at about ")
    (line,) = learning_curves.change_lines(block, "")
    assert line[:2] == ["many", "few"]


def test_who_wins_at_each_size(tmp_path: Path) -> None:
    lines = learning_curves.lines(crossed(tmp_path), "")
    assert [line[:2] for line in (lines[0], lines[-1])] == [["16", "few"], ["256", "many"]]
    assert "third" not in " ".join(text for line in lines for text in line)


def test_one_size_has_no_crossing_and_no_plot(tmp_path: Path) -> None:
    block = crossed(tmp_path, sizes=(16,))
    assert learning_curves.changes(block, "") == []
    assert learning_curves.chart(block, "") is None


def test_the_plot_has_a_band_for_each_point_and_a_curve_only_where_it_forecasts(tmp_path: Path) -> None:
    block = crossed(tmp_path, sizes=(16, 32, 64, 128, 256))
    points = list(learning_curves.banded(block, ""))
    assert len(points) == 15
    assert all(point["low"] < point["score"] < point["high"] for point in points)
    assert {point["label"] for point in points if point["leads"]} <= {"many", "few"}
    drawn = json.dumps(spec(learning_curves.chart(block, "")))
    assert "many" in drawn
    fits = learning_curves.fits(block, "")
    assert "many" in fits  # it rises
    assert {point["label"] for point in learning_curves.forecast(block, "")} == set(fits)


def test_a_failed_size_is_left_out(tmp_path: Path) -> None:
    results = Results(tmp_path)
    base = cell("base")
    results.add(base, scores(0.5), items=answered(0.5, 1))
    for n_train, share in ((16, 0.6), (64, 0.7)):
        for seed in (0, 1, 2):
            trained = cell("lora", n_train, seed, baseline=base.spec_digest)
            results.add(trained, scores(share), items=answered(share, n_train + seed))
    results.member(cell("lora", 256, 0, baseline=base.spec_digest))
    (block,) = load(results.store(), "demo").blocks
    assert learning_curves.sizes(block, "") == [16, 64]
    assert [line[:2] for line in learning_curves.lines(block, "")] == [["16", "lora"], ["64", "lora"]]
