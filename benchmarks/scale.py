"""How planning and resuming grow: a suite of 100,000 cells, and as many stored results.

    python benchmarks/scale.py [--cells 100000] [--folder DIR]

Cells and results are made up (nothing is trained); planning, the result files, the database and resuming are the
real ones. Prints seconds and this process's peak memory after each stage.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.data.facts import Facts, ModelFacts, TaskFacts
from harness.environment import environment, now
from harness.execute.queue import TO_DO, Queue
from harness.execute.resume import plan_state, write_run
from harness.execute.session import Choices, Session
from harness.plan.plan import Plan, make_plan
from harness.records import CellResult, Fact, Phase, Score, Status, Step
from harness.store.database import Store
from harness.store.files import attempt_folder
from harness.suite.load import load_suite
from harness.trackers import open_trackers

NAME = "20260101T000000-abcdef-{:06d}-{}"
SEEDS, SIZES, TASKS, LABELS = 10, 10, 10, 20


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<45} {time.perf_counter() - began:7.1f} s   peak {peak:6.0f} MB", flush=True)


def suite_text(cells: int) -> str:
    """A grid of about so many cells: models are added until it is large enough."""
    models = max(1, round(cells / (SEEDS * SIZES * TASKS * LABELS)))
    labels = "\n".join(f"  lora-{rank}: {{method: lora, rank: {rank}}}" for rank in range(1, LABELS + 1))
    tasks = "\n".join(
        f"  - {{learn: task-{number}, sizes: {[8 * (size + 1) for size in range(SIZES)]}}}" for number in range(TASKS)
    )
    return (
        f"version: 1\nmodels: {[f'model-{number}' for number in range(models)]}\ntasks:\n{tasks}\n"
        f"retain: [prose, other]\nmethods:\n{labels}\nseeds: {list(range(SEEDS))}\ntrain: {{steps: 48}}\n"
    )


def facts_of(folder: Path, models: int) -> Facts:
    names = [*(f"task-{number}" for number in range(TASKS)), "prose", "other"]
    return Facts(
        {f"model-{number}": ModelFacts(f"model-{number}", f"{number:064}", str(folder)) for number in range(models)},
        {name: TaskFacts(name, name, f"{name:0>64}", "multiple_choice", 9999, 100, 200) for name in names},
    )


def write_results(store: Store, plan: Plan, steps: int = 48) -> None:
    """A result of every cell, as a worker would leave it, but for items and weights."""
    env = environment(1)
    curve = tuple(Step(number, "train", 1.0 / number, 1e-3, 300, 0.5) for number in range(1, steps + 1))
    phases = tuple(Phase(name, 10.0, 9000, 128, rss_bytes=2**31) for name in ("load", "train", "evaluate", "save"))
    facts = tuple(Fact(f"fact_{number}", 1.0, "B") for number in range(10))
    scores = tuple(
        Score(task, role, metric, 0.8, 0.03, 200, True)
        for task, role in (("task", "task"), ("prose", "retain"), ("other", "retain"))
        for metric in ("acc", "choice_cross_entropy")
    )
    started = now()
    for number, cell in enumerate(plan.cells):
        folder = attempt_folder(store.folder, NAME.format(number, cell.spec_digest[:12]))
        folder.mkdir(parents=True)
        result = CellResult(
            folder.name, "20260101T000000-abcdef", cell, env, Status.DONE, "", started, 60.0, False,
            scores, phases, curve, facts,
        )  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result.to_json()))
    record: dict[str, Any] = {
        "run_id": "20260101T000000-abcdef", "suite": "scale", "question": "", "env_digest": env.env_digest,
        "started": started, "finished": started, "status": "done", "command": "",
        "members": [cell.member() for cell in plan.cells],
    }  # fmt: skip
    write_run(store.folder / "runs" / f"{record['run_id']}.json", record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to put the results (a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        path = folder / "scale.yaml"
        path.write_text(suite_text(arguments.cells))
        suite = load_suite(path)
        facts = facts_of(folder, len(suite.models))
        with timed("plan"):
            plan = make_plan(suite, facts)
        print(f"{len(plan.cells)} cells")
        store = Store(folder / "results")
        with timed("plan_state, with no results"):
            plan_state(plan, store, environment(1).env_digest)
        with timed("(writing made-up result files)"):
            write_results(store, plan)
        with timed("first taking in of all result files"):
            plan_state(plan, store, environment(1).env_digest)
        with timed("resume, all results stored: what is to do"):
            session = Session(plan, store, environment(1), Choices(), folder, open_trackers([], print))
        assert session.waiting == 0
        with timed("resume: the run's own record"):
            session.run("scale", lambda progress: None)
        shutil.rmtree(store.attempt_folder(NAME.format(0, plan.cells[0].spec_digest[:12])).parent)  # one shard
        with timed("resume, some results lost: what is to do"):
            session = Session(plan, store, environment(1), Choices(), folder, open_trackers([], print))
        print(f"{session.waiting} cells to do")
        with timed("order of what is to do"):
            queue = Queue(plan.cells, dict.fromkeys(session.states, TO_DO), session.plan_state.durations.sort_key)
        with timed("starting and ending every cell, on paper"):
            while taken := queue.take(lambda cell: True):
                queue.end(taken[0].spec_digest, Status.DONE)
        assert queue.counts[Status.DONE] == len(plan.cells)


if __name__ == "__main__":
    main()
