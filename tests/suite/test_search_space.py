"""What a suite's `tune:` becomes: spaces, studies, the cells of trials, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tools import plan_of

from harness.errors import SuiteError
from harness.methods import LogFloat, all_methods
from harness.plan.identity import spec_digest
from harness.plan.search import StudySearch
from harness.plan.studies import range_edge, study_cell, trial_cell
from harness.records import Cell, TrainSettings, Trial, with_settings
from harness.suite.load import load_suite
from harness.suite.search_space import TuneSettings, searched_space, setting_name
from harness.suite.variants import Variant, read_variant
from harness.suite.yaml_lines import Lines

SUITE = """
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8, 16]}]
methods:
  base: {}
  lora: {}
  full: {}
seeds: [0, 1, 2]
train: {steps: 4, batch_size: 4}
tune: {trials: 6}
"""


def label_of(name: str, settings: dict[str, Any] | None = None) -> Variant:
    made, problems = read_variant(name, settings or {}, {"steps": 4}, Lines())
    assert made, problems
    return made


def tune_of(**settings: Any) -> TuneSettings:
    return TuneSettings.model_validate({"trials": 6, **settings})


def searched(label: Variant, **settings: Any) -> dict[str, Any]:
    space, wrong = searched_space(label, tune_of(**settings))
    assert not wrong, wrong
    return {setting_name(name): found for name, found in space.items()}


# --- what is searched ---


def test_the_learning_rate_is_always_searched_on_a_log_scale() -> None:
    for name, kind in all_methods().items():
        needs = {"experts", "type", "how"} & set(kind.fields())
        if needs or "learning_rate" not in kind.fields():
            continue
        label = label_of("mine", {"method": name, "learning_rate": 3e-4})
        if "learning_rate" not in label.method.space and "learning_rate" in kind.space:
            continue  # an instance that does not use it
        found = searched(label)["learning_rate"]
        assert 0 < found["low"] < found["high"], name
        default = kind.fields()["learning_rate"]
        assert found["low"] < default < found["high"], f"{name}: its default lies outside what is searched"


def test_every_value_of_every_space_can_be_given() -> None:
    for name, kind in all_methods().items():
        if {"experts", "type"} & set(kind.fields()):
            continue
        for found in kind.space.values():
            if isinstance(found, LogFloat):
                assert 0 < found.low < found.high
        searched(label_of("mine", {"method": name}))  # says what is wrong, if anything is


def test_what_a_label_sets_itself_is_left_alone_but_for_the_rate() -> None:
    assert list(searched(label_of("lora"))) == ["learning_rate", "rank"]
    assert list(searched(label_of("small", {"method": "lora", "rank": 4, "learning_rate": 1e-4}))) == ["learning_rate"]
    named = label_of("small", {"method": "lora", "rank": 4, "space": {"rank": [2, 4]}})
    assert searched(named)["rank"] == [2, 4]
    assert "rank" not in searched(label_of("lora", {"space": {"rank": None}}))


def test_a_suite_may_search_training_settings_and_objectives() -> None:
    found = searched(label_of("lora"), space={"batch_size": [2, 4], "steps": [4, 8], "rank": [2]})
    assert found["batch_size"] == [2, 4]
    assert found["rank"] == [2]
    kept = label_of("kept", {"method": "full", "objectives": {"retain": {}}})
    assert searched(kept)["retain.strength"] == {"low": 0.1, "high": 100.0}
    both = label_of("both", {"method": ["layerwise", "prefix_tuning"]})
    assert {"layerwise.learning_rate", "prefix_tuning.learning_rate"} <= set(searched(both))
    assert "weight_decay" in searched(both, space={"weight_decay": {"low": 1e-3, "high": 1e-1}})


def test_bounds_written_as_text_are_numbers(project: Path) -> None:
    text = SUITE.replace("lora: {}", "lora: {space: {learning_rate: {low: 1e-5, high: 1e-3}}}")
    study = next(cell for cell in plan_of(project, text).cells if cell.study and cell.label == "lora")
    assert study.study["space"]["learning_rate"] == {"low": 1e-5, "high": 1e-3}


# --- studies in a plan ---


def test_the_cells_of_all_seeds_need_one_study(project: Path) -> None:
    plan = plan_of(project, SUITE)
    studies = [cell for cell in plan.cells if cell.study]
    assert [(cell.key, cell.seed) for cell in studies] == [
        ("lora/tiny/colours/n8/study", None), ("lora/tiny/colours/n16/study", None),
        ("full/tiny/colours/n8/study", None), ("full/tiny/colours/n16/study", None),
    ]  # fmt: skip
    for study in studies:
        followers = [cell for cell in plan.cells if cell.needs.get("study") == study.spec_digest]
        assert [cell.seed for cell in followers] == [0, 1, 2]
        assert {(cell.label, cell.n_train) for cell in followers} == {(study.label, study.n_train)}
    more = plan_of(project, SUITE.replace("seeds: [0, 1, 2]", "seeds: [0, 5]"))
    assert {cell.spec_digest for cell in more.cells if cell.study} == {cell.spec_digest for cell in studies}


def test_several_studies_have_the_first_seeds_and_share_the_others(project: Path) -> None:
    text = SUITE.replace("sizes: [8, 16]", "sizes: [8]").replace("trials: 6", "trials: 6, studies: 2")
    plan = plan_of(project, text.replace("seeds: [0, 1, 2]", "seeds: [0, 3, 1, 2]"))
    keys = {cell.spec_digest: cell.key for cell in plan.cells}
    lora = [cell for cell in plan.cells if cell.label == "lora"]
    studies = [cell for cell in lora if cell.study]
    assert [cell.key for cell in studies] == ["lora/tiny/colours/n8/study-s0", "lora/tiny/colours/n8/study-s3"]
    chosen_by = {cell.seed: keys[cell.needs["study"]][-2:] for cell in lora if not cell.study}
    assert chosen_by == {0: "s0", 3: "s3", 1: "s0", 2: "s3"}
    assert [trial_cell(study, 1, {"learning_rate": 2e-4}).seed for study in studies] == [0, 3]
    assert [study.study.get("seed") for study in studies] == [None, 3]
    assert studies[0].study["search"] != studies[1].study["search"], "it seeds the sampler"
    one = next(cell for cell in plan_of(project, SUITE).cells if cell.study and cell.n_train == 8)
    assert one.spec_digest == studies[0].spec_digest, "the study of seed 0 is the one that a single study is"


def test_a_study_is_repeated_from_the_study_of_its_own_seed(project: Path) -> None:
    plan = plan_of(project, SUITE.replace("trials: 6", "trials: 6, studies: 3, warm_start: true"))
    keys = {cell.spec_digest: cell.key for cell in plan.cells}
    for study in (cell for cell in plan.cells if cell.study and cell.n_train == 16):
        assert keys[study.needs["warm"]] == study.key.replace("/n16/", "/n8/")


def test_what_learns_from_no_examples_has_one_study(project: Path) -> None:
    text = SUITE.replace("lora: {}", "zero: {method: prompting, examples: 0}")
    plan = plan_of(project, text.replace("trials: 6", "trials: 6, studies: 3"))
    studies = [cell for cell in plan.cells if cell.study]
    assert [cell.key for cell in studies if cell.label == "zero"] == ["zero/tiny/colours/study"]
    assert next(cell for cell in plan.cells if cell.label == "zero" and not cell.study).needs.keys() == {"study"}
    assert len([cell for cell in studies if (cell.label, cell.n_train) == ("full", 8)]) == 3


def test_a_label_that_is_not_tuned_is_as_it_would_be_without(project: Path) -> None:
    tuned = plan_of(project, SUITE.replace("full: {}", "full: {tune: false}"))
    plain = plan_of(project, SUITE.replace("tune: {trials: 6}", ""))
    full = [cell for cell in tuned.cells if cell.label == "full"]
    assert full == [cell for cell in plain.cells if cell.label == "full"]
    assert not any(cell.study for cell in full)


def test_a_studys_identity_is_its_budget_and_its_search_is_not(project: Path) -> None:
    def study(text: str) -> Cell:
        return next(cell for cell in plan_of(project, text).cells if cell.study)

    first, longer = study(SUITE), study(SUITE.replace("trials: 6", "trials: 12"))
    assert first.spec_digest != longer.spec_digest
    assert first.study["search"] == longer.study["search"]
    other = study(SUITE.replace("trials: 6", "trials: 6, sampler: random"))
    assert other.study["search"] != first.study["search"]


def test_a_trial_is_what_its_settings_are(project: Path) -> None:
    study = next(cell for cell in plan_of(project, SUITE).cells if cell.study)
    trial = trial_cell(study, 3, {"learning_rate": 2e-4, "rank": 16})
    assert trial.settings["rank"] == 16
    assert (trial.seed, trial.key, trial.baseline) == (0, "lora/tiny/colours/n8/study/t03", "")
    assert trial.retain == ()
    assert (
        trial.spec_digest == spec_digest(trial) == trial_cell(study, 7, {"learning_rate": 2e-4, "rank": 16}).spec_digest
    )
    pruned = next(
        cell for cell in plan_of(project, SUITE.replace("trials: 6", "trials: 6, pruner: asha")).cells if cell.study
    )
    one, other = (trial_cell(pruned, number, {"learning_rate": 2e-4, "rank": 16}) for number in (3, 7))
    assert one.spec_digest != other.spec_digest, "where it is ended depends on what it is compared with"


def test_a_merge_is_tuned_with_experts_of_its_own_seed(project: Path) -> None:
    merged = "merged: {method: merge, how: ties, experts: {method: lora, learn: [colours, names]}}"
    plan = plan_of(project, SUITE.replace("full: {}", merged).replace("lora: {}", "lora: {tune: false}"))
    study = next(cell for cell in plan.cells if cell.study)
    experts = [cell for cell in plan.cells if cell.spec_digest in study.needs.values()]
    assert {(cell.label, cell.task, cell.seed) for cell in experts} >= {("lora", "colours", 0)}
    assert trial_cell(study, 0, {"density": 0.2}).needs == study.needs


def test_the_default_is_the_label_itself(project: Path) -> None:
    for train in ("{epochs: 2, batch_size: 4}", "{steps: 4, batch_size: 4}", "{batch_size: 4}"):
        for space in ("{steps: [4, 8]}", "{epochs: [1, 2]}", "{batch_size: {low: 2, high: 8}}"):
            text = SUITE.replace("{steps: 4, batch_size: 4}", train).replace("trials: 6", f"trials: 6, space: {space}")
            for study in (cell for cell in plan_of(project, text).cells if cell.study):
                tried = with_settings(study, study.study["default"])
                assert (tried.settings, tried.train) == (study.settings, study.train), (train, space)


def test_whole_numbers_stay_whole(project: Path) -> None:
    text = SUITE.replace("trials: 6", "trials: 6, space: {batch_size: {low: 2, high: 16}, rank: {low: 2, high: 64}}")
    study = next(cell for cell in plan_of(project, text).cells if cell.study)
    assert study.study["space"]["train.batch_size"] == {"low": 2, "high": 16}
    for sampler in ("tpe", "grid", "random", "cmaes"):
        search = StudySearch({**study.study, "sampler": sampler, "trials": 12})
        while batch := search.ask():
            assert all(isinstance(asked.params[name], int) for asked in batch for name in ("train.batch_size", "rank"))
            search.tell(Trial(asked.number, asked.params, "done", merits=(1.0,)) for asked in batch)


def test_what_a_label_sets_of_an_objective_is_left_alone() -> None:
    kept = label_of("kept", {"method": "full", "objectives": {"l2sp": {"strength": 5.0}}})
    assert "l2sp.strength" not in searched(kept)


def test_values_are_those_that_the_setting_takes() -> None:
    found = searched(label_of("full"), space={"weight_decay": ["0.1", 0], "batch_size": ["4", 8]})
    assert found["weight_decay"] == [0.1, 0.0]
    assert found["batch_size"] == [4, 8]
    assert all(isinstance(value, float) for value in found["weight_decay"])


@given(some.floats(1e-6, 1e-1), some.sampled_from([4, 8]), some.integers(1, 9))
def test_settings_go_where_their_names_say(rate: float, rank: int, steps: int) -> None:
    cell = Cell(
        "k", "d", "both", "lora+rag", "hybrid", "m", "t", ("t",), 8, 0, (),
        {"lora": {"rank": 2, "alpha": 1}, "rag": {}},
        TrainSettings(epochs=3.0, batch_size=4), objectives={"ewc": {"strength": 1.0, "text": None}},
    )  # fmt: skip
    params = {"lora.rank": rank, "train.steps": steps, "objectives.ewc.strength": rate}
    made = with_settings(cell, params)
    assert made.settings == {"lora": {"rank": rank, "alpha": 1}, "rag": {}}
    assert made.train == TrainSettings(steps=steps, batch_size=4)
    assert made.objectives == {"ewc": {"strength": rate, "text": None}}
    assert made.spec_digest == "d"
    assert cell.settings == {"lora": {"rank": 2, "alpha": 1}, "rag": {}}
    assert with_settings(cell, {}) == cell


def test_the_study_of_what_has_nothing_to_search_is_none(project: Path) -> None:
    cell = next(cell for cell in plan_of(project, SUITE).cells if cell.label == "lora" and cell.seed == 0)
    fixed = label_of("lora", {"space": {"rank": None, "learning_rate": None}})
    assert study_cell(fixed, tune_of(), cell) is None


@pytest.mark.parametrize(
    ("value", "space", "end"),
    [
        (1e-5, {"low": 1e-5, "high": 1e-2}, "low"), (9.9e-3, {"low": 1e-5, "high": 1e-2}, "high"),
        (1e-3, {"low": 1e-5, "high": 1e-2}, ""), (32, [4, 8, 16, 32], "high"), (4, [4, 8, 16, 32], "low"),
        (8, [4, 8, 16, 32], ""), (8, [4, 8], ""), ("mean", ["last", "mean", "max"], ""), (True, [True, False], ""),
        (None, [4, 8, 16], ""), (None, {"low": 1e-5, "high": 1e-2}, ""),
    ],
)  # fmt: skip
def test_the_edge_of_a_space(value: Any, space: Any, end: str) -> None:
    assert range_edge(value, space) == end


# --- mistakes ---


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("tune: {trials: 6}", "tune: {batch: 2}", "tune has no budget. Give it trials, seconds or tokens.", 11),
        ("trials: 6", "trials: 0", "tune.trials: got 0, wanted greater than or equal to 1", 11),
        ("trials: 6", "trials: 6, sampler: tpee", "tune.sampler: got 'tpee'", 11),
        ("trials: 6", "trials: 6, studies: 4", "studies: 4, and the suite has 3 seeds", 11),
        ("trials: 6", "trials: 6, studies: 0", "tune.studies: got 0, wanted greater than or equal to 1", 11),
        ("trials: 6", "trails: 6", "did you mean 'trials'", 11),
        ("trials: 6", "trials: 6, goals: [memory, score]", "the first goal is score", 11),
        ("trials: 6", "trials: 6, goals: [score, memory], pruner: asha", "pruner asha compares one score", 11),
        ("trials: 6", "trials: 6, goals: [score, memory], sampler: cmaes", "cmaes seeks one goal", 11),
        ("trials: 6", "trials: 6, goals: [score, retention]", "the goal retention needs a task under retain", 11),
        ("trials: 6", "trials: 6, space: {rnak: [4]}", "unknown setting to search 'rnak'", 11),
        ("trials: 6", "trials: 6, space: {rank: []}", "rank: an empty list of values", 11),
        ("trials: 6", "trials: 6, space: {rank: 8}", "rank: got 8, wanted a list of values", 11),
        ("lora: {}", "lora: {space: {rank: [0, 4]}}", "label 'lora': rank:", 7),
        ("lora: {}", "lora: {space: {rnak: [4]}}", "did you mean 'rank'", 7),
        ("lora: {}", "lora: {space: {learning_rate: {low: 1e-2, high: 1e-5}}}", "needs 0 < low < high", 7),
        ("lora: {}", "lora: {space: {learning_rate: {low: 1, hihg: 2}}}", "wanted a list of values", 7),
        ("lora: {}", "lora: {tune: 12}", "tune: got 12, wanted true or false", 7),
        ("lora: {}", "lora: {space: 3}", "space: got 3", 7),
        ("tune: {trials: 6}", "tune: 6", "tune: got 6, wanted a mapping", 11),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_lines(project: Path, old: str, new: str, message: str, line: int) -> None:
    assert old in SUITE
    path = project / "suites" / "wrong.yaml"
    path.write_text(SUITE.replace(old, new))
    with pytest.raises(SuiteError) as caught:
        plan_of(project, SUITE.replace(old, new), "wrong")
    assert message.lower() in str(caught.value).lower()
    assert f"wrong.yaml:{line}" in str(caught.value)


def test_a_space_in_a_suite_that_does_not_tune_is_no_silent_nothing(project: Path) -> None:
    path = project / "suites" / "wrong.yaml"
    path.write_text(SUITE.replace("tune: {trials: 6}", "").replace("lora: {}", "lora: {space: {rank: [4]}}"))
    with pytest.raises(SuiteError, match="has a space, and the suite does not tune"):
        load_suite(path)


@pytest.mark.parametrize(
    ("methods", "tune", "message"),
    [
        ("zero: {method: prompting}", "{tokens: 100}", "prompting trains on no tokens"),
        ("few: {method: setfit, encoder: tiny-encoder}", "{trials: 4, goals: [score, retention]}", "retains nothing"),
        ("lora: {train: {devices: 2}}", "{trials: 4, pruner: median}", "scored on their way by one process"),
        ("lora: {train: {eval_every: 2, early_stopping: 1}}", "{trials: 4, pruner: asha}", "early_stopping keeps one"),
    ],
)  # fmt: skip
def test_what_a_label_cannot_be_tuned_by_is_told(encoding_project: Path, methods: str, tune: str, message: str) -> None:
    path = encoding_project / "suites" / "wrong.yaml"
    path.write_text(SUITE.replace("  lora: {}\n  full: {}", f"  {methods}").replace("{trials: 6}", tune))
    with pytest.raises(SuiteError, match=message):
        load_suite(path)
