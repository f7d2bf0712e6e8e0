"""Two environments over the same cells: three answers, the axis apart from the methods, and no false alarms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import Results, cell, environment, items, scores

from harness.analysis.regression import (
    MetricChanges,
    Regression,
    changes_between,
    changes_of_rows,
    cost_changes,
    matched_cells,
)
from harness.analysis.regression.families import weighted_holm
from harness.analysis.regression.repeats import Repeat, drift, neighbour_pairs
from harness.analysis.stats.contrast import compare
from harness.analysis.stats.intervals import corrected
from harness.records import Status
from harness.store import (
    CellRow,
    ItemAnswer,
    ItemValues,
    StoredScore,
    environment_attempts,
    needs_without_training,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
ITEMS = 200


def row(label: str, seed: int | None, side: str, repeat: int = 0, **more: Any) -> CellRow:
    attempt = f"{side}-{label}-{seed}-{repeat}"
    size = 32 if seed is not None else 0
    values: dict[str, Any] = {
        "key": f"{label}/tiny/topic/n{size}/s{seed}", "label": label, "spec_digest": f"{label}-{seed}",
        "method": label, "family": "", "model": "tiny", "base_model": "tiny", "task": "topic", "learn": ("topic",),
        "n_train": size, "seed": seed, "baseline": "", "status": "done", "reason": "", "attempt_id": attempt,
        "contended": False, **more,
    }  # fmt: skip
    return CellRow(**values)


class World:
    """Answers of labels in two environments: label -> seed -> (old, new) right or wrong answers."""

    def __init__(self) -> None:
        self.rows: tuple[list[CellRow], list[CellRow]] = ([], [])
        self.values: dict[tuple[str, str, str], ItemValues] = {}
        self.digests: dict[str, str] = {}

    def add(self, label: str, seed: int | None, old: Sequence[float], new: Sequence[float], repeat: int = 0) -> None:
        for rows, side, answers in zip(self.rows, ("old", "new"), (old, new), strict=True):
            score = StoredScore("topic", "task", "acc", float(numpy.mean(answers)), 0.03, len(answers), True, None)
            made = row(label, seed, side, repeat, scores=[score])
            rows.append(made)
            answered = {f"d{place:04}": ItemAnswer(float(v), "", "") for place, v in enumerate(answers)}
            self.values[made.attempt_id, "topic", "acc"] = ItemValues(answered)
            self.digests[made.attempt_id] = str(hash(tuple(float(v) for v in answers)))

    def judge(self) -> MetricChanges:
        found = changes_of_rows(("a", "b"), self.rows, self.values, self.digests, {})
        return found.metrics[0]


def drawn(random: Any, score: float, n: int = ITEMS) -> Any:
    return (random.random(n) < score).astype(float)


def worse(answers: Any, points: float, random: Any) -> Any:
    """The same answers, of which so many points of right ones are wrong now."""
    found = answers.copy()
    found[random.choice(numpy.flatnonzero(answers), round(points / 100 * len(answers)), replace=False)] = 0.0
    return found


def simulated(
    random: Any, labels: int = 8, seeds: int = 2, shift: float = 0.0, unstable: int = 0, moved: Sequence[int] = ()
) -> World:
    """Cells that come out differently in the new environment by rounding alone, as another start of the same seed
    would; `shift` (on the probit scale) makes all labels, or those in `moved`, worse. The first `unstable` labels
    vary by 9 points."""
    world = World()
    hard = random.normal(0.3, 1, ITEMS)
    for place in range(labels):
        own = random.normal(0, 0.5, ITEMS)
        spread = 0.3 if place < unstable else 0.03
        for seed in range(seeds):
            luck = random.normal(0, spread)
            sides = []
            for by in (0.0, shift if not moved or place in moved else 0.0):
                noise = random.normal(0, spread) + random.normal(0, 0.3, ITEMS)
                sides.append((hard + own + luck + noise > by).astype(float))
            world.add(f"m{place}", seed, *sides)
    return world


# --- scores ---


def test_identical_items_are_the_same_without_a_test() -> None:
    world, random = World(), numpy.random.default_rng(0)
    for label in ("lora", "full"):
        answers = drawn(random, 0.7)
        world.add(label, 0, answers, answers)
    found = world.judge()
    assert {change.answer for change in found.changes} == {"same"}
    assert all(change.identical for change in found.changes)
    assert found.pattern.shape == "nothing"
    assert found.pattern.sentence == "nothing moved: every value is the same"


def test_one_method_that_moved_among_identical_ones_is_named_from_one_seed() -> None:
    world, random = World(), numpy.random.default_rng(1)
    for label in ("base", "lora", "full", "svd"):
        answers = drawn(random, 0.8)
        world.add(
            label, None if label == "base" else 0, answers, worse(answers, 12, random) if label == "svd" else answers
        )
    found = world.judge()
    assert {change.name: change.answer for change in found.labels} == {
        "base": "same", "lora": "same", "full": "same", "svd": "different",
    }  # fmt: skip
    assert (found.pattern.shape, found.pattern.labels) == ("only", ("svd",))
    assert found.pattern.sentence == "only svd (−12.0 points) moved"
    (cell_of_svd,) = [change for change in found.cells if change.label == "svd"]
    assert cell_of_svd.answer == "different"
    assert cell_of_svd.better is False
    assert found.worse
    assert found.everything
    assert found.everything.answer == "cannot tell"


def test_the_other_way_round_it_is_better() -> None:
    world, random = World(), numpy.random.default_rng(1)
    for label in ("lora", "full", "svd"):
        answers = drawn(random, 0.8)
        world.add(label, 0, worse(answers, 12, random) if label == "svd" else answers, answers)
    found = world.judge()
    (change,) = [change for change in found.labels if change.answer == "different"]
    assert (change.name, change.better) == ("svd", True)
    assert change.effect_text == "+12.0 points"
    assert not found.worse


def test_one_seed_says_nothing_where_everything_is_rounded_differently() -> None:
    """Every label came out differently, one of them by 12 points: with one seed that may be its own luck."""
    random = numpy.random.default_rng(2)
    world = simulated(random, labels=4, seeds=1)
    answers = drawn(random, 0.8)
    world.add("wild", 0, answers, worse(answers, 12, random))
    (change,) = [change for change in world.judge().labels if change.name == "wild"]
    assert change.answer == "cannot tell"
    assert change.reason.startswith("one seed, and other labels came out differently as well")


def test_a_merge_of_the_same_experts_is_judged_by_its_items_whatever_else_was_rounded() -> None:
    """One seed, and half of the labels came out differently; the experts of the merge did not."""
    random = numpy.random.default_rng(2)
    world = simulated(random, labels=4, seeds=1)
    answers = drawn(random, 0.8)
    world.add("expert", 0, answers, answers)
    world.add("merge", 0, answers, worse(answers, 12, random))
    for expert, answer in (("expert-0", "different"), ("m0-0", "cannot tell")):
        found = changes_of_rows(("a", "b"), world.rows, world.values, world.digests, {}, {"merge-0": (expert,)})
        (change,) = [change for change in found.metrics[0].labels if change.name == "merge"]
        assert change.answer == answer


def test_a_method_whose_own_seeds_vary_as_much_has_not_moved() -> None:
    """Its own rounding changed, no other label's; but between its seeds it varies by more than it moved."""
    world, random = World(), numpy.random.default_rng(3)
    steady = drawn(random, 0.7)
    world.add("lora", 0, steady, steady)
    hard = random.random(ITEMS)
    for seed, (old, new) in enumerate(((0.5, 0.75), (0.9, 0.8), (0.6, 0.75))):
        world.add("wild", seed, (hard < old).astype(float), (hard < new).astype(float))
    (change,) = [change for change in world.judge().labels if change.name == "wild"]
    assert change.p_alone < 1e-3
    assert change.answer == "cannot tell"
    assert change.reason == "its own seeds vary as much"


def test_a_common_shift_is_found_that_no_cell_shows() -> None:
    random = numpy.random.default_rng(5)
    shown = [simulated(random, shift=0.07).judge() for _ in range(8)]
    found = [metric for metric in shown if metric.pattern.shape == "everything"]
    assert len(found) >= 3
    for metric in found:
        assert not any(cell.answer == "different" for cell in metric.cells)
        assert metric.everything
        assert -0.045 < (metric.everything.effect or 0) < -0.008
        assert metric.pattern.sentence.startswith("everything moved by −")


def test_ten_methods_on_one_test_set_are_not_ten_witnesses() -> None:
    """All methods lose the same four items of 200: that is one observation on four items, whatever their number."""
    world, random = World(), numpy.random.default_rng(6)
    answers = drawn(random, 0.7)
    lost = worse(answers, 2, random)
    for label in range(10):
        old, new = answers.copy(), lost.copy()
        flips = random.choice(ITEMS, 6, replace=False)
        new[flips[:3]], new[flips[3:]] = 1.0, 0.0
        world.add(f"m{label}", 0, old, new)
    found = world.judge()
    assert found.everything
    assert found.everything.p_alone > 0.01  # as ten independent witnesses it would be 1e-9


def test_the_axis_without_one_method() -> None:
    world, random = World(), numpy.random.default_rng(7)
    for label in range(7):
        for seed in range(3):
            answers = drawn(random, 0.8, 800)
            world.add(f"m{label}", seed, answers, worse(answers, 2.5 + 0.3 * random.normal(), random))
    for seed in range(3):
        answers = drawn(random, 0.8, 800)
        world.add("svd", seed, answers, worse(answers, 20 + random.normal(), random))
    answers = drawn(random, 0.5, 800)
    world.add("base", None, answers, answers)
    pattern = world.judge().pattern
    assert pattern.shape == "everything but"
    assert set(pattern.labels) == {"svd", "base"}
    assert pattern.sentence.startswith("everything but base moved by −2.")
    assert "and svd by −1" in pattern.sentence
    assert pattern.down == 8


def test_false_alarms_are_rare() -> None:
    """One unstable label among stable ones, and none: of 60 pairs of one environment with itself, at most two are told
    apart anywhere (5% allow for 3; `benchmarks/regression_calibration.py` has more)."""
    random = numpy.random.default_rng(11)
    found = [simulated(random, labels=5, unstable=place % 2).judge() for place in range(60)]
    assert sum(any(change.answer == "different" for change in metric.changes) for metric in found) <= 2
    assert {metric.pattern.shape for metric in found} <= {"cannot tell", "nothing", "everything", "only"}


def test_a_cell_that_failed_is_an_answer_with_its_reason() -> None:
    world, random = World(), numpy.random.default_rng(8)
    answers = drawn(random, 0.7)
    for label in ("lora", "qlora", "late"):
        world.add(label, 0, answers, answers)
    failed = {"qlora": 1, "late": 0}
    for label, side in failed.items():
        rows = world.rows[side]
        place = next(place for place, one in enumerate(rows) if one.label == label)
        rows[place] = replace(rows[place], status="failed", reason="ImportError: no bitsandbytes", scores=[])
    found = world.judge()
    by_label = {change.label: change for change in found.cells}
    assert by_label["qlora"].answer == by_label["late"].answer == "cannot run there"
    assert (by_label["qlora"].missing, by_label["late"].missing) == ("new", "old")
    assert by_label["qlora"].reason == "failed: ImportError: no bitsandbytes"
    assert by_label["qlora"].worse
    assert not by_label["late"].worse
    assert found.pattern.sentence == ("late cannot run in the old environment; qlora cannot run in the new environment")


def test_repeats_that_differ_are_noise() -> None:
    """A GPU that never repeats itself: the spread of the repeats counts, and a shift far beyond it is found."""
    world, random = World(), numpy.random.default_rng(9)
    base = drawn(random, 0.8)
    for repeat in range(3):
        world.add("steady", 0, worse(base, 2 + repeat, random), worse(base, 4 - repeat, random), repeat)
        world.add("moved", 0, worse(base, 1 + repeat, random), worse(base, 40 + repeat, random), repeat)
    answers = {change.name: change.answer for change in world.judge().labels}
    assert answers == {"steady": "cannot tell", "moved": "different"}


def test_other_items_cannot_be_compared() -> None:
    world, random = World(), numpy.random.default_rng(10)
    answers = drawn(random, 0.7)
    world.add("lora", 0, answers, answers)
    world.values["new-lora-0-0", "topic", "acc"] = ItemValues(
        {f"e{place}": ItemAnswer(float(v), "", "") for place, v in enumerate(answers)}
    )
    (change,) = world.judge().cells
    assert (change.answer, change.reason) == ("cannot tell", "the two environments scored other items")


def test_scores_without_items_tell_of_the_axis_alone() -> None:
    world, random = World(), numpy.random.default_rng(12)
    for label in range(12):
        answers = drawn(random, 0.7, 1000)
        world.add(f"m{label}", 0, answers, worse(answers, 1.7 + 0.4 * random.normal(), random))
    world.values.clear()
    found = world.judge()
    assert {change.answer for change in found.labels} == {"cannot tell"}
    assert found.everything
    assert found.everything.answer == "different"
    assert "says nothing of others" in found.everything.remarks[0]
    assert found.pattern.shape == "everything"
    assert found.pattern.down == 12


def test_the_error_is_that_of_two_methods_where_there_is_one_task() -> None:
    """Labels as rows, items as columns: the same mean squares as in `contrast.compare`, paired."""
    from harness.analysis.regression.crossed import ScoredUnit, estimate

    random = numpy.random.default_rng(13)
    old, new = random.random((5, 40)), random.random((5, 40))
    known = compare(new, old, paired_seeds=True)
    found = estimate([ScoredUnit(f"m{place}", "topic", new[place] - old[place]) for place in range(5)])
    assert found.effect == pytest.approx(known.effect)
    assert found.stderr == pytest.approx(known.stderr)
    assert found.p == pytest.approx(known.p, rel=1e-6)


def test_weighted_holm_is_holm_with_equal_weights() -> None:
    p_values = [0.01, 0.04, 0.03, 0.5]
    assert weighted_holm(p_values, [1, 1, 1, 1]) == pytest.approx(corrected(p_values))
    assert weighted_holm([0.03, 0.03], [0.7, 0.3]) == pytest.approx([0.03 / 0.7, 0.03 / 0.7])


# --- costs ---


def timed(
    random: Any, order: str = "ABABAB", labels: int = 4, factor: Mapping[str, float] | None = None,
    slow: Mapping[int, float] | None = None, drift: float = 0.0, noise: float = 0.01, cost: str = "seconds",
) -> MetricChanges:  # fmt: skip
    """Times of cells, one after another, repeated in `order` (A: old). `slow`: place in the session -> factor of the
    machine; `drift` is that of the whole session."""
    rows: tuple[list[CellRow], list[CellRow]] = ([], [])
    total, place = labels * len(order), 0
    for label in range(labels):
        for repeat, side in enumerate(order):
            machine = (slow or {}).get(place, 1.0) * math.exp(drift * place / total)
            value = (20 + 10 * label) * machine * math.exp(random.normal(0, noise))
            value *= (factor or {}).get(f"m{label}", 1.0) if side == "B" else 1.0
            speed = 1e11 / machine
            rows[side == "B"].append(
                row(
                    f"m{label}",
                    0,
                    side,
                    repeat,
                    started=START + timedelta(seconds=60 * place),
                    phases={"train": {cost: value}},
                    facts={"machine_speed_before": speed, "machine_speed_after": speed} if cost == "seconds" else {},
                )
            )
            place += 1
    pairs, _, _ = matched_cells(*rows)
    (found,) = cost_changes(pairs, {}, [f"train_{cost}"])
    return found


def test_a_slower_step_of_one_method_is_named() -> None:
    found = timed(numpy.random.default_rng(0), factor={"m2": 1.2})
    assert {change.name: change.answer for change in found.labels}["m2"] == "different"
    assert (found.pattern.shape, found.pattern.labels) == ("only", ("m2",))
    assert found.pattern.sentence.startswith("only m2 (1.2")
    assert found.worse
    assert found.margin == 0.05


def test_everything_slower_is_the_axis() -> None:
    found = timed(numpy.random.default_rng(1), factor={f"m{place}": 1.15 for place in range(4)})
    assert found.pattern.shape == "everything"
    assert found.pattern.effect == pytest.approx(1.15, rel=0.02)


def test_equal_times_are_the_same() -> None:
    found = timed(numpy.random.default_rng(2), noise=0.004)
    assert {change.answer for change in found.labels} == {"same"}
    assert found.pattern.shape == "nothing"


@pytest.mark.parametrize(
    "machine",
    [{"drift": 0.3}, {"slow": dict.fromkeys(range(3, 12), 1.08)}, {"slow": {3: 1.6, 5: 1.6}}, {"noise": 0.06}],
)
def test_a_machine_that_drifts_or_is_disturbed_gives_no_verdict(machine: dict[str, Any]) -> None:
    random = numpy.random.default_rng(3)
    found = [timed(random, **machine) for _ in range(25)]
    assert not any(change.answer == "different" for metric in found for change in metric.changes)


def test_one_measurement_of_each_time_decides_nothing() -> None:
    found = timed(numpy.random.default_rng(4), order="AB", factor={f"m{place}": 1.5 for place in range(4)})
    assert {change.answer for change in found.changes} == {"cannot tell"}
    assert "in turn (A B A B)" in found.labels[0].reason


def test_a_machine_that_was_slower_for_one_environment_widens_the_interval() -> None:
    """The second of each pair ran on a machine 8% slower: a cost 8% higher is no finding, and the remark says why."""
    found = timed(numpy.random.default_rng(5), slow={place: 1.08 for place in range(24) if place % 2})
    assert not any(change.answer == "different" for change in found.changes)
    assert "the machine was 8.0% slower" in found.labels[0].remarks[0]


def test_memory_that_leaks_is_found_and_equal_memory_is_the_same() -> None:
    found = timed(numpy.random.default_rng(6), factor={"m1": 1.12}, noise=0.002, cost="rss_bytes")
    assert found.margin == 0.02
    assert (found.pattern.shape, found.pattern.labels) == ("only", ("m1",))
    assert {change.name: change.answer for change in found.labels} == {
        "m0": "same", "m1": "different", "m2": "same", "m3": "same",
    }  # fmt: skip


def test_what_is_counted_is_known_exactly() -> None:
    rows = [[row("oft", 0, side, facts={"trainable_params": value})] for side, value in (("a", 6400.0), ("b", 7744.0))]
    pairs, _, _ = matched_cells(*rows)
    (found,) = cost_changes(pairs, {"trainable_params": ("parameters", False)}, ["trainable_params"])
    (change,) = found.labels
    assert change.answer == "different"
    assert change.effect == pytest.approx(1.21)
    assert found.pattern.sentence == "oft (1.21 ×) moved"


def test_contended_times_are_left_out() -> None:
    rows = [[row("lora", 0, side, phases={"train": {"seconds": 9.0}}, contended=True)] for side in "ab"]
    pairs, _, _ = matched_cells(*rows)
    (found,) = cost_changes(pairs, {}, ["train_seconds"])
    assert [change.reason for change in found.cells] == ["other cells shared its device"]


def test_neighbours_are_paired_and_a_drift_is_measured_within_environments() -> None:
    repeats = [
        Repeat("old" if place % 2 == 0 else "new", "c", "lora", 60.0 * place, math.exp(0.001 * 60 * place))
        for place in range(6)
    ]
    pairs = neighbour_pairs([*repeats, Repeat("new", "c", "lora", 999.0, 1.0)])
    assert [pair.place for pair in pairs] == [0, 1, 2]
    assert all(pair.log_ratio == pytest.approx(0.06) for pair in pairs)
    slope, error = drift(repeats)
    assert slope == pytest.approx(0.001)
    assert error == pytest.approx(0, abs=1e-9)


# --- from the store ---


def test_two_environments_of_a_store(tmp_path: Path) -> None:
    old = environment()
    new = environment(packages={"torch": "2.9.0", "peft": "0.21.2"}, created="2026-02-01T00:00:00.000+00:00")
    results, random = Results(tmp_path, environment=old), numpy.random.default_rng(0)
    for label in ("lora", "full", "svd"):
        right = drawn(random, 0.8)
        lost = worse(right, 20, random) if label == "svd" else right
        for repeat in range(2):
            for env, values in ((old, right), (new, lost)):
                of = cell(label, 32, 0, needs={"expert": cell("lora", 32, 0).spec_digest} if label == "svd" else {})
                found = items("topic", "acc", [float(value) for value in values])
                results.add(of, scores(0.8), items=found, train_seconds=10 + repeat, env=env)
    results.add(cell("qlora", 32, 0), scores(0.7), env=old)
    results.add(cell("qlora", 32, 0), status=Status.FAILED, reason="no CPU support", env=new)
    results.add(cell("gone", 32, 0), scores(0.7), env=old)
    with results.store().open(read_only=True) as connection:
        found = changes_between(connection, old.env_digest, new.env_digest, "demo")
        made = [row.attempt_id for row in environment_attempts(connection, old.env_digest)]
        assert needs_without_training(connection, made)[cell("svd", 32, 0).spec_digest] == (
            cell("lora", 32, 0).spec_digest,
        )
        other = changes_between(connection, old.env_digest, new.env_digest, "another suite")
    assert isinstance(found, Regression)
    assert found.metrics[0].pattern.sentence == "only svd (−20.0 points) moved"
    assert found.only_old == ("gone/tiny/topic/n32/s0",)
    assert found.worse
    told = {(change.metric, change.label, change.answer) for change in found.different if change.level == "cell"}
    assert told == {("acc", "svd", "different"), ("acc", "qlora", "cannot run there")}
    assert {metric.metric for metric in found.metrics} >= {"acc", "peak_bytes", "trainable_params"}
    assert other == Regression(old.env_digest, new.env_digest)
