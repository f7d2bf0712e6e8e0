"""Reports of what went wrong or is unusual: each says what is so, and none is lost to it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from results_factory import PROSE, TASK, Results, answered, cell, items, scores

from harness.records import Score, Status
from harness.report import load, write_report
from harness.report.advice import advised, short
from harness.report.sections.answer import lines, sentences
from harness.report.table import Report


def table(folder: Path, skills: dict[str, float], base: float = 0.5, n_train: int = 32) -> Results:
    """Labels with two seeds each, and the base model."""
    results = Results(folder)
    bare = cell("base")
    results.add(bare, scores(base, 0.03, -5.0), items=answered(base, 1))
    for number, (label, share) in enumerate(skills.items()):
        for seed in (0, 1):
            one = cell(label, n_train, seed, baseline=bare.spec_digest)
            results.add(one, scores(share, 0.03, -5.1), items=answered(share, 10 * number + seed), train_seconds=5.0)
    return results


def written(results: Results, folder: Path) -> tuple[Report, str]:
    report = load(results.store(), "demo")
    return report, write_report(report, folder / "out").html.read_text(encoding="utf-8")


def test_a_model_that_fits_nowhere_does_not_take_the_report_with_it(tmp_path: Path) -> None:
    results = table(tmp_path / "results", {"lora": 0.8, "full": 0.7})
    for label, n_train, seed in (("base", 0, None), ("lora", 32, 0), ("full", 32, 0)):
        results.add(cell(label, n_train, seed, model="huge"), status=Status.OOM, reason="too large")
    report, page = written(results, tmp_path)
    assert [block.model for block in report.blocks] == ["tiny", "huge"]
    assert "No method has finished on topic yet." in page
    assert "oom: too large" in page


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_said_and_the_page_still_works(tmp_path: Path, value: float) -> None:
    results = table(tmp_path / "results", {"lora": 0.8, "full": 0.7})
    found = answered(0.75, 5)
    found[3] = items(TASK, "acc", [0, 0, 0, value])[3]
    results.add(cell("odd", 32, 0), scores(0.75, 0.03, -5.0), items=found)
    results.add(cell("lost", 32, 0), [Score(TASK, "task", "acc", value, 0.1, 200, True)])
    _, page = written(results, tmp_path)
    charts = page.split('id="charts">')[1].split("</script>")[0]
    assert "NaN" not in charts
    assert "Infinity" not in charts


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    results = table(tmp_path / "results", {"lora": 0.8, "full": 0.7})
    for seed in (0, 1):
        results.add(cell("odd", 32, seed), scores(0.9, 0.03, -5.0), items=answered(0.9, seed, n=150))
    report, page = written(results, tmp_path)
    said = " ".join(lines(report))
    assert "Not compared: they were scored on different items: 200 and 150" in said
    assert "different items" in page
    assert "odd scores best" not in said


def test_a_base_on_other_items_is_not_what_all_are_measured_by(tmp_path: Path) -> None:
    results = table(tmp_path / "results", {"lora": 0.8, "full": 0.7})
    results.add(cell("base"), scores(0.5, 0.03, -5.0), items=answered(0.5, 1, n=150))
    (block,) = load(results.store(), "demo").blocks
    assert block.ranking(32).labels == ("lora", "full")


def test_a_score_that_is_no_mean_of_its_items_is_not_compared_by_them(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for label, score, share in (("lora", 0.9, 0.6), ("full", 0.7, 0.7)):
        for seed in (0, 1):
            found = [Score(TASK, "task", "f1", score, 0.02, 200, True)]
            results.add(cell(label, 32, seed), found)
            attempt = tmp_path / "attempts"
            assert attempt.exists()
            import pandas

            values = [item.value for item in answered(share, seed)]
            folder = next(iter(sorted(attempt.rglob(f"run-1-a{results.attempts:03}"))))
            pandas.DataFrame([vars(item) for item in items(TASK, "f1", values)]).to_parquet(folder / "items.parquet")
    (block,) = load(results.store(), "demo").blocks
    assert "no mean over items" in block.ranking(32).missing["lora"]
    assert "full" in block.ranking(32).labels


def test_nothing_above_the_untouched_model_is_said(tmp_path: Path) -> None:
    (block,) = load(table(tmp_path, {"lora": 0.5, "full": 0.55}, base=0.9).store(), "demo").blocks
    assert "No label beats the base model" in " ".join(sentences(block))


def test_where_the_largest_size_failed_the_answer_is_of_the_one_below(tmp_path: Path) -> None:
    results = table(tmp_path, {"lora": 0.8, "full": 0.7})
    for label in ("lora", "full"):
        results.add(cell(label, 128, 0), status=Status.OOM, reason="too large")
    report = load(results.store(), "demo")
    said = " ".join(sentences(report.blocks[0]))
    assert "With 32 examples, lora scores best" in said
    assert "Nothing has finished with 128 examples." in said
    ((answer, question),) = advised(report)
    assert short(answer, question).startswith("Use lora")


def test_a_label_with_a_dot_is_a_label(tmp_path: Path) -> None:
    report = load(table(tmp_path, {"lora": 0.7, "lora.r64": 0.85}).store(), "demo")
    ((answer, question),) = advised(report)
    assert short(answer, question).startswith("Use lora.r64")


def test_a_label_of_another_size_is_ruled_out_and_not_forgotten(tmp_path: Path) -> None:
    results = table(tmp_path, {"full": 0.9}, n_train=16)
    for seed in (0, 1):
        results.add(cell("lora", 64, seed), scores(0.7, 0.03, -5.1), items=answered(0.7, seed), train_seconds=5.0)
    ((answer, _),) = advised(load(results.store(), "demo"))
    (out,) = [one for one in answer.ruled_out if one.candidate.label == "full"]
    assert "was not run with 64 examples" in out.candidate.failure


def test_page_and_recommendation_say_the_same_of_a_pair(tmp_path: Path) -> None:
    report = load(table(tmp_path, {f"m{n}": 0.6 + 0.03 * n for n in range(6)}).store(), "demo")
    (block,) = report.blocks
    ((answer, _),) = advised(report)
    assert answer.first
    chosen = answer.first.candidate.label
    for one in answer.ranked[1:]:
        verdict = block.ranking(32).between(one.candidate.label, chosen)
        assert verdict
        assert verdict.decision
        assert one.decision
        assert verdict.verdict == one.decision.verdict
        assert verdict.decision.p == pytest.approx(one.decision.p)
    assert answer.confidence
    assert block.ranking(32).chances[chosen] == pytest.approx(answer.confidence.best)


def test_where_lower_is_better_words_axes_and_order_say_so(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    base = cell("base")
    for label, level in (("base", 3.0), ("good", 2.0), ("bad", 2.5)):
        for seed in (0,) if label == "base" else (0, 1):
            values = [level + 0.01 * ((place * 7 + seed) % 10) for place in range(50)]
            one = base if label == "base" else cell(label, 32, seed, baseline=base.spec_digest)
            found = [Score(TASK, "task", "perplexity", level, 0.02, 50, False),
                     Score(PROSE, "retain", "log_likelihood_per_word", -5.0 - level / 10, 0.1, 4, True)]  # fmt: skip
            results.add(one, found, items=items(TASK, "perplexity", values), train_seconds=5.0 + level)
    report, page = written(results, tmp_path)
    assert "good scores best on topic" in " ".join(sentences(report.blocks[0]))
    assert "fall of perplexity on topic  (right: learned more)" in page
    assert "Down and to the left is better" in page
    assert 'aria-sort="ascending"' in page
    assert page.index(">good<") < page.index(">bad<")


def test_all_weights_stand_for_themselves_by_the_first_of_the_suite_and_not_the_luckiest(tmp_path: Path) -> None:
    results = Results(tmp_path)
    base = cell("base")
    results.add(base, scores(0.4), items=answered(0.4, 1))
    for number, (label, share, trainable) in enumerate((("full", 0.7, 1e8), ("other", 0.8, 1e8), ("lora", 0.72, 1e6))):
        for seed in (0, 1):
            one = cell(label, 32, seed, baseline=base.spec_digest)
            results.add(
                one, scores(share), items=answered(share, 10 * number + seed), train_seconds=5.0, trainable=trainable
            )
    (block,) = load(results.store(), "demo").blocks
    assert "Compared with full, which trains every weight" in " ".join(sentences(block))
