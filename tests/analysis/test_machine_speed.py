"""A machine that drifts, and cells in which it was slow, are planted in a store: they are found, and nothing else."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from results_factory import Results, cell, environment, scores
from scipy.stats import theilslopes

from harness.analysis import CellSpeed, cell_speeds, cells_off, drifts, speed_off, speed_sentences, usual_speeds
from harness.analysis.comparisons import Request, compare_cells, compare_environments, compare_labels, compare_runs
from harness.analysis.machine_speed import change_over, with_speed_off
from harness.analysis.verdicts import Verdict
from harness.records import SPEED_AFTER, SPEED_BEFORE, Environment
from harness.store import Store, latest_run, member_rows

QUIET = 1e11  # FLOP/s
MARGIN = 0.02
FLAT = [1.0] * 14


def planted(folder: Path, speeds: list[float], run_id: str = "run-1", **more: object) -> Results:
    """A run of cells that alternate between two labels, with the machine at these shares of its speed."""
    results = Results(folder, run_id=run_id, **more)  # type: ignore[arg-type]
    for number, share in enumerate(speeds):
        seconds = (10.0 if number % 2 else 11.0) / share + 0.001 * number
        results.add(
            cell("early" if number % 2 == 0 else "late", 32, number // 2), scores(0.7), train_seconds=seconds,
            speed=(QUIET * share, 0.99 * QUIET * share),
        )  # fmt: skip
    return results


def speeds_in(store: Store) -> list[CellSpeed]:
    with store.open(read_only=True) as connection:
        run = latest_run(connection, "demo")
        assert run
        return cell_speeds(member_rows(connection, run))


def between(store: Store, metric: str = "train_seconds") -> Verdict:
    with store.open(read_only=True) as connection:
        ((_, verdict),) = compare_labels(connection, "early", "late", Request("", None, metric))
    return verdict


def noisy(shares: list[float], seed: int = 0, sd: float = 0.01) -> list[float]:
    draw = random.Random(seed)
    return [share * math.exp(draw.gauss(0, sd)) for share in shares]


# --- drift ---


def test_a_machine_that_slows_by_one_per_cent_a_cell_is_told_with_its_figure(tmp_path: Path) -> None:
    store = planted(tmp_path, noisy([0.99**place for place in range(14)], sd=0.003)).store()
    cells = speeds_in(store)
    (drift,) = drifts(cells)
    assert (drift.device, drift.cells) == ("cpu", 14)
    assert drift.change.value == pytest.approx(0.99**13 - 1, abs=0.01)
    assert drift.change.low < 0.99**13 - 1 < drift.change.high < -MARGIN
    assert drift.spread == pytest.approx(0.99**-13, abs=0.02)
    (sentence,) = speed_sentences(cells, MARGIN)
    assert sentence.startswith("The machine slowed by 12% (95% interval 1")
    assert sentence.endswith("cells that ran early and late are not comparable to within that")
    assert cells_off(cells) == []
    verdict = between(store)
    assert verdict.ratio, "no cell is off, so the costs are compared"
    assert verdict.remarks == (sentence,)
    assert between(store, "peak_bytes").remarks == (), "memory does not depend on speed"


def test_a_machine_that_becomes_faster_is_told_too() -> None:
    cells = [CellSpeed(str(place), "cpu", {SPEED_BEFORE: QUIET * 1.01**place}) for place in range(10)]
    (sentence,) = speed_sentences(cells, MARGIN)
    assert sentence.startswith("The machine sped up by 9.4% (95% interval 9.4% to 9.4%)")


def test_a_quiet_machine_is_not_mentioned(tmp_path: Path) -> None:
    told = sum(
        bool(
            speed_sentences([CellSpeed("c", "cpu", {SPEED_AFTER: share}) for share in noisy([1.0] * 14, seed)], MARGIN)
        )
        for seed in range(400)
    )
    assert told <= 0.02 * 400  # a drift must be shown to be beyond the margin, not only beyond zero
    store = planted(tmp_path, noisy(FLAT)).store()
    assert speed_sentences(speeds_in(store), MARGIN) == []
    assert between(store).remarks == ()
    assert between(store).verdict == "worse"


def test_a_shift_within_the_margin_and_few_cells_are_not_told() -> None:
    small = [CellSpeed("c", "cpu", {SPEED_BEFORE: QUIET * 0.999**place}) for place in range(14)]
    assert speed_sentences(small, MARGIN) == []
    assert len(speed_sentences(small, 0.005)) == 1
    assert drifts([CellSpeed("c", "cpu", {SPEED_BEFORE: QUIET * 0.97**place}) for place in range(4)]) == []
    assert drifts([]) == []


def test_the_line_is_that_of_theil_and_sen() -> None:
    logs = [0.0, -0.02, -0.01, -0.05, -0.04, -0.08, -0.075]
    found = theilslopes(logs, range(7), 0.95)
    change = change_over(logs)
    for ours, theirs in ((change.value, found.slope), (change.low, found.low_slope), (change.high, found.high_slope)):
        assert ours == pytest.approx(math.expm1(6 * theirs))


def test_a_cell_at_another_speed_does_not_bend_the_line() -> None:
    logs = [-0.01 * place for place in range(14)]
    straight = change_over(logs)
    logs[12] -= 0.7
    bent = change_over(logs)
    assert bent.value == pytest.approx(straight.value, abs=0.001)
    assert bent.high < -0.1


def test_a_run_of_many_cells_is_as_quick_and_says_the_same() -> None:
    logs = [math.log(share) for share in noisy([0.9999**place for place in range(5000)])]
    found = change_over(logs)
    assert found.value == pytest.approx(0.9999**4999 - 1, abs=0.005)
    assert found.high - found.low < 0.01


def test_each_device_drifts_by_itself_and_is_named() -> None:
    cells = [
        CellSpeed("c", device, {SPEED_BEFORE: QUIET * (0.99**place if device == "cuda:1" else 1.0)})
        for place in range(8)
        for device in ("cuda:0", "cuda:1")
    ]
    assert [drift.device for drift in drifts(cells)] == ["cuda:0", "cuda:1"]
    (sentence,) = speed_sentences(cells, MARGIN)
    assert sentence.startswith("The machine (cuda:1) slowed by 6.8%")


# --- single cells ---


def test_a_cell_whose_machine_was_slow_decides_no_time_but_sizes(tmp_path: Path) -> None:
    shares = [1.0] * 12
    shares[5] = 0.75  # the label "late", seed 2
    store = planted(tmp_path, shares).store()
    ((off, apart),) = cells_off(speeds_in(store))
    assert off.key == "late/tiny/topic/n32/s2"
    assert apart == pytest.approx(-0.25)
    verdict = between(store)
    assert verdict.verdict == "incomparable"
    assert verdict.reason == (
        "the machine was 25% slower in late/tiny/topic/n32/s2 than in the median cell, so that this train_seconds says "
        "little"
    )
    assert between(store, "tokens_per_second").verdict == "incomparable"
    assert between(store, "peak_bytes").verdict == "tied"
    with store.open(read_only=True) as connection:
        names = [f"late/tiny/topic/n32/s{seed}" for seed in (1, 2)]
        verdict, _ = compare_cells(connection, *names, Request(metric="train_seconds"))
        assert "25% slower in late/tiny/topic/n32/s2" in verdict.reason
        names[1] = "early/tiny/topic/n32/s2"
        assert compare_cells(connection, *names, Request(metric="train_seconds"))[0].verdict == "underpowered"


def test_the_share_beyond_which_a_speed_is_off_and_its_two_sides() -> None:
    usual = {SPEED_BEFORE: 100.0, SPEED_AFTER: 90.0}
    assert speed_off({SPEED_BEFORE: 91.0, SPEED_AFTER: 98.0}, usual) is None
    assert speed_off({SPEED_BEFORE: 89.0, SPEED_AFTER: 90.0}, usual) == pytest.approx(-0.11)
    assert speed_off({SPEED_BEFORE: 100.0, SPEED_AFTER: 108.0}, usual) == pytest.approx(0.2)
    assert speed_off({}, usual) is None
    assert speed_off({SPEED_BEFORE: 50.0}, {}) is None


def test_cells_side_by_side_neither_count_nor_are_judged(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for seed in range(6):
        results.add(
            cell("pushed", 32, seed), scores(0.7), speed=(QUIET / 2, QUIET / (2 + seed)), contended=True
        )  # fmt: skip
    for seed in range(2):
        results.add(cell("alone", 32, seed), scores(0.7), speed=(QUIET, QUIET))
    cells = speeds_in(results.store())
    assert usual_speeds(cells) == {SPEED_BEFORE: QUIET, SPEED_AFTER: QUIET}
    assert speed_sentences(cells, MARGIN) == []


def test_results_without_speeds_stay_as_they_were(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for seed in range(5):
        for label in ("early", "late"):
            results.add(cell(label, 32, seed), scores(0.7), train_seconds=10.0 + seed)
    store = results.store()
    assert speeds_in(store) == []
    assert between(store).ratio
    with store.open(read_only=True) as connection:
        run = latest_run(connection, "demo")
        assert run
        rows = member_rows(connection, run)
    assert with_speed_off(rows) == rows
    assert not any(row.disturbed for row in rows)


# --- two runs, two environments ---


def run_at(folder: Path, number: int, share: float, seeds: range, its: Environment) -> Results:
    """A run with the machine at a share of its speed throughout."""
    results = Results(
        folder, run_id=f"run-00{number}", started=f"2026-01-0{number}T10:00:00.000+00:00", environment=its
    )
    for seed in seeds:
        seconds = (10.0 + 0.01 * seed) / share
        results.add(cell("lora", 32, seed), scores(0.7), train_seconds=seconds, speed=(QUIET * share,) * 2)
    return results


def test_a_machine_that_was_slower_in_one_of_two_runs_is_noticed(tmp_path: Path) -> None:
    run_at(tmp_path, 1, 1.0, range(3), environment()).store()
    store = run_at(tmp_path, 2, 0.7, range(3, 6), environment()).store()
    with store.open(read_only=True) as connection:
        (found,) = compare_runs(connection, "run-001", "run-002", Request(metric="train_seconds")).verdicts.matched
    assert found.verdict.verdict == "incomparable"
    assert "18% faster in lora/tiny/topic/n32/s0 and 18% slower in lora/tiny/topic/n32/s3" in found.verdict.reason


def test_what_an_upgrade_does_to_speed_is_compared_and_a_drift_is_noted(tmp_path: Path) -> None:
    old, new = environment(), environment(packages={"torch": "2.10.0"})
    run_at(tmp_path, 1, 1.0, range(6), old).store()
    results = run_at(tmp_path, 2, 0.7, range(0), new)
    for seed in range(6):
        speed = 0.7 * QUIET * 0.97**seed
        results.add(cell("lora", 32, seed), scores(0.7), train_seconds=10.0 + 0.01 * seed, speed=(speed, speed))
    with results.store().open(read_only=True) as connection:
        names = old.env_digest, new.env_digest
        found = compare_environments(connection, *names, Request(metric="train_seconds"))
        by_score = compare_environments(connection, *names, Request())
    assert found.verdicts.matched[0].verdict.ratio
    (note,) = found.notes
    assert note.startswith(f"{new.env_digest[:12]}: The machine slowed by 14%")
    assert by_score.notes == ()
