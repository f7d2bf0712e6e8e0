"""Trainer callbacks: the method's own hooks, a learning rate above zero in the first step, early stopping, dropout.

Every trainer that is built on transformers' Trainer takes them. Not covered: measuring (`profiling/meter.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import TrainerCallback

from harness.methods import Method

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments


class Hooks(TrainerCallback):
    """Trainer callback that calls the hooks of `method`: `before_training` before the first optimiser step,
    `after_step` after each step."""

    def __init__(self, method: Method):
        self.method = method

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        self.method.before_training(model, state.max_steps, args.seed)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        self.method.after_step(model, state.global_step + 1)  # the trainer counts it after it has cleared gradients


class FirstStep(TrainerCallback):
    """Trainer callback that gives the first step a learning rate above zero: in a warm-up of w steps, step k has k/w of
    the full rate.

    The schedules of transformers begin with (k - 1)/w, so that the first step of each training, and of each stage of a
    curriculum, would change nothing. After the warm-up the schedule is unchanged.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        given: Any = kwargs.get("lr_scheduler")
        scheduler = getattr(given, "scheduler", given)  # as accelerate wraps it
        stated: Any = kwargs.get("st_args", args)  # setfit gives its own arguments, and these beside them
        warmup = stated.get_warmup_steps(state.max_steps)
        shares: list[Callable[[int], float]] = getattr(scheduler, "lr_lambdas", [])
        if not shares or any(share(0) for share in shares):  # a schedule without a warm-up
            return
        scheduler.lr_lambdas = [partial(warmed_up, share, warmup) for share in shares]
        scheduler._last_lr = [
            base * share(0) for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
            group["lr"] = rate


def warmed_up(share: Callable[[int], float], warmup: int, done: int) -> float:
    """Returns the factor on the learning rate after `done` steps: (done + 1) / `warmup` during the warm-up, then what
    the schedule `share` gives."""
    return (done + 1) / warmup if done < warmup else share(done)


class KeepBest(TrainerCallback):
    """Trainer callback for early stopping: ends training after `patience` validations without a lower loss, and in the
    end puts back the weights of the lowest validation loss.

    The best values of the parameters named in `held` (those that the optimiser trains) are kept in memory, as a
    checkpoint on disk would be timed as training. The method's own state (`Method.snapshot`) is kept and restored with
    them.
    """

    def __init__(self, patience: int, held: set[str], method: Method):
        self.patience = patience
        self.held = held
        self.method = method
        self.snapshot: Any = None
        self.best = math.inf
        self.waited = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        model: nn.Module,
        **kwargs: object,
    ) -> None:
        loss = metrics["eval_loss"]
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.weights = {
                name: value.detach().clone() for name, value in model.named_parameters() if name in self.held
            }
            self.snapshot = self.method.snapshot(model)
        else:
            self.waited += 1
            control.should_training_stop = self.waited >= self.patience

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in self.weights:
                    value.copy_(self.weights[name])
        if self.weights:
            self.method.go_back(model, self.snapshot)


class Dropout(TrainerCallback):
    """Trainer callback that sets the dropout probability of attention weights and dropout layers to `share` during
    training only: scoring and saving see the network as it was configured. Adapters keep their own dropout. Raises
    ValueError, when training begins, for a network without dropout."""

    def __init__(self, share: float):
        self.share = share
        self.before: list[tuple[nn.Module, str, float]] = []  # (module, attribute, its value)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        adapters = {
            id(inner)
            for part in model.modules()
            if isinstance(part, BaseTunerLayer)
            for name, child in part.named_children()
            if name != "base_layer"
            for inner in child.modules()
        }
        for part in model.modules():
            attribute = "p" if isinstance(part, torch.nn.Dropout) else "attention_dropout"
            value = vars(part).get(attribute)
            if isinstance(value, float) and id(part) not in adapters:
                self.before.append((part, attribute, value))
                setattr(part, attribute, self.share)
        if not self.before:
            raise ValueError(f"dropout is {self.share:g}, and the network has nothing that drops. Leave it out.")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        for part, attribute, value in self.before:
            setattr(part, attribute, value)
        self.before = []
