"""What a tuned label is compared as: the setting of one study, or the procedure of several, and who says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import MODEL, TASK, Results, answered, cell, scores

from harness.analysis import headlines, pairwise_verdicts, side_of, study_means, tuning_of
from harness.analysis.comparisons import Request, compare_cells, compare_labels
from harness.analysis.tuning import setting_text
from harness.cli.verdict_text import sentence
from harness.records import BEST_TRIAL, Cell, Fact, Status, Trial
from harness.report import load
from harness.report.advice import advised, details, headline, sentences
from harness.report.sections import answer
from harness.report.sections.tuning import groups, headers, lines
from harness.store import CellRow, Store, StoredScore, item_values, latest_run, member_rows

RATES = (1e-3, 2e-3, 4e-3)


def study_of(label: str, number: int, rate: float, results: Results, status: Status = Status.DONE) -> Cell:
    """A stored study of two trials that chose this rate."""
    plain = cell(label, 32, None, settings={"learning_rate": 1e-3})
    how = {"space": {"learning_rate": {"low": 1e-5, "high": 1e-1}}, "goals": ["score"], "metric": None}
    how |= {"seed": number} if number else {}
    study = replace(
        plain, key=f"{label}/{MODEL}/{TASK}/n32/study-s{number}", spec_digest=f"{label} study {number}", study=how
    )
    tried = [
        Trial(place, {"learning_rate": value}, "done", value=0.7, values={"acc": 0.7}, merits=(0.7,), seconds=10.0)
        for place, value in enumerate((1e-4, rate))
    ]
    results.add(
        study, status=status, reason="" if status is Status.DONE else "none of 2 trials ended well",
        facts=[Fact(BEST_TRIAL, 1, "")], trials=tried, tuned={"learning_rate": rate} if status is Status.DONE else {},
    )  # fmt: skip
    return study


def stored(folder: Path, studies: int, seeds: int = 3, failed: int = 0) -> Store:
    """base 0.50; full 0.70, not tuned; lora near 0.80, tuned by so many studies, of which the last `failed` ones chose
    nothing."""
    results = Results(folder, margin=0.02)
    base = cell("base", family="no training")
    results.add(base, scores(0.5), items=answered(0.5, 1))
    made = [
        study_of("lora", number, RATES[number], results, Status.FAILED if number >= studies - failed else Status.DONE)
        for number in range(studies)
    ]
    for seed in range(seeds):
        full = cell("full", 32, seed, baseline=base.spec_digest)
        results.add(full, scores(0.7), items=answered(0.7, 10 + seed), train_seconds=5.0)
        of = seed % studies
        lora = cell("lora", 32, seed, baseline=base.spec_digest, needs={"study": made[of].spec_digest})
        if of >= studies - failed:
            results.add(lora, status=Status.SKIPPED, reason=f"needs {made[of].key} (failed)")
            continue
        results.add(
            lora, scores(0.8), items=answered(0.8 + 0.02 * of, 20 + seed), train_seconds=4.0 + of,
            tuned={"learning_rate": RATES[of]},
        )  # fmt: skip
    return results.store()


def compared(store: Store, metric: str = "") -> Any:
    with store.open(read_only=True) as connection:
        ((_, verdict),) = compare_labels(connection, "lora", "full", Request("", 0.02, metric))
    return verdict


THIS = "lora as tuned (learning_rate 0.001): this setting, one study; another study may choose another"


@pytest.mark.parametrize("metric", ["", "train_seconds"])
def test_a_verdict_on_one_study_is_of_its_setting_and_says_so(tmp_path: Path, metric: str) -> None:
    verdict = compared(stored(tmp_path, 1), metric)
    assert verdict.remarks == (THIS,)
    assert sentence(verdict).endswith(f"{THIS}.")


@pytest.mark.parametrize("metric", ["", "train_seconds"])
def test_a_verdict_on_several_studies_is_of_the_procedure(tmp_path: Path, metric: str) -> None:
    assert compared(stored(tmp_path, 3), metric).remarks == ("lora: the tuned procedure, over 3 studies",)


@pytest.mark.parametrize("metric", ["", "train_seconds"])
def test_of_two_studies_nothing_is_decided(tmp_path: Path, metric: str) -> None:
    store = stored(tmp_path, 2, seeds=4)
    verdict = compared(store, metric)
    assert verdict.verdict == "underpowered"
    assert "are not decided: two studies may choose alike by chance" in sentence(verdict)
    report = load(store, "demo")
    ((found, question),) = advised(report)
    for lines_ in (sentences(found, question), answer.lines(report)):
        assert any(line.startswith("lora: two studies may choose alike by chance") for line in lines_)


def test_two_trained_models_are_themselves(tmp_path: Path) -> None:
    with stored(tmp_path, 1).open(read_only=True) as connection:
        names = (f"{label}/{MODEL}/{TASK}/n32/s0" for label in ("lora", "full"))
        verdict, _ = compare_cells(connection, *names, Request())
    assert verdict.remarks == ()


def test_seeds_that_share_a_study_count_once(tmp_path: Path) -> None:
    store = stored(tmp_path, 2, seeds=5)
    with store.open(read_only=True) as connection:
        run = latest_run(connection, "demo")
        assert run
        rows = [row for row in member_rows(connection, run) if row.label == "lora"]
        values = item_values(connection, headlines(rows))
    side = side_of("lora", rows, values)
    assert (side.seeds, side.tuning.studies, side.ended) == ((0, 1), 2, (5, 5))
    first = [values[row.attempt_id] for row in rows if row.seed in (0, 2, 4)]
    assert side.values[0] == pytest.approx([sum(row[doc] for row in first) / 3 for doc in side.docs])
    assert study_means(rows, [1.0, 2.0, 3.0, 4.0, 5.0]) == [3.0, 3.0]
    (row,) = [row for block in load(store, "demo").blocks for row in block.rows if row.label == "lora"]
    assert row.score
    assert row.score.value == pytest.approx(sum(map(sum, side.values)) / 2 / len(side.docs))
    assert len(row.by_seed["train_seconds"]) == 2


def test_one_study_leaves_every_seed_a_row(tmp_path: Path) -> None:
    with stored(tmp_path, 1).open(read_only=True) as connection:
        run = latest_run(connection, "demo")
        assert run
        rows = [row for row in member_rows(connection, run) if row.label == "lora"]
    assert study_means(rows, [1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert tuning_of(rows).studies == 1
    assert tuning_of([row for row in rows if row.seed == 9]).studies == 0


def test_a_study_that_failed_is_a_seed_that_ended_badly(tmp_path: Path) -> None:
    verdict = compared(stored(tmp_path, 3, failed=1))
    assert verdict.remarks == ("lora: the tuned procedure, over 3 studies", "lora: 2 of 3 seeds ended well")
    assert verdict.decision.effect == pytest.approx((0.80 + 0.82 + 0.50) / 3 - 0.70, abs=0.02)


def test_recommendation_and_answer_say_what_one_study_stands_for(tmp_path: Path) -> None:
    report = load(stored(tmp_path, 1), "demo")
    ((found, question),) = advised(report)
    assert headline(found, question).startswith("Use lora as tuned (learning_rate 0.001): acc 0.8")
    (said,) = [line for line in sentences(found, question) if "this setting" in line]
    assert said == f"{THIS}. `tune: {{studies: 3}}` compares tuned procedures."
    lead = answer.lines(report)
    assert any("lora as tuned (learning_rate 0.001) scores best on topic" in line for line in lead)
    assert any(line.startswith("lora as tuned is better than ") for line in lead)
    assert any(line.startswith("lora as tuned: this setting, one study;") for line in lead)


def test_recommendation_and_answer_name_a_procedure_by_its_label(tmp_path: Path) -> None:
    report = load(stored(tmp_path, 3), "demo")
    ((found, question),) = advised(report)
    assert headline(found, question).startswith("Use lora: acc 0.8")
    every = [*sentences(found, question), *answer.lines(report)]
    assert not [line for line in every if "as tuned" in line or "one study" in line]
    assert found.first
    assert found.first.candidate.work.search == 20.0, "of one study"
    (told,) = [line for line in details(found.first, found.prices) if "settings are found" in line]
    assert "2 trials (20" in told
    assert "the mean of 3 studies" in told


def test_the_tuning_section_has_a_row_for_each_study_with_its_choice_and_test_score(tmp_path: Path) -> None:
    report = load(stored(tmp_path, 3), "demo")
    ((_, studies),) = groups(report.studies).items()
    rows = [dict(zip(headers(studies), row, strict=True)) for row in lines(studies, report)]
    assert [row["method"] for row in rows] == ["lora, seed 0", "lora, seed 1", "lora, seed 2"]
    assert [row["learning rate"] for row in rows] == ["0.001", "0.002", "0.004"]
    assert [row["test"].split()[0] for row in rows] == ["0.80", "0.82", "0.84"]


def test_many_settings_are_counted() -> None:
    params = {"rank": 8, "train.steps": 4, "learning_rate": 1.3e-3, "train.dropout": 0.1, "objectives.ewc.strength": 2}
    assert setting_text(params) == "learning_rate 0.0013, rank 8, steps 4, and 2 more"


# --- how often the same tuned procedure, run twice, is told apart from itself ---


def apart(random: Any, studies: int, seeds: int) -> bool:
    """Whether two runs of a procedure are told apart whose studies choose one of two settings at random, of which one
    scores 0.45 and the other 0.55 of 1,000 items."""
    ease = random.random(1000)
    both = []
    for label in "ab":
        chosen = random.integers(0, 2, studies)
        cells, values = [], {}
        for seed in range(seeds):
            choice = int(chosen[seed % studies])
            share = 0.45 + 0.1 * choice + random.normal(0, 0.01)
            right = random.random(1000) < ease + share - 0.5
            name = f"{label}{seed}"
            cells.append(
                CellRow(
                    name, label, name, label, "", "m", "m", "t", ("t",), 32, seed, "", "done", "", name, False,
                    scores=[StoredScore("t", "task", "acc", float(right.mean()), 0.02, 1000, True, None)],
                    study=f"{label} study {seed % studies}", study_status="done", tuned={"choice": choice},
                )
            )  # fmt: skip
            values[name] = {f"d{item:03}": float(value) for item, value in enumerate(right)}
        both.append(side_of(label, cells, values))
    (verdict,) = pairwise_verdicts(both, settle=False)
    return verdict.verdict in ("better", "worse")


@pytest.mark.parametrize(("studies", "seeds"), [(2, 2), (3, 3), (5, 5), (3, 6)])
def test_a_tuned_procedure_is_seldom_told_apart_from_itself(studies: int, seeds: int) -> None:
    random = numpy.random.default_rng(7)
    assert sum(apart(random, studies, seeds) for _ in range(200)) <= 0.072 * 200


def test_settings_of_single_studies_are_told_apart_as_they_should() -> None:
    random = numpy.random.default_rng(7)
    assert sum(apart(random, 1, 3) for _ in range(100)) >= 0.4 * 100  # half of the pairs chose another setting
