"""The base class of every method. A method is one class in one file of this folder; nothing else needs to change.

Not covered: the training loop (`worker/train.py`) and scoring (`worker/evaluate.py`). A method file imports this base
alone, and third-party packages inside functions, so that planning never loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from harness.architecture import (
    LAYER_COUNTS,
    LayerParts,
    Network,
    Shape,
    context_length,
    decoder_layers,
    describe,
    final_norm,
    is_norm,
    is_transposed,
    layer_parts,
    read_config,
    read_network,
)  # fmt: skip
from harness.data import cut_left as cut_left
from harness.errors import unknown as unknown  # methods import this file alone
from harness.methods.helpers import TRAINED, Settings, load_trained, remembered, save_trained, seed_in_use, train_only
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
    "LAYER_COUNTS", "TRAINED", "Answers", "Context", "Expert", "Footprint", "Group", "LayerParts", "LogFloat", "Method",
    "Network", "Options", "Row", "Settings", "Shape", "Space", "TrainSettings", "context_length", "cut_left",
    "decoder_layers", "describe", "final_norm", "is_norm", "is_transposed", "layer_parts", "load_trained",
    "read_config", "read_network", "remembered", "save_trained", "seed_in_use", "train_only", "unknown",
]  # fmt: skip
Group = dict[str, Any]  # a group of parameters with its options, as torch's optimisers take it
Row = dict[str, list[int]]  # an encoded example: input_ids and labels; the loss is on labels that are not -100


class Answers(NamedTuple):
    """A model's predictions for the answer tokens of some rows, one row's after the other's.

    logits: [answers, vocabulary]; targets: [answers], the tokens wanted, -100 where there is no answer token after all;
    rows: [answers], the number of the row that each belongs to.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True)
class LogFloat:
    """A search range on a log scale: low < high, both above zero."""

    low: float
    high: float


@dataclass(frozen=True)
class Options:
    """A search over a fixed list of values."""

    values: tuple[Any, ...]


Space = dict[str, LogFloat | Options]  # setting -> the range or values that tuning searches


@dataclass(frozen=True)
class Expert:
    """A cell that another cell asks the plan for: this method with these settings, trained on the task `learn`.

    `role` is the name by which the asking cell finds it (`Context.needs`). `model` is its base model, None for that of
    the asking cell; `seed` is its training seed, None for that of the asking cell. Its examples are always drawn by the
    seed of the asking cell.
    """

    role: str
    method: str
    settings: Settings
    learn: str
    model: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Footprint:
    """What a method trains of a network, and what its gradients need: enough to count memory before a cell runs.

    `trained` maps every trained tensor to its shape; tensors of the network itself have its names. Activations are kept
    from layer `lowest` upwards. `adapted` names the linear layers with an adapter beside them; `inputs_kept` says that
    the adapter reads the very input of its layer. For each layer name, an adapter keeps `per_token` numbers for each
    token, and `fixed` numbers whatever the batch. `virtual_tokens` run through every layer before the input's tokens;
    for `prefix_tokens` a layer has only keys and values. `frozen` is the count of numbers added to the network and not
    trained; `state` is how many numbers the method itself keeps for each trained number. An example takes `sequences`
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
    """What a method, an objective or a curriculum can use while the worker runs one cell: models, examples,
    training."""

    base: Path  # folder of the base model (safetensors, tokenizer)
    models: Mapping[str, Path]  # name -> folder, of every model that the cell names
    scratch: Path  # an empty folder, removed afterwards
    needs: Mapping[str, Path]  # role -> folder with that cell's saved weights
    task: str  # name of the suite's task, which is learned
    n_train: int
    seed: int
    settings: TrainSettings

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> nn.Module:
        """Load the base model, or full weights from another folder, with `quantize` (nf4, fp4, int8) packed; on this
        process's device, in evaluation mode."""
        ...

    def load_need(self, role: str, fold: bool = False) -> nn.Module:
        """Load the model that the needed cell in this role left; with `fold`, adapters are folded into the weights."""
        ...

    def examples(
        self, split: str = "train", task: str | None = None, n: int | None = None, render: Render | None = None
    ) -> list[Example]:
        """Return the first `n` training examples of the cell's task, or of another task that the cell names, in the
        order of the cell's seed; without `n`, as many as the cell's data size. `split` "validation": all of that split.

        `render` (an LM's `apply_chat_template`) asks them as messages of a conversation.
        """
        ...

    def rows(self, model: nn.Module, found: list[Example]) -> list[Row]:
        """Encode examples as {input_ids, labels}, as the model's method does; the loss is on labels that are not
        -100."""
        ...

    def encode(self, model: nn.Module, found: list[Example]) -> list[Row]:
        """Encode examples as {input_ids, labels} in the form that a language model learns, for methods without a form
        of their own."""
        ...

    def texts(self, task: str, n: int | None = None) -> list[str]:
        """Return running text of a task's training split: `n` texts, or all. A task of questions gives them with their
        answers."""
        ...

    def text_rows(self, model: nn.Module, task: str, n: int | None = None) -> list[Row]:
        """Encode running text of a task's training split as {input_ids, labels}, as it would be scored.

        The scorer's prefix token comes first, and the loss is on every token after it. Tokens beyond `max_length` are
        cut off.
        """
        ...

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Return a right-padded batch {input_ids, labels, attention_mask}, each [rows, length], on this process's
        device."""
        ...

    def answer_logits(
        self, model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
    ) -> Answers:
        """Return what a model predicts for the labels of a right-padded batch [rows, length]."""
        ...

    def padded_logits(
        self, model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
    ) -> Answers:
        """Return the same as `answer_logits`, from a model that is run on the batch as it is: for whoever looks at its
        states."""
        ...

    def wrong(self, example: Example) -> list[Example]:
        """Return copies of a multiple-choice example of the cell's task, one with each wrong choice as its target."""
        ...

    def mark(self, example: Example, answer: str) -> float:
        """Return the score that the cell's task gives a generated answer to an example; higher is better."""
        ...

    def train(self, model: nn.Module, method: Method) -> nn.Module:
        """Train an attached model on all stages of the cell's curriculum; return it as it is scored."""
        ...

    def train_on(self, rows: list[Row], model: nn.Module, method: Method, changes: Settings) -> nn.Module:
        """Train on encoded rows, with some of the cell's training settings changed, and return the model."""
        ...

    def train_by(
        self,
        trainer: Callable[..., Any],
        config: Callable[..., Any],
        model: nn.Module,
        method: Method,
        changes: Settings,
    ) -> nn.Module:
        """Train with a trainer of another library that is derived from transformers' (such as trl's), and return the
        model.

        `trainer` is called with model, args and callbacks. `config` makes args from transformers' arguments: the cell's
        training settings, with `changes`. The returned model is unchanged but for its weights.
        """
        ...

    def language_model(self, model: nn.Module, base: Path | None = None) -> LM:
        """Return an lm-eval model that scores this model; `base` is the folder whose tokenizer is used, if not the
        cell's own."""
        ...

    def callbacks(self) -> list[TrainerCallback]:
        """Return the callbacks for a method's own trainer, if that is derived from transformers'; the first one
        measures it."""
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
    space: ClassVar[Space] = {}  # the settings that tuning may search
    # Kind of task -> its settings, as YAML, in a suite that `tunebench init` drafts; it is left out of others.
    drafted_for: ClassVar[Mapping[str, str]] = {}

    quantize: Literal["nf4", "fp4", "int8"] | None = None

    def declare(self, **attributes: object) -> None:
        """Set class attributes such as `starts_at_base` for this instance, where they depend on its settings."""
        vars(self).update(attributes)

    # --- planning: pure, no torch ---

    @classmethod
    def variants(cls) -> Mapping[str, Settings]:
        """Return {name: {paper, cannot, foldable, settings}} of the types that this method offers by another library's
        names; `cannot` says why a suite cannot use it, and `settings` maps a setting to its default."""
        return {}

    @property
    def uses_data(self) -> bool:
        """Whether the method learns from training examples; if so, its cells have a data size and a seed."""
        return self.trains

    @property
    def extras(self) -> tuple[str, ...]:
        """The packages that the method needs beyond those that every cell needs (torch, transformers)."""
        return (*self.packages, *(("bitsandbytes",) if self.quantize else ()))

    @property
    def serves(self) -> tuple[str, ...]:
        """The parts, in words, that must be kept to answer with the result, such as "base model" and "adapter". A base
        model counts also where other labels share it."""
        return ("base model", "adapter") if self.wraps else ("model",)

    @property
    def prepares(self) -> bool:
        """Whether `fit` has work to do: training, or reading examples or documents. That work is measured, and its
        result saved."""
        return self.uses_data

    def own_model(self) -> str | None:
        """Return the model that this method always uses instead of the suite's (an encoder), or None."""
        return None

    def wants(self, task: str) -> Iterable[Expert]:
        """Return the further cells (experts) that must be done before a cell of this method that learns `task`."""
        return ()

    def reads(self, task: str) -> tuple[str, ...]:
        """Return the names of further tasks whose training text the method uses when `task` is the one the suite
        learns. Reading a task does not score it; the suite may also retain it."""
        return ()

    def borrows(self) -> tuple[str, ...]:
        """Return the names of models that the method uses beside the cell's own."""
        return ()

    def learns(self, task: str) -> tuple[str, ...]:
        """Return the tasks that a cell of this method has learned in the end: `task`, the suite's, first; or none."""
        return (task,) if self.uses_data else ()

    def refuses(self, expert: Method) -> Iterable[str]:
        """Return why `expert`, the method of a cell that this method asks for, cannot be used; empty where it can."""
        return ()

    def cannot_train(self, train: TrainSettings) -> Iterable[str]:
        """Return why the method cannot be used with these training settings, a sentence each; empty where it can."""
        return ()

    def misfits(self, network: Network) -> Iterable[str]:
        """Return why the method does not fit a network, a sentence each; empty where it does."""
        return ()

    @property
    def instruments(self) -> tuple[str, ...]:
        """The self-checks of instruments (`worker/profiling/self_checks.py`) that results of this method rest on,
        beyond those that every cell needs."""
        return (*(("same_seed",) if self.trains else ()), *(("null_adapter",) if self.wraps else ()))

    def matched(self, network: Network) -> Iterable[str]:
        """Return what the method finds in a network where its name does not say it, a phrase each; `check` shows them
        as notes."""
        return ()

    @property
    def served_folded(self) -> bool:
        """Whether the method's change is folded into the model's weights before it is served. Never into quantised
        weights, which would round the change."""
        return self.foldable and self.quantize is None

    @property
    def adds_up(self) -> bool:
        """Whether the result is a peft low-rank adapter whose product is the whole change; only such results can be
        added up."""
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
        """Return what the method trains of a network, from which memory is predicted; None where that is not known."""
        return None if self.trains else Footprint({})

    def tokens_before(self, network: Network, length: Callable[[str], int]) -> int:
        """Return how many virtual tokens stand before every input of the trained model, which leave it less room.
        `length` counts the tokens of a text. Raises ValueError for a text that does not fit."""
        found = self.footprint(network)
        return found.virtual_tokens + found.prefix_tokens if found else 0

    # --- working: inside the worker's process ---

    def load(self, context: Context) -> nn.Module:
        """Load the model before it is adapted."""
        return context.load_model(quantize=self.quantize)

    def attach(self, model: nn.Module) -> nn.Module:
        """Make trainable what this method trains, and return the model to train."""
        return model

    def parameter_groups(self, model: nn.Module) -> list[Group] | None:
        """Return the optimiser's parameter groups, or None for one group with the method's learning rate."""
        return None

    def rows(self, model: nn.Module, found: list[Example], context: Context) -> list[Row]:
        """Encode the examples `found` as {input_ids, labels}; the loss is on the labels that are not -100. A method may
        leave out examples that it cannot learn."""
        return context.encode(model, found)

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        """Train the model and return it. Only methods with a trainer of their own override this."""
        return context.train(model, self) if self.trains else model

    def prepare(self, model: nn.Module, context: Context) -> None:
        """Hook called once, after the model is attached and before it is trained; its time counts as training."""

    def before_training(self, model: nn.Module, steps: int, seed: int) -> None:
        """Hook called before the first of `steps` optimiser steps, once for each stage of a curriculum.

        The optimiser already holds everything that `attach` made trainable; here and in `after_step` a method can
        choose which part of that is trained next (`train_only`).
        """

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """Return a term that the method adds to the loss of each forward pass, or None."""
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Hook called after each optimiser step (the first is 1), while the gradients are still there."""

    def snapshot(self, model: nn.Module) -> Any:
        """Return state of the method that belongs to the current weights, such as which ranks are in use; None where
        there is none. Early stopping keeps it with the best weights."""
        return None

    def go_back(self, model: nn.Module, snapshot: Any) -> None:
        """Hook called when early stopping puts the best weights back: restores the state that `snapshot` kept then."""

    def finish(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the trained model as it is scored and saved; the time this takes counts as training."""
        return model

    def predictor(self, model: nn.Module, context: Context) -> LM:
        """Return the lm-eval model that answers with the trained model, and that is scored."""
        return context.language_model(model)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write everything that must be shipped to use the result: safetensors and JSON, nothing pickled."""
        model.save_pretrained(folder)  # type: ignore[operator]

    def restore(self, context: Context, folder: Path) -> nn.Module:
        """Return the model that `save` wrote, ready to score."""
        if not (folder / "adapter_config.json").exists():
            return context.load_model(folder)
        from peft import PeftModel

        model: nn.Module = PeftModel.from_pretrained(self.load(context), str(folder))
        return model.eval()

    def recall(self, context: Context, folder: Path) -> None:
        """Read what `save` wrote besides weights (an index, examples), which the predictor of a restored model
        needs."""

    def fold(self, model: nn.Module) -> nn.Module:
        """Return a trained model as plain weights of the base's architecture. Only called where `foldable`."""
        unload = getattr(model, "merge_and_unload", None)
        return unload() if unload else model
