"""What reports say of tuning, from studies made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.report.chart_style import spec, svg
from harness.report.sections.tuning import curves, drawn_merits, full_rate, groups, headers, lines, times, warnings
from harness.store.studies import StoredStudy, StoredTrial


def trial(number: int, value: float, rate: float, **more: Any) -> StoredTrial:
    return StoredTrial(
        number, {"learning_rate": rate, "rank": 8}, "done", value=value, values={"acc": value}, merits=(value,),
        seconds=10.0, **more,
    )  # fmt: skip


def study(label: str, trials: list[StoredTrial], trainable: float = 0.01, **more: Any) -> StoredStudy:
    how = {
        "space": {"learning_rate": {"low": 1e-5, "high": 1e-2}, "rank": [4, 8, 16]},
        "goals": ["score"],
        "metric": None,
    }
    about: dict[str, Any] = {"status": "done", "reason": "", "facts": {}, "edges": {}, "condition": "", **more}
    return StoredStudy(
        key=f"{label}/m/topic/n64/study", label=label, method=label, model="m", task="topic", n_train=64,
        study_digest=label, attempt_id=label, study=how, trials=tuple(trials), trainable=trainable, **about,
    )  # fmt: skip


LORA = study(
    "lora",
    [trial(0, 0.70, 1e-4), trial(1, 0.80, 2e-3, chosen=True), trial(2, 0.60, 1e-5)],
    facts={"fanova:learning_rate": 0.75, "fanova:rank": 0.25},
)
FULL = study("full", [trial(0, 0.75, 1e-4, chosen=True), trial(1, 0.5, 9e-4)], trainable=1.0)


def row(found: StoredStudy, beside: list[StoredStudy]) -> dict[str, str]:
    texts = next(line for line in lines(beside) if line[0] == found.label)
    return dict(zip(headers(beside), texts, strict=True))


def test_a_row_has_what_was_gained_found_and_spent() -> None:
    told = row(LORA, [FULL, LORA])
    assert (told["default"], told["best"], told["change"]) == ("0.70", "0.80", "+0.10")
    assert told["learning rate"] == "0.002"
    assert told["× full's"] == "20"
    assert told["other settings"] == "rank 8"
    assert told["s"] == "30"
    assert told["notes"] == "importance: learning_rate 75%, rank 25%"
    assert told["best of 1"] == "0.70"  # the mean of the three
    assert told["test"] == "n/a"  # no final cell among the rows


def test_that_the_default_was_best_is_said() -> None:
    told = row(FULL, [FULL, LORA])
    assert told["change"] == "+0.00"
    assert "the default was best" in told["notes"]


def test_ratios_have_two_digits() -> None:
    assert [times(ratio) for ratio in (0.483, 25.97, 206.7, 1.0)] == ["0.48", "26", "210", "1"]


def test_full_is_what_trains_every_weight_whatever_its_name() -> None:
    assert full_rate([LORA, FULL]) == 1e-4
    assert full_rate([LORA]) is None
    assert row(LORA, [LORA])["× full's"] == "n/a"


def test_the_best_stands_first_and_failures_are_counted() -> None:
    bad = study("dora", [trial(0, 0.5, 1e-4, chosen=True), StoredTrial(1, {}, "oom"), StoredTrial(2, {}, "oom")])
    assert [line[0] for line in lines([FULL, bad, LORA])] == ["lora", "full", "dora"]
    assert row(bad, [FULL, bad])["trials"] == "3 (2 oom)"


def test_a_failed_trial_is_worth_the_worst_and_not_left_out() -> None:
    fragile = study("vera", [trial(0, 0.5, 1e-4), trial(1, 0.9, 1e-3, chosen=True), *lost(2)])
    assert drawn_merits(fragile) == [0.5, 0.9, 0.5, 0.5]
    assert drawn_merits(study("none", lost(2))) == []


def lost(count: int) -> list[StoredTrial]:
    return [StoredTrial(2 + number, {}, "diverged") for number in range(count)]


def test_a_first_trial_that_failed_does_not_turn_the_curve_over() -> None:
    fragile = study("vera", [StoredTrial(0, {}, "oom"), trial(1, 0.5, 1e-4), trial(2, 0.9, 1e-3, chosen=True)])
    assert fragile.sign == 1.0
    assert row(fragile, [fragile])["best of 1"] == "0.63"  # the mean of 0.5, 0.5 and 0.9
    assert curves([fragile])
    lower = [replace(one, merits=(-(one.value or 0.0),)) for one in fragile.done]
    assert study("losses", lower).sign == -1.0
    ended = [StoredTrial(n, {}, "pruned", value=0.5, merits=(0.5,)) for n in range(2)]
    assert curves([study("ended", ended)])


def test_a_study_that_failed_is_a_row_with_its_reason() -> None:
    failed = study("qlora", [StoredTrial(0, {}, "oom")], status="failed", reason="none of 1 trials ended well")
    told = row(failed, [FULL, failed])
    assert told["best"] == "n/a"
    assert "failed: none of 1 trials ended well" in told["notes"]


def test_an_edge_is_a_warning_with_what_to_do() -> None:
    edges = {"learning_rate": {"value": 9.9e-3, "end": "high", "range": {"low": 1e-5, "high": 1e-2}}}
    cut = study("ia3", [trial(0, 0.7, 9.9e-3, chosen=True)], edges=edges)
    (said,) = warnings([LORA, cut])
    assert said.startswith("ia3 (topic, 64 examples): the best learning_rate tried, 0.0099, is at the high end")
    assert "Widen its space" in said


def test_what_cannot_be_compared_stands_apart() -> None:
    other = study("lora", LORA.trials, condition="20% wrong labels")  # type: ignore[arg-type]
    assert list(groups([LORA, FULL, other])) == ["topic, m, 64 examples", "topic, m, 64 examples, 20% wrong labels"]


def test_the_curve_names_every_label_and_is_none_without_two_trials() -> None:
    drawn = svg(spec(curves([LORA, FULL])))
    assert "lora" in drawn
    assert "full" in drawn
    assert curves([study("one", [trial(0, 0.5, 1e-4, chosen=True)])]) is None
