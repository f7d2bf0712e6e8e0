"""Stage 4 of 7. In: a model with what is trainable marked, examples, settings. Out: the trained model.

The only training loop, and it names no method: transformers.Trainer (accelerate underneath) with the loss
on answer tokens and the method's own parameter groups. Measuring is a callback (`measure.py`). Where several
processes train one model (`devices.py`), every one of them runs this, and losses and counts are those of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from harness.devices import COUNTS, filled, outline, shard_on_cpu, shared_loader, strategy_arguments
from harness.errors import Unavailable
from harness.measure import StepRecorder
from harness.models import logits_at, resolve_precision
from harness.objectives import Batch, Objective

if TYPE_CHECKING:
    from harness.methods import Method

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "adamw8bit": "adamw_bnb_8bit"}
Row = dict[str, list[int]]


def train(
    model: Any,
    method: Method,
    rows: list[Row],
    validation: list[Row],
    settings: dict[str, Any],
    seed: int,
    recorder: StepRecorder,
    scratch: Path,
    objectives: Sequence[Objective] = (),
) -> Any:
    """Train `model` (a torch module) in place on encoded rows ({input_ids, labels}); returns it in evaluation mode.

    settings: the resolved `train:` block. Raises Diverged, Unavailable, or torch's out-of-memory error. Of several
    processes, the first returns the model with its weights; under fsdp the others return it without.
    """
    arguments = training_arguments(settings, float(getattr(method, "learning_rate", 0.0)), seed, scratch)
    callbacks: list[TrainerCallback] = [recorder, AfterStep(method)]
    if settings["early_stopping"]:
        callbacks.append(KeepBest(settings["early_stopping"]))
    model.config.use_cache = False
    sharded = settings["devices"] > 1 and settings["strategy"] == "fsdp"
    empty = outline(model) if sharded else None
    trainer = CellTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=validation if settings["eval_every"] else None,
        data_collator=Collator(pad=0),
        callbacks=callbacks,
        groups=method.parameter_groups(model),
        recorder=recorder,
        objectives=objectives,
    )
    trainer.train()
    if empty is not None:
        model = filled(trainer.model, trainer.accelerator, empty)
    model.config.use_cache = True
    # accelerate leaves its autocast wrapper around `forward`, which would also change how the model scores.
    return trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()


def training_arguments(settings: dict[str, Any], learning_rate: float, seed: int, scratch: Path) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    precision = resolve_precision(settings["precision"])
    if settings["optimizer"] == "adamw8bit" and not cuda:
        raise Unavailable("optimizer adamw8bit needs a GPU: bitsandbytes has no 8-bit optimiser for a CPU.")
    every = settings["eval_every"]
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=settings["steps"] or -1,
        num_train_epochs=settings["epochs"] or 1,
        per_device_train_batch_size=settings["batch_size"] // settings["devices"],
        per_device_eval_batch_size=settings["eval_batch_size"],
        gradient_accumulation_steps=settings["gradient_accumulation"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings["gradient_checkpointing"] else None,
        learning_rate=learning_rate,
        lr_scheduler_type=settings["schedule"],
        warmup_steps=settings["warmup"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        optim=OPTIMIZERS[settings["optimizer"]],
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
        seed=seed,
        data_seed=seed,
        **strategy_arguments(settings["strategy"], settings["devices"]),
    )


class CellTrainer(Trainer):
    """transformers.Trainer with a loss on answer tokens, a count of tokens, and the method's groups."""

    def __init__(
        self,
        *,
        groups: list[dict[str, Any]] | None,
        recorder: StepRecorder,
        objectives: Sequence[Objective] = (),
        **options: Any,
    ):
        super().__init__(**options)
        self.objectives = objectives
        self.groups = groups
        self.recorder = recorder
        # compute_loss divides by the answer tokens of the whole step, so Trainer must not divide again.
        self.model_accepts_loss_kwargs = True

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            shard_on_cpu(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def get_train_dataloader(self) -> Any:
        devices = self.accelerator.num_processes
        if devices == 1:
            return super().get_train_dataloader()
        size = self.args.train_batch_size * devices
        return shared_loader(self.train_dataset, size, self._get_train_sampler(), self.data_collator, self.accelerator)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        if self.accelerator.num_processes == 1:
            return super().get_eval_dataloader(eval_dataset)
        return shared_loader(self.eval_dataset, self.args.eval_batch_size, None, self.data_collator, self.accelerator)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.groups is None:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        # torch's own default decay is 0.01: a group without a decay of its own has the suite's.
        groups = [{"weight_decay": self.args.weight_decay, **group} for group in self.groups]
        self.optimizer = kind(groups, **options)
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy per answer token, over all batches of a step, and what the objectives add.

        Gradients and logged losses of several devices are averaged, so each gives its sum times their number.
        """
        ids, labels, mask = inputs["input_ids"], inputs["labels"], inputs["attention_mask"]
        logits, targets = answer_logits(model, ids, labels, mask)
        loss_sum, count = cross_entropy_sum(logits, targets)
        if model.training:
            tokens, samples = inputs.get(COUNTS) or (int(inputs["attention_mask"].sum()), len(inputs["input_ids"]))
            self.recorder.count(tokens, samples)
        loss = loss_sum / (num_items_in_batch if num_items_in_batch is not None else count)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if self.objectives and model.training:
            batch = Batch(ids, labels, mask, logits, targets)
            share = count / num_items_in_batch if num_items_in_batch is not None else 1.0
            loss = loss * math.prod(objective.task_weight for objective in self.objectives)
            # Those of the step come last: what they give to the model must not stand between a pass and its own terms.
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

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """Over several devices, each batch's loss is that of all its shares; batches count by their rows, as in one."""
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


def answer_logits(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [batch, places, vocabulary], targets [batch, places]) of a right-padded batch [batch, length].

    Only the places that predict an answer token of some row are given to the output layer.
    """
    length = input_ids.shape[1]
    wanted = (labels[:, 1:] != -100).any(dim=0).nonzero().squeeze(1)  # place i predicts token i + 1
    return logits_at(model, input_ids, wanted - length, attention_mask), labels[:, wanted + 1]


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(summed cross-entropy, number of answer tokens)."""
    loss = cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=-100, reduction="sum"
    )
    return loss, (targets != -100).sum()


def answer_loss(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(summed cross-entropy, number of answer tokens) of a right-padded batch [batch, length]."""
    return cross_entropy_sum(*answer_logits(model, input_ids, labels, attention_mask))


@dataclass(frozen=True)
class Collator:
    """Rows -> a batch padded on the right. `pad` may be any token: it is masked."""

    pad: int

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor([row[name] + [filler] * (length - len(row[name])) for row in rows])

        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
        return {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", -100),
            "attention_mask": mask,
        }


class AfterStep(TrainerCallback):
    """Calls the method's own hook after each optimiser step."""

    def __init__(self, method: Method):
        self.method = method

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.method.after_step(model, state.global_step)


class KeepBest(TrainerCallback):
    """Early stopping: after `patience` validations without a lower loss, stop; in the end, take the best.

    The best trainable weights are kept in memory: a checkpoint on disk would be timed as training.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.best = math.inf
        self.waited = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **kwargs: Any
    ) -> None:
        loss = metrics["eval_loss"]
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.weights = {
                name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad
            }
        else:
            self.waited += 1
            control.should_training_stop = self.waited >= self.patience

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in self.weights:
                    value.copy_(self.weights[name])
