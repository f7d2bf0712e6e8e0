"""What every method is. A method is one class in one file of this folder; nothing else needs to change.

Not covered here: the training loop (`train.py`) and scoring (`evaluate.py`). A method file imports this
base alone, and third-party packages inside functions, so that planning never loads torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.architecture import Network, Shape, read_network
from harness.data import cut_left as cut_left
from harness.errors import unknown as unknown  # methods import this file alone
from harness.plugin import Configurable
from harness.records import TrainSettings as TrainSettings  # and this one

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from lm_eval.api.model import LM
    from torch import nn
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from harness.data import Example, Render

__all__ = [
    "TRAINED",
    "Context",
    "Expert",
    "Footprint",
    "Group",
    "LogFloat",
    "Method",
    "Network",
    "Options",
    "Row",
    "Settings",
    "Shape",
    "Space",
    "TrainSettings",
    "cut_left",
    "load_trained",
    "read_network",
    "remembered",
    "save_trained",
    "seed_in_use",
    "unknown",
]  # fmt: skip
TRAINED = "trained.safetensors"
Settings = dict[str, Any]  # a plug-in's settings, as a suite's file gives them
Group = dict[str, Any]  # a group of parameters with its options, as torch's optimisers take it
Row = dict[str, list[int]]  # an encoded example: input_ids and labels; the loss is on labels that are not -100


@dataclass(frozen=True)
class LogFloat:
    """A search range on a log scale: low < high, both above zero."""

    low: float
    high: float


@dataclass(frozen=True)
class Options:
    """A search over a fixed list of values."""

    values: tuple[Any, ...]


Space = dict[str, LogFloat | Options]  # setting -> what tuning may move it through


@dataclass(frozen=True)
class Expert:
    """A cell that another asks the plan for: this method with these settings, trained on this task.

    `model` is its base model where it is another than the asking cell's, `seed` the seed it is trained with where that
    is another; its examples are those of the asking cell's seed.
    """

    role: str
    method: str
    settings: Settings
    learn: str
    model: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Footprint:
    """What of a network a method trains, and what its gradients need: enough to count memory before a cell runs.

    `trained` maps every trained tensor to its shape; those that are the network's own bear its names.
    Activations are kept from layer `lowest` upwards. `adapted` names the linear layers with an adapter beside
    them; `inputs_kept` says that the adapter reads the very input of its layer. An adapter keeps `per_token`
    numbers for each token, and `fixed` ones whatever the batch. `virtual_tokens` run through every layer before the
    input's own; of `prefix_tokens` a layer has keys and values alone. `frozen` numbers are added beside the network and
    not trained; `state` are those that the method keeps of its own for each trained one. An example is `sequences`
    sequences of a batch.
    """

    trained: Mapping[str, Shape]
    lowest: int = 0
    adapted: frozenset[str] = frozenset()
    inputs_kept: bool = True
    per_token: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    virtual_tokens: int = 0
    prefix_tokens: int = 0
    frozen: int = 0
    state: int = 0
    sequences: int = 1


class Context(Protocol):
    """What the worker lends a method, an objective or a curriculum while it runs one cell."""

    base: Path  # folder of the base model (safetensors, tokenizer)
    models: Mapping[str, Path]  # name -> folder, of every model that the cell names
    scratch: Path  # an empty folder, removed afterwards
    needs: Mapping[str, Path]  # role -> folder with that cell's saved weights
    task: str  # what is learned; the name of the suite's task
    n_train: int
    seed: int
    settings: TrainSettings

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> nn.Module:
        """The base model, or the full weights of another folder; on this process's device, in evaluation mode."""
        ...

    def load_need(self, role: str, fold: bool = False) -> nn.Module:
        """The model that a needed cell left; `fold`: as plain weights."""
        ...

    def examples(
        self, split: str = "train", task: str | None = None, n: int | None = None, render: Render | None = None
    ) -> list[Example]:
        """Examples (context, target, closed) of the cell's task, or of another that it names; as many as the cell's
        data size, or `n`. `render` (an LM's `apply_chat_template`) asks them as messages of a conversation."""
        ...

    def rows(self, model: nn.Module, found: list[Example]) -> list[Row]:
        """Examples as {input_ids, labels}, encoded as the model's scorer would; the loss is on answers."""
        ...

    def encode(self, model: nn.Module, found: list[Example]) -> list[Row]:
        """Examples as a language model learns them: what `Method.rows` gives where a method has no form of its own."""
        ...

    def texts(self, task: str, n: int | None = None) -> list[str]:
        """Running text of a task's training split; of a task of questions, those with their answers."""
        ...

    def text_rows(self, model: nn.Module, task: str, n: int | None = None) -> list[Row]:
        """Running text of a task's training split as {input_ids, labels}, as it would be scored: behind the scorer's
        prefix token, the loss on every other token. What is beyond `max_length` is cut off."""
        ...

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """A right-padded batch {input_ids, labels, attention_mask}, each [rows, length], on this process's device."""
        ...

    def answer_logits(
        self, model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [rows, places, vocabulary], targets [rows, places]) where some row's label is predicted; targets are
        -100 in rows that have none there."""
        ...

    def wrong(self, example: Example) -> list[Example]:
        """A multiple-choice example of the cell's task with each of the answers that are not its own."""
        ...

    def mark(self, example: Example, answer: str) -> float:
        """What the cell's task makes of a generated answer to an example; more is better."""
        ...

    def train(self, model: nn.Module, method: Method) -> nn.Module: ...
    def train_on(self, rows: list[Row], model: nn.Module, method: Method, changes: Settings) -> nn.Module:
        """Train on encoded rows, with some of the cell's training settings changed."""
        ...

    def train_by(
        self,
        trainer: Callable[..., Any],
        config: Callable[..., Any],
        model: nn.Module,
        method: Method,
        changes: Settings,
    ) -> nn.Module:
        """Train with a trainer of another library that is made of transformers' (`trainer` takes model, args and
        callbacks). `config` makes its arguments of those of transformers: the cell's training settings, with changes.
        The model that it hands back is as it was but for its weights."""
        ...

    def language_model(self, model: nn.Module, base: Path | None = None) -> LM:
        """What lm-eval scores; `base`: the folder of another model's tokenizer."""
        ...

    def callbacks(self) -> list[TrainerCallback]:
        """What a trainer of the method's own, made of transformers', is given: first what measures it."""
        ...


class Method(Configurable):
    """A way of adapting a base model. Annotated public fields are the YAML keys, with their defaults.

    `quantize` loads the base in fewer bits: nf4 and fp4 (4-bit with double quantisation) or int8, by bitsandbytes.
    Packed weights cannot be trained: a method refuses them unless it says that it `trains_quantized`.

    The docstring's first line is what `tunebench methods` and the report show. All hooks have defaults:
    a plain fine-tuning method overrides `attach` alone.
    """

    kind = "method"
    family: ClassVar[str] = ""
    trains: ClassVar[bool] = True  # False: no weight is changed by it
    is_language_model: ClassVar[bool] = True  # False: nothing to retain, no retention scores
    foldable: ClassVar[bool] = True  # False: its result cannot be folded into plain weights, nor merged
    distributes: ClassVar[bool] = True  # False: it is trained on one device (`train: devices`)
    wraps: ClassVar[bool] = False  # True: peft wraps the model, which it can do once
    own_trainer: ClassVar[bool] = False  # True: objectives and curricula cannot reach its training
    alone: ClassVar[str] = ""  # why nothing else can be trained beside it; "": it can
    inner: ClassVar[str] = ""  # the setting that holds another method with its settings, which this one trains
    wants_choices: ClassVar[bool] = False  # True: it learns from wrong answers, which only multiple choice has
    trains_quantized: ClassVar[bool] = False  # True: what it trains lies beside the base's weights, which may be packed
    instead_of_quantized: ClassVar[str] = "Use method qlora, or drop quantize."  # what to do where it is False
    starts_at_base: ClassVar[str] = ""  # why an untrained result does not score as the base model; "": it does
    space: ClassVar[Space] = {}  # what tuning may move

    quantize: Literal["nf4", "fp4", "int8"] | None = None

    def declare(self, **attributes: object) -> None:
        """Set for this instance what its class declares, where it depends on the settings: `starts_at_base`, …"""
        vars(self).update(attributes)

    # --- planning: pure, no torch ---

    @classmethod
    def variants(cls) -> Mapping[str, Settings]:
        """What it can be by another library's own names, for listings: name -> {paper, cannot, foldable, settings}."""
        return {}

    @property
    def uses_data(self) -> bool:
        """Whether it learns from training examples: then it has a data size and a seed."""
        return self.trains

    @property
    def extras(self) -> tuple[str, ...]:
        """Packages that it takes beside those that every cell does (torch, transformers)."""
        return (*self.packages, *(("bitsandbytes",) if self.quantize else ()))

    @property
    def serves(self) -> tuple[str, ...]:
        """The parts that must be kept to answer with what it leaves, in words: a base model of which others make use as
        well is one of them."""
        return ("base model", "adapter") if self.wraps else ("model",)

    @property
    def prepares(self) -> bool:
        """Whether `fit` has work to do: training, or taking in examples or documents. It is measured, and saved."""
        return self.uses_data

    def own_model(self) -> str | None:
        """A model this method always uses instead of the suite's (an encoder), or None."""
        return None

    def wants(self, task: str) -> Iterable[Expert]:
        """Cells that must be done before this one."""
        return ()

    def reads(self, task: str) -> tuple[str, ...]:
        """Other tasks whose training text it reads, without being scored on them."""
        return ()

    def borrows(self) -> tuple[str, ...]:
        """Models that it uses beside the cell's own, by name."""
        return ()

    def learns(self, task: str) -> tuple[str, ...]:
        """The tasks this cell has learned when it is done; the first is the suite's."""
        return (task,) if self.uses_data else ()

    def refuses(self, expert: Method) -> Iterable[str]:
        """Why a cell of that method, which this one asks for, cannot serve it."""
        return ()

    def cannot_train(self, train: TrainSettings) -> Iterable[str]:
        """Why it does not go with training settings."""
        return ()

    def misfits(self, network: Network) -> Iterable[str]:
        """Why it cannot be put on a network of Llama's form with these layers."""
        return ()

    @property
    def served_folded(self) -> bool:
        """Whether what it adds to the model is folded into the model's weights before it is served. Not into quantised
        ones, which would round it."""
        return self.foldable and self.quantize is None

    @property
    def adds_up(self) -> bool:
        """Whether it leaves a low-rank adapter of peft's whose product is its whole change: such can be added up."""
        return False

    def mistakes(self) -> Iterable[str]:
        if self.quantize and self.trains and not self.trains_quantized:
            yield f"{self.name} cannot train {self.quantize} weights. {self.instead_of_quantized}"
        yield from self.problems()

    def skip(self) -> str | None:
        if self.quantize and find_spec("bitsandbytes") is None:
            return f"quantize: {self.quantize} needs the package bitsandbytes"
        return super().skip()

    def footprint(self, network: Network) -> Footprint | None:
        """What is trained of such a network, from which memory is predicted; None where it cannot be said."""
        return None if self.trains else Footprint({})

    # --- working: inside the worker's process ---

    def load(self, context: Context) -> nn.Module:
        """The model before it is adapted."""
        return context.load_model(quantize=self.quantize)

    def attach(self, model: nn.Module) -> nn.Module:
        """Make trainable what this method trains; returns the model to train."""
        return model

    def parameter_groups(self, model: nn.Module) -> list[Group] | None:
        """Optimiser groups, or None for one group with the method's learning rate."""
        return None

    def rows(self, model: nn.Module, found: list[Example], context: Context) -> list[Row]:
        """Examples as {input_ids, labels}; the loss is on the labels that are not -100."""
        return context.encode(model, found)

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        """Train. Only methods with a trainer of their own override this."""
        return context.train(model, self) if self.trains else model

    def prepare(self, model: nn.Module, context: Context) -> None:
        """Called once, when the model is attached and before it is trained; its time counts as training."""

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        """Called before the first of `steps` optimiser steps, once for each stage of a curriculum.

        The optimiser already holds all that was trainable before; here and in `after_step` a method says what of it
        is trained next (`train_only`).
        """

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """A term of the method's own in the loss of each forward pass, or None."""
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each optimiser step (the first is 1), while the gradients are still there."""

    def snapshot(self, model: nn.Module) -> Any:
        """What the method keeps beside the trained weights and belongs to them as they are now, such as which ranks are
        in use: early stopping keeps it with the best weights."""
        return None

    def go_back(self, model: nn.Module, snapshot: Any) -> None:
        """Called when the trained weights have become again what they were when `snapshot` was taken."""

    def finish(self, model: nn.Module, context: Context) -> nn.Module:
        """The trained model as it is scored and saved; its time counts as training."""
        return model

    def predictor(self, model: nn.Module, context: Context) -> LM:
        """What lm-eval scores."""
        return context.language_model(model)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what must be shipped to use the result: safetensors and JSON, nothing pickled."""
        model.save_pretrained(folder)  # type: ignore[operator]

    def restore(self, context: Context, folder: Path) -> nn.Module:
        """The model that `save` wrote, ready to score."""
        if not (folder / "adapter_config.json").exists():
            return context.load_model(folder)
        from peft import PeftModel

        model: nn.Module = PeftModel.from_pretrained(self.load(context), str(folder))
        return model.eval()

    def recall(self, context: Context, folder: Path) -> None:
        """Read what `save` wrote beside weights (an index, examples), for the predictor of a restored model."""

    def fold(self, model: nn.Module) -> nn.Module:
        """A trained model as plain weights of the base's architecture. Only called where `foldable`."""
        unload = getattr(model, "merge_and_unload", None)
        return unload() if unload else model


def seed_in_use() -> int:
    """The seed of this process's random numbers: the cell's, from before its model is loaded.

    For libraries that draw with a generator of their own, which would give every cell the same numbers.
    """
    import torch

    return torch.initial_seed() % 2**31


def remembered(name: str, find_out: Callable[[], Settings]) -> Settings:
    """What `find_out` returns, as JSON keeps it: found out once, and read from the cache after that.

    `name` must say all that the answer depends on, such as a library's version. A file that cannot be read is made
    anew; where none can be written, the answer is found out each time.
    """
    import json
    from contextlib import suppress

    from harness.data import cache_root

    path = cache_root() / "facts" / f"{name}.json"
    with suppress(OSError, ValueError):
        if isinstance(known := json.loads(path.read_text(encoding="utf-8")), dict):
            return known
    text = json.dumps(find_out(), default=str)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    answer: Settings = json.loads(text)
    return answer


def train_only(active: Iterable[nn.Parameter], held: Iterable[nn.Parameter]) -> None:
    """Of `held` weights, train the `active` ones until further notice.

    The others are left without a gradient, not with one of zero, which an optimiser's momentum and weight decay
    would still follow: so they do not move at all.
    """
    wanted = set(map(id, active))
    for value in held:
        value.requires_grad_(id(value) in wanted)
        if not value.requires_grad:
            value.grad = None


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write what is trainable, by name: what must be shipped beside the base model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value for name, value in model.named_parameters() if value.requires_grad}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TRAINED)


def load_trained(model: nn.Module, folder: Path) -> nn.Module:
    """An attached model with the weights of `save_trained`, ready to score. Raises ValueError for others."""
    from safetensors.torch import load_file

    _, unknown = model.load_state_dict(load_file(folder / TRAINED), strict=False)
    if unknown:
        raise ValueError(f"{folder} holds weights that the model does not have, such as {unknown[0]}.")
    return model.eval()
