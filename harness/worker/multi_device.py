"""Runs one cell on several devices: one process (a rank) per device, and one joint result.

Every rank loads, attaches and trains; the first also scores and saves. On GPUs a rank has a device, on a CPU it
has its part of the cell's threads and talks over gloo, which is how all this is tested.

The environment and the entry of a rank are accelerate's (`PrepareForLaunch`, which its own launchers use too). The
processes are started here and not by those launchers: `accelerate launch` puts ranks into sessions of their own, out
of reach of what ends a stuck cell, and among CPUs asks for mpirun; `notebook_launcher` refuses a process that has
imported bitsandbytes, which every cell forked from the preloaded server has. Here ranks belong to the cell's process
group, die with its process, and a failure is reported with the rank's own reason.

Not covered: how many devices a cell asks for (`plan.devices_of`), which ones it is given (the executor), what ranks do
with a batch (`distributed.py`), and several machines.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.environment import now
from harness.plan import devices_missing, devices_of
from harness.records import CellResult, Job, Phase, Status
from harness.store import read_job, write_atomically

PR_SET_PDEATHSIG = 1
LOOPBACK = "lo"
# A rank that fails stays so long before it leaves, with its connections open. So the others do not fail of losing
# it, and when a rank is killed it is seen to be gone before those that lost it.
HOLD_SECONDS = 2.0


def run(folder: Path, device: str) -> None:
    """Run the job in an attempt's `folder`: in this process or, where the cell asks for several devices, with one
    process for each. A result is written whatever happens. `device` is noted in it; what is used are the GPUs that the
    process sees."""
    from harness.worker import cell as course

    job = read_job(folder)
    count = devices_of(job.cell)
    if count == 1:
        course.run(folder, device)
        return
    started, clock = now(), time.perf_counter()
    import torch

    visible = torch.cuda.device_count()
    reason = devices_missing(job.cell, visible)
    if reason:
        result = CellResult.of_job(folder.name, job, Status.SKIPPED, reason, now())
    else:
        threads = job.threads if visible else max(1, job.threads // count)
        # A rank that is ended cannot tidy up.
        with tempfile.TemporaryDirectory(prefix=".ranks-", dir=folder) as scratch:
            failed = launch(folder, count, threads, on_gpu=bool(visible), scratch=scratch)
        result = outcome(folder, job, failed)
    result = replace(result, started=started, seconds=time.perf_counter() - clock)
    course.finish(folder, result, device)
    for path in folder.glob("rank-*.json"):
        path.unlink()


def launch(folder: Path, count: int, threads: int, on_gpu: bool, scratch: str) -> dict[int, int]:
    """Run the job in `folder` as `count` ranks with `threads` CPU threads each, and wait for them.

    `scratch` is the ranks' folder for temporary files. Returns {rank: exit code} of the ranks that had failed when the
    first failure was seen, empty when all succeeded. No rank is left alive.
    """
    from accelerate.utils import DistributedType, PrepareForLaunch, patch_environment
    from torch.distributed import TCPStore

    # The ranks meet at a store of this process, at a port that the system picks: nothing to guess, nothing taken.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables: dict[str, object] = {
        "world_size": count,
        "local_world_size": count,
        "nproc": count,
        "node_rank": 0,
        "master_addr": "127.0.0.1",
        "master_port": store.port,
        # torch's word for: the store is there already, no rank has to open it
        "torchelastic_use_agent_store": "True",
        "torchelastic_restart_count": 0,
        "gloo_socket_ifname": LOOPBACK,
        "nccl_socket_ifname": LOOPBACK,
        "accelerate_use_cpu": str(not on_gpu),
        "accelerate_mixed_precision": "no",  # the Trainer sets the cell's
        "omp_num_threads": threads,
        "tmpdir": scratch,
    }
    # CUDA does not survive a fork; without it a fork spares each rank ten seconds of imports.
    context = multiprocessing.get_context("spawn") if on_gpu else multiprocessing.get_context("fork")
    start = PrepareForLaunch(run_rank, DistributedType.MULTI_GPU if on_gpu else DistributedType.MULTI_CPU)
    ranks: list[BaseProcess] = []
    try:
        with patch_environment(**variables):
            for rank in range(count):
                ranks.append(
                    context.Process(target=start, args=(rank, str(folder), count, threads), name=f"rank {rank}")
                )
                ranks[-1].start()
        while True:
            codes = {rank: process.exitcode for rank, process in enumerate(ranks)}
            if all(code == 0 for code in codes.values()) or any(codes.values()):
                return {rank: code for rank, code in codes.items() if code}
            # By the codes just read: a rank that has ended since then is ready, and does not leave the list empty.
            wait([process.sentinel for rank, process in enumerate(ranks) if codes[rank] is None])
    finally:
        for process in ranks:
            process.kill()
            process.join()


def run_rank(folder: str, count: int, threads: int) -> None:
    """Run one of the `count` ranks of a cell from its start to its exit, with `threads` CPU threads; its number is in
    the environment variable RANK. Its result goes to `rank-<number>.json`, from which `outcome` makes the cell's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # dies with the cell's process
    rank = int(os.environ["RANK"])
    tempfile.tempdir = os.environ["TMPDIR"]
    if rank:
        log = os.open(Path(folder) / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
    import torch

    from harness.worker.cell import attempt
    from harness.worker.distributed import Rank

    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    result = attempt(Path(folder), Rank(rank, count, threads))
    write_atomically(Path(folder) / f"rank-{rank}.json", json.dumps(result.to_json()))
    done = result.status is Status.DONE
    if not done:
        time.sleep(HOLD_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if done else 1)  # all is written; threads of the libraries are not waited for


def outcome(folder: Path, job: Job, failed: dict[int, int]) -> CellResult:
    """Returns the cell's result, made from the results that its ranks left in `folder` and from `failed`: {rank: exit
    code} of those that failed. If any did, it has the status and reason of the one that failed first, and no scores and
    flags."""
    results: dict[int, CellResult] = {}
    written: dict[int, float] = {}
    for path in folder.glob("rank-*.json"):
        rank = int(path.stem.removeprefix("rank-"))
        results[rank] = CellResult.from_json(json.loads(path.read_text()))
        written[rank] = path.stat().st_mtime
    if not failed:
        return replace(results[0], phases=tuple(joint(phase, results) for phase in results[0].phases))
    # One that left no word was the first to go; else the first that wrote is the cause, the others lost it.
    cause = min(failed, key=lambda rank: (written.get(rank, 0.0), rank))
    if cause in results:
        result = results[cause]
        status, reason = result.status, result.reason
    else:
        status, reason = how_it_ended(failed[cause])
        result = results[min(results)] if results else CellResult.of_job(folder.name, job, status, reason, now())
    reason = reason if cause == 0 else f"rank {cause}: {reason}"
    return replace(result, status=status, reason=reason, scores=(), flags=())


def joint(phase: Phase, results: dict[int, CellResult]) -> Phase:
    """Returns the first rank's `phase`, with the highest memory peaks of that phase in the `results` of all ranks.
    Energy is summed over their GPUs (None where one is unknown); on a CPU the first rank's value stays, as every rank
    measures the whole machine."""
    same = [other for result in results.values() for other in result.phases if other.phase == phase.phase]

    def largest(name: str) -> int | None:
        values = [value for other in same if (value := getattr(other, name)) is not None]
        return max(values) if values else None

    energy = phase.energy_j
    if phase.device_bytes is not None:
        known = [other.energy_j for other in same if other.energy_j is not None]
        energy = sum(known) if len(known) == len(same) else None
    return replace(
        phase,
        allocated_bytes=largest("allocated_bytes"),
        reserved_bytes=largest("reserved_bytes"),
        device_bytes=largest("device_bytes"),
        rss_bytes=largest("rss_bytes"),
        energy_j=energy,
    )


def how_it_ended(code: int) -> tuple[Status, str]:
    """Returns (status, reason) of a rank that left no result, from its exit code. A bare SIGKILL is no evidence of
    anything (see `local.py`), so it counts as interrupted."""
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return Status.INTERRUPTED, f"the process was killed by signal {-code}"
    if code < 0:
        return Status.FAILED, f"the process ended with signal {-code} ({signal.strsignal(-code)})"
    return Status.FAILED, f"the process ended with exit code {code}"
