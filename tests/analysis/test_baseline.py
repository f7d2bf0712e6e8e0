"""A baseline says what the store said that it was made from, and nothing of what cannot be compared."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from results_factory import Results, cell, environment, items, scores

from harness.analysis.regression import Baseline, Regression, changes_between, measured_in, old_pins, package_changes
from harness.errors import UserError
from harness.records import RESULT_VERSION, Environment, Probe
from harness.store import fact_units

OLD = environment(packages={"torch": "2.9.0", "peft": "0.20.0 (a wheel)"}, result_version=RESULT_VERSION)
NEW = replace(
    OLD, env_digest="f" * 64, packages={"torch": "2.9.0", "peft": "0.21.2"}, created="2026-02-01T00:00:00.000+00:00"
)


def make_results(folder: Path) -> Results:
    """Two environments, in the second of which `svd` loses the answers to its first 20 items (17 points)."""
    results, random = Results(folder, environment=OLD), numpy.random.default_rng(0)
    for label in ("lora", "full", "svd"):
        right = (random.random(100) < 0.8).astype(float)
        for env in (OLD, NEW):
            values = right.copy()
            if label == "svd" and env is NEW:
                values[:20] = 0
            results.add(
                cell(label, 32, 0), scores(0.8), items=items("topic", "acc", values.tolist()), train_seconds=10, env=env
            )
    return results


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Baseline, Results]:
    results = make_results(tmp_path / "a")
    with results.store().open(read_only=True) as connection:
        measured = measured_in(connection, OLD.env_digest, "demo")
        units = fact_units(connection)
    return Baseline("demo", OLD, measured, units, [Probe("lora", "losses", (1.0, 0.5), "nats")], "d1"), results


def compared(baseline: Baseline, results: Results, about: Environment = NEW) -> Regression:
    with results.store().open(read_only=True) as connection:
        return baseline.compared_with(about, measured_in(connection, NEW.env_digest, "demo"), fact_units(connection))


@pytest.mark.parametrize("name", ["b.json", "b.json.gz"])
def test_it_is_read_as_it_was_written(stored: tuple[Baseline, Results], tmp_path: Path, name: str) -> None:
    baseline, results = stored
    baseline.write(tmp_path / name)
    again = Baseline.read(tmp_path / name)
    assert again == replace(baseline, name=f"baseline {name}")
    with results.store().open(read_only=True) as connection:
        direct = changes_between(connection, OLD.env_digest, NEW.env_digest, "demo")
    found = compared(again, results)
    untimed = [metric for metric in direct.metrics if not metric.timed]
    assert list(found.metrics) == untimed
    assert found.metrics[0].pattern.sentence == "only svd (−17.0 points) moved"
    assert "train_seconds" in {metric.metric for metric in direct.metrics}


def test_of_another_machine_memory_is_not_compared(stored: tuple[Baseline, Results]) -> None:
    baseline, results = stored
    there = compared(baseline, results, replace(NEW, cpu="another"))
    assert [metric.metric for metric in there.metrics] == ["acc", "trainable_params", "artifact_bytes"]
    assert "train_rss_bytes" in [metric.metric for metric in compared(baseline, results).metrics]


def test_another_results_folder_does_too(tmp_path: Path) -> None:
    results = make_results(tmp_path / "a")
    results.store()
    found = Baseline.newest_in(tmp_path / "a", "demo")
    assert found.about.env_digest == OLD.env_digest
    assert compared(found, results).metrics[0].pattern.sentence == "only svd (−17.0 points) moved"
    with pytest.raises(UserError, match="no results of the suite 'other'"):
        Baseline.newest_in(tmp_path / "a", "other")


def test_what_differs_is_told_with_the_pins_that_bring_it_back() -> None:
    assert package_changes(OLD, NEW) == ["peft 0.20.0 (a wheel) → 0.21.2"]
    assert old_pins(OLD, NEW) == "peft==0.20.0"


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"\x1f\x8b broken", json.dumps({"format": "other"}).encode(), gzip.compress(b"null")],
    ids=["empty", "object", "list", "broken gzip", "another format", "null"],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.json.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a baseline, or is damaged"):
        Baseline.read(path)
    with pytest.raises(UserError, match="No such file"):
        Baseline.read(tmp_path / "none.json")


def test_one_of_another_version_is_refused(stored: tuple[Baseline, Results], tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    stored[0].write(path)
    path.write_text(path.read_text().replace('"version":1,', '"version":9,', 1))
    with pytest.raises(UserError, match="not comparable"):
        Baseline.read(path)
