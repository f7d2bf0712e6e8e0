"""Runs cells on this machine, each in a fresh process that is forked from a server which has torch imported already.

So a cell's memory is its own, and it does not pay ten seconds of imports. A CUDA context does not survive a fork: with
a GPU the server is probed first, and where a forked process cannot use the GPU, each cell's process is spawned.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

from harness.execute.executors.base import Executor
from harness.execute.placement import Device, Placement, too_large
from harness.execute.running import Ended, Running
from harness.execute.served import ServedProcess, WorkerServer
from harness.execute.watchdog import Watchdog, memory_left
from harness.plan import devices_missing, devices_of
from harness.records import Cell, Environment, Job, Status
from harness.store import LOG
from harness.worker import FULL, LOST, run_in_process, use_cuda

Process = BaseProcess | ServedProcess
OnDevices = Running[tuple[Device, ...], Process]
GRACE_SECONDS = 5.0
CPU = "cpu"
HUGE_PAGES = "glibc.malloc.hugetlb"  # a tunable of glibc, read when a process starts


class LocalExecutor(Executor[tuple[Device, ...], Process]):
    """Executor that runs cells on this machine's CPU or GPUs, by this program's own Python or that of another
    environment."""

    name = "local"
    here = True

    def open(self) -> None:
        """Find the devices, divide the run's `jobs` among them, start the watchdog and what starts processes."""
        run = self.run_info
        self.cuda = bool(run.environment.accelerator)
        devices = devices_here(run.environment, run.limits.machine)
        jobs = run.jobs or len(devices)
        for device in devices:
            device.slots = math.ceil(jobs / len(devices))
        self.placement = Placement(devices, run.predict, lambda cell: wanted(cell, devices))
        self.watchdog = Watchdog(run.limits.memory)
        self.watchdog.start()
        self.server: WorkerServer | None = None
        set_for_cells(run.threads)
        if run.python:
            self.server = WorkerServer(run.python, self.store.folder / "runs" / f"{run.run_id}.server.log")
        else:
            self.context = self._context()

    def close(self) -> None:
        """Stop the watchdog, and the server of another environment."""
        if hasattr(self, "watchdog"):
            self.watchdog.stop()
        if server := getattr(self, "server", None):
            server.close()

    def refuse(self, cell: Cell) -> str | None:
        return refusal(cell, self.placement.devices, self.run_info.needed(cell))

    def full(self) -> bool:
        return all(len(device.held) >= device.slots for device in self.placement.devices)

    def take_slot(self, cell: Cell) -> tuple[Device, ...] | None:
        return self.placement.place(cell)

    def release(self, running: OnDevices) -> None:
        self.placement.release(running.cell)

    def neighbours(self, running: OnDevices) -> list[OnDevices]:
        """Returns the cells under way that share a device with this one."""
        shared = {name for device in running.slot for name in device.held}
        return [other for other in self.progress.running if other is not running and other.cell.spec_digest in shared]

    def launch(self, running: OnDevices, job: Job) -> None:
        """Start the cell's process on its devices, and watch its memory; sets `handle`, `pid` and `device` of
        `running`."""
        variables = dict(os.environ)
        names = [device.name for device in running.slot]
        if self.cuda:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(names)  # Trainer would spread over all that it sees
        running.device = "cpu" if not self.cuda else "cuda:" + ",".join(names)
        process: Process
        if self.server:
            process = self.server.start(running.folder, variables, running.device)
        else:
            process = self.context.Process(
                target=run_in_process, args=(str(running.folder), os.getpid(), variables, running.device), daemon=False
            )
            process.start()
        running.handle, running.pid = process, process.pid or 0
        self.watchdog.watch(running.pid)

    def ended(self, running: OnDevices) -> Ended | None:
        """Returns how the cell's process ended, None while it runs. What it started is killed; a kill by the watchdog
        or by the system for memory is told apart from a failure."""
        code = running.launched.exitcode
        if code is None:
            return None
        end_group(running.pid)  # what it started must not outlive it
        peak, verdict = self.watchdog.forget(running.pid)
        if verdict:
            return Ended(*verdict)
        if code == -signal.SIGKILL and self.watchdog.killed_by_system():
            held = f"{peak / 2**30:.2f} GiB"
            return Ended(Status.OOM, f"the system killed a process for memory; this one was, and held {held} resident")
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            # A bare SIGKILL is no evidence of anything: not of memory, not of a fault of the cell's.
            return Ended(Status.INTERRUPTED, f"the process was killed by signal {-code}")
        if code == FULL:
            return Ended(Status.INTERRUPTED, "no space was left on the disk")
        if code == LOST:
            return Ended(Status.INTERRUPTED, "the process was lost with the fork server that started it")
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        return Ended(Status.FAILED, f"the process ended with {how}; see {running.folder / LOG}")

    def kill(self, running: OnDevices) -> None:
        """End a cell's whole process group: by SIGTERM, and after some seconds by SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not end_group(running.pid, number) and running.launched.exitcode is None:
                with suppress(OSError):
                    os.kill(running.pid, number)  # so young that it leads no group yet
            running.launched.join(GRACE_SECONDS)
            if running.launched.exitcode is not None:
                break
        end_group(running.pid)
        self.watchdog.forget(running.pid)

    def wait(self, seconds: float) -> None:
        sentinels = [running.launched.sentinel for running in self.progress.running]
        wait(sentinels, seconds) if sentinels else super().wait(seconds)

    def _context(self) -> ForkServerContext | SpawnContext:
        """Returns what starts processes: a fork server; with a GPU only where a process forked from it can use the GPU,
        else spawning."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["harness.worker.fork_server", "harness.worker.preload"])
        if self.cuda:
            probe = context.Process(target=use_cuda)
            probe.start()
            probe.join()
            if probe.exitcode != 0:
                return multiprocessing.get_context("spawn")
        return context


def set_for_cells(threads: int) -> None:
    """Set the environment variables that the processes of cells inherit; `threads` are those of a cell."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # bitsandbytes asks for CUDA at import; asked through NVML, that starts no CUDA context.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.update(HF_HUB_OFFLINE="1", TUNEBENCH_OFFLINE="1", OMP_NUM_THREADS=str(threads))
    # glibc asks for huge pages then: a step frees and takes hundreds of MB, and faults come once in 2 MB of them.
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if HUGE_PAGES not in tunables:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{HUGE_PAGES}=1"]))


def end_group(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send the signal `number` to the process group that `pid` leads. Returns False when there is none."""
    try:
        os.killpg(pid, number)
    except OSError:
        return False
    return True


def wanted(cell: Cell, devices: list[Device]) -> int:
    """Returns how many devices of this machine a cell takes. On a CPU its processes share the one there is."""
    return 1 if devices[0].name == CPU else devices_of(cell)


def refusal(cell: Cell, devices: list[Device], predicted: int | None) -> str | None:
    """Returns why a cell that needs `predicted` bytes on each device (None: not known) can never run on `devices`; None
    when it can."""
    accelerators = 0 if devices[0].name == CPU else len(devices)
    return devices_missing(cell, accelerators) or too_large(devices, predicted, wanted(cell, devices))


def devices_here(environment: Environment, machine: int | None = None) -> list[Device]:
    """Returns the visible GPUs if `environment` has an accelerator, else the CPU, each with its memory in bytes:
    `machine`, if it is given; for a CPU what is left, for a GPU all that it has."""
    devices = gpus(environment) if environment.accelerator else [Device(CPU, memory_left())]
    for device in devices:
        device.capacity = machine or device.capacity
    return devices


def gpus(environment: Environment) -> list[Device]:
    """Returns the visible GPUs, with the bytes of memory that nvidia-smi says they have (0 where it says nothing)."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = environment.accelerator.count(", ") + 1
    names = named.split(",") if named else [str(number) for number in range(count)]
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        sizes = [int(line) * 2**20 for line in done.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        sizes = []
    return [
        Device(name, sizes[int(name)] if name.isdigit() and int(name) < len(sizes) else max(sizes, default=0))
        for name in names
    ]
