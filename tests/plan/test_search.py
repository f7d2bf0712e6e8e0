"""The search: what is asked for, that the best is found, that it goes the same way again, what is ended and chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as some

from harness.errors import UserError
from harness.plan.search import (
    StudySearch,
    best_trial,
    optuna_storage,
    pareto_front,
    rung_shares,
    setting_importances,
    should_prune,
    to_optuna_study,
)
from harness.records import Trial

RATE = {"learning_rate": {"low": 1e-5, "high": 1e-2}}


def how(**changes: Any) -> dict[str, Any]:
    made = {
        "search": "f" * 64, "space": RATE, "default": {"learning_rate": 1e-4}, "goals": ["score"], "metric": None,
        "sampler": "tpe", "batch": 4, "pruner": "none", "rungs": 2, "points": 5, "trials": 30,
    }  # fmt: skip
    return {**made, **changes}


def done(number: int, *merits: float, **more: Any) -> Trial:
    return Trial(number, more.pop("params", {}), more.pop("status", "done"), value=merits[0] if merits else None,
                 merits=merits, **more)  # fmt: skip


def searched(what: Mapping[str, Any], score: Callable[[dict[str, Any]], float], **more: Any) -> list[Trial]:
    """Every trial of a search whose score is a function of its setting."""
    search, trials = StudySearch(what, **more), []
    while batch := search.ask():
        told = [done(asked.number, score(asked.params), params=asked.params) for asked in batch]
        search.tell(reversed(told))  # they end in any order
        trials += told
    return trials


def bowl(params: Mapping[str, Any]) -> float:
    """A planted problem: best at a rate of 7e-4, which is nowhere near the default, a start or an end."""
    return 1.0 - (math.log10(params["learning_rate"]) - math.log10(7e-4)) ** 2 / 9


def test_tpe_finds_a_planted_optimum_within_five_percent_in_thirty_trials() -> None:
    for search in ("a", "b", "c"):
        best = best_trial(searched(how(search=search * 64), bowl))
        assert best is not None
        span = math.log10(1e-2 / 1e-5)
        assert abs(math.log10(best.params["learning_rate"] / 7e-4)) < 0.05 * span
        assert best.merits[0] > 0.95


def test_tpe_finds_a_planted_optimum_among_several_settings() -> None:
    space = {**RATE, "rank": [4, 8, 16, 32]}
    what = how(space=space, default={"learning_rate": 1e-4, "rank": 8})
    best = best_trial(searched(what, lambda params: bowl(params) - 0.02 * abs(params["rank"] - 16)))
    assert best is not None
    assert best.params["rank"] == 16
    assert best.merits[0] > 0.95


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "cmaes", "gp"])
def test_the_same_search_asks_for_the_same_trials(sampler: str) -> None:
    space = {**RATE, "weight_decay": {"low": 1e-3, "high": 1.0}}
    what = how(sampler=sampler, space=space, default={"learning_rate": 1e-4, "weight_decay": 0.0}, trials=14)
    first, second = searched(what, bowl), searched(what, bowl)
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert len(first) == 14
    assert first[0].params == what["default"]
    other = searched({**what, "search": "e" * 64}, bowl)
    assert [trial.params for trial in other[1:]] != [trial.params for trial in first[1:]]


def test_a_larger_budget_begins_with_the_trials_of_the_smaller() -> None:
    few, many = searched(how(trials=6), bowl), searched(how(trials=13), bowl)
    assert [trial.params for trial in many[:6]] == [trial.params for trial in few]


def test_a_grid_ends_when_it_is_walked_through() -> None:
    trials = searched(how(sampler="grid", points=4, trials=50), bowl)
    rates = sorted(trial.params["learning_rate"] for trial in trials[1:])
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert rates[0] == 1e-5
    assert rates[-1] == 1e-2


def test_a_warm_start_is_the_second_trial_and_is_charged() -> None:
    trials = searched(how(trials=5), bowl, warm={"learning_rate": 5e-4})
    assert [trial.params["learning_rate"] for trial in trials[:2]] == [1e-4, 5e-4]
    assert len(trials) == 5
    assert searched(how(trials=5), bowl, warm={"learning_rate": 1e-4})[1].params != {"learning_rate": 1e-4}


def test_failed_trials_do_not_stop_a_search() -> None:
    search = StudySearch(how(trials=9))
    numbers = []
    while batch := search.ask():
        numbers += [asked.number for asked in batch]
        search.tell(
            done(asked.number, status="oom") if asked.number % 2 else done(asked.number, bowl(asked.params))
            for asked in batch
        )
    assert numbers == list(range(9))


def test_trials_that_were_ended_do_not_stop_a_search() -> None:
    search = StudySearch(how(trials=9, pruner="median"))
    best: list[Trial] = []
    while batch := search.ask():
        trials = [
            done(asked.number, bowl(asked.params), params=asked.params, status="pruned" if asked.number % 3 else "done",
                 intermediate=({"rung": 1, "merit": bowl(asked.params)},))
            for asked in batch
        ]  # fmt: skip
        search.tell(trials)
        best += trials
    assert len(best) == 9
    chosen = best_trial(best)
    assert chosen is not None
    assert chosen.status == "done"
    study = to_optuna_study(how(), best)
    assert [trial.state.name for trial in study.trials[:3]] == ["COMPLETE", "PRUNED", "PRUNED"]


def test_a_default_outside_its_range_is_tried_all_the_same() -> None:
    trials = searched(how(default={"learning_rate": 0.5}, trials=6), lambda params: -params["learning_rate"])
    assert trials[0].params == {"learning_rate": 0.5}
    assert len(trials) == 6


# --- ending trials early ---


def at(number: int, *scores: float, status: str = "done", items: Any = None) -> dict[str, Any]:
    rungs = [{"rung": rung, "merit": score, "items": items} for rung, score in enumerate(scores, start=1)]
    return {"number": number, "status": status, "merit": scores[-1], "intermediate": rungs}


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_trial_far_behind_is_ended_and_one_ahead_goes_on(pruner: str) -> None:
    earlier = [at(number, 0.5 + number / 100, 0.6 + number / 100) for number in range(7)]
    earlier.append(at(7, 0.2, status="pruned"))
    numbers = range(8, 14) if pruner == "hyperband" else (8,)  # its brackets are drawn by number, and some end none
    ended = 0
    for number in numbers:
        trial = {"pruner": pruner, "rungs": 2, "search": "s", "number": number}
        ended += should_prune(trial, earlier, at(number, 0.1)["intermediate"])
        ended += should_prune(trial, earlier, at(number, 0.1, 0.1)["intermediate"])
        assert not should_prune(trial, earlier, at(number, 0.9)["intermediate"])
    assert ended


def test_trials_of_the_same_batch_do_not_count() -> None:
    trial = {"pruner": "median", "rungs": 1, "search": "s", "number": 3}
    assert not should_prune(trial, [at(0, 0.9)], at(3, 0.1)["intermediate"])  # numbers 1 and 2 run beside it


def test_wilcoxon_compares_item_by_item_with_the_best_trial() -> None:
    trial = {"pruner": "wilcoxon", "rungs": 1, "search": "s", "number": 2}
    best = at(0, 0.9, items=[0.9 + place / 1000 for place in range(30)])
    worse = at(1, 0.1, items=[0.5] * 30)
    assert should_prune(trial, [best, worse], at(2, 0.4, items=[0.4] * 30)["intermediate"])
    assert not should_prune(trial, [best, worse], at(2, 0.95, items=[0.95] * 30)["intermediate"])
    assert not should_prune(trial, [], at(2, 0.4, items=[0.4] * 30)["intermediate"])


def test_rungs_lie_where_their_pruner_wants_them() -> None:
    assert rung_shares("asha", 2) == [0.25, 0.5]
    assert rung_shares("hyperband", 3) == [0.125, 0.25, 0.5]
    assert rung_shares("median", 3) == [0.25, 0.5, 0.75]


# --- choosing ---


def test_of_equal_scores_the_lower_cross_entropy_wins_then_the_earlier() -> None:
    trials = [done(0, 0.8, values={"choice_cross_entropy": 0.7}), done(1, 0.8, values={"choice_cross_entropy": 0.5}),
              done(2, 0.8, values={"choice_cross_entropy": 0.5}), done(3, 0.9, status="oom")]  # fmt: skip
    best = best_trial(trials)
    assert best is not None
    assert best.number == 1
    assert best_trial([done(0, 0.9, status="failed")]) is None


def test_of_two_goals_the_second_decides_among_what_is_as_good_as_the_best() -> None:
    trials = [
        done(0, 0.80, -1.0, values={"score_stderr": 0.04}),
        done(1, 0.78, -0.3, values={"score_stderr": 0.04}),
        done(2, 0.60, -0.1, values={"score_stderr": 0.04}),
        done(3, 0.70, -0.5, values={"score_stderr": 0.04}),  # worse than 1 in both
    ]
    assert [trial.number for trial in pareto_front(trials)] == [0, 1, 2]
    best = best_trial(trials)
    assert best is not None
    assert best.number == 1


@given(some.lists(some.tuples(some.integers(0, 5), some.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    trials = [done(number, *map(float, point)) for number, point in enumerate(points)]
    kept = {trial.number for trial in pareto_front(trials)}
    for number, (a, b) in enumerate(points):
        beaten = any(c >= a and d >= b and (c, d) != (a, b) for c, d in points)
        assert (number in kept) is not beaten


def test_importance_goes_to_the_setting_that_matters() -> None:
    space = {**RATE, "weight_decay": {"low": 1e-3, "high": 1.0}}
    what = how(space=space, default={"learning_rate": 1e-4, "weight_decay": 1e-2}, sampler="random")
    found = setting_importances(what, searched(what, bowl))
    assert set(found) == {"fanova", "ped_anova"}
    for shares in found.values():
        assert shares["learning_rate"] > 0.7
    assert setting_importances(how(), searched(how(trials=10), bowl)) == {}


# --- Optuna's own tools ---


@pytest.mark.parametrize("name", ["studies.db", "studies.log"])
def test_a_stored_study_opens_with_optuna(tmp_path: Path, name: str) -> None:
    trials = [*searched(how(trials=4), bowl), done(4, status="oom", reason="too big", params={"learning_rate": 1e-3})]
    path = tmp_path / name
    to_optuna_study(how(), trials, optuna_storage(path), "lora/tiny/colours/n8")
    storage: Any = f"sqlite:///{path}"
    if name.endswith(".log"):
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name="lora/tiny/colours/n8", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["FAIL"]
    assert study.best_value == max(trial.merits[0] for trial in trials[:4])
    assert study.trials[4].user_attrs["reason"] == "too big"
    with pytest.raises(UserError, match="is there already"):
        optuna_storage(path)
    with pytest.raises(UserError, match=r"\.db \(SQLite\) or \.log"):
        optuna_storage(tmp_path / "studies.txt")
