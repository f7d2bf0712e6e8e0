"""Runs one cell on a node of a Ray cluster, in a folder of the node's own, and streams it to the driver.

In: an Order. Out: a stream of messages (kind, name, what), which the driver takes in (`executor.py`):

    fetched  node    names       sources that this node had to fetch first
    placed   node    device      the cell's process runs
    follow   file    bytes       news of events.jsonl and log.txt, while it runs
    piece    file    bytes       of what it left: items, documents, weights; result.json is the last
    ended    status  reason      how its process ended; nothing comes after

The node's own local executor runs the cell, so that memory, process group and watchdog are the same as on one
machine. Ray's worker process, which follows it, takes one task after another; each cell has a fresh process, forked
from a server that this worker keeps. Not covered: several cells on one node have a watchdog each, which knows of its
own cell alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.data import Facts, cache_root
from harness.errors import CellError
from harness.execute.executors.base import POLL_SECONDS, STUCK_SECONDS
from harness.execute.executors.local import LocalExecutor, OnDevices
from harness.execute.executors.ray.parcel import Parcel, blocks, files_in
from harness.execute.executors.ray.provision import provide
from harness.execute.node_environment import same_environment
from harness.execute.running import Ended, Limits, Run
from harness.records import Cell, Job, Status
from harness.store import EVENTS, ITEMS, LOG, RESULT, Store, hold_for_cell, write_job

FOLLOWED = (EVENTS, LOG)
FOLLOWED_BYTES = 2**20  # of a file at a time: a cell that floods its log must not flood the driver

YOUNG_SECONDS = 60.0  # a folder this young may be about to be locked

Message = tuple[str, str, Any]  # (kind, name, content), as listed above


@dataclass(frozen=True)
class Order:
    """Everything that a node needs to run one cell. `project` holds the project's small files, `needs` the weights of
    the needed cells by role, `baseline` the base model's item values (None without)."""

    job: Job
    folder: str  # the attempt's, on the driver
    root: str  # the project's, on the driver
    project: Parcel
    needs: dict[str, Parcel]  # role -> weights
    baseline: Parcel | None
    documents: frozenset[str]  # names of the files that the driver has
    limits: Limits
    key: bytes  # of the run: parcels are signed with it
    revisions: Mapping[str, str]  # model -> the commit that its branch was at when the suite was planned
    trusted: Mapping[str, str]  # variables that say which tasks' own code may run here


def run_cell(order: Order) -> Iterator[Message]:
    """Run a cell and yield the messages about it. However this ends, its processes have ended and its folder is
    gone."""
    cells = cache_root() / "cells"
    sweep(cells)
    folder = cells / f"{Path(order.folder).name}-{os.getpid()}"
    folder.mkdir(parents=True)
    held = hold_for_cell(folder)
    try:
        yield from course(order, folder)
    except CellError as error:
        yield "ended", error.status, str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def course(order: Order, folder: Path) -> Iterator[Message]:
    """Make the cell's sources ready on this node, run it in `folder`, and yield messages until it has ended. Raises
    CellError where the node has other packages or sources than the cell was planned with."""
    import ray

    cell, threads = order.job.cell, order.job.threads
    os.environ.update(order.trusted)
    here = same_environment(order.job.environment, threads)
    models, tasks, fetched = provide(cell, order.project, Path(order.root), ray.get, order.key, order.revisions)
    if fetched:
        yield "fetched", ray.get_runtime_context().get_node_id(), fetched
    job = replace(
        order.job,
        environment=here,
        models=models,
        tasks=tasks,
        needs={role: folder / ".needs" / role.replace(":", "-") for role in order.needs},
        baseline=folder / ".baseline" / ITEMS if order.baseline else None,
        documents=folder / "documents",
        results=folder,
    )
    for role, parcel in order.needs.items():
        parcel.unpack(job.needs[role], ray.get, order.key)
    if order.baseline:
        order.baseline.unpack(folder / ".baseline", ray.get, order.key)
    write_job(folder, job)
    run = Run(
        job.run_id, here, Facts({}, {}), threads, limits=order.limits, predict=lambda cell: job.predicted_bytes,
        least=lambda cell: job.needed_bytes,
    )  # fmt: skip
    local = LocalExecutor(Store(folder), run)
    local.open()
    try:
        ended = yield from watched(local, cell, folder, job)
    finally:
        local.close()
    yield from left_behind(folder, order.documents)
    yield "ended", str(ended.status), ended.reason.replace(str(folder), order.folder)


def watched(local: LocalExecutor, cell: Cell, folder: Path, job: Job) -> Generator[Message, None, Ended]:
    """Start the cell's process in `folder` and yield messages while it runs. Returns how it ended. `local` is an
    executor of this cell's alone."""
    import ray

    if local.cuda and (reason := local.refuse(cell)):  # on a CPU the driver has asked the cluster
        return Ended(Status.SKIPPED, reason)
    slot = local.take_slot(cell)
    assert slot is not None  # the executor is this cell's alone
    running = OnDevices(cell, folder, slot)
    followed: dict[str, int] = {}  # file -> bytes that were sent
    ended = None
    try:
        local.launch(running, job)
        yield "placed", ray.get_runtime_context().get_node_id(), running.device
        while ended is None:
            time.sleep(POLL_SECONDS)
            ended = local.ended(running)
            yield from news(folder, followed)
            if (folder / RESULT).exists():
                running.finished = running.finished or time.monotonic()
                if time.monotonic() - running.finished > STUCK_SECONDS:
                    break
        return ended or Ended()
    finally:
        if ended is None and running.handle is not None:  # Ray may interrupt it at any place
            local.kill(running)
        local.release(running)


def news(folder: Path, followed: dict[str, int]) -> Iterator[Message]:
    """Yield the new bytes of an attempt's events and log. `followed` maps each file to the number of its bytes that
    were sent, and is kept up to date."""
    for name in FOLLOWED:
        with suppress(OSError), (folder / name).open("rb") as file:
            file.seek(followed.get(name, 0))
            while (block := file.read(FOLLOWED_BYTES)) or name not in followed:  # that it is there is news too
                followed[name] = file.tell()
                yield "follow", name, block


def left_behind(folder: Path, known: frozenset[str]) -> Iterator[Message]:
    """Yield the files that an ended cell left in `folder` in pieces, its result last. Documents whose names are in
    `known`, which the driver has, are left out."""
    names = [name for name in files_in(folder) if name == ITEMS or name.startswith("weights/")]
    names += [f"documents/{name}" for name in files_in(folder / "documents") if name not in known]
    for name in [*names, RESULT]:
        with suppress(FileNotFoundError):  # a process that was killed left no result
            for block in blocks(folder / name):
                yield "piece", name, block


def sweep(cells: Path) -> None:
    """Remove from `cells`, the folder of this node's cells, those of cells that were killed with the node's Ray: nobody
    holds their lock any more."""
    for lock in cells.glob("*/.cells.lock"):
        with suppress(OSError), lock.open() as handle:
            if time.time() - lock.stat().st_mtime > YOUNG_SECONDS:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
