"""One cell on one page: load -> attach -> train -> evaluate -> infer -> save -> result. A trial ends with its scores.

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
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.environment import now
from harness.errors import CellError, Interrupted, OutOfMemory
from harness.records import Cell, CellResult, Fact, Flag, Item, Score, Status, with_settings
from harness.store import ITEMS, RESULT, is_full, settle, write_atomically
from harness.worker.context import Lent, check_numbers
from harness.worker.flags import forgot, learned_nothing, not_the_base, overfitted, underfitted


def run(folder: Path, device: str = "cpu") -> None:
    """Do the job in `folder` on `device`; whatever happens, a result is written."""
    finish(folder, attempt(folder), device)


def finish(folder: Path, result: CellResult, device: str) -> None:
    """Write a cell's result, with where it ran and which cells (as the executor noted them) ran there meanwhile.

    Of one that was not alone the energy is dropped: the counters saw its neighbours too.
    """
    try:
        beside = tuple(dict.fromkeys((folder / "beside.txt").read_text().splitlines()))
    except OSError:
        beside = ()
    if beside:
        result = replace(result, phases=tuple(replace(phase, energy_j=None) for phase in result.phases))
    write_result(folder / RESULT, replace(result, device=device, beside=beside, contended=bool(beside)))


def attempt(folder: Path, rank: int = 0) -> CellResult:
    """Do the job in `folder`, or, of several processes that share it, the part of the `rank`-th from 0."""
    job = json.loads((folder / "job.json").read_text())
    cell = with_settings(Cell.from_json(job["cell"]), job.get("tuned", {}))
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
        checkpoints=tuple(work.checkpoints) if status is Status.DONE else (),
        intermediate=tuple(work.intermediate),
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


class Work(Lent):
    """The course of one cell."""

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
            if self.method.uses_data:
                self.examples()  # before the model is there: choosing them may need the memory of another
            model = self.method.load(self)
            _ = self.tasks  # documents are read here, not on the clock of scoring
            if self.method.uses_data and self.method.trains:
                # Data and adapters are made ready here, so that "train" is training and nothing else.
                claims = self.method.is_language_model and not self.method.starts_at_base
                before = self.first_answer(model) if claims else None
                model = self.method.attach(model)
                if before is not None:
                    self.flags += not_the_base(before, self.first_answer(model))
                self.stages = self.lessons(model)
        self.facts += parameter_facts(model, trained=self.method.trains)
        if self.method.prepares:
            with self.meter.phase("train"):
                self.recorder.tell(phase="train")
                model = self.method.fit(model, self)
                self.meter.count(self.recorder.total_tokens or None, self.recorder.total_samples or None)
            self.facts += self.recorder.facts(self.peak)
            self.facts += self.truncation()
            self.flags += overfitted(self.recorder.steps) + underfitted(self.recorder.steps)
            if "threads_a_rank" in self.job:  # one of several ranks
                from harness.worker.distributed import part

                model = part(model)
                if self.rank:
                    return
                torch.set_num_threads(self.job["threads"])
        if self.lagged:
            return
        with self.meter.phase("evaluate"):
            self.recorder.tell(phase="evaluate")
            self.evaluate(model)
        if self.cell.trial:
            return
        if self.cell.learn:
            with self.meter.phase("infer"):
                self.recorder.tell(phase="infer")
                self.facts += self.answering()
        with self.meter.phase("save"):
            self.recorder.tell(phase="save")
            self.save(model)

    def evaluate(self, model: Any) -> None:
        self.scores, items, documents = self.scores_of(model, (*self.cell.learn, *self.cell.retain))
        if self.cell.trial:  # validation items: what is kept of the test's is kept by their task
            write_items(self.folder / ITEMS, items)
            return
        compared, more = self.compare(model, documents)
        self.scores += compared  # after the others: a task's first score is its headline
        items += more
        if self.truncated is not None:
            self.facts.append(Fact("truncated_items", self.truncated, "sequences", False))
        if self.curriculum.scores_stages and self.stages:
            learned = [score for score in self.scores if score.role == "task"]
            self.facts += self.curriculum.summary([*self.history, (self.stages[-1].name, learned)])
        write_items(self.folder / ITEMS, items)
        self.write_documents(documents)
        if self.job["baseline"]:
            base = Path(self.job["baseline"])
            self.flags += learned_nothing(self.cell.learn, self.scores, items, base)
            self.flags += forgot(self.cell.retain, self.scores, items, base)

    def compare(self, model: Any, documents: dict[Any, str]) -> tuple[list[Score], list[Item]]:
        """How far the model has moved from the untouched base model on retained running text; in plain fp32 weights,
        whatever the method loads. A phase of its own, as both are in memory; left out, with a flag, where there is no
        room for the second."""
        from harness.plan import ROLLING

        texts = [name for name in self.cell.retain if self.tasks[name].OUTPUT_TYPE == ROLLING]
        if not texts:
            return [], []
        with self.meter.phase("compare"):
            self.recorder.tell(phase="compare")
            return self.compared(model, documents, texts)

    def compared(self, model: Any, documents: dict[Any, str], texts: list[str]) -> tuple[list[Score], list[Item]]:
        import torch

        from harness.plan import room_to_compare
        from harness.worker.base_kl import compare
        from harness.worker.profiling.meter import free_bytes

        parameters = next(fact.value for fact in self.facts if fact.name == "total_params")
        needed, free = room_to_compare(parameters, len(self.tokenizer)), free_bytes(self.job.get("memory_limit"))
        try:
            if self.cell.baseline and needed > free:
                raise torch.OutOfMemoryError
            base = self.load_model() if self.cell.baseline else model  # the untouched model is its own base
            scores, items, tokens = compare(self.language_model(model), self.language_model(base), documents, texts)
        except torch.OutOfMemoryError:
            self.flags.append(Flag("not_compared", {"needed_bytes": needed, "free_bytes": free}))
            return [], []
        check_numbers(scores)
        self.meter.count(tokens=2 * tokens, samples=len(items))
        return scores, items

    def save(self, model: Any) -> None:
        """Keep the weights of what was trained or merged; the untouched base is on disk already."""
        if not self.method.prepares:
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
