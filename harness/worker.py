"""One cell on one page: load -> attach -> train -> evaluate -> save -> result.

In: a folder with `job.json`. Out, in the same folder: `result.json` (written last, by rename),
`items.parquet`, `weights/`. Runs in a process of its own, so that its memory is its own; what it prints
goes to `log.txt`. How a cell is spread over several devices is not decided here (`execute/ranks.py`); a rank other
than the first loads, attaches, trains, and leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.curricula import Stage
from harness.diagnose import forgot, learned_nothing, overfitted, underfitted
from harness.environment import now
from harness.errors import CellError, Diverged, Interrupted, OutOfMemory
from harness.measure import Meter, StepRecorder
from harness.methods import Method, make_method
from harness.recipe import Recipe
from harness.records import Cell, CellResult, Fact, Flag, Item, Score, Status
from harness.store.files import ITEMS, RESULT, is_full, settle, write_atomically


def run(folder: Path, device: str = "cpu") -> None:
    """Do the job in `folder` on `device`; whatever happens, a result is written."""
    finish(folder, attempt(folder), device)


def finish(folder: Path, result: CellResult, device: str) -> None:
    """Write a cell's result, with where it ran and which cells (as the executor noted them) ran there meanwhile."""
    try:
        beside = tuple(dict.fromkeys((folder / "beside.txt").read_text().splitlines()))
    except OSError:
        beside = ()
    write_result(folder / RESULT, replace(result, device=device, beside=beside, contended=bool(beside)))


def attempt(folder: Path, rank: int = 0) -> CellResult:
    """Do the job in `folder`, or, of several processes that share it, the part of the `rank`-th from 0."""
    job = json.loads((folder / "job.json").read_text())
    cell = Cell.from_json(job["cell"])
    started, clock = now(), time.perf_counter()
    work = Work(folder, cell, job, rank)
    status, reason = Status.DONE, ""
    try:
        work.run()
    except CellError as error:
        status, reason = Status(error.status), str(error)
    except MemoryError as error:
        status, reason = Status.OOM, f"MemoryError: {error}"
    except Exception as error:
        traceback.print_exc()
        status, reason = classify(error, folder)
    return CellResult.of_job(
        folder.name,
        job,
        status,
        reason,
        started,
        seconds=time.perf_counter() - clock,
        scores=tuple(work.scores) if status is Status.DONE else (),
        phases=tuple(work.meter.phases),
        steps=tuple(work.recorder.steps),
        facts=tuple(work.facts),
        flags=tuple(work.flags),
    )


def write_result(path: Path, result: CellResult) -> None:
    write_atomically(path, json.dumps(result.to_json(), indent=1))


def classify(error: Exception, folder: Path) -> tuple[Status, str]:
    """The status of an exception that nobody here raised. Out of memory needs a device's own error."""
    text = f"{type(error).__name__}: {error}".strip()
    if is_full(folder, error):
        return Status(Interrupted.status), f"no space left on the disk ({text.splitlines()[0]})"
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return Status(OutOfMemory.status), text.splitlines()[0]
    if "DefaultCPUAllocator: can't allocate memory" in text or "not enough memory" in text:
        return Status(OutOfMemory.status), text.splitlines()[0]
    return Status.FAILED, text.splitlines()[0][:500]


class Work:
    """What the worker lends a method (see `methods.base.Job`), and the course of a cell."""

    def __init__(self, folder: Path, cell: Cell, job: dict[str, Any], rank: int = 0):
        self.folder, self.cell, self.job, self.rank = folder, cell, job, rank
        self.models: Mapping[str, Path] = {name: Path(path) for name, path in job["models"].items()}
        self.base = self.models[cell.model]
        self.needs: Mapping[str, Path] = {role: Path(path) for role, path in job["needs"].items()}
        self.task, self.n_train = cell.task, cell.n_train
        self.settings: Mapping[str, Any] = cell.train
        self.seed = cell.seed if cell.seed is not None else 0
        self.recipe = Recipe.of(cell)
        self.method = self.recipe.method
        self.meter = Meter()
        self.recorder = StepRecorder(None if rank else folder / "events.jsonl")
        self.scores: list[Score] = []
        self.facts: list[Fact] = []
        self.flags: list[Flag] = []
        self.drawn: dict[tuple[str, str, int], list[Any]] = {}
        self.stages: list[Stage] = []
        self.scratch = folder / f".scratch-{rank}"  # here, and not in /tmp, so that it is found after a kill -9
        if job.get("bad_instruments"):
            self.flags.append(Flag("bad_instruments", {"failed": job["bad_instruments"]}))
        if job["predicted_bytes"]:
            self.facts.append(Fact("predicted_bytes", job["predicted_bytes"], "B", False))

    def run(self) -> None:
        self.scratch.mkdir()
        try:
            self.course()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def course(self) -> None:
        import torch
        from transformers import set_seed

        torch.set_num_threads(self.job.get("threads_a_rank", self.job["threads"]))
        set_seed(self.seed)
        with self.meter.phase("load"):
            self.recorder.tell(phase="load")
            model = self.method.load(self)
            _ = self.tasks  # documents are read here, not on the clock of scoring
            if self.method.uses_data and self.method.trains:
                # Data and adapters are made ready here, so that "train" is training and nothing else.
                model = self.method.attach(model)
                self.stages = self.lessons(model)
        self.facts += parameter_facts(model, trained=self.method.trains)
        if self.method.uses_data:
            with self.meter.phase("train"):
                self.recorder.tell(phase="train")
                model = self.method.fit(model, self)
                self.meter.count(self.recorder.total_tokens or None, self.recorder.total_samples or None)
            self.facts += self.recorder.facts()
            self.flags += overfitted(self.recorder.steps) + underfitted(self.recorder.steps)
            if "threads_a_rank" in self.job:  # one of several ranks
                from harness.devices import part

                model = part(model)
                if self.rank:
                    return
                torch.set_num_threads(self.job["threads"])
        with self.meter.phase("evaluate"):
            self.recorder.tell(phase="evaluate")
            self.evaluate(model)
        with self.meter.phase("save"):
            self.recorder.tell(phase="save")
            self.save(model)

    def evaluate(self, model: Any) -> None:
        from harness.evaluate import evaluate

        roles = {**dict.fromkeys(self.cell.retain, "retain"), **dict.fromkeys(self.cell.learn, "task")}
        names = [*self.cell.learn, *self.cell.retain]
        lm = self.method.predictor(model, self)
        self.scores, items, documents = evaluate(lm, {name: self.tasks[name] for name in names}, roles)
        for score in self.scores:
            if not all(map(is_number, (score.value, score.stderr or 0.0))):
                raise Diverged(f"the score {score.metric} of {score.task} is {score.value}")
        self.meter.count(tokens=getattr(lm, "scored_tokens", None), samples=len(documents))
        write_items(self.folder / ITEMS, items)
        self.write_documents(documents)
        if self.job["baseline"]:
            base = Path(self.job["baseline"])
            self.flags += learned_nothing(self.cell.learn, self.scores, items, base)
            self.flags += forgot(self.cell.retain, self.scores, items, base)

    def save(self, model: Any) -> None:
        """Keep the weights of what was trained or merged; the untouched base is on disk already."""
        if not self.method.uses_data:
            return
        temporary = self.folder / ".weights"
        self.method.save(model, temporary)
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        self.facts.append(Fact("artifact_bytes", size, "B", False))
        settle(temporary, self.folder / "weights")

    def write_documents(self, documents: dict[Any, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for task in {task for task, _ in documents}:
            path = Path(self.job["documents"]) / f"{self.cell.fingerprints[task][:32]}.parquet"
            if not path.exists():
                rows = [(doc_id, text) for (name, doc_id), text in documents.items() if name == task]
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                table = {
                    "task": [task] * len(rows),
                    "fingerprint": [self.cell.fingerprints[task]] * len(rows),
                    "doc_id": [doc_id for doc_id, _ in rows],
                    "text": [text for _, text in rows],
                }
                pq.write_table(pa.table(table), temporary)
                settle(temporary, path)

    # --- what methods use ---

    @cached_property
    def tokenizer(self) -> Any:
        from harness.models import load_tokenizer

        return load_tokenizer(self.base)

    @cached_property
    def tasks(self) -> dict[str, Any]:
        from harness.tasks import load_task

        return {name: load_task(Path(path)) for name, path in self.job["tasks"].items()}

    def examples(self, split: str = "train", task: str | None = None, n: int | None = None) -> list[Any]:
        from harness.tasks import examples

        name, count = task or self.cell.task, self.cell.n_train if n is None else n
        key = name, split, count
        if key not in self.drawn:
            self.drawn[key] = examples(self.tasks[name], split, count, self.seed)
        return self.drawn[key]

    def rows(self, model: Any, found: list[Any]) -> list[dict[str, list[int]]]:
        from harness.tasks import encode

        for objective in self.recipe.objectives:
            found = objective.examples(found, self)
        lm = self.language_model(model)
        return encode(found, encoder_of(lm), lm.eot_token_id, self.settings["max_length"])

    def text_rows(self, model: Any, task: str, n: int | None = None) -> list[dict[str, list[int]]]:
        from harness.tasks import texts

        lm, length = self.language_model(model), self.settings["max_length"]
        rows = [lm.tok_encode(text)[:length] for text in texts(self.tasks[task], n, self.seed)]
        return [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in rows]

    def lessons(self, model: Any) -> list[Stage]:
        """The stages of training, with encoded rows; none for a method with a trainer of its own."""
        if self.method.own_trainer:
            self.examples()
            return []
        from harness.curricula.single import Single

        return (self.recipe.curriculum or Single()).stages(model, self)

    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> Any:
        from harness.models import load_model

        return load_model(folder or self.base, dict(self.settings), quantize)

    def load_need(self, role: str, fold: bool = False) -> Any:
        """A needed cell's model. It is restored by its own method, on its own base model."""
        needed = Cell.from_json(self.job["needed"][role])
        other = copy(self)
        other.cell, other.base = needed, self.models[needed.model]
        method = make_method(needed.method, needed.settings)
        model = method.restore(other, self.needs[role])
        return method.fold(model) if fold else model

    def language_model(self, model: Any) -> Any:
        from harness.evaluate import TunedLM

        return TunedLM(model, self.tokenizer, self.cell.train["eval_batch_size"])

    def callbacks(self) -> list[Any]:
        return [self.recorder]

    def train(self, model: Any, method: Method) -> Any:
        from harness.train import train

        for objective in self.recipe.objectives:
            objective.prepare(model, self)
        for stage in self.stages:
            settings = {**self.settings, **stage_settings(self.settings, stage)}
            model = train(
                model, method, stage.rows, stage.validation, settings, self.seed, self.recorder, self.scratch,
                self.recipe.objectives,
            )  # fmt: skip
        return model


def stage_settings(settings: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """What a stage changes in the training settings: its share of the steps or of the epochs."""
    if settings["steps"]:
        return {"steps": max(1, round(settings["steps"] * stage.share))}
    return {"epochs": settings["epochs"] * stage.share}


def encoder_of(lm: Any) -> Any:
    """The scorer's own (context, continuation) -> token ids; an empty context is its prefix token, as there."""

    def encoder(context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            return [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        return lm._encode_pair(context, continuation)

    return encoder


def parameter_facts(model: Any, trained: bool = True) -> list[Fact]:
    """Trainable and total parameters. Packed 4-bit weights are counted as the weights they hold."""
    body = getattr(model, "model_body", model)  # SetFit wraps its encoder
    total = trainable = 0
    for value in body.parameters():
        state = getattr(value, "quant_state", None)
        size = state.shape.numel() if state is not None else value.numel()
        total += size
        trainable += size if value.requires_grad else 0
    return [
        Fact("trainable_params", trainable if trained else 0, "parameters", False),
        Fact("total_params", total, "parameters", False),
    ]


def write_items(path: Path, items: list[Item]) -> None:
    """Per-item values as Parquet, by rename."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [getattr(item, name) for item in items] for name in Item.__dataclass_fields__}
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.table(columns), temporary)
    settle(temporary, path)


def is_number(value: float) -> bool:
    return value == value and abs(value) != float("inf")
