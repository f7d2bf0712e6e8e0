"""A job: everything that the process of a cell needs to know, written into the attempt's folder before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypedDict

from harness.records.cell import Cell, with_settings
from harness.records.json_object import JsonObject
from harness.records.reading import read_record, wrong
from harness.records.results import Environment, RungScore

JOB = "job.json"  # its file in an attempt's folder


class EarlierTrial(TypedDict):
    """A trial of an earlier batch of the same study, with which a running trial is compared to decide whether to end it
    early. `number` is its place in the study, `status` how it ended."""

    number: int
    status: str
    merit: float | None  # the score that is sought, turned so that more is better; None where it has none
    intermediate: list[RungScore]


@dataclass(frozen=True)
class Job:
    """One attempt at a cell. Every field is always there: a field that does not apply is None or empty."""

    run_id: str
    """The run that the attempt belongs to."""
    cell: Cell
    """The cell as it was planned."""
    tuned: JsonObject
    """Settings by full name that the cell's study chose; empty where it has none."""
    environment: Environment
    """The environment of the machine that the cell computes on."""
    threads: int
    """CPU threads of the whole cell, over all its processes."""
    models: dict[str, Path]
    """Model name -> its folder, of the cell's own model and of those that it borrows."""
    tasks: dict[str, Path]
    """Task name -> its YAML file, of all tasks that are learned, retained or read."""
    needs: dict[str, Path]
    """Role -> folder with the weights of the cell that fills it."""
    needed: dict[str, Cell]
    """Role -> the cell that fills it; the same roles as `needs`."""
    baseline: Path | None
    """Item values of the untouched base model (Parquet)."""
    documents: Path
    """Folder that takes the scored texts, a file a task."""
    results: Path
    """Results folder that is kept from other commands while the process lives."""
    predicted_bytes: int | None
    """Predicted peak memory on the device; None where it is not counted."""
    needed_bytes: int | None
    """The part of it without which the cell cannot run."""
    predicted_parts: dict[str, int]
    """Part of the prediction (weights, gradients, …) -> bytes."""
    memory_limit: int | None
    """Bytes that the cell may hold resident; None for the machine's own limit."""
    matmul_peak: float | None
    """FLOP/s of a matrix product on one device in the cell's precision; None where it was not measured."""
    bad_instruments: tuple[str, ...]
    """Self-checks of the instruments that failed: they mark the result."""
    leaks: JsonObject
    """Scored task -> evidence of leaks that the suite allows: they mark the result."""
    earlier: tuple[EarlierTrial, ...]
    """The trials that a trial is compared with, to end it early."""

    @property
    def settled_cell(self) -> Cell:
        """The cell with the settings that its study chose (`tuned`) put in."""
        return with_settings(self.cell, self.tuned)

    def of_need(self, role: str) -> Job:
        """Return the job that loads the model left by the needed cell in `role` (a key of `needed`): this job with that
        cell in place of its own, and with nothing that concerns training or results."""
        return replace(
            self, cell=self.needed[role], tuned={}, needs={}, needed={}, baseline=None, predicted_bytes=None,
            needed_bytes=None, predicted_parts={}, bad_instruments=(), leaks={}, earlier=(),
        )  # fmt: skip

    def to_json(self) -> JsonObject:
        """Return the job as values that JSON knows, as job.json holds it."""
        plain: JsonObject = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {
            "cell": self.cell.to_json(),
            "environment": vars(self.environment),
            "models": texts(self.models),
            "tasks": texts(self.tasks),
            "needs": texts(self.needs),
            "needed": {role: cell.to_json() for role, cell in self.needed.items()},
            "baseline": None if self.baseline is None else str(self.baseline),
            "documents": str(self.documents),
            "results": str(self.results),
            "bad_instruments": list(self.bad_instruments),
            "earlier": list(self.earlier),
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Job:
        """Return the job that `to_json` wrote. Raises ValueError for anything else: for missing or unknown keys,
        as those of another version, and for a damaged value, whose field it names."""
        if not isinstance(data, dict):
            raise wrong("", data, "an object of names and values")
        names = {field.name for field in fields(cls)}
        unlike = [
            *(f"has no {name!r}" for name in sorted(names - data.keys())),
            *(f"has an unknown {name!r}" for name in sorted(data.keys() - names)),
        ]
        if unlike:
            raise ValueError(f"{JOB} {listed(unlike)}: another version of tunebench wrote it. Run the suite again.")
        return read_record(cls, data)


def texts(by_name: Mapping[str, Path]) -> dict[str, str]:
    """Return {name: path as text}."""
    return {name: str(path) for name, path in by_name.items()}


def listed(parts: Iterable[str]) -> str:
    """Join one phrase or more into one: "a, b and c"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
