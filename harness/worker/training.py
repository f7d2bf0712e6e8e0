"""Trains a cell's model on the stages of its curriculum one after the other, and scores it between steps where that is
asked.

Not covered: the training loop itself (`train.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.architecture import read_network
from harness.curricula import Stage
from harness.methods import Method
from harness.plan import should_prune
from harness.records import Checkpoint, Fact, RungScore, Score
from harness.worker.callbacks import FirstStep
from harness.worker.checkpoints import Checkpoints, Rungs
from harness.worker.context import CellContext
from harness.worker.distributed import Rank
from harness.worker.encoding import Row
from harness.worker.profiling.flops import FlopCount, flop_count
from harness.worker.profiling.meter import Meter, StepRecorder
from harness.worker.scoring import Scorer
from harness.worker.train import TrainRun, train, train_by

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback


class CellTraining:
    """Trains the model of one cell; implements `context.Trains`, to which the cell's context passes on.

    `stages` are the encoded stages of its curriculum (`encode_stages`). `history` has (stage, scores of the learned
    tasks) after each stage but the last. `lagged`: the cell is a trial that was ended early.
    """

    def __init__(self, context: CellContext, scorer: Scorer, meter: Meter, recorder: StepRecorder, rank: Rank):
        self.context, self.scorer, self.meter, self.recorder, self.rank = context, scorer, meter, recorder, rank
        self.stages: list[Stage] = []
        self.history: list[tuple[str, list[Score]]] = []
        self.lagged = False

    def encode_stages(self, model: nn.Module) -> list[Stage]:
        """Prepare and return the stages of training, with rows encoded for the attached model; none for a method with a
        trainer of its own."""
        context = self.context
        if context.method.own_trainer:
            context.examples()
            self.stages = []
        else:
            self.stages = context.curriculum.stages(model, context)
        return self.stages

    def train(self, model: nn.Module, method: Method) -> nn.Module:
        """Train on every stage. Returns the model as it is scored; with several ranks, the first alone has one that can
        be."""
        context = self.context
        method.prepare(model, context)
        for objective in context.recipe.objectives:
            objective.prepare(model, context)
        for stage in self.stages:
            self.recorder.flop_count = self.flops(model, stage.rows)
            run = self.run(self.scored_along(stage), objectives=context.recipe.objectives)
            model = train(model, method, stage, context.settings, run)
            if context.curriculum.scores_stages and stage is not self.stages[-1]:
                with self.meter.phase("score_stages"):
                    self.recorder.announce(phase="score_stages")
                    self.history.append((stage.name, self.scorer.score(model, context.cell.learn).scores))
        self.recorder.flop_count = None
        # With several ranks, the first alone holds the weights now.
        return method.finish(model, context) if self.rank.is_first else model

    def train_on(self, rows: list[Row], model: nn.Module, method: Method, changes: Mapping[str, Any]) -> nn.Module:
        """Train on encoded rows {input_ids, labels}, with some of the cell's training settings changed (`changes`:
        setting -> value), and without curriculum and objectives. Returns the model."""
        return train(model, method, Stage("rows", rows), self.context.settings.changed(changes), self.run())

    def train_by(
        self,
        trainer: Callable[..., Any],
        config: Callable[..., Any],
        model: nn.Module,
        method: Method,
        changes: Mapping[str, Any],
    ) -> nn.Module:
        """Train with another library's `trainer`, derived from transformers', whose arguments `config` makes from the
        cell's training settings with `changes`. Returns the model, unchanged but for its weights."""
        return train_by(trainer, config, model, method, self.context.settings.changed(changes), self.run())

    def callbacks(self) -> list[TrainerCallback]:
        """Returns the callbacks for a method's own trainer: what measures it comes first, then what every training
        has."""
        return [self.recorder, FirstStep()]

    def run(self, callbacks: list[TrainerCallback] | None = None, **options: Any) -> TrainRun:
        """Returns the `TrainRun` of one training of this cell. `callbacks` run beside those of every training;
        `options` are further fields of the TrainRun."""
        return TrainRun(
            self.context.seed, self.recorder, self.context.scratch, callbacks=tuple(callbacks or ()), **options
        )

    # --- scores on the way ---

    def scored_along(self, stage: Stage) -> list[TrainerCallback]:
        """Returns callbacks that score the cell between the steps of a stage: a trial's rungs, or checkpoints for a
        curve.

        Empty where neither is asked for, where the method leaves no language model, and where it makes the model ready
        only after training: no earlier state is then like what is scored in the end.
        """
        count, method = self.context.settings.checkpoints, self.context.method
        parts: list[Method] = getattr(method, "parts", [method])
        late = any(not part.trains and type(part).fit is not Method.fit for part in parts)
        if late or not method.is_language_model:
            return []
        if trial := self.context.cell.trial:
            # The stages before the last lead up to the score that is sought: their own scores say little of it.
            is_pruned = "pruner" in trial and stage is self.stages[-1]
            return [Rungs(trial, self.score_rung, self.recorder)] if is_pruned else []
        return [Checkpoints(count, self.score_checkpoint, self.recorder, bool(method.starts_at_base))] if count else []

    def score_checkpoint(self, model: nn.Module, step: int) -> None:
        """Score all tasks with the model after `step` steps, and keep the scores as checkpoints. The time this takes is
        a phase of its own."""
        cell = self.context.cell
        with self.meter.phase("score_checkpoints"):
            self.recorder.announce(phase="score_checkpoints")
            scores = self.scorer.score(model, (*cell.learn, *cell.retain)).scores
        self.context.findings.checkpoints += [
            Checkpoint(
                step, score.task, score.role, score.metric, score.value, score.stderr, score.n, score.higher_is_better
            )
            for score in scores
        ]

    def score_rung(self, model: nn.Module, step: int, rung: int) -> bool:
        """Score a trial with the model after `step` steps, at a rung (numbered from 1). Returns whether it lags so far
        behind the trials of earlier batches that it should end."""
        cell, findings = self.context.cell, self.context.findings
        with self.meter.phase("score_rungs"):
            self.recorder.announce(phase="score_rungs")
            evaluation = self.scorer.score(model, (cell.task,))
        metric = cell.trial["metric"]
        score = next((score for score in evaluation.scores if metric in (None, score.metric)), evaluation.scores[0])
        sign = 1.0 if score.higher_is_better else -1.0
        rung_score = RungScore(rung=rung, step=step, value=score.value, merit=sign * score.value)
        if cell.trial["pruner"] == "wilcoxon":
            rung_score["items"] = [sign * item.value for item in evaluation.items if item.metric == score.metric]
        findings.rungs.append(rung_score)
        self.lagged = should_prune(cell.trial, self.context.job.earlier, findings.rungs)
        if self.lagged:
            findings.facts.append(Fact("pruned_at_step", step, "steps"))
        return self.lagged

    # --- what training costs ---

    def flops(self, model: nn.Module, rows: list[Row]) -> FlopCount | None:
        """Returns a counter of the FLOPs of training on `rows`; None for a network of unknown form, or where objectives
        add work of their own."""
        settings = self.context.settings
        network = read_network(self.context.base)
        if network is None or self.context.recipe.objectives:
            return None
        # Sharded weights take the place of the whole ones, which must not be held on to.
        sharded = settings.devices > 1 and settings.strategy == "fsdp"
        return flop_count(model, network, rows, hold=not sharded)

    def facts(self) -> list[Fact]:
        """Returns facts of throughput and step times, and of how much of the training data was cut off for its
        length."""
        context = self.context
        return self.recorder.facts(self.peak) + context.encoding.truncation(context.data.learned())

    @property
    def peak(self) -> float | None:
        """FLOP/s of a matrix product, in the cell's precision, on all devices that the cell trains on; None where it
        was not measured."""
        import torch

        peak = self.context.job.matmul_peak
        several = self.rank.count > 1 and torch.cuda.is_available()
        return peak * self.context.settings.devices if peak and several else peak
