"""How a cell is trained, whatever its method: the keys of `train:`, their checks, and what they say when wrong.

Pure. Which labels there are, and what their methods are given, is `suite.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal, get_args

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter

from harness.architecture import SAMPLE
from harness.errors import Problem, unknown
from harness.methods import Method, make_method
from harness.suite.yaml_lines import Lines

# Of the training settings, those that also change what an untrained model scores.
SCORING = ("precision", "attention", "eval_batch_size")
# Training settings that came after the first results. With their defaults they are no part of a cell's identity, so
# that results from before them are still found. A new setting whose default changes nothing is added here.
LATER = ("devices", "strategy", "galore_rank", "galore_every", "dropout", "checkpoints")
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

    steps: int | None = Field(None, ge=1, description="optimiser steps; use these when data sizes are compared")
    epochs: float | None = Field(None, gt=0, description="passes over the data; instead of steps")
    batch_size: int = Field(8, ge=1, description="examples per forward pass, over all devices")
    gradient_accumulation: int = Field(1, ge=1, description="forward passes per optimiser step")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: fp32 on a CPU, bf16 on a GPU that has it, else fp16"
    )
    optimizer: Literal["adamw", "adafactor", "adamw8bit", "paged_adamw", "paged_adamw8bit", "galore"] = Field(
        "adamw", description="adamw is the fused one; paged: its state may move to the CPU's memory; galore: projected"
    )
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="of the learning rate")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(0.0, ge=0)
    dropout: float = Field(
        0.0, ge=0, lt=1, description="in training, of attention weights and of the network's dropout layers"
    )
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(512, ge=8, description="tokens; longer examples lose the start of their context")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    eval_every: int | None = Field(None, ge=1, description="steps between validation losses; None: never")
    early_stopping: int | None = Field(
        None, ge=1, description="stop after this many validations without a lower loss, and keep the best"
    )
    eval_batch_size: int = Field(16, ge=1, description="sequences per forward pass when scoring")
    devices: int = Field(1, ge=1, description="GPUs (on a CPU: processes) that share each batch in training")
    strategy: Literal["ddp", "fsdp", "deepspeed"] = Field(
        "ddp", description="what several devices divide: ddp the batch, deepspeed (ZeRO 2) also the optimizer, fsdp all"
    )
    galore_rank: int = Field(128, ge=1, description="optimizer galore: of a weight's gradient, what is kept")
    galore_every: int = Field(200, ge=1, description="optimizer galore: steps between two choices of the projection")
    checkpoints: int | None = Field(
        None, ge=1, description="how often all tasks are scored on the way, for a curve; None: only in the end"
    )

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Of resolved settings, those that are part of a cell's identity (see LATER)."""
        defaults = {name: cls.model_fields[name].default for name in LATER}
        return {key: value for key, value in settings.items() if key not in defaults or value != defaults[key]}


def check_devices(method: Method, train: TrainSettings) -> Iterator[str]:
    """Why a method cannot be trained on the devices that it is given."""
    if not method.trains:
        return
    if train.devices == 1:
        if train.strategy != TrainSettings.model_fields["strategy"].default:
            yield f"strategy {train.strategy} divides work among devices, and devices is 1. Raise devices, or drop it."
        return
    experts = [make_method(expert.method, expert.settings) for expert in method.wants("?")]
    # What only combines its experts leaves the devices to them.
    for part in [*experts, *([] if experts else [method])]:
        if not part.distributes:
            yield (
                f"{part.name} is trained on one device, and devices is {train.devices}. Give it train: {{devices: 1}}."
            )
        elif part.quantize and train.strategy != "ddp":
            yield (
                f"{train.strategy} cannot divide {part.quantize} weights. Use strategy: ddp, or drop quantize "
                f"({part.name})."
            )


def check_checkpoints(method: Method, train: TrainSettings) -> Iterator[str]:
    """Why a method cannot be scored between its steps."""
    if not train.checkpoints or not method.trains:
        return
    if train.devices > 1:
        yield (
            f"checkpoints are scored by one process, and devices is {train.devices}. Give it train: "
            "{checkpoints: null} or {devices: 1}."
        )
    if train.early_stopping:
        yield (
            "checkpoints are points on the way to the last step, and early_stopping keeps an earlier one. Give it "
            "train: {checkpoints: null} or {early_stopping: null}."
        )


def unavailable(train: Mapping[str, Any], gpu: bool) -> str | None:
    """Why resolved settings (or some of them) cannot be done on this machine, or None. Loads nothing."""
    for (key, value), (packages, needs_gpu) in NEEDS.items():
        if train.get(key) != value:
            continue
        if needs_gpu and not gpu:
            return f"{key} {value} needs a GPU: {WITHOUT_GPU[key]}."
        if missing := [name for name in packages if find_spec(name) is None]:
            return f"{key} {value} needs the package {missing[0]}."
    return None


def check_optimizer(method: Method, train: TrainSettings) -> Iterator[str]:
    """Why a method cannot be trained with the optimizer that it is given."""
    if train.optimizer != "galore" or not method.trains:
        return
    experts = [make_method(expert.method, expert.settings) for expert in method.wants("?")]
    for part in experts or [method]:
        footprint = part.footprint(SAMPLE)
        if footprint is None or not SAMPLE.linears().keys() & footprint.trained.keys():
            yield (
                f"optimizer galore projects the gradients of whole weight matrices, and {part.name} trains none. "
                "Give it train: {optimizer: adamw}."
            )
    if train.devices > 1 and train.strategy != "ddp":
        yield f"optimizer galore wants whole gradients, which {train.strategy} divides. Use strategy: ddp."


def merge_train(suite: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A label's training settings over the suite's; steps and epochs displace each other."""
    merged = {**suite, **own}
    if "steps" in own:
        merged.pop("epochs", None)
    if "epochs" in own:
        merged.pop("steps", None)
    if merged.get("steps") is None and merged.get("epochs") is None:
        merged["epochs"] = 3.0
    return merged


def check_train(
    block: dict[str, Any], lines: Lines, where: tuple[Any, ...], under: dict[str, Any] | None = None
) -> list[Problem]:
    """What is wrong with a block of training settings; `under` is the suite's, for a label's own."""
    problems = [
        lines.problem(f"{key}: got {value!r}, wanted a number.", *where, key)
        for key, value in block.items()
        if isinstance(value, bool)
        and key in TrainSettings.model_fields
        and not accepts_bool(TrainSettings.model_fields[key].annotation)
    ]
    try:
        TrainSettings.model_validate(block)
    except pydantic.ValidationError as error:
        problems += [explain(item, lines, TrainSettings, where) for item in error.errors()]
    if block.get("steps") is not None and block.get("epochs") is not None:
        problems.append(lines.problem("steps and epochs are both given. Keep one.", *where, "epochs"))
    if block.get("early_stopping") is not None and {**(under or {}), **block}.get("eval_every") is None:
        problems.append(
            lines.problem("early_stopping needs eval_every: the steps between validations.", *where, "early_stopping")
        )
    return problems + list(check_share(block, lines, where, under))


def check_share(
    block: dict[str, Any], lines: Lines, where: tuple[Any, ...], under: dict[str, Any] | None = None
) -> Iterator[Problem]:
    """A batch that its devices cannot share equally. Told at the block that asks for it."""
    try:
        train = TrainSettings.model_validate({**(under or {}), **block})
    except pydantic.ValidationError:
        return  # told elsewhere
    named = next((key for key in ("devices", "batch_size") if key in block), None)
    over = train.batch_size % train.devices
    if named and over:
        yield lines.problem(
            f"batch_size {train.batch_size} cannot be divided among {train.devices} devices: it is that of all devices "
            f"together. Take a multiple of {train.devices}, such as {train.batch_size + train.devices - over}, or "
            "other devices.",
            *where, named,
        )  # fmt: skip


def accepts_bool(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(True, strict=True)
    except pydantic.ValidationError:
        return False
    return True


def explain(
    item: Any, lines: Lines, model: type[pydantic.BaseModel], where: tuple[Any, ...] = (), kind: str = "key"
) -> Problem:
    """One pydantic error as one sentence: what was got, what is allowed, where."""
    path = (*where, *(part for part in item["loc"] if not is_type_name(part)))
    name = ".".join(str(part) for part in path[len(where) :])
    got = item.get("input")
    if item["type"] == "extra_forbidden":
        return lines.problem(unknown(kind, path[-1], holder(model, item["loc"]).model_fields), *path)
    if item["type"] == "missing":
        return lines.problem(f"{name} is missing.", *path)
    if item["type"] in ("too_short", "list_too_short"):
        return lines.problem(f"{name} is empty: the grid would hold no cell. List at least one.", *path)
    if item["type"] in ("model_type", "dataclass_type"):
        return lines.problem(f"{name}: got {got!r}, wanted a mapping (key: value).", *path)
    if path[-1] == "[key]":
        return lines.problem(f"got {got!r} as a name, wanted text. Put it in quotes: {str(got)!r}.", *path[:-1])
    if item["type"].startswith("byte_size"):
        return lines.problem(f"{name}: got {got!r}, wanted bytes, such as 16GiB.", *path)
    message = item["msg"].replace("Input should be ", "wanted ").replace("a valid ", "a ")
    message = message.replace("a integer", "an integer").split(", unable to parse")[0]
    return lines.problem(f"{name}: got {got!r}, {message}.", *path)


def is_type_name(part: Any) -> bool:
    """pydantic adds the name of the branch of a union to a location; it is no key of the file."""
    return isinstance(part, str) and (
        part.startswith(("literal[", "list[", "constrained-")) or part in ("int", "str", "float")
    )


def holder(model: type[pydantic.BaseModel], path: tuple[Any, ...]) -> type[pydantic.BaseModel]:
    """The model that a path's last key stands in: `model` itself, or one in a list of it."""
    for part in path[:-1]:
        field = model.model_fields.get(part)
        inner = get_args(field.annotation) if field else ()
        if inner and isinstance(inner[0], type) and issubclass(inner[0], pydantic.BaseModel):
            model = inner[0]
    return model
