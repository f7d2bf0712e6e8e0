"""What is stored is listed with what it costs to make again, and nothing goes but what was named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import refused, tunebench
from results_factory import Results, cell, scores

from harness.cli.storage import size_of_tree


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three attempts at two cells, each with weights, and a cache with three parts."""
    folder = tmp_path / "results"
    made = Results(folder)
    for label in ("full", "full", "lora"):
        attempt = made.add(cell(label, 32, 0), scores(0.8, 0.03, -5, 0.4), train_seconds=50.0)
        weights = made_store(folder).attempt_folder(attempt) / "weights"
        weights.mkdir()
        (weights / "model.safetensors").write_bytes(b"x" * 100_000)
    made.store()
    cache = tmp_path / "cache"
    for name in ("sources/one.gguf", "models/a/model.safetensors", "somebody/elses.txt"):
        path = cache / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 50_000)
    monkeypatch.setenv("TUNEBENCH_CACHE", str(cache))
    monkeypatch.delenv("TUNEBENCH_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made_store(folder: Path):  # type: ignore[no-untyped-def]
    from harness.store import Store

    return Store(folder)


def parts(*arguments: str) -> dict[str, dict[str, object]]:
    done = tunebench("cache", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {part["name"]: part for part in json.loads(done.stdout)["parts"]}


def test_weights_come_first_with_what_they_cost(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")  # the folders of tests have long names
    found = parts()
    assert list(found)[:3] == ["superseded weights", "weights", "results"]
    assert found["superseded weights"]["seconds"] == 0, "a newer attempt has them"
    assert found["weights"]["seconds"] == 120, "two cells, 60 seconds each"
    assert 200_000 <= found["weights"]["bytes"] < 220_000
    assert 100_000 <= found["superseded weights"]["bytes"] < 110_000
    assert list(found)[3:] == ["sources", "models", "somebody"]
    shown = tunebench("cache").stdout
    assert "trained again, 2 min 00 s" in shown
    assert "made again from the downloads" in shown


def test_nothing_goes_without_yes_and_then_only_what_was_named(stored: Path) -> None:
    before = size_of_tree(stored)
    planned = tunebench("cache", "--prune", "superseded weights", "--prune", "sources")
    assert "nothing was removed" in planned.stdout
    assert size_of_tree(stored) == before
    done = tunebench("cache", "--prune", "superseded weights", "--prune", "sources", "--yes")
    assert done.returncode == 0, done.stderr
    kept = sorted((stored / "results").glob("attempts/*/*/weights"))
    assert len(kept) == 2
    assert list((stored / "cache" / "sources").iterdir()) == []
    assert (stored / "cache" / "models" / "a" / "model.safetensors").exists()
    assert len(sorted((stored / "results").glob("attempts/*/*/result.json"))) == 3, "results stay"
    assert parts()["weights"]["bytes"] > 0
    tunebench("cache", "--prune", "weights", "--yes")
    assert sorted((stored / "results").glob("attempts/*/*/weights")) == []


def test_what_is_young_or_of_another_suite_stays(stored: Path) -> None:
    assert parts("--prune", "models", "--older", "1")["models"]["chosen"]
    tunebench("cache", "--prune", "models", "--older", "1", "--yes")
    assert (stored / "cache" / "models" / "a").exists()
    os.utime(stored / "cache" / "models" / "a", (0, 0))
    tunebench("cache", "--prune", "models", "--older", "1", "--yes")
    assert not (stored / "cache" / "models" / "a").exists()
    refused(tunebench("cache", "--suite", "none"), "unknown suite with results 'none'")


def test_what_is_not_tunebenchs_own_and_results_are_never_removed(stored: Path) -> None:
    refused(tunebench("cache", "--prune", "results", "--yes"), "results are never pruned")
    refused(tunebench("cache", "--prune", "weight"), "Did you mean 'weights'")
    refused(tunebench("cache", "--yes"), "names nothing")
    tunebench("cache", "--prune", "somebody", "--yes")
    assert (stored / "cache" / "somebody" / "elses.txt").exists()


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 50_000)
    before = size_of_tree(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert size_of_tree(tmp_path) <= before + 8192, "of the link itself"
