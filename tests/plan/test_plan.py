import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import MODELS, TASKS, plan

from harness.architecture import SAMPLE, Network
from harness.data.facts import Facts, ModelFacts
from harness.errors import SuiteError, UserError
from harness.plan.plan import make_plan, select_cells
from harness.records import TrainSettings
from harness.suite.load import load_suite

labels = st.dictionaries(
    st.sampled_from(["full", "lora", "dora", "layerwise", "prompt_tuning"]),
    st.fixed_dictionaries({"learning_rate": st.sampled_from([1e-5, 1e-4, 1e-3])}),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    methods=labels,
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    models=st.lists(st.sampled_from(["m1", "m2"]), min_size=1, unique=True),
)
def test_the_grid_is_complete_and_its_cells_distinct(
    tmp_path: Path, methods: dict[str, Any], sizes: list[int], seeds: list[int], models: list[str]
) -> None:
    made = plan(tmp_path, methods=methods, tasks=[{"learn": "a", "sizes": sizes}], seeds=seeds, models=models)
    assert len(made.cells) == len(models) * (1 + len(methods) * len(sizes) * len(seeds))
    assert len({cell.spec_digest for cell in made.cells}) == len(made.cells)
    assert len({cell.key for cell in made.cells}) == len(made.cells)
    again = plan(tmp_path, methods=methods, tasks=[{"learn": "a", "sizes": sizes}], seeds=seeds, models=models)
    assert again.cells == made.cells


def test_keys_are_for_people(tmp_path: Path) -> None:
    keys = [cell.key for cell in plan(tmp_path, seeds=[0]).cells]
    assert keys == ["base/m1/a", "full/m1/a/n8/s0", "full/m1/a/n16/s0", "lora/m1/a/n8/s0", "lora/m1/a/n16/s0"]


def test_a_label_is_no_part_of_what_a_cell_is(tmp_path: Path) -> None:
    one = plan(tmp_path, methods={"lora": {"rank": 8}})
    two = plan(tmp_path, methods={"mine": {"method": "lora"}})  # 8 is the default
    assert {c.spec_digest for c in one.cells} == {c.spec_digest for c in two.cells}


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": {"lora": {"rank": 4}, "full": {}}},
        {"train": {"steps": 5}},
        {"retain": ["prose"]},
        {"seeds": [2, 3]},
    ],
)
def test_what_changes_a_result_changes_the_digest(tmp_path: Path, changes: dict[str, Any]) -> None:
    before = {c.key: c.spec_digest for c in plan(tmp_path).cells if c.label == "lora"}
    after = {c.key: c.spec_digest for c in plan(tmp_path, **changes).cells if c.label == "lora"}
    assert before.keys() & after.keys() or changes.get("seeds")
    assert not set(before.values()) & set(after.values())


def test_training_settings_do_not_touch_the_untrained(tmp_path: Path) -> None:
    assert plan(tmp_path).cells[0] == plan(tmp_path, train={"steps": 9, "warmup": 0.5}).cells[0]


def test_fingerprints_count(tmp_path: Path) -> None:
    before = plan(tmp_path)
    changed = Facts({**MODELS, "m1": ModelFacts("m1", "other", "/m")}, TASKS)
    after = make_plan(before.suite, changed)
    assert not {c.spec_digest for c in before.cells} & {c.spec_digest for c in after.cells}


def test_all_means_the_training_split(tmp_path: Path) -> None:
    made = plan(tmp_path, tasks=[{"learn": "a", "sizes": ["all"]}], seeds=[0])
    assert {cell.n_train for cell in made.cells} == {0, 200}


MERGE = {"method": "merge", "experts": {"method": "lora", "learn": ["a", "b"]}}


def test_a_merge_needs_its_experts_and_shares_those_that_are_rows(tmp_path: Path) -> None:
    made = plan(tmp_path, methods={"lora": {}, "merged": MERGE}, seeds=[0], tasks=[{"learn": "a", "sizes": [8]}])
    by_key = {cell.key: cell for cell in made.cells}
    assert list(by_key) == ["base/m1/a", "lora/m1/a/n8/s0", "lora/m1/b/n8/s0", "merged/m1/a/n8/s0"]
    merged = by_key["merged/m1/a/n8/s0"]
    assert merged.needs == {
        "expert:a": by_key["lora/m1/a/n8/s0"].spec_digest,
        "expert:b": by_key["lora/m1/b/n8/s0"].spec_digest,
    }
    assert merged.learn == ("a", "b")
    assert merged.retain == ("prose",)
    assert by_key["base/m1/a"].retain == ("prose", "b")
    places = [cell.spec_digest for cell in made.cells]
    assert all(places.index(need) < places.index(merged.spec_digest) for need in merged.needs.values())


def test_settings_of_experts_are_coerced_like_any_others(tmp_path: Path) -> None:
    merge = {"method": "merge", "experts": {"method": "lora", "learning_rate": "1e-2", "learn": ["a", "b"]}}
    made = plan(tmp_path, methods={"lora": {"learning_rate": 0.01}, "merged": merge}, seeds=[0])
    assert {cell.label for cell in made.cells} == {"base", "lora", "merged"}


def test_an_expert_trained_otherwise_is_no_seed_of_the_row(tmp_path: Path) -> None:
    lora = {"train": {"steps": 9}}
    made = plan(tmp_path, methods={"lora": lora, "merged": MERGE}, seeds=[0], tasks=[{"learn": "a", "sizes": [8]}])
    assert [cell.label for cell in made.cells].count("lora") == 1
    assert [cell.label for cell in made.cells].count("merged.lora") == 2


def test_every_gain_has_a_base_that_was_scored_on_it(tmp_path: Path) -> None:
    made = plan(tmp_path, methods={"merged": MERGE}, retain=[])
    by_digest = made.by_digest()
    for cell in made.cells:
        if cell.baseline:
            base = by_digest[cell.baseline]
            assert {*cell.learn, *cell.retain} <= {*base.learn, *base.retain}


def test_a_method_with_a_model_of_its_own_is_one_row(tmp_path: Path) -> None:
    made = plan(tmp_path, methods={"setfit": {}}, models=["m1", "m2"], seeds=[0])
    found = [cell for cell in made.cells if cell.method == "setfit"]
    assert {cell.model for cell in found} == {"minilm-l6"}
    assert len(found) == 2  # sizes
    assert all(cell.retain == () for cell in found)


def test_a_source_is_known_by_its_last_part(tmp_path: Path) -> None:
    facts = Facts({**MODELS, "hf:org/name": ModelFacts("hf:org/name", "f", "/m")}, TASKS)
    suite = plan(tmp_path).suite
    made = make_plan(dataclasses.replace(suite, models=("hf:org/name",)), facts)
    assert made.cells[1].key == "full/name/a/n8/s0"
    assert made.cells[1].model == "hf:org/name"


def test_quantised_base_is_a_row_without_seed(tmp_path: Path) -> None:
    made = plan(tmp_path, methods={"base-nf4": {"method": "base", "quantize": "nf4"}})
    assert [cell.key for cell in made.cells] == ["base/m1/a", "base-nf4/m1/a"]
    assert made.cells[1].baseline == made.cells[0].spec_digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"tasks": [{"learn": "a", "sizes": [8, 201]}]},
            "size 201 is more than the 200 training examples of 'a'",
        ),
        (
            {"tasks": [{"learn": "prose", "sizes": [8]}], "retain": []},
            "task 'prose' cannot be learned: it is running",
        ),
        (
            {"tasks": [{"learn": "words", "sizes": [8]}], "methods": {"setfit": {}}},
            "setfit classifies, and 'words'",
        ),
    ],
)
def test_what_only_the_data_can_tell(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError, match=said) as caught:
        plan(tmp_path, **changes)
    assert all(problem.line > 0 for problem in caught.value.problems)


LAYERS = Network({"num_attention_heads": 1}, SAMPLE.weights, 0)  # 128 of them


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"method": "lora", "targets": ["q_prj"]}, "unknown linear layer 'q_prj'. Did you mean 'q_proj'"),
        ({"method": "lora", "targets": ["q_proj", "qkv"]}, "unknown linear layer 'qkv'"),
        ({"method": "lora", "targets": "q_proj"}, "'q_proj', which is the whole name of no layer, such as 'model."),
        ({"method": "vera", "targets": ["q_prj"]}, "unknown linear layer"),
        ({"method": "adalora", "targets": ["q_prj"]}, "unknown linear layer"),
        ({"method": "ia3", "targets": ["q_prj"], "feedforward": []}, "unknown linear layer"),
        ({"method": "layerwise", "layers": 129}, "layers is 129, but there are 128"),
        ({"method": "layerwise", "which": [3, 128]}, "which names layer 128, but there are those from 0 to 127"),
        ({"method": "lisa", "layers": 129}, "layers is 129, but there are 128"),
        ({"method": ["layerwise", "lora"], "lora": {"targets": ["q_prj"]}}, "unknown linear layer"),
        ({"method": "dpo", "train_with": {"method": "lora", "targets": ["q_prj"]}}, "unknown linear layer"),
        (
            {"method": "merge", "how": "linear", "experts": {"method": "lora", "targets": ["qkv"], "learn": ["a"]}},
            "unknown linear layer",
        ),
        (
            {
                "method": "merge", "how": "passthrough", "slices": [["a", 0, 100], ["b", 90, 130]],
                "experts": {"method": "lora", "learn": ["a", "b"]},
            },
            "slices asks for layers of b up to 130, but there are 128",
        ),
    ],
)  # fmt: skip
def test_what_a_models_layers_cannot_give(tmp_path: Path, label: dict[str, Any], said: str) -> None:
    """Said when the suite is checked, with its line; not in the middle of a run."""
    known = {name: dataclasses.replace(facts, network=LAYERS) for name, facts in MODELS.items()}
    suite = plan(tmp_path).suite
    path = tmp_path / "s.yaml"
    path.write_text(path.read_text().replace("  lora: {}", f"  odd: {yaml.safe_dump(label, default_flow_style=True)}"))
    with pytest.raises(SuiteError, match=re.escape(said) + r".*\(model m1\)") as caught:
        make_plan(load_suite(path), Facts(known, TASKS))
    assert all(problem.line > 0 for problem in caught.value.problems)
    make_plan(suite, Facts(known, TASKS))


def test_every_targeted_layer_is_one(tmp_path: Path) -> None:
    assert list(LAYERS.unmatched(["q_proj", "layers.0.mlp.up_proj", "lm_head"])) == []
    assert list(LAYERS.unmatched(r".*\.layers\.[01]\..*q_proj")) == []
    assert list(LAYERS.unmatched("all-linear")) == []


# The training settings of the first results. Their digests hold as long as a later setting is left out by default.
FIRST_SETTINGS = {
    "steps", "epochs", "batch_size", "gradient_accumulation", "gradient_checkpointing", "precision", "optimizer",
    "schedule", "warmup", "weight_decay", "max_grad_norm", "max_length", "attention", "eval_every", "early_stopping",
    "eval_batch_size",
}  # fmt: skip


def test_settings_that_came_later_leave_earlier_digests_as_they_were(tmp_path: Path) -> None:
    plain = TrainSettings(steps=4)
    # auto was called sdpa, and is sdpa for every model that has it
    assert plain.identity == {name: getattr(plain, name) for name in FIRST_SETTINGS} | {"attention": "sdpa"}
    assert TrainSettings(steps=4, attention="sdpa").identity == plain.identity
    assert TrainSettings(steps=4, attention="eager").identity["attention"] == "eager"
    digests = [
        [cell.spec_digest for cell in plan(tmp_path, train={"steps": 4, **later}).cells]
        for later in ({}, {"devices": 1, "strategy": "ddp"}, {"devices": 2}, {"devices": 2, "strategy": "fsdp"})
    ]
    assert digests[0] == digests[1]
    base, others = digests[0][0], [set(cells[1:]) for cells in digests[1:]]
    assert all(cells[0] == base for cells in digests)  # what is not trained has no devices
    assert not others[0] & others[1]
    assert not others[1] & others[2]


SPOILT = [{}, {"labels": 0.25}, {"imbalance": 10, "truncate": 0.5}]


def test_data_quality_is_an_axis_of_what_learns_from_examples(tmp_path: Path) -> None:
    one = {"seeds": [0], "tasks": [{"learn": "a", "sizes": [8]}], "methods": {"lora": {}}}
    made = plan(tmp_path, **one, corrupt=SPOILT, select=["balanced", "hard"])
    assert [cell.key for cell in made.cells] == [
        "base/m1/a",
        "lora/m1/a/n8/s0",
        "lora/m1/a/n8/s0/labels0.25",
        "lora/m1/a/n8/s0/imbalance10+truncate0.5",
        "lora/m1/a/n8/s0/hard",
        "lora/m1/a/n8/s0/labels0.25/hard",
        "lora/m1/a/n8/s0/imbalance10+truncate0.5/hard",
    ]
    assert made.cells[5].data == {"corrupt": {"labels": 0.25}, "select": "hard"}
    assert made.cells[0].data == made.cells[1].data == {}
    assert len({cell.spec_digest for cell in made.cells}) == len(made.cells)
    clean = plan(tmp_path, **one)
    assert [cell.spec_digest for cell in clean.cells] == [cell.spec_digest for cell in made.cells[:2]]


def test_experts_learn_from_data_like_that_of_the_cell_that_asks(tmp_path: Path) -> None:
    made = plan(
        tmp_path, methods={"merged": MERGE}, seeds=[0], tasks=[{"learn": "a", "sizes": [8]}], corrupt=SPOILT[:2]
    )
    cells = made.by_digest()
    for cell in made.cells:
        for need in cell.needs.values():
            assert cells[need].data == cell.data
    assert len([cell for cell in made.cells if cell.data]) == 3  # two experts and their merge


def test_what_is_hard_for_an_encoder_a_language_model_says(tmp_path: Path) -> None:
    made = plan(tmp_path, methods={"setfit": {}}, seeds=[0], select=["hard"])
    cell = made.cells[-1]
    assert (cell.model, cell.data["judge"], cell.borrows) == ("minilm-l6", "m1", ("m1",))
    assert cell.fingerprints["model:m1"] == "f-m1"


@pytest.mark.parametrize(
    ("corrupt", "tasks", "said"),
    [
        (
            {"labels": 0.5},
            [{"learn": "words", "sizes": [8]}],
            "labels 0.5: 'words' is generate_until, which has no classes",
        ),
        ({"imbalance": 5}, [{"learn": "words", "sizes": [8]}], "imbalance 5: 'words' is generate_until"),
        ({"labels": 0.05}, [{"learn": "a", "sizes": [8]}], "labels 0.05: of 8 examples of 'a' that is none. Raise it"),
        ({"duplicates": 0.05}, [{"learn": "a", "sizes": [8]}], "duplicates 0.05: of 8 examples of 'a' that is none"),
        (
            {"imbalance": 5},
            [{"learn": "few", "sizes": [8, "all"]}],
            r"imbalance 5: 60 examples of 'few' with seed \d would need 50 of the class '[xy]', which has [24]0",
        ),
    ],
)
def test_data_that_cannot_be_spoilt_so(tmp_path: Path, corrupt: dict[str, Any], tasks: list[Any], said: str) -> None:
    with pytest.raises(SuiteError, match=said) as caught:
        plan(tmp_path, tasks=tasks, corrupt=[{}, corrupt], retain=[])
    lines = (tmp_path / "s.yaml").read_text().splitlines()
    (problem,) = caught.value.problems
    assert lines[problem.line - 1].strip(" -").split(":")[0] in corrupt


def test_fewer_different_examples_may_do_where_some_are_repeated(tmp_path: Path) -> None:
    made = plan(
        tmp_path, tasks=[{"learn": "few", "sizes": ["all"]}], corrupt=[{"imbalance": 2, "duplicates": 0.5}], retain=[]
    )
    assert {cell.n_train for cell in made.cells} == {0, 60}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["lora/m1/a/n8/s1"], ["lora/m1/a/n8/s1"]),
        (["lora/m1/a/n8/s1", "lora/m1/a/n8/s1"], ["lora/m1/a/n8/s1"]),
        (["lora"], ["lora/m1/a/n8/s0", "lora/m1/a/n8/s1", "lora/m1/a/n16/s0", "lora/m1/a/n16/s1"]),
        (["*/n16/s0"], ["full/m1/a/n16/s0", "lora/m1/a/n16/s0"]),
        (["lora/*/s1", "full/m1/a/n8/s0"], ["full/m1/a/n8/s0", "lora/m1/a/n8/s1", "lora/m1/a/n16/s1"]),
        (["base"], []),
    ],
)
def test_some_cells_alone_with_what_they_are_measured_against(
    tmp_path: Path, names: list[str], wanted: list[str]
) -> None:
    whole = plan(tmp_path)
    some = select_cells(whole, names)
    assert [cell.key for cell in some.cells] == ["base/m1/a", *wanted]
    assert all(cell in whole.cells for cell in some.cells)
    asked = [cell.key for cell in some.cells if some.asked(cell)]
    assert asked == (wanted or ["base/m1/a"])
    assert all(whole.asked(cell) for cell in whole.cells)


def test_no_names_are_the_whole_plan(tmp_path: Path) -> None:
    whole = plan(tmp_path)
    assert select_cells(whole, []) is whole


def test_what_a_cell_needs_comes_with_it_and_before_it(tmp_path: Path) -> None:
    merge = {"method": "merge", "how": "linear", "experts": {"method": "lora", "learn": ["a", "b"]}}
    whole = plan(tmp_path, methods={"full": {}, "merged": merge, "after": {"method": "lora", "rank": 2}})
    some = select_cells(whole, ["merged/m1/a/n8/s1"])
    (merged,) = [cell for cell in some.cells if some.asked(cell)]
    assert merged.key == "merged/m1/a/n8/s1"
    places = {cell.spec_digest: place for place, cell in enumerate(some.cells)}
    assert all(places[need] < places[merged.spec_digest] for need in merged.needs.values())
    assert len(some.cells) == 2 + len(merged.needs)  # the base model, the experts, their merge
    assert len(merged.needs) == 2


def test_names_of_no_cell_are_all_said_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        select_cells(plan(tmp_path), ["lora/m1/a/n8/s2", "lroa", "full", "qlora/*"])
    said = str(caught.value).splitlines()
    assert [line.split(" Known")[0] for line in said] == [
        "unknown cell of s 'lora/m1/a/n8/s2'. Did you mean 'lora/m1/a/n8/s1'?",
        "unknown cell of s 'lroa'. Did you mean 'lora'?",
        "unknown cell of s 'qlora/*'. Did you mean 'lora'?",
    ]


def test_a_margin_is_no_part_of_any_cell(tmp_path: Path) -> None:
    assert [cell.spec_digest for cell in plan(tmp_path, margin=0.1).cells] == [
        cell.spec_digest for cell in plan(tmp_path).cells
    ]


def test_a_plan_has_the_commits_of_its_models_from_the_hub() -> None:
    from harness.plan import Plan

    models = {**MODELS, "hf:org/name": ModelFacts("hf:org/name", "f", "/m", revision="0" * 40)}
    plan = Plan(None, Facts(models, TASKS), ())  # type: ignore[arg-type]
    assert plan.revisions() == {"hf:org/name": "0" * 40}
