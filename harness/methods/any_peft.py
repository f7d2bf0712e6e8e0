"""Offers every type of adapter that the installed peft has, by its own name and with its own configuration keys.

Which types there are, and what their keys are called, is read from peft's registry: a new release brings its types with
no change here. Only what the registry does not say is written down below; tests/methods/test_any_peft.py checks it
against the library. Reading the registry imports peft, and so torch: only suites that use this method do so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_type_hints

from harness.methods.base import LogFloat, Method, Network, Settings, remembered, seed_in_use, unknown

if TYPE_CHECKING:
    from torch import nn

VARIANTS_VERSION = 1  # raised when `about` says something else
# Types that a suite cannot use, and why.
UNFIT = {
    "adalora": "it needs to know the number of steps: use method adalora",
    "multitask_prompt_tuning": "it wants the number of a task beside each example",
    "poly": "it wants the number of a task beside each example",
    "xlora": "it mixes adapters that were trained before",
}
# Keys without a default that works. Soft prompts also need num_virtual_tokens, which their configurations show.
NEEDED = {"adaption_prompt": ("adapter_len", "adapter_layers"), "trainable_tokens": ("token_indices",)}
NORMS = {"ln_tuning", "trainable_tokens"}  # types whose targets are no linear layers
# Why an untrained one does not score as the base. Soft prompts never do.
STARTS = {
    "c3a": "its kernels start at random",
    "fourierft": "its spectrum starts at random",
    "unilora": "its one vector starts at random",
    "vblora": "its bank of vectors starts at random",
}
# Why it cannot be folded into the weights, where peft's class has the method and refuses.
APART = {
    "beft": "it adds biases, and layers without any have no place for them",
    "lily": "its layers share experts, which are chosen anew for each token",
    "shadow": "it is a network of its own beside the model",
}
# Keys that seed what a type draws with a generator of its own, such as the random matrices of VeRA and RandLoRA: peft's
# defaults would give every cell the same.
SEED = re.compile(r"(seed|prng_key)$")
TORCHS_OWN = {"generator_seed"}  # without a seed these draw as torch does
# Types that compute with the weights themselves, so that packed ones will not do.
UNPACKED = {
    "adamss", "deft", "delora", "frod", "glora", "hra", "loha", "lokr", "osf", "peanut", "psoft", "supertuning",
    "tinylora", "unilora",
}  # fmt: skip


class AnyPeft(Method):
    """Any adapter type of the installed peft, by name and with peft's own configuration keys.

    `type` is peft's name in lower case, `config` its keys as peft documents them (`tunebench methods peft` lists both).
    Only `learning_rate` is not peft's. Seeds that `config` does not give are the cell's. The type decides what is
    trained, and how much. peft chooses the adapted layers for the model, unless `config` gives target_modules.
    """

    name = "peft"
    trains_quantized = True
    family = "reparameterised"
    wraps = True
    packages = ("peft",)
    space = {"learning_rate": LogFloat(1e-5, 1e-1)}

    learning_rate: float = 3e-3
    type: str = ""
    config: Settings = {}

    @property
    def starts_at_base(self) -> str:  # type: ignore[override]
        if self.type and is_prompt(self.type):
            return "virtual tokens stand before every input from the start"
        return STARTS.get(self.type, "")

    @property
    def foldable(self) -> bool:  # type: ignore[override]
        return self.type in types() and not why_apart(self.type)

    @classmethod
    def variants(cls) -> dict[str, dict[str, Any]]:
        """Return {type: {paper, cannot, foldable, settings}} for every type of the installed peft (see `about`).
        Importing peft takes seconds, so the answer is cached for each release."""
        return remembered(
            f"peft-{version('peft')}-types-{VARIANTS_VERSION}", lambda: {name: about(name) for name in types()}
        )

    def problems(self) -> Iterable[str]:
        if not self.type:
            yield f"type is missing: one of peft's, such as oft. Known: {', '.join(types())}."
            return
        if self.type not in types():
            yield unknown("type of adapter in the installed peft", self.type, types())
            return
        if self.type in UNFIT:
            yield f"peft's {self.type} cannot be used here: {UNFIT[self.type]}."
            return
        if self.quantize and self.type in UNPACKED:
            yield f"{self.type} computes with the weights themselves, not with {self.quantize} ones. Drop quantize."
        known = keys(self.type)
        strange = [unknown(f"key of peft's {self.type}", key, known) for key in self.config if key not in known]
        yield from strange
        if strange:
            return
        try:
            config = self._made()
        except (TypeError, ValueError) as error:
            yield f"config of {self.type}: {' '.join(str(error).split())}"
            return
        wanted = [*NEEDED.get(self.type, ()), *(["num_virtual_tokens"] if is_prompt(self.type) else [])]
        for key in wanted:
            if getattr(config, key) in (None, []):
                yield f"config of {self.type} needs {key}: config: {{{key}: …}}."

    def misfits(self, network: Network) -> Iterable[str]:
        if self.type not in types() or is_prompt(self.type):
            if self.type in types() and (network.stateful or not network.attends):
                yield f"{self.type} wants a model with attention, which {network.kind} is not throughout. Use lora."
            return
        given = self.config.get("target_modules")
        targets: str | list[str] = given or self._by_default(network)
        if not targets:
            if "target_modules" in keys(self.type) and not given:
                yield (
                    f"peft has no choice of layers for {self.type} on {network.kind}. Give config: {{target_modules: "
                    f"[{', '.join(network.linear_names())}]}}, or all-linear."
                )
            return
        if self.type not in NORMS:
            yield from network.unmatched(targets)
        transposed = [name for name in network.linears(targets) if network.is_transposed(name)]
        if transposed and not takes_transposed(self.type):
            yield (
                f"peft's {self.type} does not work on the transposed layers that {network.kind} has ({transposed[0]}). "
                "Use lora, or another type that does."
            )

    def tokens_before(self, network: Network, length: Callable[[str], int]) -> int:
        return int(self.config.get("num_virtual_tokens") or 0) if is_prompt(self.type) else 0

    def _by_default(self, network: Network) -> str | list[str]:
        """Return the layers that peft chooses for a family where the suite names none; empty where it has no choice."""
        import peft.utils.constants as tables

        names = [name for name in dir(tables) if name.startswith("TRANSFORMERS_MODELS_TO_")]
        own = f"TRANSFORMERS_MODELS_TO_{self.type.upper()}_TARGET_MODULES_MAPPING"
        table: Mapping[str, Any] = getattr(tables, own if own in names else tables_of_lora(), {})
        found = table.get(network.kind, [])
        return found if isinstance(found, str) else list(found)

    def _seeded(self) -> Any:
        """Return peft's configuration, in which every seed that the suite does not set is the cell's."""
        config = self._made()
        for key in keys(self.type).keys() - self.config.keys() - TORCHS_OWN:
            if SEED.search(key):
                setattr(config, key, seed_in_use())
        return config

    def _made(self) -> Any:
        """Return peft's configuration with the suite's keys. Raises TypeError or ValueError for keys or values that
        peft refuses."""
        from pydantic import TypeAdapter, ValidationError
        from pydantic.errors import PydanticSchemaGenerationError

        known, given = keys(self.type), {}
        for key, value in self.config.items():
            try:
                given[key] = TypeAdapter(known[key][0]).validate_python(value)  # YAML has 1e-4 as text
            except PydanticSchemaGenerationError:
                given[key] = value
            except ValidationError as error:
                raise ValueError(f"{key} is {value!r}: {error.errors()[0]['msg']}") from error
        return types()[self.type](task_type="CAUSAL_LM", **given)

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return get_peft_model(model, self._seeded())


def types() -> Mapping[str, Any]:
    """Return {name in lower case: peft's configuration class} of every type of adapter in the installed peft."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    # Up to 0.13 the registry's keys were texts.
    named = {str(getattr(kind, "value", kind)).lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return dict(sorted(named.items()))


def tables_of_lora() -> str:
    """Return the name of the table of layers that peft takes for LoRA, and for types without a table of their own."""
    return "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"


def takes_transposed(name: str) -> bool:
    """Return whether a type of adapter works on transformers' transposed linear layer (Conv1D), as its code in peft
    says."""
    import inspect
    import sys

    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    module = sys.modules[PEFT_TYPE_TO_TUNER_MAPPING[name.upper()].__module__]
    return "Conv1D" in inspect.getsource(module)


def keys(name: str) -> dict[str, tuple[Any, Any]]:
    """Return {key: (type, default)} of the keys that a suite may set for a type of adapter. Keys that every peft
    configuration has are left out."""
    from dataclasses import MISSING, fields

    from peft import PeftConfig

    kind = types()[name]
    try:
        hints = get_type_hints(kind)
    except NameError:  # a type that is imported for type checkers alone
        hints = {}
    common = {field.name for field in fields(PeftConfig)}
    return {
        field.name: (
            hints.get(field.name, Any),
            field.default_factory() if field.default_factory is not MISSING else field.default,
        )
        for field in fields(kind)
        if field.init and field.name not in common
    }


def is_prompt(name: str) -> bool:
    """Return whether a type of adapter is a soft prompt: trained virtual tokens before the input. False for an unknown
    name."""
    from peft.config import PromptLearningConfig

    return name in types() and issubclass(types()[name], PromptLearningConfig)


def why_apart(name: str) -> str:
    """Return why the result of a type of adapter cannot be folded into plain weights; "" where it can."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    if not hasattr(PEFT_TYPE_TO_TUNER_MAPPING[name.upper()], "merge_and_unload"):
        return "it is no change of weights"
    return APART.get(name, "")


def about(name: str) -> dict[str, Any]:
    """Return what `tunebench methods` shows of a type of adapter: {paper: the first that peft's own documentation
    names, cannot: why a suite cannot use it or "", foldable, settings: {key: default}}."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuner = PEFT_TYPE_TO_TUNER_MAPPING[name.upper()]
    text = f"{tuner.__doc__}{types()[name].__doc__}"
    papers = re.findall(r"(?:papers/|abs/|pdf/|arXiv:)(\d{4}\.\d{4,5})", text)
    return {
        "paper": f"arXiv:{papers[0]}" if papers else "",
        "cannot": UNFIT.get(name, ""),
        "foldable": not why_apart(name),
        "settings": {key: default for key, (_, default) in keys(name).items()},
    }
