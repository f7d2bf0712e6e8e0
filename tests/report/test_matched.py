"""Retention at matched task score: the interpolation, and what the report makes of curves."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from results_factory import OTHER, PROSE, TASK, Results, cell, scores

from harness.records import Checkpoint, Fact, Flag
from harness.report import load, write_report
from harness.report.matched_retention import Curve, between, crossing, match, target_of
from harness.report.sections import matched_retention as section

levels = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def curve(scores: list[float], changes: list[float], higher: bool = True, learned: bool = True) -> Curve:
    steps = tuple(12 * place for place in range(len(scores)))
    return Curve(steps, tuple(scores), {"prose": (tuple(changes),)}, 1, higher, learned)


@given(levels, st.floats(0, 1))
def test_a_crossing_is_where_the_line_has_the_target(values: list[float], target: float) -> None:
    place = crossing(values, target)
    if place is None:
        assert max(values) < target
    elif place == 0:
        assert values[0] >= target
    else:
        assert between(values, place) == pytest.approx(target, abs=1e-9)
        assert all(value < target for value in values[: int(place - 1e-9) + 1])


@given(levels, st.data())
def test_at_its_points_a_curve_is_exact(values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    assert between(values, place) == values[place]
    rising = sorted(set(values))
    assert crossing(rising, rising[-1]) == len(rising) - 1
    number = data.draw(st.integers(0, len(rising) - 1))
    assert crossing(rising, rising[number]) == number


@given(levels, st.floats(0, 1), st.floats(0, 1))
def test_on_a_rising_curve_a_higher_target_comes_later(values: list[float], one: float, two: float) -> None:
    rising = sorted(values)
    low, high = sorted((one, two))
    assume(high <= rising[-1])
    first, second = crossing(rising, low), crossing(rising, high)
    assert first is not None
    assert second is not None
    assert first <= second
    falling = [-value for value in rising]  # who forgets as he learns has forgotten more at a higher score
    assert between(falling, first) >= between(falling, second)


@given(levels, st.floats(0, 7))
def test_between_two_points_it_stays_between_them(values: list[float], place: float) -> None:
    assume(place <= len(values) - 1)
    found = between(values, place)
    low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    assert min(low, high) - 1e-12 <= found <= max(low, high) + 1e-12


def test_the_first_of_several_crossings_counts() -> None:
    assert crossing([0.2, 0.6, 0.3, 0.9], 0.4) == pytest.approx(0.5)


def test_the_target_is_the_lowest_end_of_those_that_learned() -> None:
    good, better = curve([0.5, 0.7], [0, -1]), curve([0.5, 0.9], [0, -1])
    worse, unsure = curve([0.5, 0.4], [0, -1]), curve([0.5, 0.6], [0, -1], learned=False)
    assert target_of([better, good, worse, unsure]) == 0.7
    assert target_of([worse, unsure]) is None
    assert target_of([]) is None
    losses = [curve([1.5, 0.4], [0, -1], higher=False), curve([1.5, 0.7], [0, -1], higher=False)]
    assert target_of(losses) == 0.7


def test_where_lower_is_better_it_is_the_same_upside_down() -> None:
    up = match("x", curve([0.5, 0.7, 0.9], [0.0, -0.2, -0.6]), 0.8)
    down = match("x", curve([-0.5, -0.7, -0.9], [0.0, -0.2, -0.6], higher=False), -0.8)
    assert up.step == down.step == pytest.approx(18.0)
    assert up.changes["prose"].mean == down.changes["prose"].mean == pytest.approx(-0.4)


def test_what_never_gets_there_says_so() -> None:
    found = match("x", curve([0.5, 0.7, 0.6], [0.0, -0.2, -0.6]), 0.8)
    assert (found.step, found.best, found.changes) == (None, 0.7, {})


# --- from stored cells ---


def points(*of_steps: tuple[int, float, float, float]) -> list[Checkpoint]:
    """(step, acc, prose, other) of a cell."""
    found = []
    for step, *values in of_steps:
        for task, metric, value in zip(
            (TASK, PROSE, OTHER), ("acc", "log_likelihood_per_word", "acc"), values, strict=True
        ):
            role = "task" if task == TASK else "retain"
            found.append(Checkpoint(step, task, role, metric, value, 0.1, 200, True))
        found.append(Checkpoint(step, TASK, "task", "choice_cross_entropy", 9.0, 0.1, 200, False))
    return found


def curved_store(folder: Path) -> Any:
    """lora and full with two seeds and a checkpoint at step 24 of 48; prompt, which begins elsewhere, learns nothing;
    late has no checkpoints."""
    results = Results(folder)
    base = cell("base")
    results.add(base, scores(0.50, 0.03, -5.0, 0.40))
    end = [Fact("optimizer_steps", 48, "steps")]

    def add(label: str, seed: int, final: tuple[float, float, float], *at: Any, **more: Any) -> None:
        own = cell(label, 32, seed, baseline=base.spec_digest)
        results.add(
            own, scores(final[0], 0.03, *final[1:]), checkpoints=points(*at), facts=end, train_seconds=5.0, **more
        )

    add("full", 0, (0.90, -6.0, 0.20), (24, 0.80, -5.6, 0.30))
    add("full", 1, (0.90, -6.4, 0.20), (24, 0.80, -5.8, 0.30))
    add("lora", 0, (0.68, -5.1, 0.40), (24, 0.60, -5.0, 0.40))
    add("lora", 1, (0.72, -5.3, 0.38), (24, 0.60, -5.1, 0.40))
    add("prompt", 0, (0.52, -5.2, 0.40), (0, 0.30, -5.4, 0.35), (24, 0.45, -5.3, 0.38),
        flags=[Flag("learned_nothing", {})])  # fmt: skip
    add("late", 0, (0.60, -5.2, 0.40))
    return results.store()


def test_the_report_reads_all_curves_off_at_one_score(tmp_path: Path) -> None:
    (block,) = load(curved_store(tmp_path / "results"), "demo").blocks
    found = block.matched[32, ""]
    assert (found.metric, found.target) == ("acc", pytest.approx(0.70))
    by_label = {one.label: one for one in found.matches}
    assert set(by_label) == {"full", "lora", "prompt"}
    lora, full, prompt = (by_label[label] for label in ("lora", "full", "prompt"))
    assert lora.step == pytest.approx(48)  # it is the one that sets the target, at its end
    assert lora.changes[PROSE].mean == pytest.approx(-0.2)
    assert lora.changes[PROSE].deviation == pytest.approx(statistics.stdev([0.1, 0.3]))
    # Two thirds of the way from the base (0.5) to the checkpoint (0.8).
    assert full.step == pytest.approx(16)
    assert full.changes[PROSE].mean == pytest.approx(-0.7 * 2 / 3)
    assert full.changes[OTHER].mean == pytest.approx(-0.1 * 2 / 3)
    assert full.changes[PROSE].deviation == pytest.approx(statistics.stdev([0.6, 0.8]) * 2 / 3)
    assert (prompt.step, prompt.best) == (None, 0.52)
    assert section.title_of(found) == "Retention at matched task score (acc 0.70)"
    lines = {line[0]: line for line in section.lines(block, found)}
    assert lines["full"] == ["full", "2", "16", "−0.467 (0.094)", "−0.07 (0.00)"]
    assert lines["prompt"] == ["prompt", "1", "not reached: 0.52 at best", "", ""]
    assert {len(line) for line in lines.values()} == {len(section.headers(block))}


def test_every_face_of_the_report_has_it(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from harness.report import printable

    store = curved_store(tmp_path / "results")
    paths = write_report(load(store, "demo"), tmp_path / "out")
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(printable(load(store, "demo")))
    faces = [path.read_text(encoding="utf-8") for path in (paths.html, paths.markdown)] + [console.export_text()]
    for face in faces:
        assert "Retention at matched task score (acc 0.70)" in face
        assert "−0.467 (0.094)" in face
        assert "not reached: 0.52 at best" in face
        assert "the standard deviation between seeds" in " ".join(face.split())


def test_a_start_that_was_scored_takes_the_bases_place(tmp_path: Path) -> None:
    from harness.report.matched_retention import curve_of

    report = load(curved_store(tmp_path / "results"), "demo")
    found = curve_of([one for one in report.cells if one.label == "prompt"], (PROSE, OTHER))
    assert found is not None
    assert found.steps == (0, 24, 48)
    assert found.scores == (0.30, 0.45, 0.52)
    assert found.changes[PROSE][0] == pytest.approx((-0.4, -0.3, -0.2))


def test_without_two_curves_or_a_gain_there_is_nothing_to_match(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    base = cell("base")
    results.add(base, scores(0.50, 0.03, -5.0, 0.40))
    for label, final in (("full", 0.9), ("lora", 0.4)):
        at = points((24, 0.5, -5.1, 0.4))
        results.add(
            cell(label, 32 if label == "full" else 64, 0, baseline=base.spec_digest), scores(final, 0.03, -5.1, 0.4),
            checkpoints=at, facts=[Fact("optimizer_steps", 48, "steps")],
        )  # fmt: skip
    (block,) = load(results.store(), "demo").blocks
    assert block.matched == {}


def test_seeds_are_joined_at_the_steps_that_all_of_them_have(tmp_path: Path) -> None:
    from harness.report.matched_retention import curve_of

    results = Results(tmp_path / "results")
    base = cell("base")
    results.add(base, scores(0.50, 0.03, -5.0, 0.40))
    for seed, at in ((0, points((12, 0.6, -5.1, 0.4), (24, 0.7, -5.2, 0.4))), (1, points((24, 0.5, -5.4, 0.4)))):
        results.add(
            cell("full", 32, seed, baseline=base.spec_digest), scores(0.9, 0.03, -5.5, 0.4),
            checkpoints=at, facts=[Fact("optimizer_steps", 48, "steps")],
        )  # fmt: skip
    cells = [one for one in load(results.store(), "demo").cells if one.label == "full"]
    found = curve_of(cells, (PROSE, OTHER))
    assert found is not None
    assert found.steps == (0, 24, 48)
    assert found.scores == pytest.approx((0.5, 0.6, 0.9))
    assert found.changes[PROSE] == (pytest.approx((0.0, -0.2, -0.5)), pytest.approx((0.0, -0.4, -0.5)))
    assert all(a < b for a, b in pairwise(found.steps))


def test_a_checkpoint_that_did_not_score_the_learned_task_is_no_point_of_the_curve(tmp_path: Path) -> None:
    from harness.report.matched_retention import curve_of

    results = Results(tmp_path / "results")
    base = cell("base")
    results.add(base, scores(0.50, 0.03, -5.0, 0.40))
    for seed in (0, 1):
        at = points((12, 0.6, -5.1, 0.4), (24, 0.7, -5.2, 0.4))
        results.add(
            cell("full", 32, seed, baseline=base.spec_digest), scores(0.9, 0.03, -5.5, 0.4),
            checkpoints=[point for point in at if seed == 0 or (point.step, point.task) != (12, TASK)],
            facts=[Fact("optimizer_steps", 48, "steps")],
        )  # fmt: skip
    curve = curve_of([one for one in load(results.store(), "demo").cells if one.label == "full"], (PROSE, OTHER))
    assert curve is not None
    assert curve.steps == (0, 24, 48)
