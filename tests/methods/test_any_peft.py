"""Every type of adapter in the installed peft, held against its own registry, on the tiny model.

What harness/methods/any_peft.py writes down about types must be true of the library as it is.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model
from tools import plan_of
from transformers import AutoModelForCausalLM

from harness.errors import SuiteError
from harness.methods import Method, all_methods
from harness.methods.any_peft import NEEDED, SEED, TORCHS_OWN, UNFIT, UNPACKED, is_prompt, keys, types
from harness.models.loading import load_model
from harness.records import TrainSettings

IDS = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
# What a type needs on so small a model, or always; the rest runs on peft's own defaults.
SMALL: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": 100},
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 1},
    "c3a": {"block_size": 16},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "trainable_tokens": {"token_indices": [5, 6, 7, 8, 9, 15, 16, 17, 18, 19]},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 64},
    "xlora": {"hidden_size": 64},
}
FIT = [name for name in types() if name not in UNFIT]


def make(name: str, **settings: Any) -> Method:
    prompt = {"num_virtual_tokens": 4} if is_prompt(name) and name != "cpt" else {}
    return all_methods()["peft"](type=name, config={**prompt, **SMALL.get(name, {})}, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peft") / "tiny"
    make_model(path)
    return path


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits[:, -IDS.shape[1] :]


def loss_of(model: Any) -> torch.Tensor:
    """On two made-up answers."""
    return torch.nn.functional.cross_entropy(logits(model)[:, -1], torch.tensor([20, 30]))


def teach(model: Any, steps: int = 4) -> tuple[float, float]:
    """Losses before and after, without what is drawn at random in training."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=2e-2)
    before = float(loss_of(model.eval()).detach())
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return before, float(loss_of(model.eval()).detach())


def test_the_registry_is_listed_whole() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    listed = all_methods()["peft"].variants()
    assert set(listed) == {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert "r" in listed["oft"]["settings"]
    assert listed["oft"]["paper"] == "arXiv:2306.07280"
    assert "task_type" not in listed["oft"]["settings"]


def sampled(names: list[str]) -> list[Any]:
    """Every fifth type in `make test`, the others in `make test-all`: each takes seconds."""
    return [pytest.param(name, marks=[pytest.mark.slow] if place % 5 else []) for place, name in enumerate(names)]


@pytest.mark.parametrize("name", sampled(FIT))
def test_a_type_does_what_is_said_of_it(name: str, folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    method = make(name)
    assert list(method.problems()) == []
    torch.manual_seed(0)
    model = method.attach(tiny(folder)).eval()
    with torch.no_grad():
        same = torch.allclose(logits(model), logits(tiny(folder)), atol=1e-6)
    assert same is not bool(method.starts_at_base), method.starts_at_base
    before, after = teach(model)
    assert after < before
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".md"}
    restored = PeftModel.from_pretrained(tiny(folder), tmp_path).eval()
    with torch.no_grad():
        trained = logits(model)
        assert torch.equal(logits(restored), trained)
        if method.foldable:
            folded = method.fold(restored)
            assert torch.allclose(logits(folded), trained, atol=1e-4)
            assert type(folded).__name__ == "LlamaForCausalLM"
            return
    with pytest.raises((NotImplementedError, AttributeError, ValueError)):
        method.fold(restored).merge_and_unload()


SEEDED = sorted(
    (name, key) for name in FIT for key in keys(name) if SEED.search(key) and key not in TORCHS_OWN
)  # fmt: skip


def test_types_with_random_parts_of_their_own_are_found() -> None:
    assert {"fourierft", "randlora", "shira", "tinylora", "vera"} <= {name for name, _ in SEEDED}


@pytest.mark.parametrize(("name", "key"), SEEDED)
def test_the_seed_moves_what_a_type_draws(name: str, key: str, folder: Path) -> None:
    def drawn(seed: int, **config: Any) -> tuple[int, dict[str, torch.Tensor]]:
        torch.manual_seed(seed)
        method = all_methods()["peft"](**{**make(name).settings, "config": {**make(name).config, **config}})
        model = method.attach(tiny(folder))
        kept = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        return getattr(model.peft_config["default"], key), kept

    (first, one), (same, again), (second, other) = drawn(3), drawn(3), drawn(4)
    assert (first, same, second) == (3, 3, 4)
    assert all(torch.equal(value, again[at]) for at, value in one.items())
    if name in ("randlora", "vera", "pvera"):
        assert not all(torch.equal(value, other[at]) for at, value in one.items())
    assert drawn(3, **{key: 5})[0] == 5  # the suite's own


@pytest.mark.parametrize("name", sampled([name for name in FIT if not is_prompt(name)]))
def test_a_quantised_base_goes_with_it_or_is_refused(name: str, folder: Path) -> None:
    method = make(name, quantize="nf4")
    refused = any("with the weights themselves" in problem for problem in method.problems())
    assert refused is (name in UNPACKED)
    try:
        model = method.attach(load_model(folder, TrainSettings(precision="fp32", attention="sdpa"), "nf4"))
        before, after = teach(model, steps=3)
        learns = after < before - 1e-4
    except (RuntimeError, TypeError, ValueError):
        learns = False
    assert learns is not refused


@pytest.mark.parametrize("name", sorted(UNFIT))
def test_an_unfit_type_is_refused_and_still_unfit(name: str, folder: Path) -> None:
    assert any(UNFIT[name] in problem for problem in make(name).problems())
    if name == "adalora":  # it runs, but its ranks would never be shared out
        assert "total_step" in keys(name)
        return
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        teach(make(name).attach(tiny(folder)))


@pytest.mark.parametrize("name", [*NEEDED, "prefix_tuning", "cartridge"])
def test_a_key_without_a_default_is_asked_for(name: str, folder: Path) -> None:
    method = all_methods()["peft"](type=name)
    assert any(f"config of {name} needs" in problem for problem in method.problems())
    with pytest.raises((TypeError, RuntimeError)):
        logits(method.attach(tiny(folder)))


SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  x: {{method: peft, {settings}}}
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("learning_rate: 1e-3", "small.yaml:6: label 'x': type is missing"),
        ("type: offt", "unknown type of adapter in the installed peft 'offt'. Did you mean 'oft'?"),
        ("type: oft, config: {rang: 8}", "unknown key of peft's oft 'rang'"),
        ("type: oft, config: {block_shar: true}", "Did you mean 'block_share'?"),
        ("type: oft, config: {task_type: CAUSAL_LM}", "unknown key of peft's oft 'task_type'"),
        ("type: loha, config: {r: many}", "config of loha: r is 'many': Input should be a valid integer"),
        ("type: oft, config: {r: 8, oft_block_size: 8}", "config of oft: "),
        ("type: hra, quantize: nf4", "hra computes with the weights themselves"),
        ("type: xlora", "peft's xlora cannot be used here"),
    ],
)
def test_mistakes_are_found_at_check_time(project: Path, settings: str, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan_of(project, SUITE.format(settings=settings))
    assert said in str(caught.value)


def test_numbers_in_text_are_numbers(folder: Path) -> None:
    method = all_methods()["peft"](type="oft", config={"eps": "6e-5", "r": "4", "oft_block_size": 0})
    assert list(method.problems()) == []
    config = method.attach(tiny(folder)).peft_config["default"]
    assert (config.eps, config.r) == (6e-5, 4)
