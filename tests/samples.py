"""Small made-up cells, plans and answers, for tests that read no disk and load no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import yaml

from harness.data.facts import Facts, ModelFacts, TaskFacts
from harness.plan.plan import Plan, make_plan
from harness.records import Cell, Environment, Job, TrainSettings
from harness.suite.load import load_suite

CELL = Cell(
    "lora/m/t/n8/s0", "d" * 64, "lora", "lora", "reparameterised", "m", "t", ("t",), 8, 0, ("r",),
    {"rank": 8}, TrainSettings(steps=2), {"expert:t": "e" * 64}, "b" * 64, fingerprints={"t": "f"},
)  # fmt: skip

ENVIRONMENT = Environment("e" * 64, "2026-01-01T00:00:00+00:00", "3.11", "os", "cpu", "", "", {"torch": "1"}, "c", True)

JOB = Job(
    run_id="test", cell=CELL, tuned={}, environment=ENVIRONMENT, threads=1, models={"m": Path("m")},
    tasks={"t": Path("t.yaml"), "r": Path("r.yaml")}, needs={"expert:t": Path("weights")}, needed={"expert:t": CELL},
    baseline=Path("items.parquet"), documents=Path("documents"), results=Path("results"), predicted_bytes=None,
    needed_bytes=None, predicted_parts={}, memory_limit=None, matmul_peak=None, bad_instruments=(), leaks={},
    earlier=(),
)  # fmt: skip

TASKS = {
    "bare": TaskFacts("bare", "n.yaml", "fn", "multiple_choice", 9, 0, 50),
    "a": TaskFacts("a", "a.yaml", "fa", "multiple_choice", 200, 20, 50),
    "b": TaskFacts("b", "b.yaml", "fb", "multiple_choice", 200, 20, 50),
    "few": TaskFacts("few", "c.yaml", "fc", "multiple_choice", 60, 20, 50, classes={"x": 20, "y": 40}),
    "words": TaskFacts("words", "w.yaml", "fw", "generate_until", 50, 20, 50),
    "prose": TaskFacts("prose", "p.yaml", "fp", "loglikelihood_rolling", 0, 0, 20, "it is running text."),
}

MODELS = {name: ModelFacts(name, f"f-{name}", "/m") for name in ("m1", "m2", "minilm-l6")}
ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 10], "labels": [-100] * 5 + [10]},
    {"input_ids": [11, 12, 13, 14], "labels": [-100] * 2 + [13, 14]},
    {"input_ids": [15, 16, 17], "labels": [-100] * 2 + [17]},
    {"input_ids": [18, 19, 20, 21, 22], "labels": [-100] * 4 + [22]},
]
HARD = numpy.random.default_rng(0).random(200)  # of each item, shared by all


def plan(tmp_path: Path, **changes: Any) -> Plan:
    suite: dict[str, Any] = {
        "version": 1,
        "models": ["m1"],
        "tasks": [{"learn": "a", "sizes": [8, 16]}],
        "retain": ["prose", "b"],
        "methods": {"base": {}, "full": {}, "lora": {}},
        "seeds": [0, 1],
        "train": {"steps": 4},
    }
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**suite, **changes}))
    return make_plan(load_suite(path), Facts(MODELS, TASKS))


def answers(skill: float, seed: int) -> list[float]:
    """1 where an item is answered rightly: easier ones more often."""
    chance = numpy.random.default_rng(seed).random(200)
    return [float(value) for value in (chance < numpy.clip(skill + 0.5 * (0.5 - HARD), 0, 1))]
