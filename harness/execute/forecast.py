"""A forecast of a run: each cell's state, its expected seconds, its predicted memory, and why it cannot run here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from harness.data import Facts
from harness.execute.executors.local import devices_here, refusal
from harness.execute.first_guess import guess_seconds
from harness.execute.queue import TO_DO
from harness.execute.resume import PlanState, plan_state
from harness.plan import Device, Plan, Prediction, predict_memory
from harness.records import STUDY, Cell, Environment, canonical
from harness.store import Store
from harness.suite import Recipe


@dataclass(frozen=True)
class Row:
    """The forecast of one cell of a plan. `status` is "to do", "cannot run" (for the `reason`, else ""), or how its
    last attempt ended. `seconds` are expected, None where nothing is known; `guessed`: no such cell has ended, and they
    follow from its arithmetic alone. `memory` has the predicted parts and their
    peak, in bytes; None where it is not counted. `needs` are keys of cells."""

    key: str
    method: str
    status: str
    reason: str
    seconds: float | None
    memory: dict[str, int] | None
    needs: list[str]
    guessed: bool = False


def memory_predictor(facts: Facts, environment: Environment) -> Callable[[Cell], Prediction | None]:
    """Returns a function that predicts a cell's memory on this machine (`plan.predict_memory`). Its answers are cached,
    as it is called very often; cells that differ only in their seed share one."""
    device: Device = "cuda" if environment.accelerator else "cpu"
    known: dict[tuple[object, ...], Prediction | None] = {}

    def predicted(cell: Cell) -> Prediction | None:
        like: tuple[object, ...] = (cell.label, cell.model, cell.task, cell.n_train)  # these settle all but the seed
        if cell.trial or STUDY in cell.needs:  # but for what is tuned
            like = (*like, canonical([cell.settings, cell.train.model_dump()]))
        if like not in known:
            known[like] = predict_memory(cell, facts, device)
        return known[like]

    return predicted


def forecast_cells(plan: Plan, store: Store, environment: Environment, machine: int | None = None) -> list[Row]:
    """Returns a forecast for each cell of the plan, in its order. `store` tells what is done and how long cells took.
    `machine` is the memory of a device in bytes, in place of what is found here."""
    known = PlanState(dict.fromkeys(plan.by_digest(), TO_DO))
    if store.path.exists() or (store.folder / "attempts").exists():
        known = plan_state(plan, store, environment.env_digest, look_only=True)
    devices = devices_here(environment, machine)
    predicted = memory_predictor(plan.facts, environment)
    cells = plan.by_digest()
    rows = []
    for cell in plan.cells:
        counted = predicted(cell)
        state = str(known.states[cell.spec_digest])
        here = Recipe.of(cell).skip_cell(cell, bool(environment.accelerator))
        needed = counted.needed if counted else None
        if counted and plan.facts.unfetched:  # activations are a bound there, by which nothing is ruled out
            needed = min(counted.needed, counted.process + counted.weights + counted.gradients + counted.optimizer)
        reason = here or refusal(cell, devices, needed)
        seconds = known.durations.seconds(cell)
        if cell.study and seconds:  # its trials; a budget of seconds is a number already
            seconds = min(seconds * (cell.study["trials"] or math.inf), cell.study["seconds"] or math.inf)
            seconds = seconds if math.isfinite(seconds) else None
        guessed = seconds is None
        if guessed and state == TO_DO:
            seconds = guess_seconds(cell, plan.facts, environment)
        stopped = bool(reason) and state == TO_DO
        rows.append(
            Row(
                key=cell.key,
                method=cell.method,
                status="cannot run" if stopped else state,
                reason=(reason or "") if stopped else "",
                seconds=seconds,
                memory={**asdict(counted), "peak": counted.peak} if counted else None,
                needs=[cells[need].key for need in cell.needs.values()],
                guessed=guessed and seconds is not None,
            )
        )
    return rows
