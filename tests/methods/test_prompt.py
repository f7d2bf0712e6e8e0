"""Prompts and prefixes: where they start, and that items of one batch do not see each other through them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tools import cell_named, plan_of, run_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import SuiteError
from harness.methods import Method, all_methods
from harness.worker.answer_loss import answer_loss
from harness.worker.evaluate import TunedLM
from harness.worker.train import Collator

KINDS = {"prompt_tuning": {"init": "random"}, "p_tuning": {}, "prefix_tuning": {}}
kinds = pytest.mark.parametrize("name", sorted(KINDS))


def make(name: str, **settings: Any) -> Method:
    return all_methods()[name](**settings)


def tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def loud(tiny_model: Path) -> Any:
    """The tiny model with weights so large that what it says hangs on everything it reads."""
    model = tiny(tiny_model)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(4)
    return model


def attached(name: str, model: Any) -> Any:
    torch.manual_seed(0)
    return make(name, **KINDS[name]).attach(model).eval()


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, 0) for one in arguments]


CONTEXTS = ["Text: Ada likes the rose and so on and on\nColour:", "Text: Ben", "Text: Cleo sees the sky\nColour:"]


@kinds
def test_items_of_a_batch_are_scored_as_alone(name: str, loud: Any, tiny_model: Path) -> None:
    lm = TunedLM(attached(name, loud), AutoTokenizer.from_pretrained(tiny_model), 8)
    pairs = [(context, word) for context in CONTEXTS for word in (" red", " blue and red")]
    together = lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    for pair, (value, greedy) in zip(pairs, together, strict=True):
        ((alone, same),) = lm.loglikelihood(requests("loglikelihood", [pair]), disable_tqdm=True)
        assert value == pytest.approx(alone, rel=1e-5)
        assert greedy is same


@kinds
def test_items_of_a_batch_are_answered_as_alone(name: str, loud: Any, tiny_model: Path) -> None:
    """Generated text is padded on the left: neither the prompt's distance nor positions may hang on it."""
    model, tokenizer = attached(name, loud), AutoTokenizer.from_pretrained(tiny_model)
    lm = TunedLM(model, tokenizer, 8)
    options = {"until": ["@"], "max_gen_toks": 6, "do_sample": False}
    together = lm.generate_until(requests("generate_until", [(c, options) for c in CONTEXTS]), disable_tqdm=True)
    assert len(set(together)) == len(CONTEXTS)
    for context, answer in zip(CONTEXTS, together, strict=True):
        ids = tokenizer(context, return_tensors="pt")["input_ids"]
        length = ids.shape[1]
        while ids.shape[1] < length + 6 and ids[0, -1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert answer == tokenizer.decode(ids[0, length:], skip_special_tokens=True)


@kinds
def test_a_neighbour_in_training_moves_no_loss(name: str, loud: Any) -> None:
    model = attached(name, loud)
    short = {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}
    others = [{"input_ids": [token] * length, "labels": [-100] * length} for token, length in ((9, 3), (11, 12))]
    with torch.no_grad():
        losses = [
            float(answer_loss(model, batch["input_ids"], batch["labels"], batch["attention_mask"])[0])
            for batch in (Collator(0)([short, *more]) for more in ([], others[:1], others))
        ]
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-5)


def test_a_prefix_of_words_is_what_those_words_leave_in_every_layer(tiny_model: Path) -> None:
    """Keys and values of a text: then a text after the prefix is read as after those words."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    words = tokenizer("Ada likes")["input_ids"]
    model = make("prefix_tuning", init_text="Ada likes", virtual_tokens=len(words)).attach(tiny(tiny_model)).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        after = tiny(tiny_model)(input_ids=torch.tensor([[*words, 5, 6, 7]])).logits[:, -3:]
        assert torch.allclose(model(input_ids=ids).logits, after, atol=1e-5)


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_an_untrained_p_tuning_encoder_gives_the_embeddings_of_its_text(encoder: str, tiny_model: Path) -> None:
    words = AutoTokenizer.from_pretrained(tiny_model)("Ada likes")["input_ids"]
    method = make("p_tuning", encoder=encoder, init_text="Ada likes", virtual_tokens=len(words) + 1)
    model = method.attach(tiny(tiny_model)).eval()
    with torch.no_grad():
        after = tiny(tiny_model)(input_ids=torch.tensor([[*words, words[0], 5, 6, 7]])).logits[:, -3:]
        assert torch.allclose(model(input_ids=torch.tensor([[5, 6, 7]])).logits[:, -3:], after, atol=1e-4)
    assert all(value.requires_grad for value in model.prompt_encoder.parameters())


@pytest.mark.parametrize("settings", [{}, {"init": "words"}, {"init": "random"}, {"virtual_tokens": 70}])
def test_a_prefix_has_its_length_whatever_its_start(settings: dict[str, Any], tiny_model: Path) -> None:
    from harness.architecture import read_network

    method = make("prefix_tuning", **settings)
    model = method.attach(tiny(tiny_model))
    (trained,) = [value for value in model.parameters() if value.requires_grad]
    network = read_network(tiny_model)
    assert network
    footprint = method.footprint(network)
    assert footprint
    assert footprint.trained == {"prefix": tuple(trained.shape)}
    assert trained.shape[0] == method.settings["virtual_tokens"]


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
@pytest.mark.parametrize("width", [None, 24])
def test_a_p_tuning_encoder_is_counted(encoder: str, width: int | None, tiny_model: Path) -> None:
    import math

    from harness.architecture import read_network

    method = make("p_tuning", encoder=encoder, encoder_width=width)
    model = method.attach(tiny(tiny_model))
    network = read_network(tiny_model)
    assert network
    footprint = method.footprint(network)
    assert footprint
    assert sum(map(math.prod, footprint.trained.values())) == sum(
        value.numel() for value in model.parameters() if value.requires_grad
    )


SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
methods:
  x: {label}
train: {{steps: 4, batch_size: 4}}
"""


def test_layers_and_a_prefix_together(project: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    label = "{method: [layerwise, prefix_tuning], layerwise: {layers: 1, learning_rate: 1e-2}}"
    plan = plan_of(project, SUITE.format(label=label))
    folder = tmp_path / "attempts" / "a"
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n8/s0"), folder)
    assert result.status == "done", result.reason
    saved = load_file(folder / "weights" / "trained.safetensors")
    assert any("prompt_encoder" in name for name in saved)
    assert {name.split("layers.")[1][0] for name in saved if "layers." in name} == {"1"}
    start = dict(make("prefix_tuning").attach(tiny(Path(plan.facts.models["tiny"].folder))).named_parameters())
    assert all(not torch.equal(value, start[name]) for name, value in saved.items())


@pytest.mark.parametrize("method", ["prefix_tuning", "[layerwise, prefix_tuning]"])
def test_a_prefix_and_gradient_checkpointing_are_refused(method: str, project: Path) -> None:
    label = f"{{method: {method}, train: {{gradient_checkpointing: true}}}}"
    with pytest.raises(SuiteError, match="prefix_tuning does not go with gradient_checkpointing"):
        plan_of(project, SUITE.format(label=label))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("prefix_tuning", {"virtual_tokens": 0}, "virtual_tokens is 0"),
        ("prefix_tuning", {"init_text": " "}, "init_text is empty"),
        ("p_tuning", {"virtual_tokens": 0}, "virtual_tokens is 0"),
        ("p_tuning", {"init_text": ""}, "init_text is empty"),
        ("p_tuning", {"encoder_width": 0}, "encoder_width is 0"),
    ],
)
def test_settings_that_cannot_be(name: str, settings: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in make(name, **settings).mistakes())
