"""Stored results -> candidates and words: what counts, between sizes, and what a 4 GiB card may be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from results_factory import MIB, OTHER, PROSE, TASK, Results, cell, demo, items, scores

from harness.analysis.recommend import Answer, Candidate, Wishes, rank_candidates
from harness.analysis.total_cost import Prices
from harness.errors import StoreError, UserError
from harness.records import Fact, Status
from harness.report import load
from harness.report.advice import as_json, assumptions, details, headline, ruled_out, sentences, texts, title
from harness.report.candidates import Question, prices_of, questions
from harness.store.database import Store

GIB = 1024**3


def answers(skill: float, seed: int) -> list[float]:
    hard = numpy.random.default_rng(99).random(200)
    random = numpy.random.default_rng(seed)
    return [float(skill > 0.7 * h + 0.3 * random.random()) for h in hard]


def asked(store: Store, examples: int | None = None, **wishes: Any) -> tuple[Answer, Question]:
    report = load(store, "demo")
    (question,) = questions(report, examples)
    return rank_candidates(
        question.candidates, Wishes(**{"forgetting_on": PROSE, **wishes}), prices_of(report)
    ), question


def named(question: Question, label: str) -> Candidate:
    return next(one for one in question.candidates if one.label == label)


def measured(latency: float = 100.0, throughput: float = 20.0) -> list[Fact]:
    return [
        Fact("latency_ms_p50", latency, "ms", False),
        Fact("inference_documents_per_second", throughput, "documents/s", True),
    ]


def filled(folder: Path, sizes: tuple[int, ...] = (32, 128), seeds: int = 2) -> Store:
    """quick: the fastest and best, which takes 5 GiB to train; slow: 1.5 GiB, and a little worse; base. By hand."""
    results = Results(folder)
    base = cell("base", method="base", settings={"quantize": None})
    told = items(TASK, "acc", answers(0.4, 1))
    results.add(base, scores(0.4, prose=-5.0), items=told, facts=measured())
    for n_train in sizes:
        for seed in range(seeds):
            bonus = 0.1 if n_train > 32 else 0.0
            for label, skill, seconds, gib in (("quick", 0.75, 10.0, 5), ("slow", 0.68, 90.0, 1.5)):
                values = answers(skill + bonus, 10 * n_train + seed)
                results.add(
                    cell(label, n_train, seed, baseline=base.spec_digest, method="lora", settings={"rank": 4}),
                    scores(float(numpy.mean(values)), prose=-5.01), items=items(TASK, "acc", values),
                    train_seconds=seconds, facts=measured(),
                    peaks={"train": int(gib * GIB), "infer": GIB},
                )  # fmt: skip
    return results.store()


def test_the_fastest_is_not_recommended_for_a_card_that_it_does_not_fit(tmp_path: Path) -> None:
    store = filled(tmp_path)
    free, _ = asked(store)
    assert free.first
    assert free.first.candidate.label == "quick"
    small, question = asked(store, memory=4 * GIB)
    assert small.first
    assert small.first.candidate.label == "slow"
    assert ("quick", "train: 5.0 GiB, more than 4.0 GiB") in ruled_out(small)
    assert sentences(small, question)[0].startswith("Use slow: acc 0.")


def test_figures_are_those_of_the_store(tmp_path: Path) -> None:
    _, question = asked(filled(tmp_path))
    quick = named(question, "quick")
    assert quick.memory == {"load": 700 * MIB, "train": 5 * GIB, "infer": GIB}  # scoring is not answering
    assert quick.work.make == pytest.approx(11.0)  # load and train; nothing was timed of saving
    assert quick.work.request == pytest.approx(0.05)
    assert (quick.seeds, quick.n_train, len(quick.values)) == (2, 128, 2)
    assert quick.packages == ("peft",)
    assert quick.parts == ("base model", "adapter")
    assert "rank" in quick.settings
    assert "learning_rate" in quick.settings
    base = named(question, "base")
    assert base.retained[PROSE].value == 0.0
    assert base.work.make == 0.0
    assert not base.seeded


def test_between_two_sizes_it_is_a_line_over_the_logarithm(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (low, high, half) = (named(asked(store, n)[1], "quick") for n in (32, 128, 64))
    assert low.score is not None
    assert high.score is not None
    assert half.score == pytest.approx((low.score + high.score) / 2)
    assert numpy.mean(half.values) == pytest.approx(half.score)
    answer, question = asked(store, 64)
    assert question.between
    assert "straight lines over log10" in " ".join(sentences(answer, question))


def test_outside_the_sizes_the_nearest_stands_in_and_it_is_said_loudly(tmp_path: Path) -> None:
    answer, question = asked(filled(tmp_path), 5000)
    assert (question.examples, question.asked) == (128, 5000)
    assert sentences(answer, question)[1].startswith("WARNING: 5000 examples were asked for, and 32, 128 were run.")
    inside, _ = asked(filled(tmp_path / "b"), 128)
    assert [one.candidate.label for one in answer.ranked] == [one.candidate.label for one in inside.ranked]


def test_one_seed_is_said(tmp_path: Path) -> None:
    answer, question = asked(filled(tmp_path, (32,), seeds=1))
    assert answer.confidence
    assert answer.confidence.best is None
    assert "one seed, and another may change the order" in " ".join(sentences(answer, question))


def test_every_kind_of_row(tmp_path: Path) -> None:
    """The suite of the reports' tests: what failed, ran out of memory or has not run is out, with its reason."""
    answer, question = asked(demo(tmp_path))
    out = dict(ruled_out(answer))
    assert "oom: resident memory passed 7.5 GiB" in out["qlora"]
    assert "missing" in out["late"]
    assert "not shown to beat" in out["prompt"]
    assert "only 1 of 2 seeds ended well" in out["dora"]
    assert not named(question, "setfit").described  # it stands there with the settings of another
    assert answer.first
    assert answer.first.candidate.label == "setfit"
    limited, question = asked(demo(tmp_path / "b"), max_forgetting=0.2)
    assert "setfit leaves no language model" in " ".join(sentences(limited, question))
    assert "forgets 0.450 nats/word on prose, more than 0.2" in dict(ruled_out(limited))["full"]
    assert "nats/word on prose" in " ".join(assumptions(limited, question))
    other, _ = asked(demo(tmp_path / "c"), max_forgetting=0.05, forgetting_on=OTHER)
    assert "forgets 0.170 acc on other" in dict(ruled_out(other))["full"]


def test_nothing_fits_and_the_nearest_are_named(tmp_path: Path) -> None:
    answer, question = asked(filled(tmp_path), memory=MIB)
    first, *others = sentences(answer, question)
    assert first == "Nothing fits: all 3 are ruled out."
    assert others[0].startswith("Nearest: quick")


def test_what_a_cell_needs_first_is_part_of_its_cost_and_memory(tmp_path: Path) -> None:
    results = Results(tmp_path)
    base = cell("base", method="base", settings={"quantize": None})
    results.add(base, scores(0.4), items=items(TASK, "acc", answers(0.4, 1)), facts=measured())
    teacher = cell("teacher", 32, 0, baseline=base.spec_digest, method="full", settings={"learning_rate": 1e-3})
    results.add(
        teacher, scores(0.8), items=items(TASK, "acc", answers(0.8, 2)), train_seconds=100.0, facts=measured(),
        peaks={"train": 6 * GIB, "infer": GIB},
    )  # fmt: skip
    student = replace(
        cell("student", 32, 0, baseline=base.spec_digest, method="lora", settings={"rank": 8}),
        needs={"teacher": teacher.spec_digest},
        objectives={"distil": {"teacher": {"method": "full"}}},
    )
    values = answers(0.9, 3)
    results.add(
        student, scores(0.9), items=items(TASK, "acc", values), train_seconds=50.0, facts=measured(),
        peaks={"train": 2 * GIB, "infer": GIB},
    )  # fmt: skip
    answer, question = asked(results.store(), memory=4 * GIB)
    found = named(question, "student")
    assert found.work.make == pytest.approx(51 + 101)
    assert found.made_of == ("teacher on topic",)
    assert "full.learning_rate" in found.settings
    assert dict(ruled_out(answer))["student"] == "train teacher, which it needs: 6.0 GiB, more than 4.0 GiB"


def test_names_that_nobody_knows_and_suites_without_scores(tmp_path: Path) -> None:
    store = filled(tmp_path)
    report = load(store, "demo")
    with pytest.raises(UserError, match="Did you mean 'topic'"):
        questions(report, task="topc")
    with pytest.raises(UserError, match="unknown model"):
        questions(report, model="large")
    empty = Results(tmp_path / "empty")
    empty.add(cell("base"), status=Status.FAILED, reason="nothing")
    bare = empty.store()
    with pytest.raises(StoreError, match="nothing of demo has been scored"):
        questions(load(bare, "demo"))


def test_what_is_told_of_prices_is_what_was_given(tmp_path: Path) -> None:
    report = load(filled(tmp_path), "demo")
    assumed = prices_of(report)
    assert set(assumed.assumed) == {"hour", "requests", "months", "updates"}
    answer, question = asked(Store(tmp_path))
    (first, *_) = assumptions(answer, question)
    assert first.count("(assumed;") == 4
    assert answer.first
    assert details(answer.first, answer.prices)[-1].startswith("Cost ")
    assert len(texts(answer.first, answer.prices)) == 9
    assert title(question) == "topic on tiny, 128 examples"
    given = rank_candidates(question.candidates, Wishes(), Prices(2.0, "EUR"))
    assert "assumed" not in assumptions(given, question)[0]
    plain = as_json(answer, question)
    assert plain["use"] == "quick"
    assert "values" not in plain["ranked"][0]["candidate"]
    assert plain["ranked"][0]["cost"]["total"] > 0


def timed(latency: float, unfolded: float | None = None, throughput: float | None = None) -> list[Fact]:
    found = [Fact("latency_ms_p50", latency, "ms", False), Fact("served_bytes", 1e6, "B", False)]
    found += [Fact("inference_documents_per_second", throughput or 1000 / latency, "documents/s", True)]
    return found + ([Fact("latency_ms_p50_unfolded", unfolded, "ms", False)] if unfolded else [])


def served(folder: Path, labels: dict[str, tuple[str, dict[str, Any], list[Fact]]]) -> tuple[Answer, Question]:
    results = Results(folder)
    base = cell("base", method="base", settings={"quantize": None})
    results.add(base, scores(0.4), items=items(TASK, "acc", answers(0.4, 1)), facts=timed(20.0))
    for number, (label, (method, settings, facts)) in enumerate(labels.items()):
        one = cell(label, 32, 0, baseline=base.spec_digest, method=method, settings=settings)
        values = items(TASK, "acc", answers(0.8, number))
        results.add(one, scores(0.8), items=values, train_seconds=10.0, facts=facts)
    return asked(results.store())


def test_identical_networks_have_one_price_and_lora_is_priced_folded(tmp_path: Path) -> None:
    answer, question = served(
        tmp_path,
        {
            "full": ("full", {"learning_rate": 1e-4}, timed(22.0)),
            "lora": ("lora", {"rank": 4}, timed(19.0, unfolded=41.0)),
            "adapter": ("adapter", {"bottleneck": 8}, timed(30.0)),
            "qlora": ("lora", {"rank": 4, "quantize": "nf4"}, timed(55.0)),
            "shown": ("prompting", {"examples": 4}, timed(90.0)),
        },
    )
    costs = {one.candidate.label: one.cost.total for one in answer.ranked if one.cost}
    request = {one.label: one.work.request for one in question.candidates}
    assert request["base"] == request["full"] == request["lora"] == pytest.approx(0.020)
    assert costs["full"] == pytest.approx(costs["lora"])
    assert (request["adapter"], request["shown"]) == (pytest.approx(0.030), pytest.approx(0.090))
    assert named(question, "lora").latency_ms == 20.0
    said = " ".join(assumptions(answer, question))
    assert "lora 41 ms instead of 20" in said
    assert "The same network, timed together: base, full, lora." in said


def test_what_was_timed_unfolded_alone_is_not_the_time_of_its_folded_network(tmp_path: Path) -> None:
    _, question = served(
        tmp_path, {"full": ("full", {"learning_rate": 1e-4}, timed(20.0)), "lora": ("lora", {"rank": 4}, timed(41.0))}
    )
    assert named(question, "lora").work.request == pytest.approx(0.020)


def test_a_network_of_another_size_has_its_own_price(tmp_path: Path) -> None:
    deeper = [*timed(35.0)[:1], Fact("served_bytes", 2e6, "B", False), *timed(35.0)[2:]]
    _, question = served(tmp_path, {"stacked": ("merge", {"how": "stack"}, deeper)})
    assert named(question, "stacked").work.request == pytest.approx(0.035)


def test_costs_that_decided_nothing_are_not_given_as_a_reason(tmp_path: Path) -> None:
    """A disturbed time must not read as "of similar cost"."""
    answer, question = asked(filled(tmp_path, (32,), seeds=3))
    assert answer.first
    for disturbed in (False, True):
        ranked = tuple(
            replace(each, close=True, candidate=replace(each.candidate, disturbed=disturbed)) for each in answer.ranked
        )
        for rule in ("simplicity", "score within the margin"):
            text = headline(replace(answer, ranked=ranked, rule=rule), question)
            assert ("costs are not compared" in text) == disturbed
            assert ("of similar cost" in text) != disturbed
