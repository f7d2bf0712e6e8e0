"""Predicted memory: its arithmetic, and that what it counts is what torch and peft make."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import tunebench
from hypothesis import given
from hypothesis import strategies as st
from tools import plan_of
from transformers import AutoModelForCausalLM

from harness.architecture import SAMPLE, Network, read_network
from harness.data.catalog import load_catalog
from harness.data.facts import Facts, LengthFacts, ModelFacts, TaskFacts
from harness.methods import Method, all_methods
from harness.models.token_lengths import quantiles
from harness.plan.memory import (
    Count,
    Prediction,
    answer_places,
    expected_longest,
    predict_memory,
    projected_bytes,
    state_bytes,
)
from harness.records import Cell, TrainSettings

HIDDEN, INNER, QUERIES, KEYS, LAYERS, VOCABULARY = 64, 160, 64, 32, 4, 500


def network(**changes: Any) -> Network:
    """A small Llama with grouped queries."""
    weights = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for place in range(LAYERS):
        layer = f"model.layers.{place}"
        weights |= {f"{layer}.input_layernorm.weight": (HIDDEN,), f"{layer}.post_attention_layernorm.weight": (HIDDEN,)}
        for name, out, into in (
            ("self_attn.q_proj", QUERIES, HIDDEN), ("self_attn.k_proj", KEYS, HIDDEN),
            ("self_attn.v_proj", KEYS, HIDDEN), ("self_attn.o_proj", HIDDEN, QUERIES),
            ("mlp.gate_proj", INNER, HIDDEN), ("mlp.up_proj", INNER, HIDDEN), ("mlp.down_proj", HIDDEN, INNER),
        ):  # fmt: skip
            weights[f"{layer}.{name}.weight"] = (out, into)
    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, **changes}
    stored = 4 * sum(out * (rest[0] if rest else 1) for out, *rest in weights.values())
    return Network(config, weights, stored)


def facts(net: Network | None = None, longest: int = 60) -> Facts:
    lengths = LengthFacts("m", "a", quantiles(range(10, longest + 1)), 2, quantiles(range(10, longest + 1)), 2, 200)
    model = ModelFacts("m", "f", "/m", net or network())
    return Facts(
        {"m": model}, {"a": TaskFacts("a", "a.yaml", "f", "multiple_choice", 500, 20, 50)}, {("m", "a"): lengths}
    )


def cell(method: str = "lora", n_train: int = 200, settings: dict[str, Any] | None = None, **train: Any) -> Cell:
    kind = all_methods()[method]
    return Cell(
        key="x", spec_digest="d", label="x", method=method, family=kind.family, model="m", task="a", learn=("a",),
        n_train=n_train if kind.trains else 0, seed=0, retain=(), settings=kind(**(settings or {})).settings,
        train=TrainSettings(**{"steps": 10, **train}),
    )  # fmt: skip


def counted(one: Cell, found: Facts | None = None, device: Any = "cpu") -> Prediction:
    prediction = predict_memory(one, found or facts(), device)
    assert prediction is not None
    return prediction


# --- arithmetic ---

METHODS = ["full", "layerwise", "lora", "dora", "qlora", "prompt_tuning"]
methods = st.sampled_from(METHODS)
devices = st.sampled_from(["cpu", "cuda"])


@given(method=methods, device=devices, size=st.integers(1, 64), more=st.integers(1, 64))
def test_it_grows_with_the_batch(method: str, device: str, size: int, more: int) -> None:
    small, large = (counted(cell(method, batch_size=batch), device=device) for batch in (size, size + more))
    assert small.activations <= large.activations
    assert small.peak <= large.peak
    if device == "cpu":
        assert small.activations < large.activations


@given(method=methods, longest=st.integers(11, 400), more=st.integers(1, 400))
def test_it_grows_with_the_texts(method: str, longest: int, more: int) -> None:
    short, long = (counted(cell(method, max_length=1024), facts(longest=most)) for most in (longest, longest + more))
    assert short.activations < long.activations or more < 3  # steps of whole tokens
    assert short.activations <= long.activations
    assert short.scoring <= long.scoring


@given(rank=st.integers(1, 64), more=st.integers(1, 64), method=st.sampled_from(["lora", "dora", "qlora"]))
def test_it_grows_with_the_rank(rank: int, more: int, method: str) -> None:
    low, high = (counted(cell(method, settings={"rank": r})) for r in (rank, rank + more))
    assert low.weights < high.weights
    assert low.gradients < high.gradients
    assert low.optimizer < high.optimizer
    assert low.activations < high.activations


@given(method=methods, device=devices, most=st.integers(8, 64))
def test_parts_add_up(method: str, device: str, most: int) -> None:
    found = counted(cell(method, max_length=most), device=device)
    parts = dataclasses.asdict(found)
    assert all(isinstance(value, int) and value >= 0 for value in parts.values())
    assert found.training == found.gradients + found.optimizer + found.activations
    assert found.peak == found.process + found.weights + max(found.training, found.scoring, found.loading)
    assert (found.process == 0) == (device == "cuda")


@given(method=methods, device=devices)
def test_comparing_is_counted_where_text_is_retained_and_refuses_nothing(method: str, device: str) -> None:
    known = facts()
    own = cell(method)
    plain = counted(own, device=device)
    text = dataclasses.replace(next(iter(known.tasks.values())), name="text", output_type="loglikelihood_rolling")
    known.tasks["text"] = text
    known.lengths[own.model, "text"] = next(iter(known.lengths.values()))
    kept = dataclasses.replace(own, retain=("text",), baseline="b" * 64)
    found = counted(kept, known, device=device)
    assert plain.comparing == counted(dataclasses.replace(kept, baseline=""), known, device=device).comparing == 0
    assert found.comparing > 4 * network().parameters()
    assert found.needed == plain.peak
    assert found.peak == max(found.needed, found.process + found.weights + found.comparing)
    large = dataclasses.replace(found, comparing=10**15)
    assert (large.needed, large.peak > 10**15) == (found.needed, True)


def test_at_checkpoints_the_optimizer_is_there_while_it_is_scored() -> None:
    plain, scored = counted(cell("full")), counted(cell("full", checkpoints=2))
    assert scored.scoring == plain.scoring + plain.optimizer


@given(method=methods)
def test_savers_save(method: str) -> None:
    plain = counted(cell(method))
    if method != "layerwise":  # its one layer of four is kept whole in either case
        assert counted(cell(method, gradient_checkpointing=True)).activations < plain.activations
    assert counted(cell(method, optimizer="adafactor")).optimizer < plain.optimizer
    assert (
        counted(cell(method, attention="eager"), facts(longest=400)).activations
        > counted(cell(method), facts(longest=400)).activations
    )


def test_max_length_caps_and_scoring_is_not_capped() -> None:
    texts = facts(longest=400)
    assert counted(cell(max_length=64), texts).activations < counted(cell(max_length=512), texts).activations
    assert counted(cell(max_length=64), texts).scoring == counted(cell(max_length=512), texts).scoring


def test_no_training_is_weights_and_scoring() -> None:
    found = counted(cell("base"))
    assert found.training == 0
    assert found.weights == 4 * network().parameters()


def test_four_bits_on_a_gpu() -> None:
    """Embeddings and norms in fp32; linear layers at half a byte, and a byte and a bit of scale for 64."""
    net = network()
    linear = sum(out * into for out, into in net.linears().values())
    added = sum(8 * (out + into) for out, into in net.linears().values())
    found = counted(cell("qlora"), device="cuda")
    assert found.weights == int(linear * (0.5 + 1 / 64 + 1 / 4096)) + 4 * (net.parameters() - linear + added)


def test_optimizer_states() -> None:
    assert state_bytes("adamw", (100, 50)) == 8 * 5000
    assert state_bytes("adafactor", (100, 50)) == 4 * 150
    assert state_bytes("adafactor", (100,)) == 400
    assert state_bytes("adamw8bit", (100, 50)) == 2 * 5000 + 8 * 20
    assert state_bytes("adamw8bit", (100,)) == 800
    assert state_bytes("paged_adamw", (1000, 50)) == 8 * 50_000  # small enough to stay on the GPU
    assert state_bytes("paged_adamw", (1000, 100)) == 0
    assert state_bytes("paged_adamw8bit", (1000, 256)) == 8 * 1000
    assert projected_bytes(16, (100, 50)) == projected_bytes(16, (50, 100)) == 4 * 16 * (2 * 100 + 50)
    assert projected_bytes(128, (100, 50)) == 4 * 50 * (2 * 100 + 50)


def test_galore_projects_the_layers_weights_alone() -> None:
    plain, small = (counted(cell("full", optimizer=name, galore_rank=8)) for name in ("adamw", "galore"))
    net = network()
    saved = sum(8 * out * into - projected_bytes(8, (out, into)) for out, into in net.linears().values())
    assert plain.optimizer - small.optimizer == saved
    assert counted(cell("lora", optimizer="adafactor")).optimizer < counted(cell("lora")).optimizer


def test_what_a_method_keeps_beside_its_weights_is_counted() -> None:
    few, many = (counted(cell("vera", settings={"rank": rank})) for rank in (8, 16))
    trained = LAYERS * 7 * 8
    assert many.weights - few.weights == 4 * (8 * (INNER + INNER) + trained)
    ada = counted(cell("adalora"))
    assert ada.optimizer == (2 + 3) * ada.gradients


# --- what cannot be counted ---


@pytest.mark.parametrize("what", ["network", "lengths", "model", "form"])
def test_unknown_is_none(what: str) -> None:
    found = facts()
    if what == "network":
        found = Facts({"m": ModelFacts("m", "f", "/m")}, found.tasks, found.lengths)
    if what == "lengths":
        found = Facts(found.models, found.tasks)
    if what == "model":
        found = Facts({}, found.tasks, found.lengths)
    if what == "form":
        net = network()
        fused = {name.replace("q_proj", "qkv_proj"): shape for name, shape in net.weights.items()}
        found = facts(Network(net.config, fused, net.stored_bytes))
    assert predict_memory(cell(), found) is None


def test_a_method_that_says_nothing_is_none() -> None:
    assert predict_memory(cell("setfit"), facts()) is None
    assert Method.footprint(all_methods()["setfit"](), network()) is None


# --- lengths ---

lists = st.lists(st.integers(1, 900), min_size=1, max_size=300)


@given(values=lists, seen=st.integers(1, 500), more=st.integers(0, 500), most=st.integers(8, 600))
def test_the_longest_of_more_texts_is_longer(values: list[int], seen: int, more: int, most: int) -> None:
    table = quantiles(values)
    found = expected_longest(table, seen, most)
    assert min(min(values), most) <= found <= min(max(values), most)
    assert found <= expected_longest(table, seen + more, most)


@given(values=lists, answer=st.integers(1, 20), batch=st.integers(1, 32), most=st.integers(32, 600))
def test_places_of_answers(values: list[int], answer: int, batch: int, most: int) -> None:
    values = [value + answer for value in values]
    found = answer_places(quantiles(values), answer, batch, most)
    assert 1 <= found <= min(batch * answer, most)
    if len(set(values)) == 1:
        assert found == answer


@given(values=lists)
def test_quantiles_hold_the_ends(values: list[int]) -> None:
    table = quantiles(values)
    assert len(table) == 101
    assert (table[0], table[-1]) == (min(values), max(values))
    assert list(table) == sorted(table)


def test_fetch_counts_lengths(project: Path) -> None:
    """As the scorer encodes: checked against the rows that training really makes."""
    from harness.data.sampling import examples
    from harness.data.tasks import load_task
    from harness.models.loading import load_tokenizer

    plan = plan_of(project)
    lengths = plan.facts.lengths["tiny", "colours"]
    tokenizer = load_tokenizer(Path(plan.facts.models["tiny"].folder))
    task = load_task(Path(plan.facts.tasks["colours"].path))
    totals = [len(tokenizer(e.context + e.target)["input_ids"]) for e in examples(task)]
    assert lengths.training[0] == min(totals)
    assert lengths.training[-1] <= max(totals)
    assert lengths.answer == max(len(tokenizer(e.target)["input_ids"]) for e in examples(task))
    prose = plan.facts.lengths["tiny", "prose"]
    assert prose.training == ()
    assert prose.continuation == prose.scored[-1]
    assert prose.sequences == 6


def test_a_plan_does_without_lengths(project: Path) -> None:
    """As after an upgrade: a cache that was filled before lengths were counted. The plan stands; a fetch counts."""
    from harness.plan.fetch import fetch_suite, fetched_facts, pairs_without_lengths
    from harness.suite.load import load_suite

    plan_of(project)
    catalog = load_catalog(project)
    suite = load_suite(project / "suites" / "small.yaml", catalog)
    for file in Path(os.environ["TUNEBENCH_CACHE"]).glob("facts/lengths-*.json"):
        file.unlink()
    facts, missing = fetched_facts(catalog, suite)
    assert missing == []
    assert pairs_without_lengths(suite, facts) == [("tiny", "colours"), ("tiny", "prose")]
    done = tunebench("plan", "small", "--json")
    assert {row["memory"] for row in json.loads(done.stdout)["cells"]} == {None}
    assert pairs_without_lengths(suite, fetch_suite(catalog, suite)) == []
    done = tunebench("plan", "small", "--json")
    rows = {row["key"]: row["memory"] for row in json.loads(done.stdout)["cells"]}
    assert all(memory["peak"] > memory["weights"] > 0 for memory in rows.values())
    assert rows["full/tiny/colours/n8/s0"]["gradients"] > rows["lora/tiny/colours/n8/s0"]["gradients"] > 0


# --- shapes ---


def test_the_network_of_a_folder(tiny_model: Path) -> None:
    net = read_network(tiny_model)
    assert net is not None
    assert net.is_counted()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert net.weights == {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert net.stored_bytes == 4 * net.parameters()
    assert (len(net.layers), net.heads, net.key_heads, net.hidden) == (2, 4, 2, 64)


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, struct.pack("<Q", 3) + b"[1]", struct.pack("<Q", 9) + b"{"])
def test_damaged_headers_are_no_network(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    assert read_network(tmp_path) is None


# --- against torch and peft ---


def attached(name: str, folder: Path, settings: dict[str, Any], attention: str = "sdpa") -> tuple[Method, Any]:
    from harness.models.loading import load_model

    method = all_methods()[name](**settings)
    if method.quantize:
        pytest.importorskip("bitsandbytes")
    settings = TrainSettings(precision="fp32", attention=attention)
    return method, method.attach(load_model(folder, settings, method.quantize))


FOOTPRINTS = [
    ("full", {}),
    ("layerwise", {"layers": 1}),
    ("layerwise", {}),
    ("lora", {"rank": 5}),
    ("lora", {"targets": ["q_proj", "v_proj"], "rank": 5}),
    ("lora", {"targets": r".*mlp\.up_proj"}),
    ("dora", {}),
    ("qlora", {}),
    ("adalora", {"start_rank": 5, "rank": 2}),
    ("vera", {"rank": 16}),
    ("prompt_tuning", {"init": "random"}),
    ("prompt_tuning", {"init": "random", "virtual_tokens": 7}),
    ("bitfit", {}),
    ("layernorm", {}),
    ("hft", {}),
    ("hft", {"embeddings": True}),
    ("lisa", {}),
    ("adapter", {"bottleneck": 5}),
    ("adapter", {"placement": "pfeiffer", "activation": "relu"}),
    ("ia3", {}),
    ("ia3", {"targets": ["q_proj", "up_proj"], "feedforward": ["up_proj"]}),
    ("prefix_tuning", {}),
    ("p_tuning", {}),
    ("p_tuning", {"encoder": "lstm", "encoder_width": 5, "virtual_tokens": 7}),
    ("dpo", {}),
    ("grpo", {}),
]


COVERED = {name for name, _ in FOOTPRINTS}
FOOTPRINTS += [  # a new method's, as it is by default
    (name, {})
    for name, kind in all_methods().items()
    if name not in COVERED and kind.trains and kind().footprint(SAMPLE) is not None
]


@pytest.mark.parametrize(("name", "settings"), FOOTPRINTS)
def test_trained_parameters_are_those_of_the_attached_model(
    name: str, settings: dict[str, Any], tiny_model: Path
) -> None:
    net = read_network(tiny_model)
    assert net is not None
    method, model = attached(name, tiny_model, settings)
    footprint = method.footprint(net)
    assert footprint is not None
    wanted = sorted(tuple(p.shape) for p in model.parameters() if p.requires_grad)
    assert sorted(footprint.trained.values()) == wanted


KEPT = [*FOOTPRINTS, ("lora", {"dropout": 0.1})]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "settings"), [pair for pair in KEPT if pair[0] != "layerwise"])
def test_layers_keep_what_is_counted(name: str, settings: dict[str, Any], attention: str, tiny_model: Path) -> None:
    """Against torch's hooks, to the byte: what the second of two layers adds to the first."""
    net = read_network(tiny_model)
    assert net is not None
    batch, width = 3, 24
    method, model = attached(name, tiny_model, settings, attention)
    footprint = method.footprint(net)
    assert footprint is not None
    train = TrainSettings(steps=1, attention=attention)
    count = Count(net, method, footprint, train, "cpu")
    virtual = footprint.virtual_tokens
    layers = getattr(model, "get_base_model", lambda: model)().get_decoder().layers
    rows = batch * (width + virtual)
    found = kept_by(model, layers[1], batch, width)
    wide = width + virtual + footprint.prefix_tokens
    assert found == count.layer(1, rows, wide) + count.fixed(1) + count.prefix(1, batch)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["full", "lora", "prompt_tuning"])
def test_layers_keep_what_is_counted_under_autocast(name: str, attention: str, tiny_model: Path) -> None:
    """The same in 16 bits, as on a GPU; the copies of weights, which `Count.casts` counts, are taken off."""
    net = read_network(tiny_model)
    assert net is not None
    batch, width = 3, 24
    method, model = attached(name, tiny_model, {"init": "random"} if name == "prompt_tuning" else {}, attention)
    footprint = method.footprint(net)
    assert footprint is not None
    train = TrainSettings(steps=1, attention=attention, precision="bf16")
    count = Count(net, method, footprint, train, "cpu")
    layers = getattr(model, "get_base_model", lambda: model)().get_decoder().layers
    copies = [value for value in layers[1].parameters() if value.dim() == 2]
    rows = batch * (width + footprint.virtual_tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kept_by(model, layers[1], batch, width)
    assert found - 2 * sum(value.numel() for value in copies) == count.layer(1, rows, width + footprint.virtual_tokens)


def kept_by(model: Any, layer: Any, batch: int, width: int) -> int:
    """Bytes that one layer keeps for its backward pass, beyond weights and what it shares with other layers."""
    model.train()
    model.config.use_cache = False
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[int, bool]] = {}
    inside = False
    alive: list[torch.Tensor] = []

    def pack(value: torch.Tensor) -> torch.Tensor:
        alive.append(value)
        place = value.untyped_storage().data_ptr()
        turns = value.dim() == 4 and value.shape[:2] == (1, 1)  # cosines and sines of positions: one for all layers
        if place not in own and value.is_floating_point() and not turns:
            kept.setdefault(place, (value.untyped_storage().nbytes(), inside))
        return value

    def enter(*_: Any) -> None:
        nonlocal inside
        inside = True

    def leave(*_: Any) -> None:
        nonlocal inside
        inside = False

    handles = [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    ids = torch.randint(5, 300, (batch, width))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0  # padding, as nearly every batch has: a mask of its own, and keys repeated for grouped queries
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    for handle in handles:
        handle.remove()
    return sum(size for size, within in kept.values() if within)
