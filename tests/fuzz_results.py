"""Fuzz of a results folder: one field of one file is changed, and every command must still do its work.

    python tests/fuzz_results.py [--mutations 2000] [--seed 0] [--only K]

A small folder of results is copied; one field of a `result.json`, `job.json`, `items.parquet`, `runs/*.json`,
`*.events.jsonl` or `instruments/*.json` is replaced by something else, or the file is cut short. Then `rebuild`,
`report`, `status`, `compare`, `recommend` and `show` run. None may end in a traceback, and no attempt but the changed
one may be missing from the database. What broke is printed, with the number that `--only` repeats. Exit code 0 if
nothing did.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import tunebench
from results_factory import TASK, Results, answered, cell, scores
from samples import JOB

from harness.execute.events import EventLog
from harness.records import Check, Checkpoint, Fact, Flag, Trial
from harness.store.files import write_job

SURROGATE = "\ud800"
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**31, 3_000_000_000, 2**40, 2**63, 10**400, 0.5, -0.5, 1e308, float("nan"),
    float("inf"), -float("inf"), "", " ", "x", "done", "running", "failed", "0", "1.5", "2026-13-45", "2026-01-01",
    "2026-01-01T00:00:00", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-12:00", "[/pytorch/x]", "a\nb", "a\0b",
    "../../etc", "'; DROP TABLE runs; --", "ü👍", SURROGATE, "y" * 5000, [], [None], ["x"], [[[]]], [1, "x"], {},
    {"x": 1}, {"x": {"y": []}}, {SURROGATE: 1}, {"": None},
)  # fmt: skip


def make_results(folder: Path) -> None:
    """Write a results folder with every kind of file and most kinds of record: 4 labels, 2 seeds, a study."""
    results = Results(folder, margin=0.02)
    base = cell("base", family="no training")
    cells = [base]
    results.add(base, scores(0.60, 0.035, -5.25, 0.47), items=answered(0.60, 1, 40), speed=(1e11, 1e11))
    for seed in (0, 1):
        for label, share in (("full", 0.85), ("lora", 0.75), ("prompt", 0.61)):
            made = cell(label, 32, seed, baseline=base.spec_digest)
            results.add(
                made, scores(share, 0.03, -5.4, 0.44), items=answered(share, 10 * seed + len(label), 40),
                train_seconds=50.0 + seed, losses=[2.0, 1.0, 0.5], speed=(1e11, 0.99e11), energy=100.0,
                facts=[Fact("optimizer_steps", 3, "steps"), Fact("latency_ms_p50", 12.0, "ms", False)],
                checkpoints=[Checkpoint(1, TASK, "task", "acc", share - 0.1, None, 40, True)],
                flags=[Flag("learned_nothing", {"p": 0.4, "task": TASK})] if label == "prompt" else [],
            )  # fmt: skip
            cells.append(made)
    study = replace(
        cell("lora~tune", 32, 0),
        study={"goals": ["score"], "metric": "acc", "trials": 2, "seconds": None, "seed": 0, "search": {}},
    )
    trials = [
        Trial(number, {"learning_rate": 0.001 * (number + 1)}, "done", value=0.7, values={"acc": 0.7}, merits=(0.7,),
              seconds=9.0, tokens=100, peak_bytes=2**30, origin="sampler", attempt_id=f"t{number}", front=number == 0)
        for number in range(2)
    ]  # fmt: skip
    results.add(study, (), tuned={"learning_rate": 0.001}, trials=trials)
    results.check(Check("same_seed", "two runs alike", 0.0, 0.01, "ratio", 1.0))
    store = results.store()
    log = EventLog(folder / "runs" / "run-1.events.jsonl")
    states = {"to do": len(cells)}
    log.append("run_started", run_id="run-1", suite="demo", pid=1, cells=len(cells), states=states, margin=0.02)
    for number, made in enumerate(cells, start=1):
        attempt = f"run-1-a{number:03}"
        place = store.attempt_folder(attempt)
        write_job(place, replace(JOB, run_id="run-1", cell=made, environment=results.environment))
        (place / "events.jsonl").write_text('{"phase": "train"}\n{"step": 3, "steps": 3, "loss": 0.5}\n')
        log.append("cell_started", key=made.key, attempt_id=attempt, device="cpu", pid=1, predicted_bytes=2**30)
        if number < len(cells):
            log.append(
                "cell_ended", key=made.key, attempt_id=attempt, status="done" if number > 1 else "failed", reason="",
                seconds=60.0, device="cpu", contended=False,
                machine_speeds={"machine_speed_before": 1e11, "machine_speed_after": 1e11},
            )  # fmt: skip
    log.append("cell_added", key="trial")
    log.append("cell_placed", attempt_id=f"run-1-a{len(cells):03}", device="node")
    log.append("warning", message="a file is damaged")


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value within a value of JSON, itself included."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(inner, (*path, key))


def mutated(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Returns (a copy of a value of JSON with one field changed, what was changed)."""
    value = copy.deepcopy(value)
    # By depth first, so that a long list of items is not all that is ever changed.
    every = list(paths_in(value))
    depth = rng.randint(1, max(len(path) for path in every))
    path = rng.choice([path for path in every if len(path) == depth])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    kind = rng.choice(("replace",) * 8 + ("remove", "add", "twice"))
    if kind == "remove":
        del holder[path[-1]]
    elif kind == "add" and isinstance(holder, dict):
        holder["extra"] = rng.choice(STRANGE)
    elif kind == "twice" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[path[-1]]))
    else:
        kind = "replace"
        holder[path[-1]] = rng.choice(STRANGE)
    shown = ascii(holder[path[-1]] if kind == "replace" else holder)[:60]
    return value, f"{kind} {'.'.join(map(str, path))}: {shown}"


def mutate(folder: Path, rng: random.Random) -> tuple[Path, str]:
    """Change one field of one file in a results folder. Returns (the file, what was changed)."""
    pattern = rng.choice(
        ("attempts/*/*/result.json",) * 4
        + ("attempts/*/*/items.parquet", "attempts/*/*/job.json", "runs/*.json", "runs/*.events.jsonl")
        + ("attempts/*/*/events.jsonl", "instruments/*.json", "documents/*.parquet")
    )
    files = sorted(folder.glob(pattern)) or sorted(folder.glob("runs/*.json"))
    path = rng.choice(files)
    if rng.random() < 0.08:
        size = path.stat().st_size
        kept = rng.choice((0, 1, size // 2, size - 1))
        os.truncate(path, kept)
        return path, f"cut to {kept} of {size} bytes"
    if path.suffix == ".parquet":
        return path, mutate_table(path, rng)
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = rng.randrange(len(lines))
        value, what = mutated(json.loads(lines[place]), rng)
        lines[place] = json.dumps(value)
        path.write_text("\n".join(lines) + "\n")
        return path, f"line {place}: {what}"
    value, what = mutated(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(value, separators=(",", ":") if path.parent.name == "runs" else None))
    return path, what


def mutate_table(path: Path, rng: random.Random) -> str:
    """Change one value, or one column, of a Parquet file. Returns what was changed."""
    import pandas

    table = pandas.read_parquet(path)
    column, value = rng.choice(list(table.columns)), rng.choice([x for x in STRANGE if not isinstance(x, list | dict)])
    if value == SURROGATE or (isinstance(value, int) and abs(value) >= 2**63):
        value = None  # Parquet cannot hold it
    kind = rng.choice(("value", "column", "remove", "twice", "add"))
    if kind == "value":
        values = table[column].tolist()
        values[rng.randrange(len(values))] = value
        try:
            table = table.assign(**{column: values})
            table.to_parquet(path)
        except Exception:  # of mixed types, which Parquet cannot hold either
            table.assign(**{column: [str(entry) for entry in values]}).to_parquet(path)
    elif kind == "column":
        table.assign(**{column: [value] * len(table)}).to_parquet(path)
    elif kind == "remove":
        table.drop(columns=column).to_parquet(path)
    elif kind == "twice":
        pandas.concat([table, table.head(1)]).to_parquet(path)
    else:
        table.assign(extra=1).to_parquet(path)
    return f"{kind} {column} {value!a}"


COMMANDS = (
    ("rebuild",),
    ("report", "demo"),
    ("status",),
    ("compare", "full", "lora"),
    ("recommend", "demo"),
    ("show", "lora/tiny/topic/n32/s0"),
    ("studies", "demo"),
)


def attempts_in(folder: Path) -> set[str]:
    """The ids of the attempts that the database of a results folder has."""
    with duckdb.connect(str(folder / "tunebench.duckdb"), read_only=True) as connection:
        return {row[0] for row in connection.execute("SELECT attempt_id FROM attempts").fetchall()}


def faults_of(sound: Path, folder: Path, number: int, seed: int) -> tuple[str, list[str]]:
    """Copies the sound results to `folder`, makes mutation number `number` and runs every command. Returns (what was
    changed, a sentence or traceback for each fault)."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    rng = random.Random(f"{seed} {number}")
    path, what = mutate(folder, rng)
    what = f"{number}: {path.relative_to(folder)}: {what}"
    spared = {path.parent.name} if path.name in ("result.json", "items.parquet") else set()
    faults = []
    for command in COMMANDS:
        try:
            done = tunebench(*command, "--results", str(folder))
        except BaseException:
            faults.append(f"{' '.join(command)}:\n{traceback.format_exc()}")
            continue
        if command[0] == "rebuild":
            if done.returncode != 0:
                faults.append(f"rebuild ends with {done.returncode}: {done.stderr}")
            elif missing := attempts_in(sound) - attempts_in(folder) - spared:
                faults.append(f"missing after rebuild: {', '.join(sorted(missing))}: {done.stderr}")
        elif done.returncode not in (0, 1, 2):
            faults.append(f"{' '.join(command)} ends with {done.returncode}")
    return what, faults


def fuzz(root: Path, numbers: range | list[int], seed: int = 0) -> list[str]:
    """Makes the mutations with these numbers, one after another, below the project folder `root`. Returns a text for
    each that broke something. Charts are not drawn, which would take most of the time."""
    (root / "suites").mkdir(parents=True, exist_ok=True)
    sound = root / "sound"
    make_results(sound)
    broken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("harness.report.files.svg", lambda chart: "<svg/>")
        patch.setattr("harness.report.files.png", lambda chart: b"png")
        patch.setattr("harness.report.html.vega", lambda: "")
        for number in numbers:
            what, faults = faults_of(sound, root / "results", number, seed)
            broken += [f"{what}\n{fault}" for fault in faults]
            for fault in faults:
                print(f"{what}\n{fault}", flush=True)
    return broken


def main(mutations: int, seed: int, only: int | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        numbers: range | list[int] = range(mutations) if only is None else [only]
        broken = fuzz(Path(folder), numbers, seed)
    causes = Counter(text.strip().splitlines()[-1] for text in broken)
    for cause, count in causes.most_common():
        print(f"{count} times: {cause}")
    print(f"{len(numbers)} mutations, {len(broken)} faults")
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of a mutation, to repeat it alone")
    sys.exit(main(**vars(parser.parse_args())))
