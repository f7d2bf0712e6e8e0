"""Counted FLOPs are those that torch's own counter sees, and what changes them changes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import ROWS
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from harness.architecture import Network, read_network
from harness.curricula import Stage
from harness.methods import all_methods, make_method
from harness.records import TrainSettings
from harness.worker.answer_loss import answer_loss
from harness.worker.profiling import flops
from harness.worker.profiling.flops import FlopCount, Part, flop_count, matmul_peak, timings
from harness.worker.profiling.meter import StepRecorder
from harness.worker.train import Collator, TrainRun, train

# IA3 and prefixes need some of the lowest attention's gradients and not others; it is counted whole. The rest is exact.
TOLERANCE = {"ia3": 0.02, "prefix_tuning": 0.02}
LEVEL = [{"input_ids": list(range(5, 29)), "labels": [-100] * 21 + [7, 8, 9]} for _ in range(4)]


def network_of(folder: Path) -> Network:
    network = read_network(folder)
    assert network is not None
    return network


def attached(folder: Path, method: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    # Eager, as torch's counter knows no FLOPs of the fused attention on a CPU.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return make_method(method, settings).attach(model)


def seen_by_torch(model: Any) -> int:
    batch = Collator(pad=0)(LEVEL)
    with FlopCounterMode(display=False) as counter:
        total, _ = answer_loss(model.train(), batch["input_ids"], batch["labels"], batch["attention_mask"])
        total.backward()
    return counter.get_total_flops()


def counted(model: Any, network: Network) -> float:
    count = flop_count(model, network, LEVEL)
    assert count is not None
    return count.step(sum(len(row["input_ids"]) for row in LEVEL), len(LEVEL), count.trained())


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}), ("lora", {}), ("lora", {"targets": ["down_proj"]}), ("layerwise", {"layers": 1}),
    ("layerwise", {"layers": 1, "which": "bottom"}), ("layernorm", {}), ("adapter", {}), ("ia3", {}),
    ("prompt_tuning", {"init": "random", "virtual_tokens": 6}), ("prefix_tuning", {"virtual_tokens": 6}),
    ("adalora", {}), ("hft", {}), ("bitfit", {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_the_count_is_torchs(method: str, settings: dict[str, Any], tiny_model: Path) -> None:
    model = attached(tiny_model, method, settings)
    found = counted(model, network_of(tiny_model))
    assert found == pytest.approx(seen_by_torch(model), rel=TOLERANCE.get(method, 1e-9))


def test_full_training_is_six_flops_a_number_and_token(tiny_model: Path) -> None:
    """6·N·D of Kaplan et al. and 12·L·h·s·D of Chowdhery et al., with an output layer that only answers run."""
    network = network_of(tiny_model)
    linears = sum(out * into for out, into in network.linears().values())
    head, tokens, answers, length = network.vocabulary * network.hidden, 4 * 24, 4 * 3, 24
    wanted = 6 * linears * tokens + 6 * head * answers + 12 * 2 * network.hidden * length * tokens
    assert counted(attached(tiny_model, "full", {}), network) == pytest.approx(wanted, rel=1e-12)


def test_frozen_weights_have_no_gradient_of_their_own(tiny_model: Path) -> None:
    network = network_of(tiny_model)
    full, lora = (counted(attached(tiny_model, name, {}), network) for name in ("full", "lora"))
    top, bottom = (
        counted(attached(tiny_model, "layerwise", {"layers": 1, "which": which}), network)
        for which in ("top", "bottom")
    )
    assert top < bottom < full
    assert lora < full


@pytest.mark.parametrize("method", ["vera", "p_tuning", "peft"])
def test_an_adapter_of_another_form_is_not_counted(method: str, tiny_model: Path) -> None:
    settings = {"type": "loha"} if method == "peft" else {}
    model = attached(tiny_model, method, settings)
    assert flop_count(model, network_of(tiny_model), LEVEL) is None


def test_a_network_of_another_form_is_not_counted(tiny_model: Path) -> None:
    network = network_of(tiny_model)
    fused = {name.replace("q_proj", "qkv_proj"): shape for name, shape in network.weights.items()}
    model = attached(tiny_model, "full", {})
    assert flop_count(model, Network(network.config, fused, network.stored_bytes), LEVEL) is None
    assert flop_count(model, network, []) is None


def test_what_is_trained_is_looked_at_before_each_step(tiny_model: Path) -> None:
    model, network = attached(tiny_model, "full", {}), network_of(tiny_model)
    live, fixed = flop_count(model, network, LEVEL), flop_count(model, network, LEVEL, hold=False)
    assert live is not None
    assert fixed is not None
    before = live.step(96, 4, live.trained())
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[0].requires_grad_(False)
    assert live.step(96, 4, live.trained()) < before
    assert fixed.step(96, 4, fixed.trained()) == before
    assert live.step(0, 0, live.trained()) == 0


# --- a recorder's facts ---


def recorded(folder: Path, scratch: Path, change: Callable[[Any], Any] = lambda count: count) -> StepRecorder:
    settings = TrainSettings(steps=4, batch_size=2)
    method, recorder = all_methods()["full"](learning_rate=1e-2), StepRecorder()
    model = attached(folder, "full", {})
    recorder.flop_count = change(flop_count(model, network_of(folder), ROWS))
    train(model, method, Stage("all", ROWS), settings, TrainRun(0, recorder, scratch))
    return recorder


def test_utilisation_is_of_the_steps_that_throughput_is_of(tiny_model: Path, tmp_path: Path) -> None:
    recorder = recorded(tiny_model, tmp_path)
    facts = {fact.name: fact.value for fact in recorder.facts(peak=1e9)}
    assert facts["model_flops"] == pytest.approx(sum(recorder.flops.values()))
    late = [3, 4]  # without the two steps of warming up
    rate = sum(recorder.flops[step] for step in late) / sum(recorder.seconds[step] for step in late)
    assert facts["mfu"] == pytest.approx(rate / 1e9)
    assert "mfu" not in {fact.name for fact in recorder.facts()}
    for step, tokens in recorder.tokens.items():
        count = recorder.flop_count
        assert isinstance(count, FlopCount)
        assert recorder.flops[step] == pytest.approx(count.step(tokens, 2, count.trained()))


def test_steps_of_unknown_work_leave_no_figure(tiny_model: Path, tmp_path: Path) -> None:
    recorder = recorded(tiny_model, tmp_path, lambda count: None)
    assert not {fact.name for fact in recorder.facts(peak=1e9)} & {"model_flops", "mfu"}
    recorder.flops = {1: 1.0}
    assert not {fact.name for fact in recorder.facts(peak=1e9)} & {"model_flops", "mfu"}


# --- the device's rate ---


def test_the_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "SIDES", {"cpu": 8, "cuda": 8})
    monkeypatch.setattr(flops, "timings", lambda work: [work(), 4.0, 2.0][1:])
    assert matmul_peak(torch.float32) == 2 * 8**3 / 2.0


def test_a_slow_product_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(flops.time, "perf_counter", lambda: float(next(clock)))
    assert timings(lambda: None, repeats=10, most=2.5) == [1.0, 1.0, 1.0]
    assert timings(lambda: None, repeats=2, most=2.5) == [1.0, 1.0]


def test_a_part_without_numbers_costs_nothing() -> None:
    part = Part(flops.Fixed(True), 0, 1.0)
    assert FlopCount((part,), (), 1.0).step(10, 2, (True,)) == 0
