"""Which method is recommended, and why: the rule, the limits, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.recommend import Answer, Candidate, Change, Reason, Wishes, choose, rank_candidates
from harness.analysis.total_cost import Prices, Workload, hourly, ownership

GIB = 1024.0**3
PRICES = Prices(1.0)
PROSE = "prose"


def candidate(label: str, score: float, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "n_train": 32, "metric": "acc", "score": score, "stderr": 0.03, "memory": {"train": 2 * GIB, "infer": GIB},
        "retained": {PROSE: Change(-0.01, 0.002, "nats/word")}, "latency_ms": 40.0,
        "work": Workload(60.0, 0.0, 0.05, 60.0), **changes,
    }  # fmt: skip
    return Candidate(label, **values)


def answered(label: str, skill: float, seeds: int = 2, seed: int = 0, **changes: Any) -> Candidate:
    """With single items; the same items are hard for everybody."""
    hard = numpy.random.default_rng(99).random(200)
    draws = numpy.random.default_rng(seed)
    values = [[float(skill > 0.7 * h + 0.3 * draws.random()) for h in hard] for _ in range(seeds)]
    items = tuple(map(str, range(200)))
    return candidate(
        label, float(numpy.mean(values)), values=tuple(map(tuple, values)), items=items, seeds=seeds, **changes
    )


def labels(answer: Answer) -> list[str]:
    return [one.candidate.label for one in answer.ranked]


def why(answer: Answer, label: str) -> list[str]:
    return [reason.limit for out in answer.ruled_out if out.candidate.label == label for reason in out.reasons]


def test_the_best_score_is_used_and_within_the_margin_the_cheapest() -> None:
    best, near, far = candidate("best", 0.80), candidate("near", 0.79), candidate("far", 0.70)
    slow = replace(best, work=Workload(60.0, 0.0, 0.5, 60.0))
    assert labels(rank_candidates([far, near, best], prices=PRICES)) == ["best", "near", "far"]
    cheap = rank_candidates([far, near, slow], prices=PRICES)
    assert labels(cheap) == ["near", "best", "far"]
    assert cheap.rule == "cost"
    assert [one.close for one in cheap.ranked] == [True, True, False]
    assert labels(rank_candidates([near, slow], Wishes(margin=0.001), PRICES)) == ["best", "near"]
    assert rank_candidates([near, slow], Wishes(margin=0.001), PRICES).rule == "score"


def test_only_labels_that_are_named_come_first_where_some_fit() -> None:
    best, near, far = candidate("best", 0.80), candidate("near", 0.79), candidate("far", 0.70)
    found = rank_candidates([far, near, best], prices=PRICES, among=("near",))
    assert (labels(found), found.rule) == (["near", "best", "far"], "known")
    found = rank_candidates([far, near, best], prices=PRICES, among=("best", "near"))
    assert (labels(found), found.rule) == (["best", "near", "far"], "score within the margin")
    assert labels(rank_candidates([far, near, best], prices=PRICES, among=("gone",))) == ["best", "near", "far"]


def test_of_equal_cost_the_simpler_goes_first() -> None:
    plain, rich = candidate("plain", 0.79), candidate("rich", 0.80, packages=("peft",))
    found = rank_candidates([plain, rich], prices=PRICES)
    assert (labels(found), found.rule) == (["plain", "rich"], "simplicity")
    # A tenth of the cost is within the clock's own noise.
    slower = replace(plain, work=Workload(60.0, 0.0, 0.055, 60.0))
    assert labels(rank_candidates([slower, rich], prices=PRICES)) == ["plain", "rich"]


def test_less_is_better_where_the_metric_says_so() -> None:
    low, high = (candidate(name, score, higher_is_better=False) for name, score in (("low", 0.2), ("high", 0.9)))
    assert labels(rank_candidates([high, low])) == ["low", "high"]


def test_each_limit_rules_out_with_its_figure_and_all_are_named() -> None:
    heavy = candidate(
        "heavy", 0.9, memory={"train": 5 * GIB, "infer": GIB}, latency_ms=80.0, work=Workload(60.0, 0.0, 9.0, 60.0),
        retained={PROSE: Change(-0.3, 0.01, "nats/word")},
    )  # fmt: skip
    wishes = Wishes(4 * GIB, 0.02, PROSE, 50.0, 100.0)
    found = rank_candidates([heavy, candidate("light", 0.8)], wishes, PRICES)
    assert labels(found) == ["light"]
    assert found.rule == "only"
    (out,) = found.ruled_out
    assert out.reasons[0] == Reason("memory", 5 * GIB, 4 * GIB, "train")
    assert [reason.limit for reason in out.reasons] == ["memory", "forgetting", "latency", "budget"]


def test_what_was_not_measured_meets_no_limit() -> None:
    unknown = candidate("unknown", 0.9, memory={}, latency_ms=None, retained={}, work=Workload(None))
    wishes = Wishes(4 * GIB, 0.02, PROSE, 50.0, 100.0)
    assert why(rank_candidates([unknown], wishes, PRICES), "unknown") == ["memory", "forgetting", "latency", "budget"]
    assert labels(rank_candidates([unknown], Wishes(), PRICES)) == ["unknown"]


def test_a_limit_is_met_by_the_estimate_and_the_interval_is_told() -> None:
    wishes = Wishes(max_forgetting=0.02, forgetting_on=PROSE, latency_ms=50.0)
    near = candidate("near", 0.9, retained={PROSE: Change(-0.015, 0.01, "nats/word")}, latency_ms_p90=70.0)
    (first,) = rank_candidates([near], wishes).ranked
    assert [(one.limit, one.reach) for one in first.cautions] == [
        ("forgetting", pytest.approx(0.0346, abs=1e-5)), ("latency", 70.0),
    ]  # fmt: skip
    over = candidate("over", 0.9, retained={PROSE: Change(-0.025, 0.01, "nats/word")})
    (reason,) = rank_candidates([over], wishes).ruled_out[0].reasons
    assert reason.reach == pytest.approx(0.0054, abs=1e-5)
    better = candidate("better", 0.9, retained={PROSE: Change(0.5, 0.01, "nats/word")})
    assert labels(rank_candidates([better], wishes)) == ["better"]


def test_without_a_language_model_forgetting_rules_nothing_out_and_it_is_said() -> None:
    wishes = Wishes(max_forgetting=0.02, forgetting_on=PROSE)
    found = rank_candidates([candidate("classifier", 0.9, language_model=False, retained={})], wishes)
    assert found.first
    assert found.first.no_model


def test_what_failed_or_learned_nothing_is_out_and_the_untouched_model_is_an_answer() -> None:
    base = candidate("base", 0.5, n_train=0, seeded=False)
    idle = candidate("idle", 0.6, learned=False)
    broken = candidate("broken", 0.0, failure="oom: too large")
    found = rank_candidates([base, idle, replace(broken, score=None)])
    assert labels(found) == ["base"]
    assert why(found, "idle") == ["learned"]
    assert found.ruled_out[0].reasons[0].where == "oom: too large"


def test_nothing_fits() -> None:
    found = rank_candidates([candidate("one", 0.9)], Wishes(memory=1.0))
    assert (found.first, found.rule, found.confidence) == (None, "none", None)


def test_it_is_surer_of_what_is_far_ahead_and_says_when_seeds_are_missing() -> None:
    far = rank_candidates([answered("good", 0.9, seed=1), answered("bad", 0.3, seed=5)], prices=PRICES)
    assert far.confidence
    assert far.second
    assert far.second.decision
    assert far.confidence.best
    assert far.confidence.best > 0.8  # no more: either may fall under the next seed
    assert far.confidence.once == ()
    assert far.second.decision.verdict == "worse"
    alike = rank_candidates([answered("one", 0.6, seed=1), answered("other", 0.6, seed=5)], prices=PRICES)
    assert alike.confidence
    assert alike.confidence.best
    assert alike.confidence.good_enough
    assert 0.02 < alike.confidence.best < 0.98
    assert alike.confidence.best <= alike.confidence.good_enough
    once = rank_candidates([answered("good", 0.9, 1, seed=1), answered("bad", 0.3, 1, seed=5)], prices=PRICES)
    assert once.confidence
    assert (once.confidence.best, once.confidence.good_enough, once.confidence.once) == (None, None, ("good", "bad"))
    assert once.expected is None
    assert once.second
    assert once.second.decision
    assert once.second.decision.verdict == "underpowered"


def test_more_rivals_leave_less_confidence() -> None:
    """Each of them may be the better one; they are drawn together, as they were scored on the same items."""
    rivals = [answered(f"r{number:02}", 0.6, seed=10 * number) for number in range(8)]
    sure = [rank_candidates(rivals[:count], Wishes(margin=0.0), PRICES).confidence for count in (2, 8)]
    assert sure[0]
    assert sure[0].best
    assert sure[1]
    assert sure[1].best
    assert sure[1].best < sure[0].best


def test_confidence_with_two_is_that_of_the_paired_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.analysis.stats.contrast import compare

    monkeypatch.setattr("harness.analysis.stats.falls.UNSEEN", 1e-9)
    one, other = answered("one", 0.66, seed=1), answered("other", 0.6, seed=7)
    found = rank_candidates([one, other], Wishes(margin=0.0), PRICES)
    assert found.first
    first, second = found.ranked
    pair = compare(second.candidate.values, first.candidate.values)
    assert found.confidence
    assert found.confidence.best == pytest.approx(1 - pair.reference.tail(-pair.effect / pair.stderr), abs=0.03)


def test_a_label_with_one_seed_is_not_counted_and_named() -> None:
    steady, idle = answered("steady", 0.8, 3, seed=1), answered("idle", 0.5, 3, seed=5)
    found = rank_candidates([steady, idle, answered("once", 0.4, 1, seed=9)], prices=PRICES)
    assert found.confidence
    assert (found.confidence.among, found.confidence.once) == (2, ("once",))
    assert found.confidence.best


def test_what_is_chosen_among_many_is_expected_to_score_less_than_it_did() -> None:
    """Twelve equal methods: the best of them was lucky. One alone, or far ahead, keeps its score."""
    equal = [answered(f"m{number:02}", 0.6, 3, seed=10 * number) for number in range(12)]
    many = rank_candidates(equal, prices=PRICES)
    assert many.first
    assert many.first.candidate.score
    assert many.expected
    assert many.expected.low < many.expected.value < many.first.candidate.score - 0.005
    assert many.first.candidate.score < many.expected.high
    alone = rank_candidates([many.first.candidate], prices=PRICES)
    assert alone.expected
    assert alone.expected.value == pytest.approx(many.first.candidate.score, abs=0.005)
    ahead = rank_candidates([*equal[:3], answered("ahead", 0.95, 3, seed=200)], prices=PRICES)
    assert ahead.first
    assert ahead.expected
    assert ahead.expected.value == pytest.approx(ahead.first.candidate.score, abs=0.005)


def test_the_expected_score_of_a_loss_is_a_mirror_image() -> None:
    def turned(candidate: Candidate) -> Candidate:
        values = tuple(tuple(-value for value in row) for row in candidate.values)
        return replace(
            candidate, higher_is_better=False, metric="error", score=-(candidate.score or 0.0), values=values
        )

    # A third of each answer: no share of right ones, for which intervals and falls differ at the two ends.
    def thirds(candidate: Candidate) -> Candidate:
        values = tuple(tuple(value / 3 for value in row) for row in candidate.values)
        return replace(candidate, score=(candidate.score or 0.0) / 3, values=values)

    rivals = [thirds(answered(f"r{number}", 0.6, 3, seed=10 * number)) for number in range(4)]
    up, down = rank_candidates(rivals), rank_candidates(turned(rival) for rival in rivals)
    assert up.expected
    assert down.expected
    assert (down.expected.value, down.expected.low, down.expected.high) == pytest.approx(
        (-up.expected.value, -up.expected.high, -up.expected.low)
    )


def test_the_rule_chooses_in_simulated_tables_as_it_does_in_the_real_one() -> None:
    quick, slow = Workload(60.0, 0.0, 0.01, 60.0), Workload(60.0, 0.0, 0.5, 60.0)
    rivals = [
        candidate(f"r{number}", 0.7 + 0.005 * (number % 5), work=quick if number % 3 else slow,
                  packages=("peft",) if number % 2 else ())
        for number in range(9)
    ]  # fmt: skip
    for margin in (0.0, 0.005, 0.02):
        found = rank_candidates(rivals, Wishes(margin=margin), PRICES)
        merits = numpy.array([[each.candidate.merit for each in found.ranked]])
        assert list(choose(merits, found.ranked, margin, priced=True)) == [0]


def test_a_cheaper_one_that_is_not_shown_to_be_worse_is_named() -> None:
    dear = answered("dear", 0.66, seed=1, work=Workload(60.0, 0.0, 0.5, 60.0))
    near = answered("near", 0.62, seed=7, work=Workload(60.0, 0.0, 0.01, 60.0))
    found = rank_candidates(
        [dear, near, answered("bad", 0.2, seed=3, work=Workload(1.0, 0.0, 0.0, 1.0))], Wishes(margin=0.001), PRICES
    )
    assert labels(found)[0] == "dear"
    assert found.cheaper
    assert found.cheaper.candidate.label == "near"


def test_costs_that_other_work_disturbed_decide_nothing() -> None:
    slow, quick = Workload(60.0, 0.0, 0.5, 60.0), Workload(60.0, 0.0, 0.01, 60.0)
    better, cheap = answered("better", 0.66, seed=1, work=slow), answered("cheap", 0.655, seed=2, work=quick)
    found = rank_candidates([better, cheap], Wishes(margin=0.05), PRICES)
    assert (labels(found)[0], found.rule) == ("cheap", "cost")
    for disturbed in ((better, replace(cheap, disturbed=True)), (replace(better, disturbed=True), cheap)):
        found = rank_candidates(disturbed, Wishes(margin=0.05), PRICES)
        assert (labels(found)[0], found.rule) == ("better", "score within the margin")
        assert found.cheaper is None


def test_scores_of_other_metrics_and_labels_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="one metric"):
        rank_candidates([candidate("a", 0.5), candidate("b", 0.5, metric="f1")])
    with pytest.raises(ValueError, match="a label each"):
        rank_candidates([candidate("a", 0.5), candidate("a", 0.6)])


# --- costs ---


def test_ownership_by_hand() -> None:
    prices = Prices(3.6, requests=1000.0, months=6.0, updates=2.0)  # 0.001 a second
    cost = ownership(Workload(make=100.0, search=400.0, request=0.5, update=50.0, devices=2), prices)
    assert cost
    assert cost.making == pytest.approx(2 * 500 * 0.001)
    assert cost.answering == pytest.approx(0.5 * 6000 * 0.001)
    assert cost.update == pytest.approx(2 * 50 * 0.001)
    assert cost.updating == pytest.approx(cost.update)  # two a year, for half a year
    assert cost.total == pytest.approx(1.0 + 3.0 + 0.1)
    assert ownership(Workload(100.0, request=None, update=1.0), prices) is None


def test_assumed_prices_follow_the_device() -> None:
    assert hourly("A CPU, 8 cores") == (pytest.approx(0.4), "8 CPU cores at 0.05 USD")
    assert hourly("A CPU, 8 cores", "NVIDIA H200")[0] == 4.0
    assert hourly("x", "A new thing")[1] == "a A new thing"


# --- whatever the candidates ---

FIGURES = st.floats(0.0, 1.0)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    found = []
    for number in range(draw(st.integers(1, 6))):
        found.append(
            candidate(
                f"m{number}",
                draw(st.integers(0, 100)) / 100,
                learned=draw(st.booleans()),
                language_model=draw(st.booleans()),
                memory=draw(st.sampled_from([{}, {"train": draw(FIGURES) * 8 * GIB, "infer": draw(FIGURES) * GIB}])),
                retained={PROSE: Change(draw(st.floats(-0.2, 0.2)), draw(st.floats(0, 0.1)), "nats/word")},
                latency_ms=draw(st.none() | st.floats(1, 100)),
                work=Workload(draw(st.none() | st.floats(0, 1e4)), 0.0, draw(st.floats(0, 1)), draw(st.floats(0, 1e4))),
                packages=("peft",) * draw(st.integers(0, 2)),
                failure=draw(st.sampled_from(["", "", "", "oom"])),
            )
        )
    return found


WISHES = st.builds(
    Wishes,
    memory=st.none() | st.floats(0, 8 * GIB),
    max_forgetting=st.none() | st.floats(0, 0.2),
    forgetting_on=st.just(PROSE),
    latency_ms=st.none() | st.floats(1, 100),
    budget=st.none() | st.floats(0, 200),
)


def tightened(wishes: Wishes, share: float) -> Wishes:
    names = ("memory", "max_forgetting", "latency_ms", "budget")
    return replace(wishes, **{n: share * v for n in names if (v := getattr(wishes, n)) is not None})


@settings(max_examples=60, deadline=None)
@given(candidates(), WISHES, st.floats(0, 1), st.randoms())
def test_limits_and_order(given_: list[Candidate], wishes: Wishes, share: float, random: Any) -> None:
    found = rank_candidates(given_, wishes, PRICES)
    assert sorted([*labels(found), *(out.candidate.label for out in found.ruled_out)]) == [c.label for c in given_]
    # Tightening a limit lets nothing in.
    assert set(labels(rank_candidates(given_, tightened(wishes, share), PRICES))) <= set(labels(found))
    # The order in which they come is of no effect.
    mixed = list(given_)
    random.shuffle(mixed)
    assert rank_candidates(mixed, wishes, PRICES) == found
    for ranked in found.ranked:
        one = ranked.candidate
        assert one.learned
        assert not one.failure
        assert wishes.memory is None or (one.peak and one.peak[1] <= wishes.memory)
        assert wishes.latency_ms is None or (one.latency_ms or math.inf) <= wishes.latency_ms
        assert wishes.max_forgetting is None or not one.language_model or (
            -one.retained[PROSE].value <= wishes.max_forgetting + 1e-9
        )  # fmt: skip
        assert wishes.budget is None or (ranked.cost and ranked.cost.total <= wishes.budget)


@settings(max_examples=60, deadline=None)
@given(candidates(), WISHES)
def test_what_is_dominated_on_everything_is_never_first(given_: list[Candidate], wishes: Wishes) -> None:
    best = given_[0]
    worse = replace(
        best,
        label="a-worse",
        score=(best.score or 0.0) - 0.001,
        memory={name: 1.1 * value for name, value in best.memory.items()},
        retained={PROSE: replace(best.retained[PROSE], value=best.retained[PROSE].value - 0.01)},
        latency_ms=best.latency_ms and 1.1 * best.latency_ms,
        work=Workload(
            best.work.make and 1.1 * best.work.make,
            0.0,
            1.1 * (best.work.request or 0.0),
            1.1 * (best.work.update or 0.0),
        ),
        packages=(*best.packages, "another"),
    )
    found = rank_candidates([*given_, worse], wishes, PRICES)
    assert not found.first or found.first.candidate.label != "a-worse"
