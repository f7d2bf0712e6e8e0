"""Measures a cell: seconds, tokens, energy and peak memory, phase by phase and step by step.

On a GPU: peaks that torch allocated and reserved, and the whole device's, sampled. On a CPU: the resident
peak of the phase (VmHWM, reset at its start through clear_refs). Measuring steps is a TrainerCallback, so
that every trainer (transformers', setfit's) is measured in the same way.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from transformers import TrainerCallback

from harness.errors import Diverged
from harness.records import Fact, Phase, Step
from harness.worker.profiling.energy import Counter, energy_counter
from harness.worker.profiling.flops import FlopCount

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerControl, TrainerState, TrainingArguments

WARM_UP_STEPS = 2  # left out of throughput: the first steps allocate and tune kernels
SAMPLE_SECONDS = 0.05
CROSS_ENTROPY = "cross_entropy"  # the key of a trainer's log for the answers' own loss, where there are answers


class Meter:
    """Collects the phases of one cell. `energy` is the counter to read, by default that of this process's device."""

    def __init__(self, energy: Counter | None = None) -> None:
        self.energy = energy or energy_counter()
        self.joules: float | None = None  # by the counter, when the phase began
        self.phases: list[Phase] = []
        self.name = ""  # of the phase that is being measured
        self.tokens: int | None = None
        self.samples: int | None = None
        self.started = 0.0
        self.sampler: DeviceSampler | None = None

    def count(self, tokens: int | None = None, samples: int | None = None) -> None:
        """Add work done (tokens without padding, and examples or documents) to the current phase. None is not known,
        and adds nothing."""
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if samples is not None:
            self.samples = (self.samples or 0) + samples

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase for the length of the block; it is kept even when the block fails.

        Time and memory of a phase within another count for the inner phase alone. A phase that comes again is added to
        its earlier stretch.
        """
        outer = self.name
        if outer:
            self.end()
        self.begin(name)
        try:
            yield
        finally:
            self.end()
            if outer:
                self.begin(outer)

    def begin(self, name: str) -> None:
        """Begin to measure a phase of this name: resets the memory peaks and starts the clock."""
        self.name, self.tokens, self.samples = name, None, None
        reset_peaks()
        self.joules = self.energy.read()
        self.started = time.perf_counter()
        self.sampler = DeviceSampler()

    def end(self) -> None:
        """End the current phase, and keep what was measured since `begin`."""
        assert self.sampler is not None
        synchronise()
        seconds = time.perf_counter() - self.started
        joules = self.energy.read()
        allocated, reserved = cuda_peaks()
        phase = Phase(
            phase=self.name,
            seconds=seconds,
            tokens=self.tokens,
            samples=self.samples,
            allocated_bytes=allocated,
            reserved_bytes=reserved,
            device_bytes=self.sampler.stop(),
            rss_bytes=resident_peak(),
            energy_j=None if joules is None or self.joules is None else joules - self.joules,
        )
        self.name = ""
        earlier = next((number for number, other in enumerate(self.phases) if other.phase == phase.phase), None)
        if earlier is None:
            self.phases.append(phase)
        else:
            self.phases[earlier] = joined(self.phases[earlier], phase)


def joined(one: Phase, other: Phase) -> Phase:
    """Returns two stretches of a phase as one: amounts are added, of peaks the higher one is kept. Energy is None
    unless it is known of both."""
    return Phase(
        phase=one.phase,
        seconds=one.seconds + other.seconds,
        tokens=added(one.tokens, other.tokens),
        samples=added(one.samples, other.samples),
        allocated_bytes=higher(one.allocated_bytes, other.allocated_bytes),
        reserved_bytes=higher(one.reserved_bytes, other.reserved_bytes),
        device_bytes=higher(one.device_bytes, other.device_bytes),
        rss_bytes=higher(one.rss_bytes, other.rss_bytes),
        energy_j=None if one.energy_j is None or other.energy_j is None else one.energy_j + other.energy_j,
    )


def added(one: int | None, other: int | None) -> int | None:
    """Returns the sum of two amounts, of which None counts as 0; None where both are."""
    return None if one is None and other is None else (one or 0) + (other or 0)


def higher(one: int | None, other: int | None) -> int | None:
    """Returns the higher of two peaks, or the one that is known; None where neither is."""
    return max((value for value in (one, other) if value is not None), default=None)


def cuda_in_use() -> bool:
    """Returns whether this process uses a GPU, without starting CUDA."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_initialized()


def synchronise() -> None:
    """Wait until the GPU has done what it was given, where this process uses one: only then does a clock tell."""
    if cuda_in_use():
        import torch

        torch.cuda.synchronize()


def reset_peaks() -> None:
    """Reset the memory peaks of torch's allocator and of resident memory (writing 5 resets VmHWM).

    Freed memory goes back to the system first, so that a phase is not charged for what the one before left.
    """
    gc.collect()
    if trim := heap_trim():
        trim(0)
    if cuda_in_use():
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # no such file on this system: the peak is then the process's


@lru_cache(maxsize=1)
def heap_trim() -> Callable[[int], int] | None:
    """Returns glibc's `malloc_trim`; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def cuda_peaks() -> tuple[int | None, int | None]:
    """Returns the peak (allocated, reserved) bytes of torch's CUDA allocator since the last reset; None for both where
    no GPU is used."""
    if not cuda_in_use():
        return None, None
    import torch

    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def resident_peak() -> int | None:
    """Returns the peak resident bytes since the last reset, None where the system does not tell. (`ru_maxrss` would be
    inherited across exec.)"""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def free_bytes(limit: int | None = None) -> int:
    """Returns the bytes that this process can still allocate. On a GPU: what is free, and what torch has cached
    (`limit` is not used). Else the machine's available memory, at most `limit`, the bytes that the process may hold,
    less what it holds already."""
    if cuda_in_use():
        import torch

        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    import psutil

    available = int(psutil.virtual_memory().available)
    return available if limit is None else min(available, limit - int(psutil.Process().memory_info().rss))


class DeviceSampler:
    """Samples the memory in use on the whole GPU every 50 ms, in a thread, and keeps its peak in bytes; None without a
    GPU."""

    def __init__(self) -> None:
        self.peak: int | None = None
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None
        import torch

        if torch.cuda.is_available():  # asking does not start CUDA; loading, which does, is sampled from then on
            self.thread = threading.Thread(target=self.sample, daemon=True)
            self.thread.start()

    def sample(self) -> None:
        """Sample until `stop` is called; the thread runs this."""
        import torch

        while True:
            if torch.cuda.is_initialized():
                free, total = torch.cuda.mem_get_info()
                self.peak = max(self.peak or 0, total - free)
            if self.stopped.wait(SAMPLE_SECONDS):
                return

    def stop(self) -> int | None:
        """End the sampling. Returns the peak in bytes; None without a GPU."""
        self.stopped.set()
        if self.thread:
            self.thread.join()
        return self.peak


class StepRecorder(TrainerCallback):
    """Trainer callback that records loss, cross-entropy, learning rate, tokens and seconds of every step, and raises
    Diverged when a loss is not a finite number.

    Progress goes to the file `events`, a JSON line a step, for whoever watches; without it nowhere.
    """

    def __init__(self, events: Path | None = None) -> None:
        self.events = events
        self.steps: list[Step] = []
        self.step_tokens = 0
        self.step_samples = 0
        self.total_tokens = 0
        self.total_samples = 0
        self.seconds: dict[int, float] = {}
        self.tokens: dict[int, int] = {}
        self.samples: dict[int, int] = {}
        self.terms: dict[str, Tensor | float] = {}  # objective -> the sum of its terms
        self.began = 0.0
        self.flop_count: FlopCount | None = None  # of the model that is being trained, where its form is known
        self.trained: Sequence[bool] = ()
        self.flops: dict[int, float] = {}
        self.tricks: list[Fact] = []  # which ways of saving work were used
        self.before = 0  # steps of earlier stages: numbers go on where those ended

    def add(self, objective: str, term: Tensor) -> None:
        """Add a term of an objective to that objective's sum. The training loop calls this."""
        self.terms[objective] = self.terms.get(objective, 0.0) + term

    def count(self, tokens: int, samples: int) -> None:
        """Add a batch's tokens and rows to the current step. The training loop calls this."""
        self.step_tokens += tokens
        self.step_samples += samples

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.before = max(self.seconds, default=0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.step_tokens = self.step_samples = 0
        if self.flop_count:
            self.trained = self.flop_count.trained()
        self.began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        synchronise()
        step = self.before + state.global_step
        self.seconds[step] = time.perf_counter() - self.began
        self.tokens[step] = self.step_tokens
        self.samples[step] = self.step_samples
        if self.flop_count:
            self.flops[step] = self.flop_count.step(self.step_tokens, self.step_samples, self.trained)
        self.total_tokens += self.step_tokens
        self.total_samples += self.step_samples

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        logs = logs or {}
        step, steps = self.before + state.global_step, self.before + state.max_steps
        loss = first(logs, "loss", "embedding_loss")
        if loss is not None:
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at step {step} of {steps}")
            rate = first(logs, "learning_rate", "embedding_learning_rate")
            tokens = self.tokens.get(step) or None
            entropy = first(logs, CROSS_ENTROPY)
            self.steps.append(Step(step, "train", loss, rate, tokens, self.seconds.get(step), entropy))
            self.announce(phase="train", step=step, steps=steps, loss=loss)
        if "eval_loss" in logs:
            if not math.isfinite(logs["eval_loss"]):
                raise Diverged(f"the validation loss is {logs['eval_loss']} at step {step}")
            entropy = first(logs, f"eval_{CROSS_ENTROPY}")
            self.steps.append(Step(step, "validation", logs["eval_loss"], None, None, None, entropy))

    def announce(self, **event: object) -> None:
        """Append news (phase, step, loss, …) to the events file, if there is one."""
        if self.events:
            with self.events.open("a") as file:
                file.write(json.dumps(event) + "\n")

    def facts(self, peak: float | None = None) -> list[Fact]:
        """Returns facts of throughput and step times, without the first `WARM_UP_STEPS` steps (of all steps when there
        are no others); of what each objective added to the loss; and the share of the devices' `peak` (FLOP/s) that the
        model's own FLOPs came to, where both are known."""
        steps = sorted(self.seconds)[WARM_UP_STEPS:] or sorted(self.seconds)
        tricks = list({fact.name: fact for fact in self.tricks}.values())  # of the last stage, where there are several
        times = [self.seconds[step] for step in steps]
        if not times:
            return []
        facts = [
            Fact("step_seconds_p50", statistics.median(times), "s", False),
            Fact("step_seconds_p90", float(numpy.quantile(times, 0.9)), "s", False),
            Fact("step_seconds_max", max(times), "s", False),
            Fact("optimizer_steps", len(self.seconds), "steps"),
        ]
        # Mean over all steps of what each objective added to the loss.
        facts += [Fact(f"{name}_loss", float(total) / len(self.seconds), "") for name, total in self.terms.items()]
        for name, counts in (("tokens", self.tokens), ("samples", self.samples)):
            count = sum(counts[step] for step in steps)
            if count:
                facts.append(Fact(f"{name}_per_second", count / sum(times), f"{name}/s", True))
        if self.flops.keys() == self.seconds.keys():  # else not every step's work is known
            facts.append(Fact("model_flops", sum(self.flops.values()), "FLOP"))
            if peak:
                rate = sum(self.flops[step] for step in steps) / sum(times)
                facts.append(Fact("mfu", rate / peak, "share of the matmul peak", True))
        return facts + tricks


def first(logs: dict[str, float], *names: str) -> float | None:
    """Returns the value in a trainer's log of the first of these names that it has; None where it has none."""
    for name in names:
        if name in logs:
            return float(logs[name])
    return None
