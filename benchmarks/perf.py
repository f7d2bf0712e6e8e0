"""Measures tunebench against plain scripts, side by side in one run: `make perf`.

    python benchmarks/perf.py [steps suite scoring overhead growth …] [--repeats 3] [--methods full,lora] [--write]

Parts (all by default):
  steps     a training step: transformers' Trainer with peft, TRL's SFTTrainer and a cell, by turns
  suite     a suite of 12 cells against a script per cell (training, lm-eval, saving), with both accuracies
  scoring   lm-eval's own command against a cell that only scores
  overhead  a step with and without instruments, and the command's share of a core while cells run
  growth    seconds a cell in suites of more and more trivial cells

The figures go to benchmarks/perf.json, and with --write as tables into docs/performance.md. Needs `make fetched`. Run
it alone on the machine: everything is compared within one run, and medians of repeats are told with their range.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MODEL, TASK = "smollm2-135m", "bbc-topic"
METHODS = ("full", "layerwise", "lora", "qlora", "dora", "prompt_tuning")
RATES = {"full": 1e-4, "layerwise": 1e-4, "lora": 1e-3, "qlora": 1e-3, "dora": 1e-3, "prompt_tuning": 1e-2}
OURS = {"layerwise": "{layers: 10}", "prompt_tuning": "{virtual_tokens: 20, init: random}"}
STEPS, WARM_UP_STEPS = 24, 4
SUITE_METHODS, SEEDS = ("full", "lora", "dora", "prompt_tuning"), (0, 1, 2)
SUITE_EPOCHS, EXAMPLES, BATCH, ITEMS = 3, 64, 8, 200
START, END = "<!-- perf: begin -->", "<!-- perf: end -->"
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS), help="of the part steps")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    kept = ROOT / "benchmarks" / "perf.json"
    figures: Figures = json.loads(kept.read_text()) if kept.exists() else {}
    figures["machine"] = machine(asked.threads)
    with tempfile.TemporaryDirectory(prefix="tunebench-perf-") as folder:
        bench = Bench(Path(folder), asked.threads, asked.repeats, asked.methods.split(","))
        for part in asked.parts or PARTS:
            print(f"== {part}", flush=True)
            figures[part] = PARTS[part](bench)
            kept.write_text(json.dumps(figures, indent=1) + "\n")
    text = "\n".join(tables(figures))
    print(text)
    if asked.write:
        write(text)


def machine(threads: int) -> Figures:
    """Returns what the figures were measured on: processor, threads, the speed of a matrix product, versions."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(threads)
    one = torch.randn(1024, 1024)
    times = [seconds_of(lambda: one @ one) for _ in range(9)]
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip(),
        "cpu": (models or [platform.processor()])[0],
        "threads": threads, "gflops": 2 * 1024**3 / statistics.median(times) / 1e9, "torch": torch.__version__,
        "transformers": transformers.__version__, "peft": peft.__version__,
    }  # fmt: skip


def seconds_of(work: Callable[[], object]) -> float:
    """Returns how long a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Bench:
    """What the parts share: a scratch folder, the model, the examples of each seed, and how either side runs."""

    def __init__(self, folder: Path, threads: int, repeats: int, methods: list[str]):
        self.folder, self.threads, self.repeats, self.methods = folder, threads, repeats, methods
        self.number = 0
        self.variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}

    def suite(self, name: str, labels: str, train: str, seeds: tuple[int, ...] = (0,), size: int = EXAMPLES) -> Path:
        """Writes a suite on the benchmark's task into a project of its own; returns its path."""
        path = self.folder / name / "suites" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"version: 1\nquestion: How fast?\nmodels: [{MODEL}]\ntasks:\n  - {{learn: {TASK}, sizes: [{size}]}}\n"
            f"methods:\n{labels}seeds: {list(seeds)}\ntrain: {{batch_size: {BATCH}, {train}}}\n"
        )
        return path

    def run(self, suite: Path) -> tuple[float, float, list[Figures]]:
        """Runs a suite with an empty results folder. Returns (seconds, the command's own share of a core, for each cell
        its label, seed, steps, peak, phases, accuracy)."""
        self.number += 1
        results = self.folder / f"results-{self.number}"
        command = [sys.executable, "-m", "harness.cli", "run", str(suite), "--results", str(results), "--no-answer"]
        command += ["--threads", str(self.threads), "--jobs", "1"]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=self.variables, cwd=suite.parent.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout
        said = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(said[-3000:])
        return seconds, (usage.ru_utime + usage.ru_stime) / seconds, list(cells_in(results))

    def examples(self, seed: int) -> list[dict[str, str]]:
        """Returns the very examples that a cell of this seed learns."""
        from tools import context_of, plan_of

        suite = self.suite("examples", "  full: {}\n", "steps: 1", (seed,))
        plan = plan_of(suite.parent.parent, None, "examples")
        cell = next(cell for cell in plan.cells if cell.label == "full")
        self.number += 1
        context = context_of(plan, cell, self.folder / f"context-{self.number}")
        return [{"context": one.context, "target": one.target} for one in context.examples()]

    def script(self, method: str, trainer: str, seed: int, steps: int, score: bool, save: bool) -> Figures:
        """Runs one cell as a plain script; returns what it prints, and the `wall` seconds of its process."""
        from harness.data import load_catalog

        self.number += 1
        scratch = self.folder / f"script-{self.number}"
        scratch.mkdir()
        facts = load_catalog(ROOT).model_facts(MODEL)
        assert facts, "run `make fetched` first"
        job = {
            "method": method, "trainer": trainer, "seed": seed, "steps": steps, "batch_size": BATCH,
            "learning_rate": RATES[method], "examples": self.examples(seed), "threads": self.threads,
            "model": str(facts.folder), "tasks": str(ROOT / "suites" / "tasks"), "task": TASK if score else None,
            "save": str(scratch / "weights") if save else None, "scratch": str(scratch),
        }  # fmt: skip
        (scratch / "job.json").write_text(json.dumps(job))
        command = [sys.executable, str(ROOT / "benchmarks" / "plain_cell.py"), str(scratch / "job.json")]
        began = time.perf_counter()
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found: Figures = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
        return {**found, "wall": wall}


def cells_in(results: Path) -> Iterator[Figures]:
    """Yields the figures of every cell in a results folder."""
    for path in sorted(results.glob("attempts/*/*/result.json")):
        result = json.loads(path.read_text())
        if result["status"] != "done":
            raise SystemExit(f"{path}: {result['status']}: {result['reason']}")
        phases = {phase["phase"]: phase for phase in result["phases"]}
        job = json.loads((path.parent / "job.json").read_text())
        yield {
            "label": job["cell"]["label"], "seed": job["cell"]["seed"], "seconds": result["seconds"],
            "steps": [step["seconds"] for step in result["steps"] if step["split"] == "train"],
            "phases": {name: phase["seconds"] for name, phase in phases.items()},
            "peak": max(phases[name]["rss_bytes"] or 0 for name in ("load", "check", "train") if name in phases),
            "acc": next((score["value"] for score in result["scores"] if score["metric"] == "acc"), None),
        }  # fmt: skip


def steps(bench: Bench) -> Figures:
    """A training step of each method, by turns: Trainer, SFTTrainer, a cell."""
    found: Figures = {}
    for method in bench.methods:
        suite = bench.suite(f"steps-{method}", f"  {method}: {OURS.get(method, '{}')}\n", f"steps: {STEPS}")
        sides: dict[str, list[Figures]] = {"trainer": [], "sft": [], "ours": []}
        for _ in range(bench.repeats):
            for trainer in ("trainer", "sft"):
                if trainer == "sft" and method == "layerwise":
                    continue  # TRL has nothing of its own for it
                sides[trainer].append(bench.script(method, trainer, 0, STEPS, score=False, save=False))
            sides["ours"].append(next(cell for cell in bench.run(suite)[2] if cell["label"] == method))
        found[method] = {
            side: {
                "step": [statistics.median(run["steps"][WARM_UP_STEPS:]) for run in runs],
                "peak": [run["peak"] for run in runs],
            }
            for side, runs in sides.items()
            if runs
        }
        print(method, {side: statistics.median(one["step"]) for side, one in found[method].items()}, flush=True)
    return found


def suite(bench: Bench) -> Figures:
    """A suite of 12 cells against a script per cell."""
    labels = "".join(f"  {method}: {OURS.get(method, '{}')}\n" for method in SUITE_METHODS)
    path = bench.suite("twelve", labels, f"epochs: {SUITE_EPOCHS}", SEEDS)
    updates = SUITE_EPOCHS * EXAMPLES // BATCH
    ours, share, cells = bench.run(path)
    scripts = [
        {**bench.script(method, "trainer", seed, updates, score=True, save=True), "label": method}
        for seed in SEEDS
        for method in SUITE_METHODS
    ]
    accuracy = {
        side: {label: statistics.fmean(run["acc"] for run in runs if run["label"] == label) for label in SUITE_METHODS}
        for side, runs in (("ours", cells), ("scripts", scripts))
    }
    for label in SUITE_METHODS:
        one, other = accuracy["ours"][label], accuracy["scripts"][label]
        error = math.sqrt(2 * max(one * (1 - one), 0.01) / (ITEMS * len(SEEDS)))
        if abs(one - other) > 4 * error:
            raise SystemExit(f"{label}: accuracy {one:.3f}, and {other:.3f} by scripts: not the same work")
    return {
        "ours": ours, "scripts": sum(run["wall"] for run in scripts), "parent_share": share, "accuracy": accuracy,
        "cells": [{key: cell[key] for key in ("label", "seed", "seconds", "phases")} for cell in cells],
        "script_cells": [{"label": run["label"], "wall": run["wall"], **run["seconds"]} for run in scripts],
    }  # fmt: skip


def scoring(bench: Bench) -> Figures:
    """lm-eval's own command on the benchmark's task against a cell that only scores it."""
    from harness.data import load_catalog

    facts = load_catalog(ROOT).model_facts(MODEL)
    assert facts, "run `make fetched` first"
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args",
        f"pretrained={facts.folder},dtype=float32", "--tasks", TASK, "--include_path", str(ROOT / "suites" / "tasks"),
        "--batch_size", "16", "--device", "cpu",
    ]  # fmt: skip
    path = bench.suite("scoring", "  base: {}\n", "steps: 1")
    theirs, ours, whole = [], [], []
    for _ in range(bench.repeats):
        began = time.perf_counter()
        done = subprocess.run(command, env=bench.variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        theirs.append(time.perf_counter() - began)
        seconds, _, cells = bench.run(path)
        whole.append(seconds)
        ours.append(cells[0]["phases"]["evaluate"])
    return {
        "lm_eval_command": theirs,
        "cell_evaluates": ours,
        "our_command": whole,
        "lm_eval_scores": scored_alone(bench),
    }


def scored_alone(bench: Bench) -> list[float]:
    """Returns the seconds in which lm-eval itself scores the task with a model that is loaded already."""
    code = f"""
import time, torch, lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from harness.data import load_catalog
torch.set_num_threads({bench.threads})
folder = load_catalog({str(ROOT)!r}).model_facts({MODEL!r}).folder
lm = HFLM(pretrained=str(folder), dtype="float32", batch_size=16, device="cpu")
manager = TaskManager(include_path={str(ROOT / "suites" / "tasks")!r}, include_defaults=False)
for _ in range({bench.repeats}):
    began = time.perf_counter()
    lm_eval.simple_evaluate(model=lm, tasks=[{TASK!r}], task_manager=manager, bootstrap_iters=0)
    print("seconds", time.perf_counter() - began)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=bench.variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds")]


def overhead(bench: Bench) -> Figures:
    """A step of the same loop with and without instruments, by turns, on the real model."""
    path = bench.suite("overhead", "  lora: {}\n", "steps: 12")
    script = str(ROOT / "benchmarks" / "perf_overhead.py")
    command = [sys.executable, script, str(path), str(bench.repeats), str(bench.threads)]
    done = subprocess.run(command, env=bench.variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: Figures = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("found"))[6:])
    return found


def growth(bench: Bench) -> Figures:
    """Seconds a cell in suites of trivial cells: the tiny model of the tests, trained for one step."""
    import tiny

    found: Figures = {}
    model = bench.folder / "tiny-model"
    tiny.make_model(model)
    for count in (10, 100, 1000):
        root = bench.folder / f"growth-{count}"
        tiny.make_project(root, model)
        path = root / "suites" / "small.yaml"
        path.write_text(
            "version: 1\nquestion: How many?\nmodels: [tiny]\ntasks:\n  - {learn: colours, sizes: [8]}\n"
            f"methods:\n  full: {{}}\nseeds: {list(range(count - 1))}\ntrain: {{steps: 1, batch_size: 4}}\n"
        )
        seconds, share, cells = bench.run(path)
        found[str(count)] = {
            "seconds": seconds,
            "parent_share": share,
            "cell": statistics.median(c["seconds"] for c in cells),
        }
        print(count, found[str(count)], flush=True)
    return found


PARTS: dict[str, Callable[[Bench], Figures]] = {
    "steps": steps, "suite": suite, "scoring": scoring, "overhead": overhead, "growth": growth,
}  # fmt: skip


def tables(figures: Figures) -> Iterator[str]:
    """Yields the lines of the tables, in Markdown."""
    where = figures["machine"]
    yield (
        f"{where['date']}, commit {where['commit']}: {where['cpu']}, {where['threads']} threads, "
        f"{where['gflops']:.0f} GFLOP/s in a matrix product; torch {where['torch']}, transformers "
        f"{where['transformers']}, peft {where['peft']}. Medians; where a part was repeated, with the range."
    )
    for part, lines in (
        ("steps", of_steps), ("suite", of_suite), ("scoring", of_scoring), ("overhead", of_overhead),
        ("growth", of_growth),
    ):  # fmt: skip
        if part in figures:
            yield ""
            yield from lines(figures[part])


def of_steps(found: Figures) -> Iterator[str]:
    """Yields the table of training steps."""
    yield "| step of 8 headlines, s | Trainer | SFTTrainer | tunebench | Trainer / tunebench | peak, MiB | of Trainer |"
    yield "|---|---|---|---|---|---|---|"
    for method, sides in found.items():
        ratio = statistics.median(sides["trainer"]["step"]) / statistics.median(sides["ours"]["step"])
        shown = [ranged(sides[side]["step"]) if side in sides else "" for side in ("trainer", "sft", "ours")]
        peaks = [f"{statistics.median(sides[side]['peak']) / 2**20:.0f}" for side in ("ours", "trainer")]
        yield f"| {method} | {' | '.join(shown)} | {ratio:.2f} | {' | '.join(peaks)} |"


def of_suite(found: Figures) -> Iterator[str]:
    """Yields what a suite took against a script per cell."""
    sides = found["accuracy"]["scripts"], found["accuracy"]["ours"]
    means = ", ".join(f"{label} {sides[0][label]:.3f} / {sides[1][label]:.3f}" for label in sides[0])
    yield (
        f"A suite of {len(found['script_cells'])} cells, and the base model's: {found['ours']:.0f} s. A script per "
        f"cell, without the base model: {found['scripts']:.0f} s. Ratio: {found['ours'] / found['scripts']:.2f}. "
        f"Accuracy, script / suite: {means}. The command itself took {found['parent_share']:.1%} of a core."
    )


def of_scoring(found: Figures) -> Iterator[str]:
    """Yields what scoring takes on both sides."""
    yield (
        f"Scoring 200 items: lm-eval {ranged(found['lm_eval_scores'])} s, a cell {ranged(found['cell_evaluates'])} s. "
        f"The whole command: lm-eval's {ranged(found['lm_eval_command'])} s, `tunebench run` of the base model "
        f"{ranged(found['our_command'])} s, with speed checks, latency and a store."
    )


def of_overhead(found: Figures) -> Iterator[str]:
    """Yields what the instruments cost."""
    ratio = statistics.median(found["with"]) / statistics.median(found["without"])
    yield (
        f"Instruments: a step takes {ranged(found['with'])} s with and {ranged(found['without'])} s without them; "
        f"ratio {ratio:.3f}."
    )


def of_growth(found: Figures) -> Iterator[str]:
    """Yields the table of suites of trivial cells."""
    yield "| trivial cells | s in all | s a cell | the command's share of a core |"
    yield "|---|---|---|---|"
    for count, one in found.items():
        yield f"| {count} | {one['seconds']:.0f} | {one['seconds'] / int(count):.2f} | {one['parent_share']:.0%} |"


def ranged(values: list[float]) -> str:
    """Returns the median of some seconds, with their range where there are several."""
    return (
        f"{values[0]:.2f}"
        if len(values) == 1
        else f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    )


def write(text: str) -> None:
    """Puts the tables into docs/performance.md."""
    path = ROOT / "docs" / "performance.md"
    before, _, rest = path.read_text().partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
