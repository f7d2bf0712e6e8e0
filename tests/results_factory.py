"""Synthetic results for tests: cells with chosen numbers, written as the files that a run writes.

Nothing is trained. Every number a test checks by hand is an argument here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.data.quality import Quality
from harness.records import (
    SPEED_AFTER,
    SPEED_BEFORE,
    Cell,
    CellResult,
    Check,
    Checkpoint,
    Environment,
    Fact,
    Flag,
    Item,
    Phase,
    Score,
    Status,
    Step,
    TrainSettings,
    Trial,
    digest,
)
from harness.store.database import Store
from harness.store.files import INSTRUMENTS, write_atomically

MODEL, TASK, PROSE, OTHER = "tiny", "topic", "prose", "other"
MIB = 1024**2


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "created": "2026-01-01T00:00:00.000+00:00",
        "python": "3.11.2",
        "os": "Linux-test",
        "cpu": "A test CPU",
        "accelerator": "",
        "driver": "",
        "packages": {"torch": "2.9.0", "peft": "0.21.0", "left-pad": "1.0"},
        "commit": "0123456789abcdef",
        "dirty": True,
        **changes,
    }
    return Environment(env_digest=digest([values["cpu"], values["packages"]]), **values)


def cell(
    label: str, n_train: int = 0, seed: int | None = None, *, method: str = "", family: str = "",
    model: str = MODEL, task: str = TASK, retain: Sequence[str] = (PROSE, OTHER), baseline: str = "",
    settings: dict[str, Any] | None = None, data: dict[str, Any] | None = None, needs: dict[str, str] | None = None,
) -> Cell:  # fmt: skip
    suffix = Quality.of(data or {}).suffix
    key = f"{label}/{model}/{task}" + (f"/n{n_train}/s{seed}{suffix}" if n_train else "")
    return Cell(
        key=key,
        spec_digest=digest([label, model, task, n_train, seed, *([data] if data else [])]),
        needs=needs or {},
        label=label,
        method=method or label,
        family=family or "reparameterised",
        model=model,
        task=task,
        learn=(task,),
        n_train=n_train,
        seed=seed,
        retain=tuple(retain),
        settings=settings or {"rank": 8},
        train=TrainSettings(steps=48),
        baseline=baseline,
        fingerprints={task: "f" * 8},
        data=data or {},
    )


def scores(
    acc: float,
    stderr: float | None = 0.03,
    prose: float | None = None,
    other: float | None = None,
    n: int = 200,
) -> tuple[Score, ...]:
    """The headline of each task first, as `evaluate.py` writes them."""
    found = [
        Score(TASK, "task", "acc", acc, stderr, n, True),
        Score(TASK, "task", "choice_cross_entropy", 1.6 - acc, 0.02, n, False),
    ]
    if prose is not None:
        found += [
            Score(PROSE, "retain", "log_likelihood_per_word", prose, 0.15, 4, True),
            Score(PROSE, "retain", "word_perplexity", 200.0, 20.0, 4, False),
        ]
    if other is not None:
        found.append(Score(OTHER, "retain", "acc", other, 0.035, n, True))
    return tuple(found)


def items(task: str, metric: str, values: Sequence[float]) -> list[Item]:
    return [Item(task, f"doc{place}-0", metric, value, "p", "t") for place, value in enumerate(values)]


def answered(share: float, seed: int, n: int = 200) -> list[Item]:
    """Right answers to that share of the items: the easier ones, more or less; another seed, others in between."""
    import numpy

    hard = numpy.arange(n) / n + numpy.random.default_rng(seed).normal(0, 0.15, n)
    right = numpy.zeros(n)
    right[numpy.argsort(hard)[: round(share * n)]] = 1.0
    return items(TASK, "acc", [float(value) for value in right])


def consistent(score: Score, found: Sequence[Item]) -> Score:
    values = [item.value for item in found if (item.task, item.metric) == (score.task, score.metric)]
    return replace(score, value=sum(values) / len(values)) if values else score


@dataclass
class Results:
    """A results folder under construction: `add` cells, then `store()`."""

    folder: Path
    suite: str = "demo"
    question: str = "Does it learn?"
    environment: Environment = field(default_factory=environment)
    run_id: str = "run-1"
    command: str = ""  # by default that of the whole suite
    only_cells: tuple[str, ...] | None = ()  # None: a record from before there were any
    started: str = "2026-01-02T10:00:00.000+00:00"
    margin: float | None = None  # None: a record from before suites had one
    task_rows: dict[str, Any] | None = None  # None: a record from before it had them
    members: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0

    def member(self, of: Cell) -> Cell:
        """Make a cell part of the run; without an attempt it counts as missing."""
        entry = of.member()
        if entry not in self.members:
            self.members.append(entry)
        return of

    def add(
        self, of: Cell, scored: Sequence[Score] = (), *, status: Status = Status.DONE, reason: str = "",
        train_seconds: float | None = None, items: Sequence[Item] = (),
        flags: Sequence[Flag] = (),
        losses: Sequence[float] = (), answers: bool = True, trainable: float = 1e6, artifact: float = 4 * MIB,
        contended: bool = False,
        speed: tuple[float, float] | None = None,
        env: Environment | None = None,
        facts: Sequence[Fact] = (),
        checkpoints: Sequence[Checkpoint] = (),
        energy: float | None = None,
        peaks: Mapping[str, int] | None = None,
        tuned: Mapping[str, Any] | None = None,
        trials: Sequence[Trial] = (),
    ) -> str:  # fmt: skip
        """One attempt at a cell; later calls are newer. Returns its attempt_id. Where the items of its own task's
        score are given, the score is their mean.
        `speed`: that of the machine before and after, in FLOP/s.
        `answers`: the losses are those of answer tokens."""
        scored = [consistent(score, items) if score.task == of.task else score for score in scored]
        self.member(of)
        self.attempts += 1
        attempt = f"{self.run_id}-a{self.attempts:03}"
        done = status is Status.DONE
        phases = [Phase("load", 1.0, rss_bytes=700 * MIB), Phase("evaluate", 9.0, rss_bytes=900 * MIB)]
        facts = [*facts, Fact("total_params", 1e8, "parameters"), Fact("artifact_bytes", artifact, "B", False)]
        if speed is not None:
            facts += [
                Fact(name, value, "FLOP/s") for name, value in zip((SPEED_BEFORE, SPEED_AFTER), speed, strict=True)
            ]
        if train_seconds is not None:
            phases.append(Phase("train", train_seconds, tokens=6000, rss_bytes=1536 * MIB, energy_j=energy))
            facts.append(Fact("tokens_per_second", 6000 / train_seconds, "tokens/s", True))
            facts.append(Fact("trainable_params", trainable, "parameters", False))
        known = {phase.phase: phase for phase in phases}
        for name, peak in (peaks or {}).items():
            known[name] = replace(known.get(name) or Phase(name, 0.0), rss_bytes=peak)
        phases = list(known.values())
        result = CellResult(
            attempt_id=attempt,
            run_id=self.run_id,
            cell=of,
            environment=env or self.environment,
            status=status,
            reason=reason,
            started=f"2026-01-02T10:{self.attempts // 60:02}:{self.attempts % 60:02}.000+00:00",
            seconds=60.0,
            contended=contended,
            device="cpu",
            scores=tuple(scored) if done else (),
            phases=tuple(phases) if done else (),
            steps=tuple(
                Step(place + 1, "train", loss, 1e-3, 100, 0.5, loss if answers else None)
                for place, loss in enumerate(losses)
            ),
            facts=tuple(facts) if done else (),
            flags=tuple(flags),
            checkpoints=tuple(checkpoints),
            tuned=dict(tuned or {}),
            trials=tuple(trials),
        )
        folder = Store(self.folder).attempt_folder(attempt)
        write_atomically(folder / "result.json", json.dumps(result.to_json(), default=str))
        if items:
            import pandas

            pandas.DataFrame([vars(item) for item in items]).to_parquet(folder / "items.parquet")
        return attempt

    def check(self, *checks: Check, created: str = "2026-01-02T09:00:00.000+00:00", **what: str) -> Path:
        """Keep checks of the instruments as a run does; `what` is of the environment, the model or its settings."""
        about = {
            "env_digest": self.environment.env_digest, "model": MODEL, "precision": "auto", "attention": "auto", **what,
        }  # fmt: skip
        path = self.folder / INSTRUMENTS / f"{digest([about, created])[:16]}.json"
        record = {**about, "created": created, "checks": [vars(check) for check in checks]}
        write_atomically(path, json.dumps(record))
        return path

    def store(self) -> Store:
        """Write the run's file and take everything into a database."""
        run = {
            "run_id": self.run_id, "suite": self.suite, "question": self.question,
            "env_digest": self.environment.env_digest, "started": self.started, "finished": self.started,
            "status": "done", "command": self.command or f"tunebench run {self.suite}", "members": self.members,
        }  # fmt: skip
        if self.only_cells is not None:
            run["only_cells"] = list(self.only_cells)
        if self.margin is not None:
            run["margin"] = self.margin
        if self.task_rows is not None:
            run["task_rows"] = self.task_rows
        write_atomically(self.folder / "runs" / f"{self.run_id}.json", json.dumps(run))
        store = Store(self.folder)
        with store.open() as connection:
            assert store.ingest(connection) == []
        return store


def demo(folder: Path) -> Store:
    """A small suite with every kind of row.

    base (acc 0.60, prose −5.25, other 0.47); full and lora at 32 and 128 examples with three seeds;
    `prompt` learned nothing; `setfit` has no retention; `qlora` ran out of memory; one seed of `dora` failed;
    `late` has not run.
    """
    results = Results(folder, question="Does <b>parameter-efficient</b> tuning match full fine-tuning?")
    words = [-5.0, -5.5, -5.1, -5.4]
    base = cell("base", family="no training")
    prose = items(PROSE, "log_likelihood_per_word", words)
    results.add(base, scores(0.60, 0.035, -5.25, 0.47), items=[*prose, *answered(0.60, 1)])

    def trained(label: str, n_train: int, seed: int, **more: Any) -> Cell:
        return cell(label, n_train, seed, baseline=base.spec_digest, **more)

    for n_train, bonus in ((32, 0.0), (128, 0.08)):
        for seed, luck in enumerate((0.0, 0.02, 0.01)):
            worse = [word - 0.3 - 0.1 * place for place, word in enumerate(words)]
            results.add(
                trained("full", n_train, seed, family="selective"),
                scores(0.80 + bonus + luck, 0.03, -5.70, 0.30),
                items=[
                    *items(PROSE, "log_likelihood_per_word", worse),
                    *answered(0.80 + bonus + luck, 10 + seed),
                ],
                train_seconds=70.0, trainable=1e8,
                artifact=512 * MIB, losses=[2.0, 1.4, 0.8, 0.5, 0.4, 0.3],
            )  # fmt: skip
            results.add(
                trained("lora", n_train, seed), scores(0.79 + bonus + luck, 0.03, -5.35, 0.44),
                items=[
                    *items(PROSE, "log_likelihood_per_word", [word - 0.1 for word in words]),
                    *answered(0.79 + bonus + luck, 20 + seed),
                ],
                train_seconds=50.0 + 200 * luck, losses=[2.1, 1.7, 1.2, 0.9, 0.7, 0.6],
            )  # fmt: skip
            results.add(
                trained("prompt", n_train, seed, family="additive"), scores(0.61, 0.035, -5.26, 0.46),
                items=answered(0.61, 30 + seed), train_seconds=61.0, trainable=1e4, artifact=0.1 * MIB, contended=True,
                flags=[Flag("learned_nothing", {"p": 0.4, "task": TASK})],
                losses=[2.2, 2.2, 2.1, 2.2, 2.1, 2.2],
            )  # fmt: skip
            encoder = trained("setfit", n_train, seed, model="encoder", family="few-shot", retain=())
            results.add(
                encoder,
                scores(0.85 + bonus, 0.025),
                items=answered(0.85 + bonus, 40 + seed),
                train_seconds=21.0,
                artifact=90 * MIB,
            )
            results.add(trained("qlora", n_train, seed), status=Status.OOM, reason="resident memory passed 7.5 GiB")
        results.add(
            trained("dora", n_train, 0), scores(0.75 + bonus, 0.03, -5.45, 0.42), items=answered(0.75 + bonus, 50),
            train_seconds=66.0,
        )  # fmt: skip
        results.add(
            trained("dora", n_train, 1),
            status=Status.FAILED,
            reason="ValueError: <script>alert(1)</script> | pipe",
        )
        results.member(trained("late", n_train, 0))
    return results.store()


def big(folder: Path) -> Store:
    """2,000 cells: 25 labels, 4 sizes, 10 seeds, 2 tasks."""
    results = Results(folder)
    for task in ("topic", "intent"):
        base = cell("base", task=task)
        results.add(base, [*renamed(scores(0.5, 0.03, -5.0), task)], items=renamed(answered(0.5, 1), task))
        for label in range(25):
            for n_train in (16, 32, 64, 128):
                for seed in range(10):
                    share = 0.55 + 0.01 * label + 0.0005 * n_train
                    results.add(
                        cell(f"method-{label}", n_train, seed, baseline=base.spec_digest, task=task),
                        renamed(scores(share, 0.03, -5.0 - 0.01 * label), task),
                        items=renamed(answered(share, 1000 * label + seed), task),
                        train_seconds=10.0 + label, losses=[2.0 - 0.03 * step for step in range(48)],
                    )  # fmt: skip
    return results.store()


def renamed(found: Any, task: str) -> list[Any]:
    """Scores or items of another task."""
    return [replace(one, task=task) if one.task not in (PROSE, OTHER) else one for one in found]
