"""The training settings of a cell, whatever its method: a suite's `train:` block, from the file to the training
loop."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, get_args

import pydantic
from pydantic import ConfigDict, Field

from harness.records.json_object import JsonObject

# Training settings that also change what an untrained model scores.
SCORING = ("precision", "attention", "eval_batch_size", "fast")
# Training settings that came after the first results. With their defaults they are no part of a cell's identity, so
# that results from before them are still found. A new setting whose default changes nothing is added here.
LATER = ("devices", "strategy", "galore_rank", "galore_every", "galore_scale", "dropout", "checkpoints", "fast")
Trick = Literal["packing", "fused", "frozen_layers"]
TRICKS: tuple[Trick, ...] = get_args(Trick)
PACKING, FUSED, FROZEN_LAYERS = TRICKS

# What a setting needs, beyond what every installation has: (key, value) -> packages, and whether it needs a GPU.
NEEDS = {
    ("precision", "fp16"): ((), True),
    ("optimizer", "adamw8bit"): (("bitsandbytes",), False),
    ("optimizer", "paged_adamw"): (("bitsandbytes",), True),
    ("optimizer", "paged_adamw8bit"): (("bitsandbytes",), True),
    ("optimizer", "galore"): (("galore_torch",), False),
    ("attention", "flash_attention_2"): (("flash_attn",), True),
}
WITHOUT_GPU = {
    "precision": "on a CPU torch trains in fp32 or bf16",
    "optimizer": "on a CPU bitsandbytes would silently run it unpaged",
    "attention": "its kernels are CUDA's",
}


class TrainSettings(pydantic.BaseModel):
    """How a cell is trained, whatever its method: the suite's `train:` block, and a label's own `train:`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(None, ge=1, description="optimiser steps; use these where a suite compares sizes")
    epochs: float | None = Field(None, gt=0, description="passes over the data, in place of steps")
    batch_size: int = Field(8, ge=1, description="examples per forward pass, over all devices")
    gradient_accumulation: int = Field(1, ge=1, description="forward passes per optimiser step")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="auto: fp32 on a CPU, bf16 on a GPU that supports it, else fp16. Training computes in it, and "
        "quantised weights always; other weights are scored in fp32",
    )
    optimizer: Literal["adamw", "adafactor", "adamw8bit", "paged_adamw", "paged_adamw8bit", "galore"] = Field(
        "adamw",
        description="adamw: torch's fused AdamW; 8bit: its state in 8 bits; paged: its state may move to the CPU's "
        "memory; galore: gradients projected to a lower rank",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="learning rate after warm-up; constant: without one"
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the steps over which the rate rises; the first has a part of it",
    )
    weight_decay: float = Field(0.0, ge=0, description="of the optimiser, on matrices: norms and biases never decay")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="in training: of attention weights, and in the network's dropout layers"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    max_length: int = Field(
        512,
        ge=8,
        description="tokens; longer examples lose the start of their context, not its BOS token",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="attention kernel; auto: sdpa where the model has it, else eager"
    )
    eval_every: int | None = Field(None, ge=1, description="steps between validation losses; null: never")
    early_stopping: int | None = Field(
        None, ge=1, description="stop after this many validations without a lower loss, and keep the best weights"
    )
    eval_batch_size: int = Field(16, ge=1, description="sequences per forward pass when scoring")
    devices: int = Field(1, ge=1, description="GPUs (on a CPU: processes) that share each batch in training")
    strategy: Literal["ddp", "fsdp", "deepspeed"] = Field(
        "ddp",
        description="what devices divide: ddp the batch; deepspeed (ZeRO 2) also gradients and optimiser state; fsdp "
        "also the weights",
    )
    galore_rank: int = Field(128, ge=1, description="optimizer galore: rank to which a weight's gradient is projected")
    galore_every: int = Field(200, ge=1, description="optimizer galore: steps between updates of the projection")
    galore_scale: float = Field(
        0.25,
        gt=0,
        description="optimizer galore: learning rate of the projected weights, as a multiple of the label's; 1 is what "
        "adamw has, transformers and the paper have 0.25",
    )
    checkpoints: int | None = Field(
        None, ge=1, description="how often all tasks are scored during training; null: at the end only"
    )

    fast: tuple[Trick, ...] = Field(
        TRICKS,
        description="ways of computing the same with less work, up to the order in which numbers are added; each is "
        "used where the model allows it. packing: no padding, and what texts begin with alike once; fused: fewer "
        "operations in adapters; frozen_layers: what is below the lowest trained layer once for all epochs. []: none",
    )

    @pydantic.field_validator("fast")
    @classmethod
    def in_one_order(cls, tricks: tuple[Trick, ...]) -> tuple[Trick, ...]:
        """Return the tricks once each, in the order of TRICKS: how a suite lists them is no part of what a cell is."""
        return tuple(trick for trick in TRICKS if trick in tricks)

    @property
    def tricks(self) -> tuple[Trick, ...]:
        """The tricks that training may use: none where several devices share a batch. These divide padded batches, and
        share gradients by hooks that the tricks go past."""
        return self.fast if self.devices == 1 else ()

    @property
    def identity(self) -> JsonObject:
        """The settings that are part of a cell's identity, as {key: value}: all but those of LATER at their defaults.

        Attention auto counts as sdpa, which it is for every model that has it; where a model has none, sdpa is refused.
        """
        defaults = {name: type(self).model_fields[name].default for name in LATER}
        found = {key: value for key, value in self.model_dump().items() if defaults.get(key, ...) != value}
        return found | ({"attention": "sdpa"} if self.attention == "auto" else {})

    @property
    def for_scoring(self) -> TrainSettings:
        """The settings for a cell that trains nothing: only those that change its scores (SCORING), the others at their
        defaults."""
        return TrainSettings(**self.model_dump(include=set(SCORING)))

    def changed(self, changes: Mapping[str, object]) -> TrainSettings:
        """Return the settings with some changed; `changes` maps keys to new values. A new `steps` unsets `epochs`, and
        the other way round, unless it is None or both are given.

        Raises pydantic.ValidationError for a key or a value that is not allowed.
        """
        settings = {**self.model_dump(), **changes}
        for key, other in (("steps", "epochs"), ("epochs", "steps")):
            if changes.get(key) is not None and other not in changes:
                settings[other] = None
        return TrainSettings.model_validate(settings)

    def unavailable(self, gpu: bool) -> str | None:
        """Return why this machine cannot train with these settings (no GPU, a missing package), or None. `gpu` says
        whether it has a GPU. Packages are looked for, not imported."""
        for (key, value), (packages, needs_gpu) in NEEDS.items():
            if getattr(self, key) != value:
                continue
            if needs_gpu and not gpu:
                return f"{key} {value} needs a GPU: {WITHOUT_GPU[key]}."
            if missing := [name for name in packages if find_spec(name) is None]:
                return f"{key} {value} needs the package {missing[0]}."
        return None
