"""Runs one cell from start to end: load -> attach -> train -> evaluate -> save -> infer -> result.

In: a folder with `job.json`. Out, in the same folder: `result.json` (written last, by rename), `items.parquet`,
`weights/`. Runs in a process of its own, so that its memory is its own; what it prints goes to `log.txt`. How a cell is
spread over several devices is not decided here (`multi_device.py`); a rank other than the first ends after training,
and a trial ends after its scores.
"""

from __future__ import annotations

import shutil
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.environment import now
from harness.errors import CellError, Interrupted, OutOfMemory
from harness.records import OWN_CHECK, SPEED_AFTER, SPEED_BEFORE, CellResult, Fact, Job, Status
from harness.store import EVENTS, ITEMS, is_full, neighbours_of, read_job, write_result
from harness.worker.answer_flags import odd_answers
from harness.worker.context import CellContext
from harness.worker.distributed import Rank, leave_group
from harness.worker.findings import Findings
from harness.worker.flags import forgot, learned_nothing, not_the_base, of_answers, overfitted, underfitted
from harness.worker.outputs import save_weights, write_documents, write_items
from harness.worker.profiling.machine_speed import speed_facts
from harness.worker.profiling.meter import Meter, StepRecorder
from harness.worker.scoring import Scorer
from harness.worker.training import CellTraining

if TYPE_CHECKING:
    import torch
    from torch import nn


def run(folder: Path, device: str = "cpu") -> None:
    """Run the job in an attempt's `folder`, in this process. A result is written there whatever happens. `device` is
    noted in the result; what is used is the GPU that the process sees."""
    finish(folder, attempt(folder), device)


def finish(folder: Path, result: CellResult, device: str) -> None:
    """Write a cell's result into its attempt's `folder`, with the `device` that it ran on and the keys of the cells
    that the executor noted as running beside it.

    If there were any, the cell's energy is dropped: the hardware's counters measured the other cells too.
    """
    beside = neighbours_of(folder)
    if beside:
        result = replace(result, phases=tuple(replace(phase, energy_j=None) for phase in result.phases))
    write_result(folder, replace(result, device=device, beside=beside, contended=bool(beside)))


def attempt(folder: Path, rank: Rank | None = None) -> CellResult:
    """Run the job in `folder`, or the part of it that one `rank` of several processes has, and return the result
    without writing it. Every failure becomes the result's status and reason."""
    job = read_job(folder)
    started, clock = now(), time.perf_counter()
    cell_run = CellRun(folder, job, rank)
    status, reason = Status.DONE, ""
    try:
        cell_run.run()
    except CellError as error:
        status, reason = Status(error.status), str(error)
    except MemoryError as error:
        status, reason = Status.OOM, f"MemoryError: {error}"
    except Exception as error:
        with suppress(OSError):  # the log may be on a full disk
            traceback.print_exc()
        status, reason = classify(error, folder)
    findings, done = cell_run.findings, status is Status.DONE
    return CellResult.of_job(
        folder.name,
        job,
        status,
        reason,
        started,
        seconds=time.perf_counter() - clock,
        scores=tuple(findings.scores) if done else (),
        phases=tuple(cell_run.meter.phases),
        steps=tuple(cell_run.recorder.steps),
        facts=tuple(findings.facts),
        flags=tuple(findings.flags),
        checkpoints=tuple(findings.checkpoints) if done else (),
        intermediate=tuple(findings.rungs),
    )


def classify(error: Exception, folder: Path) -> tuple[Status, str]:
    """Returns (status, reason) of an unexpected exception: interrupted where the disk of `folder` is full, out of
    memory only on a device's own error message, failed otherwise."""
    text = f"{type(error).__name__}: {error}".strip()
    if is_full(folder, error):
        return Status(Interrupted.status), f"no space left on the disk ({text.splitlines()[0]})"
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return Status(OutOfMemory.status), text.splitlines()[0]
    if "DefaultCPUAllocator: can't allocate memory" in text or "not enough memory" in text:
        return Status(OutOfMemory.status), text.splitlines()[0]
    return Status.FAILED, text.splitlines()[0][:500]


class CellRun:
    """One cell while it runs, with its context, instruments, training and scoring. `folder` is its attempt's; `rank` is
    this process among those that train it, by default the only one."""

    def __init__(self, folder: Path, job: Job, rank: Rank | None = None):
        self.folder, self.job = folder, job
        self.rank = rank or Rank(0, 1, job.threads)
        self.meter = Meter()
        self.recorder = StepRecorder(folder / EVENTS if self.rank.is_first else None)
        self.findings = Findings.of_job(job)
        # In the cell's folder and not in /tmp, so that it is found after a kill -9.
        self.context = CellContext(job, folder / f".scratch-{self.rank.number}", self.findings)
        self.scorer = Scorer(self.context, self.meter, self.recorder)
        self.training = CellTraining(self.context, self.scorer, self.meter, self.recorder, self.rank)
        self.context.training = self.training
        self.cell, self.method = self.context.cell, self.context.method
        self.base_answer: torch.Tensor | None = None  # to be compared with the attached model's

    def run(self) -> None:
        """Run the cell to its end, within a scratch folder that is removed afterwards. Raises whatever goes wrong on
        the way."""
        self.context.scratch.mkdir()
        try:
            self.course()
            if self.rank.is_first:  # the other ranks have left by now
                self.findings.facts += speed_facts(SPEED_AFTER, self.job.threads)
        finally:
            shutil.rmtree(self.context.scratch, ignore_errors=True)

    def course(self) -> None:
        """Run every phase of the cell, each measured by itself. Ranks other than the first end after training, a trial
        after its scores."""
        import torch
        from transformers import set_seed

        torch.set_num_threads(self.rank.threads)
        set_seed(self.context.seed)
        if self.rank.count == 1:  # ranks start side by side, and would time each other
            self.findings.facts += speed_facts(SPEED_BEFORE, self.job.threads)
        with self.meter.phase("load"):
            self.recorder.announce(phase="load")
            model = self.load()
        if self.base_answer is not None:
            self.findings.flags += not_the_base(self.base_answer, self.first_answer(model))
        self.findings.facts += parameter_facts(model, trained=self.method.trains)
        if self.method.prepares:
            with self.meter.phase("train"):
                self.recorder.announce(phase="train")
                model = self.train(model)
            self.findings.facts += self.training.facts()
            head = not (self.method.is_language_model or self.method.own_trainer)
            # Of the last stage: an earlier one has learned, and been validated on, other answers.
            last = [step for step in self.recorder.steps if step.step > self.recorder.before]
            steps = of_answers(last, head)
            self.findings.flags += overfitted(steps) + underfitted(steps)
            if self.rank.count > 1:
                model = leave_group(model)
                if not self.rank.is_first:
                    return
                torch.set_num_threads(self.job.threads)
        if self.training.lagged:
            return
        with self.meter.phase("evaluate"):
            self.recorder.announce(phase="evaluate")
            self.evaluate(model)
        if self.cell.trial:
            return
        with self.meter.phase("save"):
            self.recorder.announce(phase="save")
            if self.method.prepares:  # else the untouched base is on disk already
                self.findings.facts.append(save_weights(self.method, model, self.folder))
        if self.cell.learn:  # after saving, as it folds adapters into the model
            with self.meter.phase("infer"):
                self.recorder.announce(phase="infer")
                self.findings.facts += self.scorer.latency(model)

    def load(self) -> nn.Module:
        """Returns the model to train or score, with what the method trains attached.

        Data and encoded rows are prepared here as well, so that the phase "train" measures training and nothing else.
        """
        context, method = self.context, self.method
        if method.uses_data:
            context.examples()  # before the model is there: choosing them may need the memory of another
        _ = context.data.tasks  # documents are read here, not on the clock of scoring
        trains = method.uses_data and method.trains
        if trains and method.is_language_model and not method.starts_at_base:
            self.base_answer = self.first_answer()
            self.recorder.announce(phase="load")
        model = method.load(context)
        if trains:
            model = method.attach(model)
            self.training.encode_stages(model)
        return model

    def first_answer(self, attached: nn.Module | None = None) -> torch.Tensor:
        """Returns log-probabilities [tokens] of the first training example's answer under the model `attached`; without
        it, under a base model that is loaded for this and released again.

        These forward passes are a phase of their own, as they are a check that only some methods need. On a CPU weights
        are mapped from their file and take no memory until they are used; a model that had answered would bring them
        all into the phase "load".
        """
        import torch

        with self.meter.phase(OWN_CHECK), torch.random.fork_rng(devices=[]):
            self.recorder.announce(phase=OWN_CHECK)
            # Nothing here holds on to the base model: it must be gone when the phase ends.
            return self.answer_of(self.method.load(self.context) if attached is None else attached)

    def answer_of(self, model: nn.Module) -> torch.Tensor:
        """Returns log-probabilities [tokens], in nats, of the first training example's answer under `model`."""
        import torch

        context = self.context
        batch = context.collate(context.encode(model, context.examples()[:1]))
        with torch.no_grad():
            logits, targets, _ = context.answer_logits(model.eval(), **batch)
        return logits.float().log_softmax(-1).gather(1, targets.unsqueeze(1)).flatten()

    def train(self, model: nn.Module) -> nn.Module:
        """Train the model by the cell's method and return it. The training tokens and examples are added to the meter's
        current phase."""
        model = self.method.fit(model, self.context)
        self.meter.count(self.recorder.total_tokens or None, self.recorder.total_samples or None)
        return model

    def evaluate(self, model: nn.Module) -> None:
        """Score the model on all tasks that the cell learns and retains. Scores, facts and flags go to the findings,
        items and scored texts to files; of a trial, only scores and items are kept."""
        cell, findings, curriculum = self.cell, self.findings, self.context.curriculum
        evaluation = self.scorer.score(model, (*cell.learn, *cell.retain))
        scores, items, documents = evaluation
        findings.scores = list(scores)
        if cell.trial:  # validation items: documents and flags are about test items
            write_items(self.folder / ITEMS, items)
            return
        distances, distance_items = self.scorer.distance_from_base(model, evaluation)
        findings.scores += distances  # after the others: a task's first score is its headline
        items = [*items, *distance_items]
        if self.scorer.truncated is not None:
            findings.facts.append(Fact("truncated_items", self.scorer.truncated, "sequences", False))
        if curriculum.scores_stages and self.training.stages:
            learned = [score for score in findings.scores if score.role == "task"]
            last = self.training.stages[-1].name
            findings.facts += curriculum.summary([*self.training.history, (last, learned)])
        write_items(self.folder / ITEMS, items)
        write_documents(self.job.documents, documents, cell.fingerprints)
        findings.flags += odd_answers(
            {name: self.context.data.scored_tasks[name] for name in (*cell.learn, *cell.retain)}
        )
        if self.job.baseline:
            findings.flags += learned_nothing(cell.learn, findings.scores, items, self.job.baseline)
            findings.flags += forgot(cell.retain, findings.scores, items, self.job.baseline)


def parameter_facts(model: nn.Module, trained: bool = True) -> list[Fact]:
    """Returns the facts `trainable_params` (0 unless `trained`) and `total_params`, in numbers. Packed 4-bit weights
    count as the weights that they hold."""
    body: nn.Module = getattr(model, "model_body", model)  # SetFit wraps its encoder
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
