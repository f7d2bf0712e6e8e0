"""Chaos: a suite that is killed, starved and damaged, over and over, ends with the store of an undisturbed one.

    python tests/chaos.py [--parents 20] [--workers 40] [--seed 0]

A suite of 25 tiny cells (a random two-layer Llama, two at a time) runs while its command is killed with SIGKILL
`--parents` times, half of these with a cell or the fork server stopped before, and its cells or the fork server
`--workers` times, at random moments; once its disk fills up, three files of it are truncated, side files are damaged,
and results are planted that are well-formed but not what they say. Then it runs to its end, and every finished cell,
score and item must equal those of a run that was left alone, each counted once; `tunebench rebuild` must give the
same database; and no process may be left. The store is read by SQL of this script.

Exit code 0 if all of that holds, 1 if not, 3 if it holds as far as tried: without the right to mount a disk, a full one
is not.
"""

from __future__ import annotations

import argparse
import json
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

import duckdb
from tiny import make_model, make_project

from harness.execute.events import live_status

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
NOT_TRIED = "not tried: this user may not mount a disk"
DISK_BYTES = 48 * 2**20


class Chaos:
    """One project, disturbed at random."""

    def __init__(self, root: Path, rng: random.Random):
        self.root, self.rng = root, rng
        self.parents = self.workers = self.stopped = 0

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli", *arguments]

    def start(self, results: Path) -> subprocess.Popen[bytes]:
        command = self.command("run", "chaos", "--jobs", "2", "--threads", "1", "--results", str(results))
        log = (self.root / "chaos.log").open("ab")
        return subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log, start_new_session=True)

    def finish(self, results: Path, patience: float = 600.0) -> int:
        """Run until the command ends by itself; its exit code."""
        return self.start(results).wait(patience)

    def signal_worker(self, results: Path, number: int) -> bool:
        """Send a signal to a cell's process or, one time in four, to the fork server that started it."""
        status = live_status(results)
        pids = [row["pid"] for row in status.running if row["rss_bytes"]] if status else []
        if not pids:
            return False
        pid = self.rng.choice(pids)
        try:
            if self.rng.random() < 0.25:
                pid = parent_of(pid)
            if pid > 1:
                os.kill(pid, number)
        except OSError:
            return False
        return True

    def disturb(self, results: Path, parents: int, workers: int) -> None:
        """Kill the command and its cells at random moments, that many times each."""
        while self.parents < parents or self.workers < workers:
            command = self.start(results)
            until = time.monotonic() + self.rng.uniform(0.5, 25.0)  # importing alone takes some
            while command.poll() is None and (time.monotonic() < until or self.parents == parents):
                time.sleep(self.rng.uniform(0.1, 1.5))
                if self.workers < workers and self.rng.random() < 0.7:
                    self.workers += self.signal_worker(results, signal.SIGKILL)
            if command.poll() is None and self.parents < parents:
                if self.rng.random() < 0.5:
                    self.stopped += self.signal_worker(results, signal.SIGSTOP)
                os.kill(command.pid, signal.SIGKILL)
                self.parents += 1
            command.wait(600)
            done = statuses(results)
            print(
                f"killed {self.parents} commands, {self.stopped} of them with something stopped; killed "
                f"{self.workers} cells or fork servers; {done}",
                flush=True,
            )
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

    def damage_side_files(self, results: Path) -> dict[Path, bytes]:
        """Spoil files beside the results: records and events of runs, self-checks, jobs and news of cells. Returns the
        former content of each."""
        victims = {}
        for pattern in (
            "runs/*.json", "runs/*.events.jsonl", "instruments/*.json", "attempts/*/*/job.json",
            "attempts/*/*/events.jsonl",
        ):  # fmt: skip
            path = self.rng.choice(sorted(results.glob(pattern)))
            content = path.read_bytes()
            middle = len(content) // 2
            spoilt = [content[:middle], content[:middle] + b"\xff\x00}" + content[middle:], b"", b"[]", b"null"]
            path.write_bytes(self.rng.choice(spoilt))
            victims[path] = content
        record = {"run_id": "run-cut", "suite": "chaos", "status": "running", "members": []}
        cut = results / "runs" / "run-cut.json"
        cut.write_text(json.dumps(record, separators=(",", ":"))[:-9])
        return victims

    def plant(self, results: Path) -> list[Path]:
        """Put results into the folder that are well-formed, and not what they say or what can be stored."""
        planted = []
        whole = [path for path in sorted(results.glob("attempts/*/*/result.json")) if path.read_bytes().endswith(b"}")]
        sources = self.rng.sample(whole, 3)
        for number, source in enumerate(sources):
            folder = source.parent.with_name(f"20990101T000000-aaaaaa-{number:05d}-{source.parent.name[-12:]}")
            result = json.loads(source.read_text())
            if number:  # the first is a plain copy
                result["attempt_id"] = folder.name
            if number == 1:
                result["cell"]["spec_digest"] = "0" * 64
            if number == 2:
                result["cell"]["seed"] = 2**70
            folder.mkdir()
            (folder / "result.json").write_text(json.dumps(result))
            planted.append(folder)
        return planted


def parent_of(pid: int) -> int:
    """The pid of the process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def statuses(results: Path) -> dict[str, int]:
    """How many cells stand how, by their files alone."""
    status = live_status(results)
    return dict(status.counts) if status else {}


def content(results: Path) -> dict[str, list[Any]]:
    """What two stores must agree on: each finished cell once, with its scores and items."""
    with duckdb.connect(str(results / "tunebench.duckdb"), read_only=True) as connection:
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
    with duckdb.connect(str(results / "tunebench.duckdb"), read_only=True) as connection:
        tables = [row[0] for row in connection.execute("SHOW TABLES").fetchall() if row[0] != "schema_version"]
        return {table: sorted(map(str, connection.execute(f"FROM {table}").fetchall())) for table in tables}


def fill_disk(chaos: Chaos, results: Path) -> str:
    """Run on a small disk until it is full; then give it room. Needs the right to mount; says what happened."""
    results.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(results)]
    if subprocess.run(options, capture_output=True).returncode != 0:
        return NOT_TRIED
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
    said_so = code != 0 and "no space" in said and "is damaged" not in said
    return f"exit code {code}, {'said so' if said_so else 'SAID NOTHING'}; then {statuses(results)}"


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
        disk = fill_disk(chaos, wild)
        print(f"full disk: {disk}", flush=True)
        try:
            chaos.disturb(wild, parents, workers)
            code = chaos.finish(wild)
            for path in chaos.truncate(wild):
                print(f"truncated {path.relative_to(wild)}")
            code = chaos.finish(wild)
            spoilt = chaos.damage_side_files(wild)
            for path in (*spoilt, *chaos.plant(wild)):
                print(f"damaged or planted {path.relative_to(wild)}")
            code = chaos.finish(wild)
            print(f"at the end: exit code {code}, {statuses(wild)}", flush=True)
            good = code == 0 and check("cells, scores and items of the undisturbed run", content(calm), content(wild))
            before = everything(wild)
            for path, former in spoilt.items():  # what the database has of them cannot be made again without them
                path.write_bytes(former)
            rebuild = subprocess.run(chaos.command("rebuild", "--results", str(wild)), cwd=root)
            good = rebuild.returncode == 0 and check("the database made again", before, everything(wild)) and good
        finally:
            subprocess.run(["umount", str(wild)], capture_output=True)
        until = time.monotonic() + 10  # what was told to end may take a moment
        while (left := processes(str(root))) and time.monotonic() < until:
            time.sleep(0.2)
        print(f"LEFT BEHIND: {left}" if left else "no process is left")
        if not good or left or "SAID NOTHING" in disk:
            return 1
        return 3 if disk == NOT_TRIED else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parents", type=int, default=20, help="times the command is killed")
    parser.add_argument("--workers", type=int, default=40, help="times a cell is killed")
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(parser.parse_args())))
