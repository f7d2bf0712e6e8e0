"""The contract of architectures: every method trains and scores on every family, or planning refuses it with a reason.

Here each family meets representatives of the methods, without a cell around them; `make test-all` runs every method of
`harness/methods` on every family as cells, from a suite to a result (`matrix.py` prints the same as a table).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from architectures.families import FAMILIES, make_family
from architectures.matrix import LABELS, outcomes, project_of
from harness.architecture import Network, decoder_layers, layer_parts, read_network
from harness.data.catalog import keep_structure, read_structure
from harness.methods import Method, all_methods
from harness.models.loading import load_model, load_tokenizer, structure_of
from harness.records import TrainSettings
from harness.worker.evaluate import TunedLM

REPRESENTATIVES: dict[str, dict[str, Any]] = {
    "full": {},
    "layerwise": {},
    "layernorm": {},
    "bitfit": {},
    "hft": {},
    "lisa": {},
    "adapter": {},
    "prefix_tuning": {"virtual_tokens": 4},
    "prompt_tuning": {"init": "random", "virtual_tokens": 4},
    "ia3": {},
    "lora": {},
    "dora": {},
    "vera": {"rank": 8},
    "oft": {"method": "peft", "type": "oft", "config": {"target_modules": "all-linear", "oft_block_size": 4}},
}
# What is refused, and a part of the reason; everything else must work.
REFUSED = {
    ("mixtral", "dora"): "stacked into one tensor",
    ("mixtral", "ia3"): "stacked into one tensor",
    ("gpt2", "oft"): "transposed layers",
    ("mamba", "ia3"): "cannot be found in mamba",
    ("mamba", "prefix_tuning"): "layers without attention",
    ("mamba", "prompt_tuning"): "wants a model with attention",
    **{("mamba", label): "targets: [in_proj, x_proj]" for label in ("lora", "dora", "vera", "oft")},
}


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a family's tiny model, with its structure cached, by its name; each is made once."""
    root = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBENCH_CACHE", str(root / "cache"))

        @cache
        def made(family: str) -> Path:
            folder = make_family(family, tiny_model, root / family)
            keep_structure(folder, structure_of(family, folder))
            return folder

        yield made


def network_of(folder: Path) -> Network:
    network = read_network(folder, read_structure(folder))
    assert network is not None
    assert network.structure is not None
    return network


def make(label: str) -> Method:
    settings = dict(REPRESENTATIVES[label])
    return all_methods()[settings.pop("method", label)](**settings)


QUICK = ("hft", "adapter", "ia3", "lora", "prompt_tuning")  # between them, every way of finding parts


@pytest.mark.parametrize(
    "label", [label if label in QUICK else pytest.param(label, marks=pytest.mark.slow) for label in REPRESENTATIVES]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_trains_and_scores_or_is_refused(family: str, label: str, folders: Any) -> None:
    folder, method = folders(family), make(label)
    network = network_of(folder)
    reasons = list(method.misfits(network))
    if (family, label) in REFUSED:
        assert any(REFUSED[family, label] in reason for reason in reasons), reasons
        return
    assert reasons == []
    model = method.attach(load_model(folder, TrainSettings()))
    method.before_training(model, 1, 0)
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    footprint = method.footprint(network)
    if footprint is not None and label not in ("hft", "lisa"):  # of which a part is trained at a time
        assert sorted(map(tuple, footprint.trained.values())) == sorted(tuple(v.shape) for v in trained.values())
    step(model, trained)
    scored(model, folder)


def step(model: Any, trained: dict[str, torch.Tensor]) -> None:
    """One optimiser step, after which something trained has moved, and nothing else."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    ids = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
    model.train()
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -5:-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0).step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert moved <= trained.keys()


def scored(model: Any, folder: Path) -> None:
    """Log-likelihoods of answers and of running text, and a written answer."""
    lm = TunedLM(model.eval(), load_tokenizer(folder), 4)
    pairs = [("Ada likes", " the sky"), ("Ben sees the red", " rose")]
    values = [value for value, _ in lm.loglikelihood([SimpleNamespace(args=pair) for pair in pairs])]
    lm.quiet = True
    values += lm.loglikelihood_rolling([SimpleNamespace(args=("Cleo draws the moss",))], disable_tqdm=True)
    assert all(value < 0 for value in values)
    options = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
    assert len(lm.generate_until([SimpleNamespace(args=(pair[0], options)) for pair in pairs], True)) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_structure_is_read_without_weights_as_with_them(family: str, folders: Any) -> None:
    from harness.architecture import describe

    assert describe(load_model(folders(family), TrainSettings())) == network_of(folders(family)).structure


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_their_parts_are_found(family: str, folders: Any) -> None:
    model = load_model(folders(family), TrainSettings())
    assert len(decoder_layers(model)) == 2
    for parts in layer_parts(model):
        assert parts.attends is (family != "mamba")
        assert parts.mixing is not None
        assert bool(parts.feeding) is (family != "mamba")
        assert parts.norms
    network = network_of(folders(family))
    assert network.final_norm
    assert network.embedding
    assert {name for layer in network.layers for name in layer.values()} <= network.weights.keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_runs_as_a_cell_or_is_refused(
    family: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TUNEBENCH_CACHE": "cache", "HF_DATASETS_CACHE": "hf", "TUNEBENCH_TRUST": "trust.yaml"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    project = project_of(tmp_path / "project", tiny_model)
    monkeypatch.chdir(project)
    model = make_family(family, tiny_model, tmp_path / "models" / family)
    ended = outcomes(project, model, LABELS, tmp_path / "work")
    assert {label: said for label, said in ended.items() if said != "ok" and not said.startswith("- ")} == {}


def test_every_method_is_in_the_matrix() -> None:
    named = {settings.get("method", label) for label, settings in LABELS.items()}
    others = {"setfit", "rag", "classifier"}  # with an encoder of their own
    assert set(all_methods()) - named - others == set()
