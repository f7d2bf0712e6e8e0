"""Scores a cell at some steps of its training, without changing the training.

The weights that training ends with are, to the bit, those of a training without checkpoints: random numbers, the mode
of every module and the way that the model computes are put back. Checkpoints choose nothing: they score the same items
as the end of training does, and are kept for a curve. Not covered: what is scored, and where it is kept
(`training.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from harness.plan import rung_shares
from harness.worker.profiling.meter import StepRecorder, cuda_in_use

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, TrainerControl, TrainerState, TrainingArguments


class Checkpoints(TrainerCallback):
    """Trainer callback that calls `score(model, step)` at `count` evenly spaced steps before the end of training, and
    with `start` before the first step too.

    Step numbers go on over the stages of a curriculum (`recorder` knows the steps before); each stage has `count`
    checkpoints.
    """

    def __init__(
        self, count: int, score: Callable[[nn.Module, int], None], recorder: StepRecorder, start: bool = False
    ):
        self.count, self.score, self.recorder, self.start = count, score, recorder, start
        self.steps: frozenset[int] = frozenset()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        self.steps = frozenset(evenly_spaced(state.max_steps, self.count))
        if self.start and not self.recorder.before:
            self.look(model, 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        if state.global_step in self.steps:
            self.look(model, self.recorder.before + state.global_step)

    def look(self, model: nn.Module, step: int) -> None:
        """Call `score` with the model as it is after `step` steps; training goes on as if nothing had been scored."""
        with undisturbed(model):
            self.score(model, step)


class Rungs(Checkpoints):
    """Trainer callback that scores a trial at the rungs of its pruner, and ends training when `lags(model, step, rung)`
    returns True. `trial` is the `trial` of its cell, which names the pruner and the number of rungs; they are numbered
    from 1, and those that fall on no step of their own are left out."""

    def __init__(self, trial: dict[str, Any], lags: Callable[[nn.Module, int, int], bool], recorder: StepRecorder):
        super().__init__(trial["rungs"], self.judge, recorder)
        self.trial, self.lags, self.ends = trial, lags, False
        self.rungs: dict[int, int] = {}  # step -> its rung, from 1: of few steps some rungs have none

    def judge(self, model: nn.Module, step: int) -> None:
        """Ask `lags` whether the trial should end at the rung of this step."""
        self.ends = self.lags(model, step, self.rungs[step - self.recorder.before])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        shares = enumerate(rung_shares(self.trial["pruner"], self.count), start=1)
        self.rungs = {round(share * state.max_steps): rung for rung, share in shares}
        self.steps = frozenset(self.rungs.keys() - {0, state.max_steps})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        super().on_step_end(args, state, control, model, **kwargs)
        if self.ends:
            control.should_training_stop = True


def evenly_spaced(steps: int, count: int) -> list[int]:
    """Returns `count` step numbers that divide `steps` into equal parts, rounded; fewer where there are too few steps.
    The last step is left out, as the model at the end of training is scored anyway."""
    rounded = {round(number * steps / (count + 1)) for number in range(1, count + 1)}
    return sorted(rounded - {0, steps})


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Make a model in training ready to be scored within the block, and put everything back afterwards.

    The model then computes as it does after training: without the autocast that accelerate puts around `forward`, and
    with its cache of keys and values.
    """
    import numpy
    import torch

    numbers = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if cuda_in_use() else None
    modes = {module: module.training for module in model.modules()}
    own = vars(model)  # accelerate puts its wrapper, and what it wraps, on the instance
    forward, plain = own.get("forward"), own.get("_original_forward")
    config: PretrainedConfig = model.config
    cached = config.use_cache
    if plain is not None:
        own["forward"] = plain
    config.use_cache = True
    model.eval()
    try:
        yield
    finally:
        config.use_cache = cached
        if plain is not None:
            own["forward"] = forward
        for module, mode in modes.items():
            module.training = mode
        random.setstate(numbers[0])
        numpy.random.set_state(numbers[1])
        torch.set_rng_state(numbers[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)
