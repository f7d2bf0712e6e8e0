"""What every method is. A method is one class in one file of this folder; nothing else needs to change.

Not covered here: the training loop (`train.py`) and scoring (`evaluate.py`). A method file imports this
base alone, and third-party packages inside functions, so that planning never loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_type_hints

from harness.errors import unknown
from harness.network import Network, Shape

if TYPE_CHECKING:
    from pathlib import Path

    from lm_eval.api.model import LM
    from torch import nn


@dataclass(frozen=True)
class LogFloat:
    """A search range on a log scale: low < high, both above zero."""

    low: float
    high: float


@dataclass(frozen=True)
class Options:
    """A search over a fixed list of values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Expert:
    """A cell that a method asks the plan for: this method with these settings, trained on this task."""

    role: str
    method: str
    settings: dict[str, Any]
    learn: str


@dataclass(frozen=True)
class Footprint:
    """What of a network a method trains, and what its gradients need: enough to count memory before a cell runs.

    `trained` maps every trained tensor to its shape; those that are the network's own bear its names.
    Activations are kept from layer `lowest` upwards. `adapted` names the linear layers with an adapter beside
    them; `inputs_kept` says that the adapter reads the very input of its layer. An adapter keeps `per_token`
    numbers for each token, and `fixed` ones whatever the batch.
    """

    trained: Mapping[str, Shape]
    lowest: int = 0
    adapted: frozenset[str] = frozenset()
    inputs_kept: bool = True
    per_token: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    virtual_tokens: int = 0


class Job(Protocol):
    """What the worker lends a method while it runs one cell."""

    base: Path  # folder of the base model (safetensors, tokenizer)
    scratch: Path  # an empty folder, removed afterwards
    needs: Mapping[str, Path]  # role -> folder with that cell's saved weights
    seed: int

    @property
    def tokenizer(self) -> Any: ...
    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> nn.Module: ...
    def examples(self, split: str = "train") -> list[Any]: ...
    def train(self, model: nn.Module, method: Method) -> nn.Module: ...
    def language_model(self, model: nn.Module) -> LM: ...
    def callbacks(self) -> list[Any]: ...


@cache
def annotations_of(kind: type) -> dict[str, Any]:
    """A class's annotated public fields and their types. Cached: a plan asks for each of its cells."""
    return {
        key: hint
        for key, hint in get_type_hints(kind).items()
        if not key.startswith("_") and getattr(hint, "__origin__", None) is not ClassVar
    }


class Method:
    """A way of adapting a base model. Annotated public fields are the YAML keys, with their defaults.

    The docstring's first line is what `tunebench methods` and the report show. All hooks have defaults:
    a plain fine-tuning method overrides `attach` alone.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    trains: ClassVar[bool] = True  # False: no data size and no seed of its own
    is_language_model: ClassVar[bool] = True  # False: nothing to retain, no retention scores
    mergeable: ClassVar[bool] = True  # False: its result is no set of weights that can be merged
    distributes: ClassVar[bool] = True  # False: it is trained on one device (`train: devices`)
    space: ClassVar[dict[str, Any]] = {}  # what tuning may move

    quantize: Literal["nf4", "fp4", "int8"] | None = None

    def __init__(self, **settings: Any):
        fields = self.fields()
        for key in settings:
            if key not in fields:
                raise ValueError(unknown(f"setting of {self.name}", key, fields))
        for key, default in fields.items():
            setattr(self, key, settings.get(key, copy(default)))

    @classmethod
    def annotations(cls) -> dict[str, Any]:
        """YAML keys and their types, base class first."""
        return annotations_of(cls)  # type: ignore[arg-type]  # a class is hashable

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """YAML keys and their defaults."""
        return {key: getattr(cls, key) for key in cls.annotations()}

    @property
    def settings(self) -> dict[str, Any]:
        """Every key with its resolved value: part of the cell's identity."""
        return {key: getattr(self, key) for key in self.fields()}

    # --- planning: pure, no torch ---

    def problems(self) -> Iterable[str]:
        """What is wrong with this combination of settings, beyond their types."""
        return ()

    def own_model(self) -> str | None:
        """A model this method always uses instead of the suite's (an encoder), or None."""
        return None

    def wants(self, task: str) -> Iterable[Expert]:
        """Cells that must be done before this one."""
        return ()

    def learns(self, task: str) -> tuple[str, ...]:
        """The tasks this cell has learned when it is done; the first is the suite's."""
        return (task,) if self.trains else ()

    def skip(self) -> str | None:
        """Why this method cannot run on this machine, or None. Asked before a process is started."""
        if self.quantize and find_spec("bitsandbytes") is None:
            return f"quantize: {self.quantize} needs the package bitsandbytes"
        return None

    def footprint(self, network: Network) -> Footprint | None:
        """What is trained of such a network, from which memory is predicted; None where it cannot be said."""
        return None if self.trains else Footprint({})

    # --- working: inside the worker's process ---

    def load(self, job: Job) -> nn.Module:
        """The model before it is adapted."""
        return job.load_model(quantize=self.quantize)

    def attach(self, model: nn.Module) -> nn.Module:
        """Make trainable what this method trains; returns the model to train."""
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Optimiser groups, or None for one group with the method's learning rate."""
        return None

    def fit(self, model: nn.Module, job: Job) -> nn.Module:
        """Train. Only methods with a trainer of their own override this."""
        return job.train(model, self) if self.trains else model

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each optimiser step."""

    def predictor(self, model: nn.Module, job: Job) -> LM:
        """What lm-eval scores."""
        return job.language_model(model)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what must be shipped to use the result."""
        model.save_pretrained(folder)  # type: ignore[operator]
