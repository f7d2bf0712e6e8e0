"""Probes that concern no method: models and their buffers, accumulation in transformers' trainer, tokenizers,
scoring."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import LIBRARIES, MOST_MEMORY, Probe
from harness.worker.probes.bench import ROWS, TEXT, batch, tiny_gpt2, tiny_llama, tokenizer
from harness.worker.probes.of_methods import failed, held

if TYPE_CHECKING:
    from torch import nn

MADE = {"Llama": tiny_llama, "GPT-2": tiny_gpt2}
MANY = 8192  # positions of a model in use; what grows with their square is seen


def probe_libraries(scratch: Path) -> Iterator[Probe]:
    """Yields every probe of the libraries; one that fails has a reason, and the others go on."""
    for read in (probe_models, probe_places, probe_loading, probe_trainer, probe_tokenizer):
        try:
            yield from read(scratch)
        except Exception as error:
            yield failed(LIBRARIES, (read.__doc__ or "").split(":")[0].removeprefix("Yields "), error)


def probe_models(scratch: Path) -> Iterator[Probe]:
    """Yields models: bytes of weights and buffers, the log-likelihood of a fixed batch, what greedy decoding writes."""
    import torch

    data = batch()
    for family, make in MADE.items():
        try:
            model = make()
            yield Probe(LIBRARIES, f"{family}: bytes of weights", (held(model.parameters()),), "bytes")
            yield Probe(LIBRARIES, f"{family}: bytes of buffers", (held(model.buffers()),), "bytes")
            with torch.no_grad():
                logits = model(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
                loss = model(**data).loss
                written = model.generate(  # type: ignore[operator]
                    input_ids=data["input_ids"][:2, :8], attention_mask=data["attention_mask"][:2, :8],
                    max_new_tokens=8, do_sample=False, pad_token_id=2,
                )  # fmt: skip
            scores = logits.log_softmax(-1)[:, :-1].gather(2, data["input_ids"][:, 1:, None]).squeeze(2)
            kept = (scores * data["attention_mask"][:, 1:]).sum(1)
            yield Probe(LIBRARIES, f"{family}: log-likelihoods of {ROWS} texts", tuple(map(float, kept)), "nats")
            yield Probe(LIBRARIES, f"{family}: loss of a batch", (float(loss),), "nats")
            text = " ".join(map(str, written[:, 8:].flatten().tolist()))
            yield Probe(LIBRARIES, f"{family}: greedy decoding", fields={"tokens": text})
            torch.manual_seed(0)
            drawn = type(model)(model.config)
            first = next(value for value in drawn.parameters() if value.dim() > 1)
            yield Probe(LIBRARIES, f"{family}: random weights at seed 0", (float(first.double().abs().sum()),), "sum")
        except Exception as error:
            yield failed(LIBRARIES, f"{family}: models", error)


def probe_places(scratch: Path) -> Iterator[Probe]:
    """Yields buffers: the bytes that a model of many positions holds beside its weights."""
    name = f"Llama: bytes of buffers at {MANY:,} positions"
    yield Probe(LIBRARIES, name, (held(tiny_llama(max_position_embeddings=MANY).buffers()),), "bytes")


def probe_loading(scratch: Path) -> Iterator[Probe]:
    """Yields loading: the type of weights that a checkpoint in bf16 is loaded in where none is asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = scratch / "in-bf16"
    tiny_llama().to(torch.bfloat16).save_pretrained(folder)  # type: ignore[operator]
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    kind = str(next(loaded.parameters()).dtype).removeprefix("torch.")
    yield Probe(LIBRARIES, "type of a bf16 checkpoint's weights when none is asked for", fields={"type": kind})


def probe_trainer(scratch: Path) -> Iterator[Probe]:
    """Yields the trainer: an epoch in batches of 8, and of 4 × 2, which ought to be the same where answers differ in
    length."""
    for family, make in MADE.items():
        try:
            whole, logged = epoch(make(), scratch, 8, 1)
            parts, added = epoch(make(), scratch, 2, 4)
            gap = max(float((one - parts[name]).abs().max()) for name, one in whole.items())
            yield Probe(LIBRARIES, f"{family}: trainer's weights, batch of 4 × 2 against 8", (gap,), "weights")
            yield Probe(LIBRARIES, f"{family}: trainer's logged losses, batch of 8", tuple(logged["loss"]), "nats")
            yield Probe(LIBRARIES, f"{family}: trainer's logged losses, batch of 4 × 2", tuple(added["loss"]), "nats")
            name = f"{family}: trainer's logged gradient norms, batch of 4 × 2"
            yield Probe(LIBRARIES, name, tuple(added.get("grad_norm", [])), "nats")
        except Exception as error:
            yield failed(LIBRARIES, f"{family}: trainer", error)


def epoch(
    model: nn.Module, scratch: Path, rows: int, accumulated: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Trains a model for one epoch of 24 rows by transformers' trainer, `rows` at a time and `accumulated` batches a
    step. Returns (weights by name, what was logged by name, a value for each step)."""
    from transformers import Trainer, TrainingArguments

    from harness.worker.probes.settings import on_cpu

    data = batch(24, unequal=True)
    items = [{name: value[row] for name, value in data.items()} for row in range(24)]
    arguments = TrainingArguments(
        output_dir=str(scratch / "trainer"), per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated,
        num_train_epochs=1, learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1e9,
        optim="adamw_torch", logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        **on_cpu(TrainingArguments),
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=items)
    trainer.train()
    logged: dict[str, list[float]] = {}
    for entry in trainer.state.log_history:
        for name in ("loss", "grad_norm"):
            if name in entry:
                logged.setdefault(name, []).append(float(entry[name]))
    return {name: value.detach().cpu() for name, value in model.named_parameters()}, logged


def probe_tokenizer(scratch: Path) -> Iterator[Probe]:
    """Yields the tokenizer: ids of a text, its first token, a label's ids, and the round trip, after saving and
    loading."""
    from transformers import AutoTokenizer

    folder = scratch / "tokenizer"
    tokenizer().save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded(TEXT)["input_ids"]
    pair = (
        loaded("the cat :", add_special_tokens=True)["input_ids"],
        loaded("red", add_special_tokens=False)["input_ids"],
    )
    yield Probe(
        LIBRARIES, "tokenizer: ids, first token, label, round trip",
        fields={
            "ids": " ".join(map(str, ids)),
            "first token": str(loaded.convert_ids_to_tokens(ids[0])),
            "prompt and label": " | ".join(" ".join(map(str, part)) for part in pair),
            "round trip": loaded.decode(ids, skip_special_tokens=True),
            "class": type(loaded).__name__,
        },
    )  # fmt: skip


def resident() -> Probe:
    """Returns the most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                peak = int(line.split()[1]) * 1024
    except OSError:
        pass
    return Probe(LIBRARIES, MOST_MEMORY, (float(peak),), "resident bytes")
