"""Suites that name models and tasks of the Hub are checked and planned where nothing is fetched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import tunebench

from harness.architecture import Structure
from harness.cli.options import suite_name
from harness.cli.reproduce import suite_named
from harness.data.catalog import load_catalog
from harness.data.descriptions import FOLDER, folded, read_description, unfolded
from harness.suite.load import find_suite, load_suite, suite_files

ROOT = Path(__file__).parents[2]
SUITES = ["gpu/forgetting", "gpu/instruction", "gpu/peft-vs-full"]
MODELS = sorted(path.stem for path in (ROOT / FOLDER / "models").glob("*.json"))
TASKS = sorted(path.stem for path in (ROOT / FOLDER / "tasks").glob("*.json"))
TWO = Structure(
    {f"m.{n}.q.weight": (4, 4) for n in range(2)} | {"head.weight": (9, 4)},
    {f"m.{n}.q": "linear" for n in range(2)} | {"head": "linear"},
    "m", attends=(True, True), mixing=(("m.0.q",), ("m.1.q",)), feeding=((), ()),
    last=({"mixing": "m.0.q"}, {"mixing": "m.1.q"}),
)  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_the_suites_for_gpus_are_checked_and_planned_offline(shipped_suites: Path, name: str) -> None:
    assert "no mistakes found" in tunebench("check", name).stdout
    planned = tunebench("plan", name, "--json", "--memory", "80GiB")
    assert planned.returncode == 0, planned.stderr
    told = json.loads(planned.stdout)
    suite = load_suite(find_suite(name, shipped_suites))
    assert {row["key"].split("/")[1] for row in told["cells"]} == {*suite.models}
    assert set(told["not_fetched"]) >= {*suite.models, *(task for task, _ in suite.tasks), *suite.retain}
    trained = [row for row in told["cells"] if row["method"] in ("full", "lora", "qlora")]
    plain = [row for row in trained if row["key"].split("/")[0] not in ("l2sp", "ewc")]
    assert all(row["memory"]["peak"] > row["memory"]["weights"] for row in plain)
    assert all(row["memory"]["scoring"] == 0 for row in plain), "lengths of scored texts are not known"
    assert all(row["seconds"] is None for row in told["cells"]), "nor is the time"
    assert told["outlook"] or name == "gpu/instruction", (
        "which differences the items can show follows from their number"
    )


def test_what_is_not_known_is_said(shipped_suites: Path) -> None:
    said = tunebench("plan", "gpu/instruction", "--memory", "8GiB").stdout
    assert "not fetched, known from published descriptions: dolly, gsm8k" in said
    assert "at most: texts of max_length tokens throughout" in said
    assert "not known before `tunebench fetch gpu/instruction`" in said
    assert "cannot run: full/smollm2-1.7b-base" in said, "weights and their moments alone are more than that"
    assert "cannot run: full/smollm2-360m-base" not in said, "a bound rules nothing out"


def test_a_suite_in_a_folder_has_results_of_its_own(shipped_suites: Path) -> None:
    assert {*SUITES, "forgetting", "peft-vs-full"} <= suite_files(shipped_suites).keys()
    assert load_suite(find_suite("gpu/forgetting", shipped_suites)).name == "gpu-forgetting"
    assert find_suite("gpu-forgetting", shipped_suites) == ROOT / "suites" / "gpu" / "forgetting.yaml"
    assert load_suite(find_suite("forgetting", shipped_suites)).name == "forgetting"
    for text in ("gpu/forgetting", "gpu-forgetting", str(ROOT / "suites" / "gpu" / "forgetting.yaml")):
        assert suite_name(text) == "gpu-forgetting"
    assert suite_name("suites/forgetting.yaml") == suite_name("forgetting") == "forgetting"
    assert suite_named("tunebench run gpu/forgetting", "gpu-forgetting") == "gpu/forgetting"


def test_a_projects_own_task_is_not_described(shipped_suites: Path) -> None:
    catalog = load_catalog(shipped_suites)
    assert catalog.described_task("gsm8k") is not None
    assert catalog.described_task("bbc-topic") is None
    assert catalog.described_model("hf:HuggingFaceTB/SmolLM2-360M@main") is not None
    assert catalog.described_model("hf:HuggingFaceTB/another") is None
    own = replace(catalog, tasks={**catalog.tasks, "gsm8k": shipped_suites / "suites" / "tasks" / "gsm8k.yaml"})
    assert own.described_task("gsm8k") is None


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_described_as_its_yaml_says(name: str) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    told = read_description(ROOT / FOLDER / "tasks" / f"{name}.json")
    assert told is not None
    config = load_yaml(load_catalog(ROOT).task_path(name), resolve_func=False)
    assert (told["output_type"], told["metric"]) == (config["output_type"], config["metric_list"][0]["metric"])
    assert bool(told["n_train"]) == bool(config.get("training_split"))
    source = (config.get("dataset_kwargs") or {}).get("source", "").removeprefix("hf:")
    assert told["data"] == (source or config["dataset_path"])
    assert told["n_test"] > 0
    assert told["licence"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_described_as_the_list_of_models_says(name: str) -> None:
    entry = load_catalog(ROOT).model(name)
    facts = load_catalog(ROOT).described_model(name)
    assert facts is not None
    assert facts.network is not None
    assert facts.network.parameters() == entry.parameters
    assert facts.network.is_counted()
    assert facts.network.layers


def test_layers_are_folded_only_where_they_are_alike() -> None:
    assert unfolded(folded(TWO)) == TWO
    assert len(folded(TWO)["weights"]) == 2
    other = replace(TWO, weights={**TWO.weights, "m.1.q.weight": (4, 5)})
    with pytest.raises(ValueError, match="differ from each other"):
        folded(other)


@pytest.mark.slow
def test_descriptions_are_what_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("describe", ROOT / "benchmarks" / "describe.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written: dict[Path, object] = {}
    monkeypatch.setattr(script, "write", lambda path, content: written.update({path.relative_to(ROOT): content}))
    script.main()
    assert {path.stem for path in written} == {*MODELS, *TASKS}
    for path, content in written.items():
        assert json.loads((ROOT / path).read_text()) == json.loads(json.dumps(content)), path
