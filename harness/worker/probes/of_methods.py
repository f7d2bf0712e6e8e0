"""Probes of a label's method: what it trains of a tiny model, where it starts, how twelve steps go, what a merge is
worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods import Method, make_method
from harness.records import JsonObject, Probe
from harness.worker.probes.bench import Bench, batch, numbers, tiny_llama, weights
from harness.worker.probes.old_peft import DROPPED, dropped_by
from harness.worker.probes.settings import fields_of

if TYPE_CHECKING:
    import torch
    from torch import nn

STEPS = 12
RATE = 1e-3  # of methods that name no learning rate
EQUAL, DIFFERENT = "two equal experts", "two experts"


@dataclass(frozen=True)
class Subject:
    """A label to probe: its method with the settings of the suite."""

    label: str
    method: str
    settings: JsonObject

    def build(self) -> Method:
        """Returns the method. Raises ValueError for settings that this version does not know."""
        return make_method(self.method, self.settings)


def probe_label(subject: Subject, base: Path, scratch: Path) -> Iterator[Probe]:
    """Yields the probes of one label. What fails is a probe with a reason, and the others go on."""
    try:
        method = subject.build()
    except Exception as error:
        yield failed(subject.label, "its method", error)
        return
    if reason := method.skip():
        yield Probe(subject.label, "its method", reason=reason)
        return
    if not method.trains:
        return
    if method.own_model():
        yield Probe(subject.label, "its method", reason="it has a model of its own; cells tell of it")
        return
    if getattr(method, "experts", None):
        yield from probe_merge(subject, method, base, scratch)
    else:
        yield from probe_training(subject, method, base, scratch)


def failed(subject: str, name: str, error: Exception) -> Probe:
    """Returns the probe that says why a reading could not be made."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return Probe(subject, name, reason=text[:300])


def probe_training(subject: Subject, method: Method, base: Path, scratch: Path) -> Iterator[Probe]:
    """Yields what a method trains (numbers, bytes, types), how far its start is from the base model, its loss and
    gradient norm at the first step, and the losses of twelve steps."""
    import torch

    label, bench = subject.label, Bench(base, scratch)
    data = batch()
    try:
        plain = method.load(bench)  # type: ignore[arg-type]
        with torch.no_grad():
            before = plain(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
        torch.manual_seed(0)
        model = method.attach(plain)
    except Exception as error:
        yield failed(label, "attaching", error)
        return
    yield from sizes(label, model)
    for name, config in (getattr(model, "peft_config", None) or {}).items():
        yield Probe(label, f"effective settings ({name})", fields=fields_of(config))
        if dropped := dropped_by(config):
            yield Probe(label, DROPPED, fields={"names": ", ".join(dropped)})
    try:
        with torch.no_grad():
            after = model.eval()(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
        gap = float((after[:, -before.shape[1] :] - before).abs().max())
        yield Probe(label, "untrained, against the base model", (gap,), "nats")
    except Exception as error:
        yield failed(label, "untrained, against the base model", error)
    try:
        losses, norm = train_steps(method, model, data)
        yield Probe(label, "gradient norm of the first step", (norm,), "nats")
        yield Probe(label, f"losses of {STEPS} steps", tuple(losses), "nats")
    except Exception as error:
        yield failed(label, f"losses of {STEPS} steps", error)
    yield from half_precision(label, method, base, scratch)
    if method.quantize:
        yield packed_speed(label, method.quantize, scratch)


def sizes(label: str, model: nn.Module, what: str = "") -> Iterator[Probe]:
    """Yields the numbers, bytes and types of what is trained, and the bytes of frozen weights and of buffers. `what`
    goes behind each name."""
    trained = [value for value in model.parameters() if value.requires_grad]
    frozen = [value for value in model.parameters() if not value.requires_grad]
    yield Probe(label, f"trained parameters{what}", (float(sum(value.numel() for value in trained)),), "parameters")
    yield Probe(label, f"bytes of trained parameters{what}", (held(trained),), "bytes")
    types = sorted({str(value.dtype).removeprefix("torch.") for value in trained})
    yield Probe(label, f"types of trained parameters{what}", fields={"types": ", ".join(types)})
    yield Probe(label, f"bytes of frozen weights{what}", (held(frozen),), "bytes")
    yield Probe(label, f"bytes of buffers{what}", (held(model.buffers()),), "bytes")


def held(tensors: Any) -> float:
    """Returns the bytes that tensors hold."""
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def half_precision(label: str, method: Method, base: Path, scratch: Path) -> Iterator[Probe]:
    """Yields what is trained on a base in bf16, and in which type."""
    import torch

    if method.quantize:
        return
    try:
        model = method.load(Bench(base, scratch)).to(torch.bfloat16)  # type: ignore[arg-type]
        torch.manual_seed(0)
        yield from list(sizes(label, method.attach(model), " on a bf16 base"))[1:3]
    except Exception as error:
        yield failed(label, "attaching to a bf16 base", error)


def packed_speed(label: str, kind: str, scratch: Path) -> Probe:
    """Returns the time of a forward and backward pass through one packed linear layer of 1,024 × 1,024, in times of the
    same pass through a plain one: the median of pairs that follow each other, so that a busy machine slows both."""
    import statistics
    import time

    import torch

    name = "forward and backward pass of a packed layer of 1,024 × 1,024, against a plain one"
    folder = scratch / "wide"
    try:
        if not folder.exists():
            wide: Any = tiny_llama(hidden_size=1024, intermediate_size=1024, num_hidden_layers=1)
            wide.save_pretrained(folder)
        loaded: Any = Bench(folder, scratch).load_model(quantize=kind)
        layer = loaded.model.layers[0].mlp.down_proj
        plain = torch.nn.Linear(1024, 1024, bias=False, device=loaded.device).requires_grad_(False)
        rows = torch.ones(64, 1024, device=loaded.device, requires_grad=True)

        def seconds(one: Any) -> float:
            started = time.perf_counter()
            one(rows).sum().backward()
            if rows.is_cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - started

        seconds(layer), seconds(plain)  # the first pass prepares kernels
        return Probe(label, name, (statistics.median(seconds(layer) / seconds(plain) for _ in range(25)),), "times")
    except Exception as error:
        return failed(label, name, error)


def train_steps(method: Method, model: nn.Module, data: Mapping[str, torch.Tensor]) -> tuple[list[float], float]:
    """Trains for STEPS steps of AdamW on one batch, in a loop of ten lines, so that no library's loop decides. Returns
    (loss of each step, gradient norm of the first)."""
    import torch

    rate = float(getattr(method, "learning_rate", RATE) or RATE)
    groups: Any = method.parameter_groups(model) or [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    held_by = [value for group in optimizer.param_groups for value in group["params"]]
    torch.manual_seed(1)
    method.before_training(model, STEPS, 0)
    model.train()
    losses, norm = [], 0.0
    for step in range(1, STEPS + 1):
        loss = model(**data).loss
        penalty = method.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        if step == 1:
            squares = [value.grad.float().pow(2).sum() for value in held_by if value.grad is not None]
            norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        optimizer.step()
        method.after_step(model, step)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, norm


def probe_merge(subject: Subject, method: Method, base: Path, scratch: Path) -> Iterator[Probe]:
    """Yields the size of merged updates along the sum of the experts' own, for two experts and for one taken twice, and
    the cosine between both. A merge that does what it says stays what it is from release to release."""
    label = subject.label
    settings: JsonObject = getattr(method, "experts", {})
    rest = {key: value for key, value in settings.items() if key not in ("method", "learn")}
    for what, seeds in ((DIFFERENT, (1, 2)), (EQUAL, (1, 1))):
        try:
            expert = make_method(settings["method"], rest)
            folders, updates = {}, []
            for place, seed in enumerate(seeds):
                folder = scratch / f"{label}-{len(what)}-{place}".replace("/", "-")
                updates.append(make_expert(expert, Bench(base, scratch, seed=seed), folder))
                folders[f"expert:{('one', 'other')[place]}"] = folder
            own = scratch / f"merging-{len(what)}"
            own.mkdir(exist_ok=True)
            bench = Bench(base, own, folders, task="one")
            merged = method.fit(method.attach(method.load(bench)), bench)  # type: ignore[arg-type]
            update = difference(method.fold(merged), bench)
            size, cosine = along(update, summed(updates))
        except Exception as error:
            yield failed(label, f"merge of {what}", error)
            continue
        yield Probe(label, f"merge of {what}: size along the sum of their updates", (size,), "ratio")
        yield Probe(label, f"merge of {what}: cosine with the sum of their updates", (cosine,), "ratio")


def make_expert(method: Method, bench: Bench, folder: Path) -> dict[str, torch.Tensor]:
    """Saves an expert whose trained numbers follow from the bench's seed, and returns its update of the base's weights
    by name."""
    import torch

    model = method.attach(method.load(bench))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.add_(numbers(f"{name} of expert {bench.seed}", tuple(value.shape), 0.05).to(value.dtype))
    folder.mkdir(parents=True, exist_ok=True)
    method.save(model, folder)
    if not (folder / "adapter_config.json").exists():
        with suppress(Exception):
            bench.tokenizer.save_pretrained(folder)
    return difference(method.fold(model), bench)


def difference(model: nn.Module, bench: Bench) -> dict[str, torch.Tensor]:
    """Returns how far each weight of a model of plain weights is from the base's."""
    plain = dict(weights(bench.load_model()))
    return {name: value - plain[name] for name, value in weights(model) if name in plain}


def summed(updates: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Returns the sum of updates, weight by weight."""
    return {name: sum((update[name] for update in updates[1:]), updates[0][name]) for name in updates[0]}


def along(update: Mapping[str, torch.Tensor], true: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Returns (size of an update along the true one, 1.0 where they are equal; cosine between the two)."""
    product = sum(float((update[name] * true[name]).sum()) for name in true if name in update)
    square = sum(float(value.pow(2).sum()) for value in true.values())
    own = sum(float(value.pow(2).sum()) for value in update.values())
    return product / (square or 1.0), product / ((square * own) ** 0.5 or 1.0)
