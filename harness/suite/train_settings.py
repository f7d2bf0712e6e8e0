"""Checks of a suite's `train:` block, and the messages for what is wrong with it, whatever the method.

Pure. Not covered: the labels and the settings of their methods (`variants.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pydantic
from pydantic import TypeAdapter
from pydantic_core import ErrorDetails

from harness.architecture import SAMPLE
from harness.errors import Problem, unknown
from harness.methods import Method, all_methods, make_method
from harness.records import JsonObject, TrainSettings
from harness.suite.yaml_lines import Keys, Lines

SYNONYMS = {"lr": "learning_rate"}  # what other programs call a setting


def check_devices(method: Method, train: TrainSettings) -> Iterator[str]:
    """Yield why a method cannot be trained on as many `devices`, or with the `strategy`, that the training settings
    give it; nothing for a method that does not train. Where a method asks for experts, these are checked in its
    place."""
    if not method.trains:
        return
    if train.devices == 1:
        if train.strategy != TrainSettings.model_fields["strategy"].default:
            yield f"strategy {train.strategy} divides work among devices, and devices is 1. Raise devices, or drop it."
        return
    experts = [make_method(expert.method, expert.settings) for expert in method.wants("?")]
    # A method that only combines its experts leaves the devices to them.
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
    """Yield why a method cannot be scored at checkpoints during training; nothing where the settings ask for none, or
    nothing is trained."""
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


def check_optimizer(method: Method, train: TrainSettings) -> Iterator[str]:
    """Yield why a method cannot be trained with the optimiser that the training settings name: galore needs whole
    weight matrices and whole gradients, any other goes with every method."""
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


def merge_train(suite: JsonObject, own: JsonObject) -> JsonObject:
    """Return the suite's training settings overridden by a label's own; steps and epochs displace each other, and
    without either there are 3 epochs."""
    merged = {**suite, **own}
    if "steps" in own:
        merged.pop("epochs", None)
    if "epochs" in own:
        merged.pop("steps", None)
    if merged.get("steps") is None and merged.get("epochs") is None:
        merged["epochs"] = 3.0
    return merged


def check_train(block: JsonObject, lines: Lines, where: Keys, under: JsonObject | None = None) -> list[Problem]:
    """Return the mistakes in a block of training settings. `where` are the keys that lead to it in the file; `under`
    are the suite's settings, when the block is a label's own."""
    problems = [
        lines.problem(f"{key}: got {value!r}, wanted a number.", *where, key)
        for key, value in block.items()
        if isinstance(value, bool)
        and key in TrainSettings.model_fields
        and not accepts_bool(TrainSettings.model_fields[key].annotation)
    ]
    misplaced = {key: text for key in block if (text := of_a_method(str(key), block[key], lines))}
    problems += [lines.problem(text, *where, key) for key, text in misplaced.items()]
    try:
        TrainSettings.model_validate({key: value for key, value in block.items() if key not in misplaced})
    except pydantic.ValidationError as error:
        problems += [explain(item, lines, TrainSettings, where) for item in error.errors()]
    if block.get("steps") is not None and block.get("epochs") is not None:
        problems.append(lines.problem("steps and epochs are both given. Keep one.", *where, "epochs"))
    if block.get("early_stopping") is not None and {**(under or {}), **block}.get("eval_every") is None:
        problems.append(
            lines.problem("early_stopping needs eval_every: the steps between validations.", *where, "early_stopping")
        )
    return problems + list(check_share(block, lines, where, under))


def of_a_method(key: str, value: object, lines: Lines) -> str:
    """Return the message for a key of a `train:` block that is a setting of methods, with the first of the suite's own
    labels that takes it as the example; "" for any other key."""
    name = SYNONYMS.get(key, key)
    kinds = all_methods()
    takers = [method for method, kind in kinds.items() if name in kind.fields()]
    if key in TrainSettings.model_fields or not takers:
        return ""
    labels = [str(path[1]) for path in lines.places if len(path) == 2 and path[0] == "methods"]
    example = next((label for label in labels if label in takers), takers[0])
    shown = value if isinstance(value, int | float | str) else "…"
    return f"unknown key {key!r}. {name} belongs to a method: {example}: {{{name}: {shown}}}."


def check_share(block: JsonObject, lines: Lines, where: Keys, under: JsonObject | None = None) -> Iterator[Problem]:
    """Yield a problem where `batch_size` is no multiple of `devices`, at the line where `block` sets one of them;
    nothing where it sets neither.

    `under` are the settings that `block` overrides; `where` are the keys that lead to the block.
    """
    try:
        train = TrainSettings.model_validate({**(under or {}), **block})
    except pydantic.ValidationError:
        return  # check_train reports it
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
    """Return whether true and false are values of a setting of this type."""
    try:
        TypeAdapter(annotation).validate_python(True, strict=True)
    except pydantic.ValidationError:
        return False
    return True


def explain(
    item: ErrorDetails, lines: Lines, model: type[pydantic.BaseModel], where: Keys = (), kind: str = "key"
) -> Problem:
    """Turn one pydantic error into a Problem of one sentence: what was given, what is allowed, and at which line.

    `model` is the pydantic model that raised it, `where` the keys that lead to its block, `kind` what the message calls
    an unknown key of it.
    """
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


def is_type_name(part: object) -> bool:
    """Return whether part of a pydantic error's location is the name of a branch of a union, and so no key of the
    file."""
    return isinstance(part, str) and (
        part.startswith(("literal[", "list[", "constrained-")) or part in ("int", "str", "float")
    )


def holder(model: type[pydantic.BaseModel], path: Keys) -> type[pydantic.BaseModel]:
    """Return the pydantic model that defines the last key of a path: `model` itself, or the model of a list or field in
    it."""
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        inner = get_args(field.annotation) if field else ()
        if inner and isinstance(inner[0], type) and issubclass(inner[0], pydantic.BaseModel):
            model = inner[0]
    return model
