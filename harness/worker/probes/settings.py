"""Effective settings: every field of a library's configuration object after it was made, as text that can be
compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from harness.records import LIBRARIES, Probe

# Fields that hold a folder, a name or a date, and say nothing about what is computed.
OWN = (
    "output_dir", "logging_dir", "run_name", "base_model_name_or_path", "tokenizer_name_or_path", "revision",
    "auto_mapping", "peft_version", "transformers_version", "_commit_hash", "hub_token", "hub_model_id",
)  # fmt: skip


def fields_of(config: Any) -> dict[str, str]:
    """Returns the fields of a configuration object (a dataclass, or one with `to_dict`) as name -> text."""
    if dataclasses.is_dataclass(config):
        values = {one.name: getattr(config, one.name, None) for one in dataclasses.fields(config)}
    else:
        values = dict(config.to_dict())
    return {name: text_of(value) for name, value in sorted(values.items()) if name not in OWN}


def text_of(value: object) -> str:
    """Returns a setting's value as text that is the same in every process: sets sorted, addresses left out."""
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(text_of, value))) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {text_of(entry)}" for key, entry in sorted(value.items(), key=str)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(text_of, value)) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}{text_of(fields_of(value))}"
    text = str(value)
    return f"<{type(value).__name__}>" if " at 0x" in text else text


# Package -> the configuration objects of it that cells use, and how each is made with nothing but what it demands.
DEFAULTS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "transformers": [
        ("transformers", "TrainingArguments", {"output_dir": "unused"}),
        ("transformers", "GenerationConfig", {}),
    ],
    "setfit": [("setfit", "TrainingArguments", {})],
    "trl": [
        ("trl", "SFTConfig", {"output_dir": "unused"}),
        ("trl", "DPOConfig", {"output_dir": "unused"}),
        ("trl", "GRPOConfig", {"output_dir": "unused"}),
    ],
}


def probe_defaults(packages: tuple[str, ...]) -> Iterator[Probe]:
    """Yields the default settings of each configuration object of `packages`: where a release changes one, equal
    settings mean something else."""
    for package in packages:
        for module, name, options in DEFAULTS.get(package, []):
            what = f"default settings of {package}.{name}"
            try:
                make: Callable[..., Any] = getattr(import_module(module), name)
                yield Probe(LIBRARIES, what, fields=fields_of(make(**options, **on_cpu(make))))
            except Exception as error:
                yield Probe(LIBRARIES, what, reason=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def on_cpu(make: Callable[..., Any]) -> dict[str, Any]:
    """Returns the setting by which a configuration asks for the CPU, so that it is made without a GPU too."""
    known = getattr(make, "__dataclass_fields__", {})
    return {"use_cpu": True} if "use_cpu" in known else {"no_cuda": True} if "no_cuda" in known else {}
