"""Memory savers as settings: what goes together, what a machine lacks, and that older results keep their digests."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tools import by_label, cell_named, plan_of, run_cells

from harness.architecture import SAMPLE
from harness.errors import SuiteError
from harness.methods import all_methods
from harness.records import NEEDS, TrainSettings, digest
from harness.records.train_settings import LATER
from harness.suite.recipe import Recipe
from harness.suite.train_settings import check_optimizer

SUITES = Path(__file__).parents[2] / "suites"
SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  x: {label}
train: {{steps: 2, batch_size: 4}}
"""


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "lr: 1e-4",
            ":8: unknown key 'lr'. learning_rate belongs to a method: lora: {learning_rate: 1e-4}.",
        ),
        ("rank: 4", "rank belongs to a method: lora: {rank: 4}."),
        ("stepz: 4", "unknown key 'stepz'. Did you mean 'steps'?"),
    ],
)
def test_a_methods_setting_under_train_is_sent_to_the_method(project: Path, key: str, said: str) -> None:
    text = SUITE.format(label="{method: full}").replace("train: {", f"train: {{{key}, ")
    with pytest.raises(SuiteError) as raised:
        plan_of(project, text.replace("  x:", "  lora: {}\n  x:").replace("train:", "\ntrain:").replace("\n\n", "\n"))
    assert said in str(raised.value)


def test_the_sample_network_is_one_that_can_be_counted() -> None:
    assert SAMPLE.is_counted()
    assert len(SAMPLE.linears()) == 7 * len(SAMPLE.layers)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: lora, train: {optimizer: galore}}", "small.yaml:6: label 'x': optimizer galore projects"),
        ("{method: prompt_tuning, train: {optimizer: galore}}", "prompt_tuning trains none"),
        ("{method: setfit, train: {optimizer: galore}}", "setfit trains none"),
        ("{method: full, train: {optimizer: galor}}", "optimizer: got 'galor'"),
        ("{method: full, train: {optimizer: galore, galore_rank: 0}}", "galore_rank"),
        ("{method: full, train: {optimizer: galore, galore_scale: 0}}", "galore_scale"),
        ("{method: full, train: {optimizer: galore, devices: 2, strategy: fsdp}}", "which fsdp divides"),
    ],
)
def test_what_galore_cannot_do_is_said_at_check_time(project: Path, label: str, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan_of(project, SUITE.format(label=label))
    assert said in str(caught.value)


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_compare_galore_at_the_rate_of_the_same_method(path: Path) -> None:
    labels = yaml.safe_load(path.read_text()).get("methods") or {}
    for name, given in labels.items():
        train = (given or {}).get("train", {})
        if train.get("optimizer") == "galore":
            plain = labels[given["method"]] or {}
            rate = given.get("learning_rate", 1.0) * train.get("galore_scale", 0.25)
            assert rate == plain.get("learning_rate", 1.0), name


def test_galore_goes_with_methods_that_train_whole_matrices() -> None:
    train = TrainSettings(optimizer="galore")
    for name in ("full", "layerwise", "base"):
        assert list(check_optimizer(all_methods()[name](), train)) == []
    merge = all_methods()["merge"](experts={"method": "lora", "learn": ["a", "b"]})
    assert any("lora trains none" in message for message in check_optimizer(merge, train))


@pytest.mark.parametrize(("key", "value"), NEEDS)
def test_what_a_machine_lacks_is_the_reason(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, needs_gpu = NEEDS[key, value]
    reason = TrainSettings.model_validate({key: value}).unavailable(gpu=False) or ""
    assert reason.startswith(f"{key} {value} needs a GPU") is needs_gpu
    monkeypatch.setattr("harness.records.train_settings.find_spec", lambda name: None)
    reason = TrainSettings.model_validate({key: value}).unavailable(gpu=True) or ""
    assert ("needs the package" in reason) is bool(packages)
    assert TrainSettings().unavailable(gpu=False) is None


@pytest.mark.process
def test_a_cell_that_cannot_run_is_skipped_before_a_process_is_started(project: Path) -> None:
    text = SUITE.format(label="{method: full, train: {optimizer: paged_adamw8bit}}")
    plan = plan_of(project, text)
    done = run_cells(project, plan)
    if by_label(plan, done)["x"] != "skipped":
        pytest.skip("a GPU is here")
    (folder,) = [
        path.parent for path in project.glob("results/attempts/*/*/result.json") if "paged" in path.read_text()
    ]
    assert "would silently run it unpaged" in (folder / "result.json").read_text()
    assert not (folder / "log.txt").exists()


def test_what_a_trainer_of_its_own_does_not_read_does_not_skip_it(project: Path) -> None:
    cell = cell_named(plan_of(project, SUITE.format(label="{method: full}")), "x/tiny/colours/n8/s0")
    paged = replace(cell, train=cell.train.changed({"optimizer": "paged_adamw"}))
    assert "paged_adamw needs a GPU" in (Recipe.of(paged).skip_cell(paged, gpu=False) or "")
    setfit = replace(paged, method="setfit", settings=all_methods()["setfit"]().settings)
    assert "paged" not in (Recipe.of(setfit).skip_cell(setfit, gpu=False) or "")


def test_later_settings_are_no_part_of_what_older_results_are() -> None:
    plain = TrainSettings(steps=1)
    assert not set(LATER) & set(plain.identity)
    assert plain.changed({"galore_rank": 64}).identity["galore_rank"] == 64
    older = {"learning_rate": 1e-3, "rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear", "rslora": False}
    lora = all_methods()["lora"]
    assert digest(lora().identity) == digest({"quantize": None, **older})
    assert lora(init="pissa").identity["init"] == "pissa"
    assert lora().settings["init"] == "default"
