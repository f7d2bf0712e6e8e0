"""Seeds that end badly: they count, they are told, and a label that seldom ends well is not recommended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from results_factory import Results, answered, cell, scores

from harness.analysis import Fallback, ended, headlines
from harness.analysis.comparisons import Request, compare_labels
from harness.analysis.group_comparison import runs_by_score
from harness.cli.verdict_text import sentence
from harness.records import FailedSeeds, Status
from harness.report import load
from harness.report.advice import advised, headline, ruled_out
from harness.report.sections.answer import sentences
from harness.store import Store, item_values, latest_run, member_rows


def stored(folder: Path, shaky: list[Status], steady: int = 5, share: float = 0.9) -> Store:
    """base 0.50, `steady` 0.70 under five seeds, and `shaky` at 0.90 under those seeds that ended well."""
    results = Results(folder)
    base = cell("base", family="no training")
    results.add(base, scores(0.5), items=answered(0.5, 1))
    for seed in range(steady):
        values = answered(0.7, 10 + seed)
        results.add(cell("steady", 32, seed, baseline=base.spec_digest), scores(0.7), items=values, train_seconds=5.0)
    for seed, status in enumerate(shaky):
        one = cell("shaky", 32, seed, baseline=base.spec_digest)
        if status is Status.DONE:
            results.add(one, scores(share), items=answered(share, 20 + seed), train_seconds=5.0)
        else:
            results.add(one, status=status, reason="the training loss is nan")
    return results.store()


FOUR_FAILED = [Status.DONE, Status.DIVERGED, Status.FAILED, Status.OOM, Status.TIMEOUT]


def test_a_label_that_ends_well_once_in_five_times_is_not_recommended(tmp_path: Path) -> None:
    report = load(stored(tmp_path, FOUR_FAILED), "demo")
    ((answer, question),) = advised(report)
    assert headline(answer, question).startswith("Use steady")
    assert ("shaky", "only 1 of 5 seeds ended well") in ruled_out(answer)
    (row,) = [row for row in report.blocks[0].rows if row.label == "shaky"]
    assert row.ended == (1, 5)
    assert row.score
    assert row.score.value == pytest.approx((0.9 + 4 * 0.5) / 5, abs=0.01)
    assert sentences(report.blocks[0])[0].startswith("With 32 examples, steady scores best")


def test_its_verdict_counts_all_seeds_and_says_so(tmp_path: Path) -> None:
    with stored(tmp_path, FOUR_FAILED).open(read_only=True) as connection:
        ((_, verdict),) = compare_labels(connection, "shaky", "steady", Request("", 0.02, ""))
    assert verdict.decision
    assert verdict.decision.effect == pytest.approx((0.9 + 4 * 0.5) / 5 - 0.7, abs=0.02)
    assert verdict.verdict != "better"
    assert sentence(verdict).endswith("shaky: 1 of 5 seeds ended well.")


@pytest.mark.parametrize(("how", "score"), [("base", (0.9 + 4 * 0.5) / 5), ("worst", 0.9 / 5)])
def test_two_runs_are_compared_as_the_suite_says(tmp_path: Path, how: FailedSeeds, score: float) -> None:
    with stored(tmp_path, FOUR_FAILED).open(read_only=True) as connection:
        run = latest_run(connection, "demo")
        assert run
        rows = member_rows(connection, run)
        values = item_values(connection, headlines(rows))
    base = [row for row in rows if row.label == "base"]
    shaky, steady = ([replace(r, label="x") for r in rows if r.label == name] for name in ("shaky", "steady"))
    found = runs_by_score([*base, *shaky], [*base, *steady], values, ("one", "other"), failed_seeds=how)
    (decision,) = [one.verdict.decision for one in found.matched if one.label == "x"]
    assert decision
    assert decision.effect == pytest.approx(score - 0.7, abs=0.02)


def test_one_of_five_may_fail_and_it_is_said(tmp_path: Path) -> None:
    report = load(stored(tmp_path, [*[Status.DONE] * 4, Status.DIVERGED], share=0.99), "demo")
    ((answer, question),) = advised(report)
    assert headline(answer, question).startswith("Use shaky")
    assert answer.first
    assert [why.limit for why in answer.first.cautions] == ["ended"]
    assert "4 of 5 seeds ended well" in sentences(report.blocks[0])[0]


def test_what_has_not_run_is_no_failure(tmp_path: Path) -> None:
    report = load(stored(tmp_path, [Status.DONE, Status.DONE, Status.INTERRUPTED, Status.SKIPPED]), "demo")
    (row,) = [row for row in report.blocks[0].rows if row.label == "shaky"]
    assert row.ended == (2, 2)
    assert row.score
    assert row.score.value == pytest.approx(0.9)


def test_a_seed_may_count_as_the_worst() -> None:
    known = [(1.0, 0.0), (1.0, 1.0)]
    assert Fallback("worst").row(("a", "b"), known, True) == (0.0, 0.0)
    assert Fallback("worst").row(("a", "b"), known, False) == (1.0, 1.0)
    base = {"a": -3.0, "b": -4.0}
    assert Fallback("worst", base).row(("a", "b"), [(-2.0, -2.0)], True) == (-3.0, -4.0)  # a loss has no worst
    assert Fallback("base", base).row(("a", "c"), [(-2.0, -2.0)], True) is None
    assert ended([]) == (0, 0)
