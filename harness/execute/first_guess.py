"""Guesses how long a cell will take where none like it has ended: by its arithmetic and the machine's speed.

A forward pass takes 2 operations for each weight and token, a backward pass 2 for the activations and 2 for the weights
that are trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). What small matrices, padding and the optimiser
lose is rounded from cells of a model of 135M on two cores (docs/lab-notes.md). A guess may be off by a factor of two.
"""

from __future__ import annotations

import json
import math

from harness.data import Facts
from harness.execute.self_check_cache import peaks_kept_at
from harness.records import Cell, Environment
from harness.suite import Recipe

FORWARD, BACKWARD_ALL, BACKWARD_FROZEN = 2, 4, 2  # operations for each weight and token
TRAINING, SCORING = 0.4, 0.6  # share of the rate of matrix products that is reached
CPU_RATE, GPU_RATE = 5e10, 5e13  # FLOP/s of a thread, of an accelerator, where none was measured
START = 6.0  # seconds of a process, its imports and a model's load


def guess_seconds(cell: Cell, facts: Facts, environment: Environment) -> float | None:
    """Returns the expected seconds of a cell of a plan with these `facts`; None where its model or texts are not
    known, or where its method has a model or a trainer of its own."""
    model = facts.models.get(cell.model)
    method = Recipe.of(cell).method
    if model is None or model.network is None or method.own_model() or method.own_trainer or cell.study or cell.trial:
        return None
    weights = sum(math.prod(shape) for shape in model.network.weights.values())
    tasks = dict.fromkeys((cell.task, *cell.retain))
    lengths = {task: facts.lengths[cell.model, task] for task in tasks if (cell.model, task) in facts.lengths}
    if len(lengths) < len(tasks) or not facts.unfetched.isdisjoint([cell.model, *tasks]):
        return None
    scored = sum(one.sequences * middle(one.scored) for one in lengths.values())
    operations = FORWARD * weights * scored / SCORING
    if method.trains and cell.n_train:
        backward = BACKWARD_FROZEN if method.wraps else BACKWARD_ALL
        batch = cell.train.batch_size * cell.train.gradient_accumulation
        steps = cell.train.steps or math.ceil((cell.train.epochs or 1) * cell.n_train / batch)
        learned = steps * batch * min(middle(lengths[cell.task].training), cell.train.max_length)
        operations += (FORWARD + backward) * weights * learned / TRAINING
    return START + operations / rate(environment)


def middle(quantiles: tuple[int, ...]) -> float:
    """Returns the mean of a distribution that is given by its quantiles; 0 for none."""
    return sum(quantiles) / len(quantiles) if quantiles else 0.0


def rate(environment: Environment) -> float:
    """Returns the FLOP/s of matrix products on this machine: as measured before, else as such machines have."""
    try:
        known = json.loads(peaks_kept_at(environment.env_digest).read_text())
        return max(float(value) for value in known.values() if value)
    except (OSError, ValueError, TypeError, AttributeError):
        return GPU_RATE if environment.accelerator else CPU_RATE * (environment.threads or 1)
