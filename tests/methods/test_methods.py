"""One contract for every method found in harness/methods, on the tiny model."""

import ast
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import check_description, check_quantized
from tiny import make_project
from tools import cell_named, context_of, plan_of, run_here, training_of
from transformers import AutoModelForCausalLM, set_seed

from harness import methods
from harness.architecture import read_network
from harness.methods import Method, all_methods
from harness.records import TrainSettings
from harness.worker.context import CellContext

METHODS = sorted(all_methods())
# What a method cannot do without; everything else runs on its defaults.
EXPERTS = {"experts": {"method": "lora", "learn": ["colours", "names"]}}
NEEDED: dict[str, dict[str, Any]] = {
    "merge": EXPERTS,
    "adapter_merge": EXPERTS,
    "peft": {"type": "oft", "config": {"target_modules": "all-linear"}},
}
# What every cell takes, whatever its method: the model, its weights, and scoring.
EVERY_CELLS = {"harness", "torch", "transformers", "safetensors", "lm_eval", "pydantic"}
# Methods of which only another library knows what they train: their memory is not predicted.
UNCOUNTED = {"peft"}
SAVED = {".safetensors", ".json", ".jinja", ".txt", ".md"}  # weights and text, nothing pickled


def make(name: str, **settings: Any) -> Method:
    return all_methods()[name](**{**NEEDED.get(name, {}), **settings})


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("name", METHODS)
def test_it_describes_itself(name: str) -> None:
    assert all_methods()[name].name == name
    check_description(all_methods()[name])


@pytest.mark.parametrize("quantize", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("name", METHODS)
def test_on_packed_weights_it_trains_or_is_refused(name: str, quantize: str, tiny_model: Path) -> None:
    check_quantized(make(name, quantize=quantize), tiny_model)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_whole_and_defaults_sound(name: str) -> None:
    method = make(name)
    assert list(method.mistakes()) == []
    assert all_methods()[name](**method.settings).settings == method.settings
    with pytest.raises(ValueError, match="unknown setting"):
        make(name, no_such_setting=1)


@pytest.mark.parametrize("path", sorted(Path(methods.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_packages_are_those_that_its_file_imports(path: Path) -> None:
    """Beside those of every cell, and those that a package which is named installs itself."""
    found = {
        module.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        for module in (
            [node.module or ""] if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        )
    } - set(sys.stdlib_module_names) - EVERY_CELLS  # fmt: skip
    here = [kind for kind in all_methods().values() if kind.__module__ == f"harness.methods.{path.stem}"]
    named = {name for kind in here for name in kind.packages}
    if not here:  # what methods share, and their base, which a method that needs a package names itself
        return
    assert named <= found
    brought = {
        re.split(r"[^\w-]", wanted)[0].lower().replace("-", "_").replace("scikit_learn", "sklearn")
        for name in named
        for wanted in requires(packages_distributions()[name][0]) or ()
    }
    # bitsandbytes comes with `quantize`, of whatever method
    assert found - named - brought <= {"bitsandbytes"}


# --- trained once, in this process, and looked at from every side ---

# Settings with which a random model of two layers moves within a few steps; a method's own defaults otherwise.
ON_TINY: dict[str, dict[str, Any]] = {
    **{name: {"learning_rate": 1e-2} for name in ("full", "layerwise", "lora", "dora", "qlora")},
    **{name: {"learning_rate": 2e-2} for name in ("adalora", "peft", "vera")},
    "prompt_tuning": {"init": "random"},  # the length of a text depends on the tokenizer
}
TRAINED = [
    name
    for name in METHODS
    if all_methods()[name].trains and all_methods()[name].is_language_model and not all_methods()[name].own_trainer
]
CELL = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  x: {label}
train: {{steps: 12, batch_size: 8, warmup: 0.0, schedule: constant}}
"""
IDS = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])


@dataclass
class Course:
    """A method's way from the base model to a saved result, on eight examples that fit into one batch."""

    work: CellContext
    method: Method
    base: torch.Tensor  # logits
    untrained: torch.Tensor
    trained: torch.Tensor
    before: dict[str, torch.Tensor]  # every parameter of the attached model
    trainable: set[str]
    model: Any
    losses: list[float]
    saved: Path


def logits_of(model: Any) -> torch.Tensor:
    """Of the last places, so that what stands before them (a prompt) is not compared."""
    with torch.no_grad():
        return model(input_ids=IDS.to(next(model.parameters()).device)).logits[:, -IDS.shape[1] :].float()


def course(name: str, project: Path, folder: Path) -> Course:
    settings = {"method": name, **NEEDED.get(name, {}), **ON_TINY.get(name, {})}
    plan = plan_of(project, CELL.format(label=json.dumps(settings)))
    work = context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), folder)
    set_seed(work.seed)
    method, base = work.method, work.method.load(work)
    plain = logits_of(base)
    model = method.attach(base)
    training_of(work).encode_stages(model)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    trainable = {key for key, value in model.named_parameters() if value.requires_grad}
    untrained = logits_of(model.eval())
    model = method.fit(model, work)
    losses = [step.loss for step in training_of(work).recorder.steps if step.split == "train"]
    method.save(model, folder / "weights")
    return Course(
        work, method, plain, untrained, logits_of(model), before, trainable, model, losses, folder / "weights"
    )


@pytest.fixture(scope="module")
def courses(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Course]]:
    """A method's course by its name; each is done once."""
    root = tmp_path_factory.mktemp("contract")
    make_project(root / "project", tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBENCH_CACHE", str(root / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(root / "hf-datasets"))
        yield cache(lambda name: course(name, root / "project", root / "attempts" / name))


@pytest.mark.parametrize("name", TRAINED)
def test_only_what_is_declared_moves(name: str, courses: Callable[[str], Course]) -> None:
    done = courses(name)
    assert done.trainable
    after = dict(done.model.named_parameters())
    moved = {key for key, value in done.before.items() if not torch.equal(value, after[key])}
    assert moved <= done.trainable
    assert moved


@pytest.mark.parametrize("name", TRAINED)
def test_untrained_it_is_the_base_model_or_says_why_not(name: str, courses: Callable[[str], Course]) -> None:
    done = courses(name)
    same = torch.allclose(done.untrained, done.base, rtol=0, atol=1e-6)
    assert same is not bool(done.method.starts_at_base), done.method.starts_at_base


@pytest.mark.parametrize("name", TRAINED)
def test_its_loss_falls_on_what_can_be_memorised(name: str, courses: Callable[[str], Course]) -> None:
    losses = courses(name).losses
    assert len(losses) == 12
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", TRAINED)
def test_what_it_saves_is_restored_bit_for_bit(name: str, courses: Callable[[str], Course]) -> None:
    done = courses(name)
    assert {path.suffix for path in done.saved.rglob("*") if path.is_file()} <= SAVED
    restored = done.method.restore(done.work, done.saved)
    assert torch.equal(logits_of(restored), done.trained)


@pytest.mark.parametrize("name", TRAINED)
def test_it_ships_a_whole_model_or_says_that_the_base_is_one_of_its_parts(
    name: str, courses: Callable[[str], Course]
) -> None:
    from safetensors import safe_open

    done = courses(name)
    saved: set[str] = set()
    for path in done.saved.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            saved |= set(file.keys())
    layers = {f"model.layers.{number}.mlp.up_proj.weight" for number in range(2)}
    assert (layers <= saved) is ("base model" not in done.method.serves), done.method.serves


@pytest.mark.parametrize("name", TRAINED)
def test_its_parameters_are_counted_as_its_footprint_says(name: str, courses: Callable[[str], Course]) -> None:
    done = courses(name)
    network = read_network(done.work.base)
    assert network is not None
    footprint = done.method.footprint(network)
    if name in UNCOUNTED:
        assert footprint is None
        return
    if footprint is None or done.method.footprint.__func__ is Method.footprint:
        pytest.fail(f"{name} says nothing of its footprint")
    counted = sum(done.before[key].numel() for key in done.trainable)  # a result may hold more, or fewer
    assert sum(math.prod(shape) for shape in footprint.trained.values()) == counted


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_result(name: str, courses: Callable[[str], Course], tmp_path: Path) -> None:
    first = courses(name)
    again = course(name, first.saved.parents[2] / "project", tmp_path / "again")
    assert again.losses == first.losses
    assert torch.equal(again.trained, first.trained)


# Rounding a folded weight to 4 bits again moves it.
@pytest.mark.parametrize("name", [name for name in TRAINED if make(name).foldable and not make(name).quantize])
def test_folded_it_gives_the_same_logits(name: str, courses: Callable[[str], Course]) -> None:
    done = courses(name)
    folded = done.method.fold(done.method.restore(done.work, done.saved))
    assert torch.allclose(logits_of(folded), done.trained, rtol=0, atol=1e-4)
    assert {key for key, _ in folded.named_parameters()} == {key for key, _ in tiny(done.work.base).named_parameters()}


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_explained(name: str) -> None:
    kind = all_methods()[name]
    told = " ".join(base.__doc__ or "" for base in kind.__mro__ if issubclass(base, Method))
    assert [key for key in kind.fields() if f"`{key}`" not in told] == []


# --- as a cell, from suite to saved weights ---

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
retain: [prose]
methods:
  x: {settings}
train: {{steps: 2, batch_size: 4}}
"""
AS_CELLS = {
    "full": "{method: full, learning_rate: 1e-2}",
    "layerwise": "{method: layerwise, layers: 1, learning_rate: 1e-2}",
    "lora": "{method: lora, learning_rate: 1e-2}",
    "dora": "{method: dora, learning_rate: 1e-2}",
    "qlora": "{method: qlora, learning_rate: 1e-2}",
    "prompt_tuning": "{method: prompt_tuning, init_text: 'the colour is'}",
}


def reload(name: str, base: Path, weights: Path) -> Any:
    """The saved result, loaded by transformers and peft alone."""
    if (weights / "adapter_config.json").exists():
        from peft import PeftModel

        from harness.models.loading import load_model

        quantize = make(name).quantize
        return PeftModel.from_pretrained(
            load_model(base, TrainSettings(precision="auto", attention="sdpa"), quantize), weights
        )
    if (weights / "trained.safetensors").exists():  # what was changed, by the base model's own names
        from safetensors.torch import load_file

        model = tiny(base)
        assert not model.load_state_dict(load_file(weights / "trained.safetensors"), strict=False).unexpected_keys
        return model
    return tiny(weights)


@pytest.mark.parametrize("name", sorted(AS_CELLS))
def test_its_saved_weights_score_as_stored(name: str, project: Path, tiny_model: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    plan = plan_of(project, SUITE.format(settings=AS_CELLS[name]))
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "results" / "attempts" / "a")
    assert result.status == "done", result.reason
    check = set() if name == "prompt_tuning" else {"check"}
    phases = {phase.phase for phase in result.phases}
    assert phases == {"load", "train", "evaluate", "compare", "infer", "save"} | check
    facts = {fact.name: fact.value for fact in result.facts}
    assert 0 < facts["trainable_params"] <= facts["total_params"]
    assert facts["artifact_bytes"] > 0
    model = reload(name, tiny_model, tmp_path / "results" / "attempts" / "a" / "weights").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    documents = {
        row["doc_id"]: row["text"]
        for f in (tmp_path / "results" / "documents").iterdir()
        for row in pq.read_table(f).to_pylist()
    }
    items = pq.read_table(tmp_path / "results" / "attempts" / "a" / "items.parquet").to_pylist()
    stored = [item for item in items if item["task"] == "colours" and item["metric"] == "log_likelihood"]
    assert len(stored) == 90
    for item in stored[:12]:
        context = tokenizer(documents[item["doc_id"]], return_tensors="pt")["input_ids"]
        whole = tokenizer(documents[item["doc_id"]] + " " + item["prediction"], return_tensors="pt")["input_ids"]
        answer = whole[0, context.shape[1] :]
        with torch.no_grad():
            logs = model(input_ids=whole).logits.log_softmax(-1)[0, -len(answer) - 1 : -1]
        assert float(logs.gather(1, answer[:, None]).sum()) == pytest.approx(item["value"], rel=1e-5)


def test_prompt_text_is_never_cut(tiny_model: Path) -> None:
    method = make("prompt_tuning", init_text="a text that is longer than this", virtual_tokens=2)
    with pytest.raises(ValueError, match="virtual_tokens is 2: the text would be cut"):
        method.attach(tiny(tiny_model))


def test_prompt_is_as_long_as_its_text(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    text = "the colour is"
    model = make("prompt_tuning", init_text=text).attach(tiny(tiny_model))
    tokens = AutoTokenizer.from_pretrained(tiny_model)(text)["input_ids"]
    assert model.peft_config["default"].num_virtual_tokens == len(tokens)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("layerwise", {"layers": 1, "fraction": 0.5}, "layers and fraction are both given"),
        ("layerwise", {"fraction": 1.5}, "fraction is 1.5"),
        ("layerwise", {"layer_decay": 0.0}, "layer_decay is 0.0"),
        ("layerwise", {"quantize": "nf4"}, "cannot train nf4 weights"),
        ("lora", {"dropout": 1.0}, "dropout is 1.0"),
        ("prompt_tuning", {"init_text": " "}, "init_text is empty"),
        ("prompt_tuning", {"virtual_tokens": 0}, "virtual_tokens is 0"),
        ("setfit", {"pairs": 0}, "pairs is 0"),
    ],
)
def test_settings_that_cannot_be(name: str, settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in make(name, **settings).mistakes())


def test_more_layers_than_there_are(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="layers is 3, but the model has 2"):
        make("layerwise", layers=3).attach(tiny(tiny_model))
