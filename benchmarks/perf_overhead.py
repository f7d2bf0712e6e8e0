"""Times the training loop with and without what measures it, by turns: the part `overhead` of `perf.py`.

python benchmarks/perf_overhead.py SUITE REPEATS THREADS
"""

# ruff: noqa: E402 (the tests' helpers are no package)
from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / name) for name in ("", "tests")]

import torch
from tools import context_of, plan_of, training_of
from transformers import TrainerCallback

from harness.worker import train as loop


class Clock(TrainerCallback):
    """Notes the seconds between the ends of steps, and nothing else."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **options: Any) -> None:
        self.ends.append(time.perf_counter())


class Mute:
    """Stands for the instruments: takes what they take, and does nothing."""

    def count(self, tokens: int, samples: int) -> None: ...

    def add(self, objective: str, term: object) -> None: ...


def compare(suite: str, repeats: int) -> dict[str, list[float]]:
    """Returns the median seconds of a step, of each repeat, with and without instruments, by turns on one model."""
    path = Path(suite)
    plan = plan_of(path.parent.parent, None, path.stem)
    cell = next(cell for cell in plan.cells if cell.label != "base")
    context = context_of(plan, cell, Path(mkdtemp()) / "attempt")
    model = context.method.attach(context.method.load(context))
    training = training_of(context)
    stage = training.encode_stages(model)[0]
    usual = loop.common_callbacks
    found: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(2 * repeats):
        clock = Clock()
        bare = turn % 2 == 1
        run = training.run([clock])
        if bare:
            run = loop.TrainRun(run.seed, Mute(), run.scratch, callbacks=run.callbacks)  # type: ignore[arg-type]
            loop.common_callbacks = lambda method, settings, recorder: usual(method, settings, recorder)[1:]
        try:
            loop.train(model.train(), context.method, stage, context.settings, run)
        finally:
            loop.common_callbacks = usual
        gaps = [end - begin for begin, end in zip(clock.ends, clock.ends[1:], strict=False)]
        found["without" if bare else "with"].append(statistics.median(gaps[2:]))
    return found


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print("found", json.dumps(compare(sys.argv[1], int(sys.argv[2]))))
