"""Chaos: a suite that is killed, starved and damaged, over and over, ends with the store of an undisturbed one.

    python tests/chaos.py [--parents 20] [--workers 40] [--seed 0]

A suite of 25 tiny cells (a random two-layer Llama, two at a time) runs while its command is killed with SIGKILL
`--parents` times and its cells `--workers` times at random moments; once its disk fills up, and three files of it
are truncated. Then it runs to its end, and every finished cell, score and item must equal those of a run that was
left alone, each counted once; `tunebench rebuild` must give the same database. Exit code 0 if so.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiny import make_model, make_project

from harness.execute.events import live_status
from harness.store.database import Store

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8, 16]}
retain: [prose]
methods:
  base: {}
  full: {learning_rate: 1e-2}
  lora: {learning_rate: 1e-2}
  top: {method: layerwise, learning_rate: 1e-2, layers: 1}
  prompt: {method: prompt_tuning, init: random}
  merged: {method: merge, how: task_arithmetic, experts: {method: lora, learning_rate: 1e-2, learn: [colours, names]}}
seeds: [0, 1]
train: {steps: 12, batch_size: 4}
"""
DISK_BYTES = 48 * 2**20


class Chaos:
    """One project, disturbed at random."""

    def __init__(self, root: Path, rng: random.Random):
        self.root, self.rng = root, rng
        self.parents = self.workers = 0

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli", *arguments]

    def start(self, results: Path) -> subprocess.Popen[bytes]:
        command = self.command("run", "chaos", "--jobs", "2", "--threads", "1", "--results", str(results))
        log = (self.root / "chaos.log").open("ab")
        return subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log, start_new_session=True)

    def finish(self, results: Path, patience: float = 600.0) -> int:
        """Run until the command ends by itself; its exit code."""
        return self.start(results).wait(patience)

    def kill_worker(self, results: Path) -> bool:
        status = live_status(results)
        pids = [row["pid"] for row in status.running if row["rss_bytes"]] if status else []
        if not pids:
            return False
        try:
            os.kill(self.rng.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.workers += 1
        return True

    def disturb(self, results: Path, parents: int, workers: int) -> None:
        """Kill the command and its cells at random moments, that many times each."""
        while self.parents < parents or self.workers < workers:
            command = self.start(results)
            until = time.monotonic() + self.rng.uniform(0.5, 15.0)  # importing alone takes some
            while command.poll() is None and (time.monotonic() < until or self.parents == parents):
                time.sleep(self.rng.uniform(0.1, 1.5))
                if self.workers < workers and self.rng.random() < 0.7:
                    self.kill_worker(results)
            if command.poll() is None and self.parents < parents:
                os.kill(command.pid, signal.SIGKILL)
                self.parents += 1
            command.wait(600)
            done = statuses(results)
            print(f"killed {self.parents} commands, {self.workers} cells; {done}", flush=True)
            if set(done) == {"done"} and (self.parents < parents or self.workers < workers):
                self.undo(results)

    def undo(self, results: Path) -> None:
        """All is done and more is to be killed: remove some results, as a hand might."""
        folders = sorted(results.glob("attempts/*/*/result.json"))
        for path in self.rng.sample(folders, len(folders) // 2):
            path.unlink()

    def truncate(self, results: Path) -> list[Path]:
        """Cut three files short, as a power cut might: a result, an attempt's items, and the database."""
        finished = [path.parent for path in sorted(results.glob("attempts/*/*/items.parquet"))]
        victims = [
            self.rng.choice(finished) / "result.json",
            self.rng.choice(finished) / "items.parquet",
            results / "tunebench.duckdb",
        ]
        for path in victims:
            os.truncate(path, path.stat().st_size // self.rng.choice((2, 3, 10)))
        return victims


def statuses(results: Path) -> dict[str, int]:
    """How many cells stand how, by their files alone."""
    status = live_status(results)
    return dict(status.counts) if status else {}


def content(results: Path) -> dict[str, list[Any]]:
    """What two stores must agree on: each finished cell once, with its scores and items."""
    with Store(results).open(read_only=True) as connection:
        run = connection.execute("SELECT run_id FROM runs ORDER BY started DESC LIMIT 1").fetchall()[0][0]
        done = "(SELECT attempt_id, spec_digest FROM attempts WHERE status = 'done')"
        asked = {
            "members": f"SELECT key, label, spec_digest, position FROM members WHERE run_id = '{run}' ORDER BY ALL",
            "cells": "SELECT * FROM cells ORDER BY ALL",
            "done": f"SELECT spec_digest, count(*) FROM {done} GROUP BY ALL ORDER BY ALL",
            "scores": f"SELECT spec_digest, scores.* EXCLUDE (attempt_id) FROM scores JOIN {done} USING (attempt_id)"
            " ORDER BY ALL",
            "items": f"SELECT spec_digest, items.* EXCLUDE (attempt_id) FROM items JOIN {done} USING (attempt_id)"
            " ORDER BY ALL",
            "steps": f"SELECT spec_digest, step, split, loss FROM steps JOIN {done} USING (attempt_id) ORDER BY ALL",
            "documents": "SELECT * FROM documents ORDER BY ALL",
        }
        return {name: connection.execute(query).fetchall() for name, query in asked.items()}


def everything(results: Path) -> dict[str, list[str]]:
    with Store(results).open(read_only=True) as connection:
        tables = [row[0] for row in connection.execute("SHOW TABLES").fetchall() if row[0] != "schema_version"]
        return {table: sorted(map(str, connection.execute(f"FROM {table}").fetchall())) for table in tables}


def fill_disk(chaos: Chaos, results: Path) -> str:
    """Run on a small disk until it is full; then give it room. Needs the right to mount; says what happened."""
    results.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(results)]
    if subprocess.run(options, capture_output=True).returncode != 0:
        return "not tried: this user may not mount a disk"
    filler = results / "filler"
    command = chaos.start(results)
    while not any(results.glob("attempts/*/*/items.parquet")) and command.poll() is None:
        time.sleep(0.1)
    with suppress(OSError), filler.open("wb", buffering=0) as file:  # as other programs may at any moment
        while True:
            file.write(b"0" * 2**16)
    code = command.wait(600)
    said = (chaos.root / "chaos.log").read_text(errors="replace")
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=2g", str(results)], check=True)
    return f"exit code {code}, {'said so' if 'no space' in said else 'SAID NOTHING'}; then {statuses(results)}"


def processes(text: str) -> str:
    """Processes with a text in their command line."""
    return subprocess.run(["pgrep", "-fa", text], capture_output=True, text=True).stdout.strip()


def check(name: str, wanted: Any, got: Any) -> bool:
    same = bool(wanted == got)
    print(f"{'same' if same else 'DIFFERENT'}: {name}")
    if not same:
        for table in wanted:
            if wanted[table] != got[table]:
                extra = [row for row in got[table] if row not in wanted[table]][:3]
                missing = [row for row in wanted[table] if row not in got[table]][:3]
                print(f"  {table}: {len(wanted[table])} against {len(got[table])} rows\n  + {extra}\n  - {missing}")
    return same


def main(parents: int, workers: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "project"
        make_model(Path(name) / "model")
        make_project(root, Path(name) / "model")
        (root / "suites" / "chaos.yaml").write_text(SUITE)
        os.environ.update(TUNEBENCH_CACHE=f"{name}/cache", HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=f"{name}/datasets")
        chaos = Chaos(root, random.Random(seed))
        calm, wild = root / "calm", root / "wild"
        assert chaos.finish(calm) == 0, (root / "chaos.log").read_text()[-3000:]
        print(f"undisturbed: {statuses(calm)}", flush=True)
        print(f"full disk: {fill_disk(chaos, wild)}", flush=True)
        try:
            chaos.disturb(wild, parents, workers)
            code = chaos.finish(wild)
            for path in chaos.truncate(wild):
                print(f"truncated {path.relative_to(wild)}")
            code = chaos.finish(wild)
            print(f"at the end: exit code {code}, {statuses(wild)}", flush=True)
            good = code == 0 and check("cells, scores and items of the undisturbed run", content(calm), content(wild))
            before = everything(wild)
            rebuild = subprocess.run(chaos.command("rebuild", "--results", str(wild)), cwd=root)
            good = rebuild.returncode == 0 and check("the database made again", before, everything(wild)) and good
        finally:
            subprocess.run(["umount", str(wild)], capture_output=True)
        until = time.monotonic() + 10  # what was told to end may take a moment
        while (left := processes(str(root))) and time.monotonic() < until:
            time.sleep(0.2)
        print(f"LEFT BEHIND: {left}" if left else "no process is left")
        return 0 if good and not left else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parents", type=int, default=20, help="times the command is killed")
    parser.add_argument("--workers", type=int, default=40, help="times a cell is killed")
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(parser.parse_args())))
