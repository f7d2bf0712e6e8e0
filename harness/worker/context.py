"""What the worker lends to methods, objectives and curricula while it runs one cell (`methods.base.Context`).

Not covered: the course of a cell (`worker.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.architecture import read_network
from harness.curricula import Curriculum, Stage
from harness.data import Quality
from harness.errors import Diverged
from harness.methods import Method, make_method
from harness.records import Cell, Checkpoint, Fact, Flag, Item, Score
from harness.suite import Recipe
from harness.worker.profiling.flops import FlopCount, flop_count
from harness.worker.profiling.meter import Meter, StepRecorder

UNITS = {"truncated_words": "words", "selection_seconds": "s"}  # of what is recorded of data; the rest are examples


class Lent:
    """A cell's job, and everything that can be asked of it; what is found out on the way is gathered here."""

    def __init__(self, folder: Path, cell: Cell, job: dict[str, Any], rank: int = 0):
        self.folder, self.cell, self.job, self.rank = folder, cell, job, rank
        self.models: Mapping[str, Path] = {name: Path(path) for name, path in job["models"].items()}
        self.base = self.models[cell.model]
        self.needs: Mapping[str, Path] = {role: Path(path) for role, path in job["needs"].items()}
        self.task, self.n_train = cell.task, cell.n_train
        self.settings = cell.train
        self.seed = cell.seed if cell.seed is not None else 0
        self.recipe = Recipe.of(cell)
        self.method = self.recipe.method
        self.meter = Meter()
        self.recorder = StepRecorder(None if rank else folder / "events.jsonl")
        self.scores: list[Score] = []
        self.facts: list[Fact] = []
        self.flags: list[Flag] = []
        self.checkpoints: list[Checkpoint] = []
        self.intermediate: list[dict[str, Any]] = []  # a trial's scores on its way
        self.lagged = False  # a trial that was ended early
        self.drawn: dict[tuple[str, str, int, bool], list[Any]] = {}
        self.stages: list[Stage] = []
        self.history: list[tuple[str, list[Score]]] = []  # what was scored after each stage but the last
        self.scratch = folder / f".scratch-{rank}"  # here, and not in /tmp, so that it is found after a kill -9
        if job.get("bad_instruments"):
            self.flags.append(Flag("bad_instruments", {"failed": job["bad_instruments"]}))
        if job.get("leaks"):
            self.flags.append(Flag("leak", job["leaks"]))
        if job["predicted_bytes"]:
            self.facts.append(Fact("predicted_bytes", job["predicted_bytes"], "B", False))
        for part, size in job.get("predicted_parts", {}).items():
            self.facts.append(Fact(f"predicted_{part}_bytes", size, "B", False))
        self.cut: dict[Any, int] = {}  # example -> how many of its tokens `max_length` cut off
        self.texts_cut: list[int] = []  # as many of each passage of running text
        self.truncated: int | None = None  # sequences that were scored without their beginnings, when last scored
        self.scorer: Any = None  # the lm that scored last

    @cached_property
    def tokenizer(self) -> Any:
        from harness.models import load_tokenizer

        return load_tokenizer(self.base)

    @cached_property
    def tasks(self) -> dict[str, Any]:
        from harness.data import load_task

        return {name: load_task(Path(path)) for name, path in self.job["tasks"].items()}

    @cached_property
    def scored_tasks(self) -> dict[str, Any]:
        """What is scored: of a trial, tasks that hold the validation items alone."""
        from harness.data import for_validation

        scored = (*self.cell.learn, *self.cell.retain)
        return {name: for_validation(self.tasks[name]) for name in scored} if self.cell.trial else self.tasks

    def examples(
        self, split: str = "train", task: str | None = None, n: int | None = None, render: Any = None
    ) -> list[Any]:
        from harness.data import examples

        name, count = task or self.cell.task, self.cell.n_train if n is None else n
        key = name, split, count, render is not None
        if key not in self.drawn:
            spoilt = split == "train" and self.cell.data and name in self.cell.learn
            found: list[Any] = (
                self.draw(name, count, render)
                if spoilt
                else examples(self.tasks[name], split, count, self.draw_seed, render)
            )
            if split == "train":
                for objective in self.recipe.objectives:
                    found = objective.examples(found, self)
            self.drawn[key] = found
        return self.drawn[key]

    @property
    def draw_seed(self) -> int:
        """The seed that draws the training examples."""
        return self.seed if self.cell.draw is None else self.cell.draw

    def draw(self, name: str, n: int, render: Any = None) -> list[Any]:
        """Training examples of the quality that the cell asks for; what was done to them becomes facts."""
        from harness.data import draw

        started = time.perf_counter()
        quality = Quality.of(self.cell.data)
        found, record = draw(self.tasks[name], n, self.draw_seed, quality, self.losses, render)
        known = {fact.name for fact in self.facts}
        if "select" in self.cell.data:
            record["selection_seconds"] = time.perf_counter() - started
        for what, value in record.items():
            fact = what if name == self.cell.task else f"{what}:{name}"
            if fact not in known:
                self.facts.append(Fact(fact, value, UNITS.get(what, "examples")))
        return found

    def losses(self, found: list[Any]) -> list[float]:
        """The untouched model's loss of each example, in nats per answer token: that with which training would
        begin. Plain weights, also where a method would quantise them, so that every method gets the same examples."""
        from harness.data import encode
        from harness.models import load_tokenizer
        from harness.worker.evaluate import TunedLM

        folder = self.models[self.cell.data.get("judge", self.cell.model)]
        lm = TunedLM(self.load_model(folder), load_tokenizer(folder), self.settings.eval_batch_size)
        rows, _ = encode(found, encoder_of(lm), lm.eot_token_id, self.settings.max_length)
        asked = []
        for row in rows:
            answer = [label for label in row["labels"] if label != -100]
            asked.append((None, row["input_ids"][: -len(answer)], answer))
        answers = lm._loglikelihood_tokens(asked)
        return [-value / len(answer) for (value, _), (_, _, answer) in zip(answers, asked, strict=True)]

    def rows(self, model: Any, found: list[Any]) -> list[dict[str, list[int]]]:
        return self.method.rows(model, found, self)

    def encode(self, model: Any, found: list[Any]) -> list[dict[str, list[int]]]:
        from harness.data import encode

        lm = self.language_model(model)
        rows, cut = encode(found, encoder_of(lm), lm.eot_token_id, self.settings.max_length)
        self.cut.update(zip(found, cut, strict=True))
        return rows

    def first_answer(self, model: Any) -> Any:
        """Log-probabilities [tokens] of the first training example's answer, as the model stands."""
        import torch

        batch = self.collate(self.encode(model, self.examples()[:1]))
        with torch.no_grad():
            logits, targets = self.answer_logits(model.eval(), **batch)
        return logits.float().log_softmax(-1).gather(2, targets.clamp(min=0).unsqueeze(2)).flatten()

    def wrong(self, example: Any) -> list[Any]:
        from harness.data import wrong_answers

        return wrong_answers(self.tasks[self.cell.task], example)

    def mark(self, example: Any, answer: str) -> float:
        from harness.data import mark

        return mark(self.tasks[self.cell.task], example, answer)

    def texts(self, task: str, n: int | None = None) -> list[str]:
        from harness.data import texts

        return texts(self.tasks[task], n, self.seed)

    def text_rows(self, model: Any, task: str, n: int | None = None) -> list[dict[str, list[int]]]:
        lm, length = self.language_model(model), self.settings.max_length
        rows = [[lm.prefix_token_id, *lm.tok_encode(text)] for text in self.texts(task, n)]
        self.texts_cut += [max(0, len(ids) - length) for ids in rows]
        return [{"input_ids": ids[:length], "labels": [-100, *ids[1:length]]} for ids in rows]

    def truncation(self) -> list[Fact]:
        """What `max_length` cut off the training data, 0 where it cut nothing; nothing for a method that encodes its
        examples in its own way. Running text that is read besides counts too, each passage as an example."""
        drawn = [one for (_, split, *_), found in self.drawn.items() if split == "train" for one in found]
        cut = [self.cut[one] for one in drawn if one in self.cut] + self.texts_cut
        if not cut:
            return []
        return [
            Fact("truncated_train_examples", sum(count > 0 for count in cut), "examples", False),
            Fact("truncated_train_tokens", sum(cut), "tokens", False),
        ]

    def lessons(self, model: Any) -> list[Stage]:
        """The stages of training, with encoded rows; none for a method with a trainer of its own."""
        if self.method.own_trainer:
            self.examples()
            return []
        return self.curriculum.stages(model, self)

    @cached_property
    def curriculum(self) -> Curriculum:
        from harness.curricula import Single

        return self.recipe.curriculum or Single()

    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> Any:
        from harness.models import load_model

        return load_model(folder or self.base, self.settings, quantize)

    def load_need(self, role: str, fold: bool = False) -> Any:
        """A needed cell's model. It is restored by its own method, on its own base model."""
        needed = Cell.from_json(self.job["needed"][role])
        other = copy(self)
        other.cell, other.base = needed, self.models[needed.model]
        vars(other).pop("tokenizer", None)  # another base may have another
        method = make_method(needed.method, needed.settings)
        model = method.restore(other, self.needs[role])
        return method.fold(model) if fold else model

    def language_model(self, model: Any, base: Path | None = None) -> Any:
        from harness.models import load_tokenizer
        from harness.worker.evaluate import TunedLM

        tokenizer = load_tokenizer(base) if base else self.tokenizer
        return TunedLM(model, tokenizer, self.cell.train.eval_batch_size)

    def collate(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        import torch

        from harness.worker.train import Collator

        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        return {name: value.to(device) for name, value in Collator(pad=0)(rows).items()}

    def answer_logits(self, model: Any, input_ids: Any, labels: Any, attention_mask: Any) -> Any:
        from harness.worker.train import answer_logits

        return answer_logits(model, input_ids, labels, attention_mask)

    def callbacks(self) -> list[Any]:
        return [self.recorder]

    def scores_of(self, model: Any, names: Iterable[str]) -> tuple[list[Score], list[Item], dict[Any, str]]:
        """Scores of some tasks, with their items and documents. Raises Diverged where a score is no number."""
        from harness.worker.evaluate import evaluate

        roles = {**dict.fromkeys(self.cell.retain, "retain"), **dict.fromkeys(self.cell.learn, "task")}
        lm = self.method.predictor(model, self)
        chat = self.cell.learn if self.curriculum.chat else ()
        scores, items, documents = evaluate(lm, {name: self.scored_tasks[name] for name in names}, roles, chat)
        check_numbers(scores)
        self.meter.count(tokens=getattr(lm, "scored_tokens", None), samples=len(documents))
        self.truncated, self.scorer = getattr(lm, "truncated", None), lm
        return scores, items, documents

    def answering(self) -> list[Fact]:
        """How fast what was scored answers the task that it learned, asked as it was in scoring."""
        from harness.worker.latency import inference_facts

        requests = self.tasks[self.cell.learn[0]].instances
        return inference_facts(self.scorer, requests, self.settings.eval_batch_size)

    def train(self, model: Any, method: Method) -> Any:
        from harness.worker.train import train

        method.prepare(model, self)
        for objective in self.recipe.objectives:
            objective.prepare(model, self)
        for stage in self.stages:
            self.recorder.flop_count = self.flops_of(model, stage.rows)
            changes: dict[str, Any] = {"steps": None, "epochs": 1.0} if stage.ordered else {}
            changes |= {} if stage.validation else {"eval_every": None, "early_stopping": None}
            model = train(
                model, method, stage.rows, stage.validation, self.settings.changed(changes), self.seed, self.recorder,
                self.scratch, self.recipe.objectives, self.along(stage), stage.ordered,
            )  # fmt: skip
            if self.curriculum.scores_stages and stage is not self.stages[-1]:
                with self.meter.phase("score_stages"):
                    self.recorder.tell(phase="score_stages")
                    self.history.append((stage.name, self.scores_of(model, self.cell.learn)[0]))
        self.recorder.flop_count = None
        # Of several processes the first alone holds the weights now.
        return model if self.rank else method.finish(model, self)

    def along(self, stage: Stage) -> list[Any]:
        """What scores the cell between the steps of a stage; nothing where it asks for no checkpoints, or has no curve:
        a model that a part of the method makes ready after training is no earlier state of what is scored in the end.
        """
        count, method = self.settings.checkpoints, self.method
        late = any(not part.trains and type(part).fit is not Method.fit for part in getattr(method, "parts", [method]))
        if late or not method.is_language_model:
            return []
        from harness.worker.checkpoints import Checkpoints, Rungs

        if trial := self.cell.trial:
            # The stages before the last lead up to what is sought: their scores say little of it.
            return (
                [Rungs(trial, self.score_rung, self.recorder)] if "pruner" in trial and stage is self.stages[-1] else []
            )
        return [Checkpoints(count, self.score_checkpoint, self.recorder, bool(method.starts_at_base))] if count else []

    def score_checkpoint(self, model: Any, step: int) -> None:
        with self.meter.phase("score_checkpoints"):
            self.recorder.tell(phase="score_checkpoints")
            scores, _, _ = self.scores_of(model, (*self.cell.learn, *self.cell.retain))
        self.checkpoints += [Checkpoint(step, **vars(score)) for score in scores]

    def score_rung(self, model: Any, step: int, rung: int) -> bool:
        """Score a trial on its way; whether it lags so far behind the trials before it that it should end."""
        from harness.plan import lags

        with self.meter.phase("score_rungs"):
            self.recorder.tell(phase="score_rungs")
            scores, items, _ = self.scores_of(model, (self.cell.task,))
        wanted = self.cell.trial["metric"]
        score = next((score for score in scores if wanted in (None, score.metric)), scores[0])
        sign = 1.0 if score.higher_is_better else -1.0
        found: dict[str, Any] = {
            "rung": rung,
            "step": step,
            "value": score.value,
            "merit": sign * score.value,
        }
        if self.cell.trial["pruner"] == "wilcoxon":
            found["items"] = [sign * item.value for item in items if item.metric == score.metric]
        self.intermediate.append(found)
        self.lagged = lags(self.cell.trial, self.job["earlier"], self.intermediate)
        if self.lagged:
            self.facts.append(Fact("pruned_at_step", step, "steps"))
        return self.lagged

    def flops_of(self, model: Any, rows: list[Any]) -> FlopCount | None:
        """How to count the FLOPs of training on rows; None where objectives make work of their own."""
        network = read_network(self.base)
        if network is None or self.recipe.objectives:
            return None
        # Sharded weights take the place of the whole ones, which must not be held on to.
        sharded = self.settings.devices > 1 and self.settings.strategy == "fsdp"
        return flop_count(model, network, rows, hold=not sharded)

    @property
    def peak(self) -> float | None:
        """FLOP/s of a matrix product on all devices that the cell trains on; None where it was not measured."""
        import torch

        several = torch.cuda.is_available() and "threads_a_rank" in self.job
        one: float | None = self.job.get("matmul_peak")
        return one * self.settings.devices if one and several else one

    def train_on(self, rows: list[Any], model: Any, method: Method, changes: Mapping[str, Any]) -> Any:
        from harness.worker.train import train

        return train(model, method, rows, [], self.settings.changed(changes), self.seed, self.recorder, self.scratch)

    def train_by(self, trainer: Any, config: Any, model: Any, method: Method, changes: Mapping[str, Any]) -> Any:
        from harness.worker.train import train_by

        settings = self.settings.changed(changes)
        return train_by(trainer, config, model, method, settings, self.seed, self.recorder, self.scratch)


def encoder_of(lm: Any) -> Any:
    """The scorer's own (context, continuation) -> token ids; an empty context is its prefix token, as there."""

    def encoder(context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            return [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        return lm._encode_pair(context, continuation)

    return encoder


def check_numbers(scores: Iterable[Score]) -> None:
    """Raises Diverged where a score, or its standard error, is no number."""
    for score in scores:
        if not all(map(is_number, (score.value, score.stderr or 0.0))):
            raise Diverged(f"the score {score.metric} of {score.task} is {score.value}")


def is_number(value: float) -> bool:
    return value == value and abs(value) != float("inf")
