"""The only training loop: takes a model whose trainable weights are marked, a stage of encoded rows and settings, and
trains the model.

It names no method: it is transformers.Trainer (accelerate underneath) with the loss on answer tokens and the method's
own parameter groups. Measuring is a callback (`profiling/meter.py`). Where several processes train one model
(`distributed.py`), every one of them runs this, and losses and counts are those of all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from harness.architecture import layers_name
from harness.curricula import ASIDE, Stage
from harness.errors import Unavailable
from harness.models import resolve_precision
from harness.objectives import Batch, Objective
from harness.records import FROZEN_LAYERS, FUSED, PACKING, Fact, TrainSettings
from harness.worker.answer_loss import (
    Packing,
    answer_logits,
    answer_loss,
    task_sum,
    token_losses,
    weighted_count,
    weighted_sum,
)
from harness.worker.callbacks import Dropout, FirstStep, Hooks, KeepBest
from harness.worker.distributed import COUNTS, filled, outline, shard_on_cpu, shared_loader, strategy_arguments
from harness.worker.frozen_layers import frozen_layers
from harness.worker.fused import fused
from harness.worker.profiling.meter import CROSS_ENTROPY, StepRecorder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from harness.methods import Method

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adafactor": "adafactor",
    "adamw8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw8bit": "paged_adamw_8bit",
    "galore": "galore_adamw",
}
WEIGHTS = "weight"  # the key of a row, and of a batch, that says how much each of its answer tokens counts
Row = dict[str, Any]
Inputs = dict[str, Any]  # a batch: tensors by name, and the counts of a shared one
Group = dict[str, Any]  # of an optimiser: its parameters, and options of their own


@dataclass(frozen=True)
class TrainRun:
    """Everything about one training except its model, rows and settings: `seed` orders the rows, `recorder` measures
    it, `scratch` is an empty folder, `objectives` add terms to its loss, `callbacks` run along its steps."""

    seed: int
    recorder: StepRecorder
    scratch: Path
    objectives: Sequence[Objective] = ()
    callbacks: Sequence[TrainerCallback] = ()


def train(model: nn.Module, method: Method, stage: Stage, settings: TrainSettings, run: TrainRun) -> nn.Module:
    """Train `model` in place on a stage's encoded rows ({input_ids, labels}); returns it in evaluation mode.

    A row's `weight`, where it has one, multiplies the loss of each of its answer tokens. Rows marked `aside` answer no
    task: they are learned, but left out of the cross-entropy that is recorded. Ordered rows are learned once, in their
    order. Raises Diverged, Unavailable, or torch's out-of-memory error. With several ranks, the first returns the model
    with its weights; under fsdp the others return it without.
    """
    settings = settings_of_stage(settings, stage)
    arguments = training_arguments(
        settings, learning_rate_of(method), run, ordered=stage.ordered, layers=layers_name(model)
    )
    held = {name for name, value in model.named_parameters() if value.requires_grad}  # by the optimiser
    callbacks = [*common_callbacks(method, settings, run.recorder), *run.callbacks]
    if settings.early_stopping:
        callbacks.append(KeepBest(settings.early_stopping, held, method))
    configuration(model).use_cache = False
    sharded = settings.devices > 1 and settings.strategy == "fsdp"
    empty = outline(model) if sharded else None
    trainer = CellTrainer(
        model=model,
        args=arguments,
        train_dataset=stage.rows,
        eval_dataset=stage.validation if settings.eval_every else None,
        data_collator=Collator(pad=0, weighted=any(WEIGHTS in row for row in stage.rows)),
        callbacks=callbacks,
        groups=method.parameter_groups(model),
        penalty=method.penalty,
        recorder=run.recorder,
        objectives=run.objectives,
        answers=method.is_language_model,
        packing=Packing() if PACKING in settings.tricks else None,
    )
    remembers = trainer.packing is not None and FROZEN_LAYERS in settings.tricks and not settings.gradient_checkpointing
    with (
        fused(model, FUSED in settings.tricks) as count,
        frozen_layers(model, remembers) as frozen,
    ):
        if trainer.packing:
            trainer.packing.frozen = frozen
        trainer.train()
    run.recorder.tricks += tricks_used(trainer.packing, count)
    for name, value in model.named_parameters():
        value.requires_grad_(name in held)  # as before, whatever the method trained last
    if empty is not None:
        model = filled(trainer.model, trainer.accelerator, empty)
    configuration(model).use_cache = True
    # accelerate leaves its autocast wrapper around `forward`, which would also change how the model scores.
    return trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()


def tricks_used(packing: Packing | None, fused_modules: int) -> list[Fact]:
    """Returns facts of which tricks a training used: the share of its batches that were laid out without padding, the
    share of those that began at the lowest trained layer, and the number of modules with fewer operations."""
    facts = [Fact("fused_modules", fused_modules, "modules")] if fused_modules else []
    if packing and packing.batches:
        facts.append(Fact("packed_batches", packing.packed / packing.batches, "share of batches"))
        if packing.frozen and packing.packed:
            facts.append(Fact("replayed_batches", packing.frozen.replays / packing.packed, "share of batches"))
    return facts


def configuration(model: nn.Module) -> PretrainedConfig:
    """Returns the configuration of a transformers model, also where peft wraps it."""
    config: PretrainedConfig = model.config
    return config


def settings_of_stage(settings: TrainSettings, stage: Stage) -> TrainSettings:
    """Returns the settings with which a stage is trained: ordered rows are learned once, and a stage without validation
    rows is not validated."""
    changes: dict[str, Any] = {"steps": None, "epochs": 1.0} if stage.ordered else {}
    changes |= {} if stage.validation else {"eval_every": None, "early_stopping": None}
    return settings.changed(changes)


def learning_rate_of(method: Method) -> float:
    """Returns the method's learning rate; 0 for a method that has none."""
    return float(getattr(method, "learning_rate", 0.0))


def common_callbacks(method: Method, settings: TrainSettings, recorder: StepRecorder) -> list[TrainerCallback]:
    """Returns the callbacks of any training: measuring (`recorder`), a rate for the first step, the method's own hooks,
    dropout."""
    dropout = [Dropout(settings.dropout)] if settings.dropout else []
    return [recorder, FirstStep(), Hooks(method), *dropout]


def training_arguments(
    settings: TrainSettings,
    learning_rate: float,
    run: TrainRun,
    kind: Callable[..., TrainingArguments] = TrainingArguments,
    ordered: bool = False,
    layers: str = "layers",
) -> TrainingArguments:
    """Returns the settings as `TrainingArguments`, or as what `kind` makes of their keyword arguments. `ordered`:
    rows are learned in their order. `layers` is the name of the list of layers, in which GaLore projects. `run`
    gives the seed and the scratch folder. Raises Unavailable where this machine lacks what the settings ask for."""
    cuda = torch.cuda.is_available()
    precision = resolve_precision(settings.precision)
    if reason := settings.unavailable(cuda):
        raise Unavailable(reason)
    galore: dict[str, Any] = {}
    if settings.optimizer == "galore":
        galore["optim_target_modules"] = rf".*{re.escape(layers)}\.\d+\..*"
        galore["optim_args"] = (
            f"rank={settings.galore_rank},update_proj_gap={settings.galore_every},scale={settings.galore_scale}"
        )
    every = settings.eval_every
    return kind(
        output_dir=str(run.scratch),
        max_steps=settings.steps or -1,
        num_train_epochs=settings.epochs or 1,
        per_device_train_batch_size=settings.batch_size // settings.devices,
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        learning_rate=learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=OPTIMIZERS[settings.optimizer],
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not cuda,
        eval_strategy="steps" if every else "no",
        eval_steps=every,
        prediction_loss_only=True,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must be seen, not smoothed away
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=run.seed,
        data_seed=run.seed,
        **galore,
        train_sampling_strategy="sequential" if ordered else "random",
        **strategy_arguments(settings.strategy, settings.devices),
    )


def train_by(
    trainer: Callable[..., Trainer],
    config: Callable[..., TrainingArguments],
    model: nn.Module,
    method: Method,
    settings: TrainSettings,
    run: TrainRun,
) -> nn.Module:
    """Train like `train`, with another library's `trainer` that is derived from transformers' and called with model,
    args and callbacks; `config` makes its args from transformers' own. Returns the model in evaluation mode."""
    plain: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    forward, pad = vars(plain).get("forward"), (plain.config.pad_token_id, plain.generation_config.pad_token_id)
    dtypes = {name: value.dtype for name, value in model.named_parameters()}
    arguments = training_arguments(settings, learning_rate_of(method), run, config, layers=layers_name(model))
    other = trainer(model=model, args=arguments, callbacks=common_callbacks(method, settings, run.recorder))
    vars(other)["get_decay_parameter_names"] = decayed_names
    if groups := method.parameter_groups(model):
        other.optimizer = optimizer_of(other, groups)
    other.train()
    model = other.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    # trl leaves an output layer of its own in place of `forward`, adapters of quantised models in half precision, and
    # its padding token in the configuration.
    vars(plain).pop("forward", None)
    if forward is not None:
        plain.forward = forward
    for name, value in model.named_parameters():
        value.data = value.data.to(dtypes[name])
    plain.config.pad_token_id, plain.generation_config.pad_token_id = pad
    return model.eval()


def decayed_names(model: nn.Module) -> list[str]:
    """Returns the names of the weights that weight decay pulls towards zero, whatever the method and its groups: those
    of two or more dimensions that are neither a norm's nor a bias (by transformers' own names for these)."""
    shapes = {name: value.ndim for name, value in model.named_parameters()}
    names: list[str] = Trainer.get_decay_parameter_names(cast(Trainer, None), model)
    return [name for name in names if shapes.get(name, 0) > 1]


def decayed_apart(groups: list[Group], model: nn.Module, decay: float) -> list[Group]:
    """Returns the groups, each split in two: its weights that decay (`decayed_names`), by `decay`, and its other
    weights, by 0."""
    named = dict(model.named_parameters())
    decays = {id(value): value.ndim > 1 for group in groups for value in group["params"]}  # sharded ones have no name
    decays |= dict.fromkeys(map(id, named.values()), False)
    decays |= {id(named[name]): True for name in decayed_names(model)}
    parts = []
    for group in groups:
        for does, own in ((True, decay), (False, 0.0)):
            if values := [value for value in group["params"] if decays[id(value)] is does]:
                parts.append({**group, "params": values, "weight_decay": own})
    return parts


def optimizer_of(trainer: Trainer, groups: list[Group]) -> torch.optim.Optimizer:
    """Returns an optimiser of the trainer's kind for these groups of parameters; each keeps its own options, such as
    its learning rate."""
    kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    groups = decayed_apart(groups, trainer.model, trainer.args.weight_decay)
    if "params" in options:  # GaLore: which gradients are projected, and how; without the groups' own rates
        groups = projected(groups, options.pop("params")[1])
    optimizer: torch.optim.Optimizer = kind(groups, **options)
    if options.get("optim_bits") == 8:
        embeddings_in_32_bits(trainer.model)
    return optimizer


def embeddings_in_32_bits(model: nn.Module) -> None:
    """Make bitsandbytes keep the optimiser's state of embeddings in 32 bits, as transformers does for a single group of
    weights."""
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


class CellTrainer(Trainer):
    """transformers.Trainer with a loss on answer tokens, a count of tokens, and the method's `groups` of parameters.

    `recorder` takes the counts, `objectives` and `penalty` (the method's) add terms to the loss in training. With
    `answers`, the labels are tokens of answers, and their cross-entropy is logged apart from those terms. With
    `packing`, the rows of a batch are laid out without padding where the model allows it.
    """

    def __init__(
        self,
        *,
        groups: list[Group] | None,
        recorder: StepRecorder,
        objectives: Sequence[Objective] = (),
        penalty: Callable[[nn.Module], torch.Tensor | None] = lambda model: None,
        answers: bool = True,
        packing: Packing | None = None,
        **options: object,
    ):
        super().__init__(**options)
        # An objective that looks inside the model wants to find the batch there as it is.
        self.packing = None if any(objective.reads_states for objective in objectives) else packing
        self.answers = answers
        self.entropy: list[torch.Tensor] = []  # of each pass since the last log: its sum, and its answer tokens
        self.objectives = objectives
        self.penalty = penalty
        self.groups = groups
        self.recorder = recorder
        # compute_loss divides by the answer tokens of the whole step, so Trainer must not divide again.
        self.model_accepts_loss_kwargs = True

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            shard_on_cpu(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def get_train_dataloader(self) -> DataLoader[Row]:
        devices = self.accelerator.num_processes
        if devices == 1:
            return super().get_train_dataloader()
        size = self.args.train_batch_size * devices
        return shared_loader(self.train_dataset, size, self._get_train_sampler(), self.data_collator, self.accelerator)

    def get_eval_dataloader(self, eval_dataset: Dataset[Row] | None = None) -> DataLoader[Row]:
        if self.accelerator.num_processes == 1:
            return super().get_eval_dataloader(eval_dataset)
        return shared_loader(self.eval_dataset, self.args.eval_batch_size, None, self.data_collator, self.accelerator)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.groups is None and self.args.optim_target_modules is None:
            return super().create_optimizer(model)
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = optimizer_of(self, self.groups or [{"params": trained}])
        return self.optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return decayed_names(model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the mean cross-entropy per answer token, over all batches of a step (`num_items_in_batch` answer
        tokens); in training, plus the method's penalty and what the objectives add.

        Gradients and logged losses are averaged over devices, so each device multiplies its share of the sum by their
        number.
        """
        ids, labels, mask = inputs["input_ids"], inputs["labels"], inputs["attention_mask"]
        answers = answer_logits(model, ids, labels, mask, self.packing if model.training else None)
        losses = token_losses(answers)
        loss_sum, count = weighted_sum(losses, answers, inputs.get(WEIGHTS))
        if model.training:
            self.entropy.append(torch.stack(task_sum(losses.detach(), answers, inputs.get(ASIDE))))
            tokens, samples = inputs.get(COUNTS) or (int(inputs["attention_mask"].sum()), len(inputs["input_ids"]))
            self.recorder.count(tokens, samples)
        loss = loss_sum / (num_items_in_batch if num_items_in_batch is not None else count)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if model.training:
            batch = Batch(ids, labels, mask, answers.logits, answers.targets)
            share = count / num_items_in_batch if num_items_in_batch is not None else 1.0
            loss = loss * math.prod(objective.task_weight for objective in self.objectives)
            if (own := self.penalty(model)) is not None:
                loss = loss + own * share
            # Terms of the whole step come last: what they leave on the model must not lie between a pass and its terms.
            for objective in sorted(self.objectives, key=lambda objective: objective.once_a_step):
                if not objective.once_a_step:
                    term = objective.loss(model, batch) * share
                elif self.accelerator.sync_gradients:  # the last forward pass before the optimiser's step
                    term = objective.loss(model, batch)
                else:
                    continue
                self.recorder.add(objective.name, term.detach())
                loss = loss + term
        return (loss, {"loss": loss}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step, with the mean cross-entropy of its answer tokens over all its passes and devices."""
        if "loss" in logs and self.entropy:
            total, count = self.accelerator.reduce(torch.stack(self.entropy).sum(dim=0)).tolist()
            self.entropy = []
            if self.answers and count:
                logs[CROSS_ENTROPY] = total / count
        if "eval_loss" in logs and self.answers:  # nothing is added to it
            logs[f"eval_{CROSS_ENTROPY}"] = logs["eval_loss"]
        super().log(logs, start_time)

    def _get_num_items_in_batch(self, batch_samples: list[Inputs], device: torch.device) -> torch.Tensor:
        """Returns the divisor of a step's loss: its answer tokens over all devices, each times its row's weight."""
        if not batch_samples or WEIGHTS not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([weighted_count(batch["labels"], batch[WEIGHTS]) for batch in batch_samples]).sum()
        return self.accelerator.gather(total.to(device)).sum()

    def evaluation_loop(
        self, dataloader: DataLoader[Row], *args: object, metric_key_prefix: str = "eval", **options: object
    ) -> EvalLoopOutput:
        """Validate the model. Over several devices, a batch's loss covers all its shares, and batches count by their
        rows, as on one device."""
        if self.accelerator.num_processes == 1:
            return super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **options)
        self.model.eval()
        total, rows = 0.0, 0
        with torch.no_grad():
            for inputs in dataloader:
                batch = inputs["input_ids"], inputs["labels"], inputs["attention_mask"]
                with self.compute_loss_context_manager():
                    loss_sum, count = self.accelerator.reduce(torch.stack(answer_loss(self.model, *batch)))
                samples = inputs[COUNTS][1]
                total += samples * float(loss_sum / count)
                rows += samples
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": total / rows}, rows)


def projected(groups: list[Group], low_rank: Group) -> list[Group]:
    """Returns the groups, each split into the matrices whose gradients GaLore projects (Zhao et al. 2024,
    arXiv:2403.03507) and its other weights. `low_rank` is the group that transformers makes: those matrices, and how
    they are projected."""
    matrices = set(map(id, low_rank["params"]))
    how = {key: value for key, value in low_rank.items() if key != "params"}
    parts = []
    for group in groups:
        for inside, extra in ((True, how), (False, {})):
            values = [value for value in group["params"] if (id(value) in matrices) is inside]
            if values:
                parts.append({**group, **extra, "params": values})
    return parts


@dataclass(frozen=True)
class Collator:
    """Makes a batch, padded on the right, of rows: input_ids, labels and attention_mask, each [rows, length]. `pad` may
    be any token, as it is masked. With `weighted` the batch has the rows' weights; where some rows answer no task, it
    marks them under the key `ASIDE`."""

    pad: int
    weighted: bool = False

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor([row[name] + [filler] * (length - len(row[name])) for row in rows])

        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
        return {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", -100),
            "attention_mask": mask,
            **({WEIGHTS: torch.tensor([row.get(WEIGHTS, 1.0) for row in rows])} if self.weighted else {}),
            **({ASIDE: torch.tensor([ASIDE in row for row in rows])} if any(ASIDE in row for row in rows) else {}),
        }
