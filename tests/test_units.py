"""How numbers are shown by their units, and that a fact which nobody knows is shown right everywhere."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from results_factory import Results, cell, scores
from typer.testing import CliRunner

from harness.cli import application
from harness.records import Fact, bare_quantity, quantity
from harness.report import load, write_report


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1536 * 1024**2, "B", "1.5 GiB"),
        (34.5, "ms", "34 ms"),
        (5.55, "s", "5.5 s"),
        (1500.0, "J", "1.5 kJ"),
        (0.0182, "share", "1.8%"),
        (134515008.0, "parameters", "134 515 008 parameters"),
        (1.24e12, "FLOP", "1.24 TFLOP"),
        (9.87e10, "FLOP/s", "98.7 GFLOP/s"),
        (12.3456, "tokens/s", "12.35 tokens/s"),
        (12345.6, "tokens/s", "12 346 tokens/s"),
        (0.125, "", "0.125"),
        (-0.125, "acc", "−0.125 acc"),
        (0.00031, "V", "0.00031 V"),
        (None, "s", "n/a"),
        (math.nan, "B", "n/a"),
        (math.inf, "furlongs", "inf furlongs"),
    ],
)
def test_a_number_is_shown_with_its_unit(value: float | None, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_a_column_that_names_the_unit_does_not_repeat_it() -> None:
    assert [bare_quantity(34.0, unit) for unit in ("ms", "B", "furlongs", "share")] == ["34", "34 B", "34", "3400%"]


def test_a_fact_knows_how_it_is_shown() -> None:
    assert Fact("cache_bytes", 2048, "B", False).text == "2 KiB"


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    results = Results(tmp_path / "results")
    base = cell("base")
    results.add(base, scores(0.6))
    for seed in (0, 1):
        facts = [
            Fact("flux", 2.5 + seed, "V/m", True),
            Fact("cache_bytes", 3 * 2**20, "B", False),
            Fact("hops", 1200.0, "steps"),
            Fact("after:topic:other:acc", 0.5, "acc", True),
        ]
        one = cell("lora", 32, seed, baseline=base.spec_digest)
        results.add(one, scores(0.8), train_seconds=5.0, facts=facts, contended=seed == 1)
    results.store()
    return tmp_path / "results"


def test_a_new_fact_is_in_every_written_report_with_its_own_unit(store_folder: Path, tmp_path: Path) -> None:
    from harness.store import Store

    paths = write_report(load(Store(store_folder), "demo"), tmp_path / "out")
    for path in (paths.html, paths.markdown):
        text = path.read_text(encoding="utf-8")
        for shown in ("flux (V/m)", "cache bytes", "3 MiB", "hops (steps)", "1 200"):
            assert shown in text
        assert "after:topic" not in text.split("Other measurements")[1].split("Notes")[0]
    with (tmp_path / "out" / "tables" / "facts-tiny-topic.csv").open(encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["label"] == "lora"]
    assert (row["flux"], row["cache_bytes"], row["hops"]) == ("3.0", str(3.0 * 2**20), "1200.0")


def test_show_tells_facts_with_their_units(store_folder: Path) -> None:
    shown = CliRunner().invoke(application(), ["show", "lora/tiny/topic/n32/s0", "--results", str(store_folder)]).output
    assert "flux: 2.5 V/m" in shown
    assert "cache_bytes: 3 MiB" in shown
