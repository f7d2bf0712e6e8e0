"""Runs each cell as a Slurm job of its own, through submitit. Results and cache must lie on a disk that all nodes
share.

What sbatch reads from its own variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_GPUS_PER_NODE, SBATCH_TIMELIMIT, …)
holds for every job. Not covered: jobs outlive a killed command; they end at their time limit, or with scancel.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.data import cache_root, trust
from harness.environment import cores
from harness.errors import UserError
from harness.execute.executors.base import POLL_SECONDS, Executor
from harness.execute.node_environment import environment_here, same_environment
from harness.execute.placement import ERROR, GIB
from harness.execute.running import Ended, Running
from harness.execute.signing import check_signature, signature_of
from harness.plan import devices_of
from harness.records import JOB, Cell, Environment, Job, Status
from harness.store import LOG, RESULT
from harness.worker import run_in_process

if TYPE_CHECKING:
    from submitit import AutoExecutor


class SlurmJob(Protocol):
    """Protocol: the part of submitit's job that is used here."""

    job_id: str
    state: str

    def done(self, force_check: bool = False) -> bool: ...
    def stderr(self) -> str | None: ...
    def cancel(self, check: bool = True) -> None: ...


Submitted = Running[bool, SlurmJob]
JOBS = 100  # submitted at a time; Slurm has a queue of its own
DAY_MINUTES, SPARE_MINUTES = 24 * 60, 10  # our own time limit comes first: it is told apart from Slurm's
GRACE_SECONDS = 60.0
STATES = {"TIMEOUT": Status.TIMEOUT, "OUT_OF_MEMORY": Status.OOM}  # of Slurm, and what they are here
STATES.update(dict.fromkeys(("CANCELLED", "NODE_FAIL", "PREEMPTED", "INTERRUPTED"), Status.INTERRUPTED))


class SlurmExecutor(Executor[bool, SlurmJob]):
    """Executor that runs cells as jobs of a Slurm cluster. With the address "local", submitit runs them as processes
    here."""

    name = "slurm"

    @classmethod
    def skip(cls) -> str | None:
        """Returns why Slurm cannot be used (submitit is not installed); None when it can."""
        return None if importlib.util.find_spec("submitit") else "needs submitit: pip install 'tunebench[slurm]'"

    @classmethod
    def environment(cls, threads: int | None, jobs: int | None, address: str) -> tuple[Environment, int]:
        """Returns (the environment of a Slurm node, the threads of a cell). Submits a job that reports the environment
        and waits for it, as this machine may have no GPU. The threads are `threads`, or else as many as this machine
        has cores; `jobs` is not used."""
        count = threads or cores()
        return submitter(address, count).submit(environment_here, count).result(), count

    def take_slot(self, cell: Cell) -> bool | None:
        """Returns True while fewer cells are submitted than the run's `jobs`, or else 100; None after that."""
        return True if len(self.progress.running) < (self.run_info.jobs or JOBS) else None

    def launch(self, running: Submitted, job: Job) -> None:
        """Submit the cell as a job with its time limit and the GPUs or the predicted memory that it needs; sets
        `handle` and `device` of `running`."""
        run = self.run_info
        minutes = math.ceil(run.limits.seconds / 60) + SPARE_MINUTES if run.limits.seconds else DAY_MINUTES
        limits: dict[str, object] = {"timeout_min": minutes, "name": f"tunebench-{run.run_id}"}
        if run.environment.accelerator:
            limits["gpus_per_node"] = devices_of(running.cell)
        elif predicted := job.predicted_bytes:
            limits["mem_gb"] = math.ceil(predicted * (1 + ERROR) / GIB)
        submitted = submitter(run.address, run.threads, **limits)
        running.handle = submitted.submit(
            run_cell, str(running.folder), job.environment, run.threads, run.key,
            signature_of(run.key, (running.folder / JOB).read_bytes()), trust.passed_on(),
        )  # fmt: skip
        running.device = f"job {running.launched.job_id}"

    def ended(self, running: Submitted) -> Ended | None:
        """Returns how the cell's job ended; None while it waits or runs. Time in Slurm's queue does not count as the
        cell's."""
        if (running.folder / RESULT).exists():
            return Ended()
        if not (running.folder / LOG).exists():
            running.started = time.monotonic()  # it waits in Slurm's queue: no time of the cell's
        if not running.launched.done() or (running.folder / RESULT).exists():
            return None
        job = running.launched
        state, last_line = job.state, (job.stderr() or "").strip().splitlines()[-1:]
        reason = ": ".join([f"{running.device} ended as {state}", *last_line]) + f"; see {running.folder / LOG}"
        return Ended(STATES.get(state.split()[0], Status.FAILED), reason)

    def kill(self, running: Submitted) -> None:
        """Cancel the cell's job, and wait a minute at most until it has ended."""
        deadline = time.monotonic() + GRACE_SECONDS
        running.launched.cancel(check=False)
        while not running.launched.done(force_check=True) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def submitter(address: str, threads: int, **limits: object) -> AutoExecutor:
    """Returns submitit's executor for jobs with `threads` CPUs; `limits` are further parameters of submitit's
    (`timeout_min`, `mem_gb`). The address "local" runs jobs as processes here, "" as Slurm's. Raises UserError where
    there is no Slurm."""
    import submitit

    if not address and not shutil.which("sbatch"):
        raise UserError("executor slurm: found no `sbatch` here. Run tunebench where jobs can be submitted.")
    folder = cache_root() / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # what lies here is run, and holds the run's key
    executor = submitit.AutoExecutor(folder, cluster=address or "slurm", slurm_max_num_timeout=0)
    executor.update_parameters(cpus_per_task=threads, **limits)
    return executor


def run_cell(
    folder: str, planned: Environment, threads: int, key: bytes, signature: str, trusted: dict[str, str]
) -> None:
    """Run the cell whose job lies in `folder` inside its Slurm job, through the same entry as any cell's process.
    `trusted` are variables that say which tasks' own code may run. Raises CellError where the node's environment would
    give other results than the `planned` one, or where the job's `signature` is not the run's (its `key`)."""
    check_signature(key, (Path(folder) / JOB).read_bytes(), signature, f"the job in {folder}")
    same_environment(planned, threads)
    offline = {"HF_HUB_OFFLINE": "1", "TUNEBENCH_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), **trusted}
    device = f"{socket.gethostname()} cuda:{os.environ.get('CUDA_VISIBLE_DEVICES', '')}".removesuffix(" cuda:")
    run_in_process(folder, os.getppid(), {**os.environ, **offline}, device)
