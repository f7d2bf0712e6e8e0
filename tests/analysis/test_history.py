"""Series over versions: steps in both directions, where they happened, and what is a break and no step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest
from commands import tunebench
from results_factory import Results, cell, environment, scores

from harness.analysis.regression import Series, series_over_versions
from harness.analysis.regression.steps import find_steps, null_gains, split_gains
from harness.store import HistoryPoint, history_points

START = datetime(2026, 1, 1, tzinfo=UTC)


def point(place: int, value: float, **more: Any) -> HistoryPoint:
    values: dict[str, Any] = {
        "suite": "demo", "key": "lora/tiny/topic/n32/s0", "label": "lora", "task": "topic", "role": "task",
        "metric": "acc", "higher_is_better": True, "value": value, "attempts": 1, "env_digest": f"env{place:02}",
        "created": START + timedelta(days=place), "packages": {"torch": "2.9.0", "peft": f"0.{place}.0"},
        "spec_digest": "spec", "fingerprint": "f", "result_version": 3, "machine": "A CPU", **more,
    }  # fmt: skip
    return HistoryPoint(**values)


def only(values: Sequence[float], **more: Any) -> Series:
    (found,) = series_over_versions([point(place, value, **more) for place, value in enumerate(values)])
    return found


LEVELS = [0.80, 0.81, 0.80, 0.80, 0.81, 0.60, 0.61, 0.60, 0.61, 0.60]


def test_a_step_has_its_size_its_version_and_its_direction() -> None:
    (step,) = only(LEVELS).steps
    assert (step.at, step.since, step.after) == (5, "env05", "env04")
    assert step.size == pytest.approx(-0.2, abs=0.002)
    assert step.size_text == "−20.0 points"
    assert step.better is False
    assert step.versions_text == "peft 0.4.0 → 0.5.0"
    assert (step.first, step.last) == (5, 5)
    assert step.p < 0.01
    assert not step.negligible


def test_a_step_up_is_found_as_well() -> None:
    (step,) = only([1 - value for value in LEVELS]).steps
    assert step.better is True
    (cost,) = only([100 * value for value in LEVELS], role="cost", metric="train_seconds", higher_is_better=False).steps
    assert cost.better is True
    assert cost.relative
    assert cost.size_text == "0.751 ×"


def test_a_fault_that_comes_and_goes_is_two_steps() -> None:
    random = numpy.random.default_rng(0)
    values = [
        *(0.8 + random.normal(0, 0.003, 6)),
        *(0.7 + random.normal(0, 0.003, 4)),
        *(0.8 + random.normal(0, 0.003, 6)),
    ]
    assert [(step.at, step.better) for step in only(values).steps] == [(6, False), (10, True)]


def test_equal_values_and_one_that_is_off_are_no_step() -> None:
    assert only([0.8] * 10).steps == ()
    assert only([0.8, 0.8, 0.8, 0.8, 0.5, 0.8, 0.8, 0.8]).steps == ()
    assert only([0.8, 0.8, 0.8, 0.805, 0.8, 0.805, 0.805, 0.805]).steps == ()


def test_values_that_repeat_exactly_show_any_step_beyond_the_margin() -> None:
    (step,) = only([0.8, 0.8, 0.8, 0.7, 0.7]).steps
    assert step.at == 3


def test_a_short_series_has_no_steps() -> None:
    assert only([0.8, 0.8, 0.5, 0.5]).steps == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": "f1"}, "the metric changed from acc to f1"),
        ({"fingerprint": "g", "spec_digest": "other"}, "the task's definition or documents changed"),
        ({"spec_digest": "other"}, "the settings, model or data of the cell changed"),
        ({"result_version": 4}, "tunebench computes results in another way (RESULT_VERSION 3 → 4)"),
    ],
)
def test_a_break_is_no_step(change: dict[str, Any], reason: str) -> None:
    points = [point(place, value, **(change if place >= 5 else {})) for place, value in enumerate(LEVELS)]
    (found,) = series_over_versions(points)
    assert found.steps == ()
    assert [(one.at, one.reason) for one in found.breaks] == [(5, reason)]


def test_a_step_after_a_break_is_found_at_its_place_in_the_whole() -> None:
    points = [point(place, 0.3, fingerprint="old", spec_digest="old") for place in range(5)]
    points += [point(5 + place, value) for place, value in enumerate(LEVELS)]
    (found,) = series_over_versions(points)
    assert [one.at for one in found.breaks] == [5]
    assert [step.at for step in found.steps] == [10]


def test_another_machine_breaks_costs_alone() -> None:
    for role, steps, breaks in (("cost", 0, 1), ("task", 1, 0)):
        points = [
            point(place, value, role=role, machine="A CPU" if place < 5 else "A GPU")
            for place, value in enumerate(LEVELS)
        ]
        (found,) = series_over_versions(points)
        assert (len(found.steps), len(found.breaks)) == (steps, breaks)


def test_environments_in_the_order_of_a_package() -> None:
    versions = ("0.9.0", "0.10.0", "0.11.0", "0.11.1", "0.12.0.dev0", "1.0")
    points = [
        point(len(versions) - place, 0.8 if place < 3 else 0.6, packages={"peft": version})
        for place, version in enumerate(versions)
    ]
    (found,) = series_over_versions(points, by="peft")
    assert [one.packages["peft"] for one in found.points] == list(versions)
    (step,) = found.steps
    assert step.packages == {"peft": ("0.11.0", "0.11.1")}


def test_a_label_has_the_mean_of_its_cells_where_all_are_there() -> None:
    points = [
        point(place, value + 0.02 * seed, key=f"lora/tiny/topic/n32/s{seed}", spec_digest=f"spec{seed}")
        for place, value in enumerate(LEVELS)
        for seed in range(2)
        if (place, seed) != (2, 1)
    ]
    label = next(one for one in series_over_versions(points) if one.level == "label")
    assert label.name == "lora"
    assert [one.env_digest for one in label.points] == [f"env{place:02}" for place in range(10) if place != 2]
    assert label.points[0].value == pytest.approx(0.81)
    assert len(label.steps) == 1


def test_steps_are_rare_where_there_is_none() -> None:
    """40 series of ten: with p-values corrected for all of them, a step anywhere in 5% of such sets; here, in at most
    two of twelve sets (98% of the time)."""
    random = numpy.random.default_rng(3)
    shown = 0
    for _ in range(12):
        points = [
            point(place, float(value), key=f"m{series}")
            for series in range(40)
            for place, value in enumerate(random.normal(0.7, 0.02, 10))
        ]
        shown += any(one.steps for one in series_over_versions(points) if one.level == "cell")
    assert shown <= 2
    assert numpy.mean([bool(find_steps(random.normal(0, 1, 8))) for _ in range(200)]) < 0.10


def test_the_gain_of_a_split_is_the_squared_error_that_it_saves() -> None:
    series = numpy.array([1.0, 2.0, 1.0, 5.0, 6.0])
    squares = lambda part: float(((part - part.mean()) ** 2).sum())  # noqa: E731
    gains = split_gains(series)
    assert set(gains) == {2, 3}
    assert gains[3] == pytest.approx(squares(series) - squares(series[:3]) - squares(series[3:]))
    assert null_gains(6) is null_gains(6)


def test_the_series_of_a_store_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path)
    for place, value in enumerate([0.8, 0.8, 0.8, 0.6, 0.6, 0.6]):
        env = environment(
            packages={"torch": "2.9.0", "peft": f"0.{15 + place}.0"}, created=f"2026-01-{place + 1:02}T00:00:00+00:00"
        )
        results.add(cell("lora", 32, 0), scores(value), train_seconds=10.0, env=env)
    with results.store().open(read_only=True) as connection:
        points = history_points(connection, "demo")
        assert history_points(connection, "other") == []
    series = {(one.role, one.metric): one for one in series_over_versions(points)}
    (step,) = series["task", "acc"].steps
    assert step.packages == {"peft": ("0.17.0", "0.18.0")}
    assert len(series["cost", "train_seconds"].points) == 6
    assert series["cost", "train_seconds"].steps == ()
    monkeypatch.chdir(Path(__file__).parent.parent.parent)
    done = tunebench("history", "demo", "--by", "peft", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "over 6 environments, the longest of 6 environments; 1 step" in done.stdout
    assert "−20.0 points" in done.stdout
    assert '"negligible": false' in tunebench("history", "demo", "--results", str(tmp_path), "--json").stdout
