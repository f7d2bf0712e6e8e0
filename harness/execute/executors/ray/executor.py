"""Runs each cell as a Ray task on a node with room for it, and takes in its results as a stream.

No disk is shared: this process, the driver, alone writes the results. A task follows one cell's process (`node.py`) and
reports on it. Ray itself never retries, as a stream taken up in its middle would mix two executions. So the driver
starts a lost cell anew, in the same attempt folder, on whatever node is left.

Not covered: the memory of a node's GPUs (the node itself refuses a cell that is too large for them).
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import harness
from harness.data import load_catalog, trust
from harness.environment import cores, environment
from harness.errors import UserError
from harness.execute.executors.base import POLL_SECONDS, Executor
from harness.execute.executors.ray.node import FOLLOWED, Message, Order, run_cell
from harness.execute.executors.ray.parcel import Parcel, files_in, is_inside, pack
from harness.execute.executors.ray.provision import project_files
from harness.execute.node_environment import environment_here
from harness.execute.placement import ERROR, GIB
from harness.execute.running import Ended, Running
from harness.plan import devices_of
from harness.records import Cell, Environment, Job, Status
from harness.store import ITEMS, RESULT, neighbours_of, note_neighbour, read_result, settle, write_result

if TYPE_CHECKING:
    from ray import ObjectRefGenerator

INCOMING = ".incoming"  # pieces on their way; what is left of them goes when the attempt is taken in
TAKE_SECONDS = 1.0  # for one cell's pieces at a time, so that the others are not kept waiting
GRACE_SECONDS = 15.0  # the node gives a cell's processes five to end politely, and five more
LOSSES = 3
BUFFERED = 4  # messages of a cell that wait to be taken in; then its task waits
STORE_BYTES = 512 * 2**20  # of shared memory, for a cluster of this machine alone
NODES_SECONDS = 2.0
CONNECT_SECONDS = 10.0
WAITING = "waiting for a node"


class Node(TypedDict):
    """The part of Ray's description of a node that is used here."""

    NodeID: str
    NodeManagerHostname: str
    Alive: bool
    Resources: dict[str, float]  # CPU, GPU: a number; memory: bytes


@dataclass
class Sent:
    """A cell that was handed to Ray: its stream of messages, the node it came to, and how often it was lost."""

    order: Order
    stream: ObjectRefGenerator
    node: str = ""
    ran: float = 0.0  # seconds; the time limit counts those of the cell's process alone
    over: bool = False  # its process has ended; what it left is on its way
    losses: int = 0


OnCluster = Running[dict[str, float], Sent]  # its slot is what the cell asks of a node, by Ray's names


class RayExecutor(Executor[dict[str, float], Sent]):
    """Executor that runs cells on the nodes of a Ray cluster, or on a cluster that is started on this machine."""

    name = "ray"

    @classmethod
    def skip(cls) -> str | None:
        """Returns why Ray cannot be used (it is not installed); None when it can."""
        if importlib.util.find_spec("ray") is None:
            return "needs Ray: pip install 'tunebench[ray]'"
        return None

    @classmethod
    def environment(cls, threads: int | None, jobs: int | None, address: str) -> tuple[Environment, int]:
        """Returns (a node's environment, the CPU threads of a cell). A node is asked, as this machine may have no GPU.
        Threads that are not given (None) are a node's CPUs divided among the cells that it runs at a time. Raises
        UserError where no cluster answers at `address`, or where it has no node yet to count threads on.

        Whether all nodes are alike is checked by each cell before it begins.
        """
        import ray

        connect(address)
        nodes = computing(ray.nodes())
        if not nodes and not threads:
            raise UserError("the Ray cluster has no node with CPUs yet: wait for one, or give --threads.")
        gpus = max((node["Resources"].get("GPU", 0) for node in nodes), default=0)
        cells = max(gpus, math.ceil((jobs or 1) / max(1, len(nodes))))  # at a time, on a node
        count = threads or max(1, int(min(node["Resources"].get("CPU", 1) for node in nodes) // cells))
        task = ray.remote(environment_here).options(num_cpus=1, num_gpus=min(1, gpus))
        here = environment(count)
        return replace(ray.get(task.remote(count)), commit=here.commit, dirty=here.dirty), count

    def open(self) -> None:
        """Join the cluster, and put the project's files into Ray's store."""
        import ray

        connect(self.run_info.address)
        self.task = ray.remote(run_cell)
        self.cuda = bool(self.run_info.environment.accelerator)
        self.project = pack(project_files(load_catalog(self.run_info.root)), ray.put, self.run_info.key)
        self.parcels: dict[str, Parcel] = {}  # spec_digest -> weights that cells under way or to come need
        waiting = [cell for cell in self.progress.plan.cells if cell.spec_digest in self.queue.waits]
        self.needed = Counter(need for cell in waiting for need in cell.loads.values())
        self.looked, self.known_nodes = 0.0, list[Node]()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        ray.shutdown()

    # --- room ---

    def nodes(self) -> list[Node]:
        """Returns the nodes on which cells can run. Ray is asked again after two seconds at the earliest."""
        import ray

        if time.monotonic() - self.looked > NODES_SECONDS:
            self.known_nodes = computing(ray.nodes())
            self.looked = time.monotonic()
        return self.known_nodes

    def wants(self, cell: Cell) -> dict[str, float]:
        """Returns the resources that a cell asks of a node, by Ray's names: {"GPU", "CPU"} in number on a cluster with
        GPUs; else {"CPU", "memory"}, its threads and its predicted bytes (left out where unknown)."""
        if self.cuda:
            return {"GPU": devices_of(cell), "CPU": 1}  # what is predicted is the GPU's memory
        wanted: dict[str, float] = {"CPU": self.run_info.threads}
        if predicted := self.run_info.predict(cell):
            largest = max((node["Resources"].get("memory", 0) for node in self.nodes()), default=0)
            # One that is refused only with a margin must not wait for ever for what is within the margin.
            wanted["memory"] = min(predicted, largest) if largest else predicted
        return wanted

    def refuse(self, cell: Cell) -> str | None:
        """Returns why the cell can never run: it asks for more memory, GPUs or CPUs than the largest node has. None
        where it can, or where there are no nodes yet."""
        wanted = self.wants(cell)
        nodes = [node["Resources"] for node in self.nodes()]
        if not nodes:
            return None  # a cluster may grow
        predicted = self.run_info.needed(cell) or 0
        memory = max(node.get("memory", 0) for node in nodes)
        if not self.cuda and predicted * (1 - ERROR) > memory:
            return f"is predicted to need {predicted / GIB:.1f} GiB; the largest node has {memory / GIB:.1f} GiB"
        for name in ("GPU", "CPU"):
            most = max(node.get(name, 0) for node in nodes)
            if wanted.get(name, 0) > most:
                hint = " Give fewer --threads." if name == "CPU" else ""
                return f"asks for {wanted[name]:g} {name}s on one node; the largest node has {most:g}.{hint}"
        return None

    def take_slot(self, cell: Cell) -> dict[str, float] | None:
        """Returns the resources that the cell asks for, when the cluster has as much to spare; else None. Ray chooses
        the node.

        With a number of jobs, that many cells are handed over whatever there is to spare: a cluster that grows on
        demand then grows.
        """
        wanted, running = self.wants(cell), self.progress.running
        if self.run_info.jobs:
            return wanted if len(running) < self.run_info.jobs else None
        for name, amount in wanted.items():
            there = sum(node["Resources"].get(name, 0) for node in self.nodes())
            if running and sum(other.slot.get(name, 0) for other in running) + amount > there:
                return None
        return wanted

    def release(self, running: OnCluster) -> None:
        """Let go of weights that this cell needed and no other cell of this run needs."""
        running.device = running.device.removeprefix(WAITING)  # where it ran, for the result: nowhere
        for need in running.cell.loads.values():
            self.needed[need] -= 1
            if self.needed[need] <= 0:
                self.parcels.pop(need, None)

    def neighbours(self, running: OnCluster) -> list[OnCluster]:
        """Returns none, as the node is not known yet when a cell starts: see `_placed`."""
        return []

    # --- a cell's course ---

    def launch(self, running: OnCluster, job: Job) -> None:
        """Hand the cell to Ray, with the weights that it needs; sets `handle` and `device` of `running`. It begins when
        a node has room."""
        import ray

        for need in running.cell.loads.values():
            if need not in self.parcels:
                self.parcels[need] = pack(files_in(self.weights[need] / "weights"), ray.put, self.run_info.key)
        order = Order(
            job=job,
            folder=str(running.folder),
            root=str(self.run_info.root.resolve()),
            project=self.project,
            needs={role: self.parcels[need] for role, need in running.cell.loads.items()},
            baseline=pack({ITEMS: job.baseline}, ray.put, self.run_info.key) if job.baseline else None,
            documents=frozenset(files_in(self.store.folder / "documents")),
            limits=self.run_info.limits,
            key=self.run_info.key,
            revisions=self.progress.plan.revisions(),
            trusted=trust.passed_on(),
        )
        running.handle = Sent(order, self._send(order, running.slot))
        running.device = WAITING

    def _send(self, order: Order, wanted: dict[str, float]) -> ObjectRefGenerator:
        return self.task.options(
            name=order.job.cell.key,
            num_cpus=wanted["CPU"],
            num_gpus=wanted.get("GPU", 0),
            memory=wanted.get("memory"),
            scheduling_strategy="SPREAD",
            max_retries=0,
            num_returns="streaming",
            _generator_backpressure_num_objects=BUFFERED,
        ).remote(order)

    def ended(self, running: OnCluster) -> Ended | None:
        """Take in what a cell's task has sent, for a second at most. Returns how the cell ended; None while it waits or
        runs."""
        deadline = time.monotonic() + TAKE_SECONDS
        sent = running.launched
        ended = None
        while ended is None and time.monotonic() < deadline:
            message = self._message(running)
            if message is None:
                break
            ended = message if isinstance(message, Ended) else self._take(running, message)
        if not sent.node or sent.over:
            running.started = time.monotonic() - sent.ran
        if ended is None and not sent.node and self.progress.stopping:
            self.kill(running)
            return Ended(Status.INTERRUPTED, "stopped before a node had room for it")
        return ended

    def _message(self, running: OnCluster) -> Message | Ended | None:
        """Returns the next message of a cell's task, or how the task ended; None when there is neither at present."""
        import ray

        sent = running.launched
        if not sent.stream.next_ready() and not sent.stream.is_finished():
            return None
        try:
            message: Message = ray.get(next(sent.stream))
            return message
        except StopIteration:
            return Ended(Status.FAILED, "its task ended without a word")
        except ray.exceptions.RayTaskError as error:
            return Ended(Status.FAILED, f"its task failed: {str(error.cause)[:500]}")
        except ray.exceptions.RayError as error:
            return self._lost(running, error)

    def _take(self, running: OnCluster, message: Message) -> Ended | None:
        """Take in a message of a cell's task. Returns how the cell ended where it is the last one, else None."""
        kind, name, what = message
        sent = running.launched
        if kind in ("follow", "piece") and not is_expected(kind, name):
            return Ended(Status.FAILED, f"its node sent a file {name!r}, which is none of a cell's; it was not kept")
        if kind == "placed":
            self._placed(running, name, what)
        elif kind == "fetched":
            self.log.append("sources_fetched", node=self._name_of(name), names=what)
        elif kind == "follow":
            append(running.folder / name, what)
        elif kind == "piece":
            sent.ran, sent.over = sent.ran if sent.over else running.seconds, True
            append(running.folder / INCOMING / name, what)
        elif kind == "ended":
            sent.ran, sent.over = sent.ran if sent.over else running.seconds, True
            self._settle_files(running)
            return Ended(Status(name), what)
        return None

    def _placed(self, running: OnCluster, node: str, device: str) -> None:
        """Record that a cell's process has begun on a node: its time runs from here, and on a CPU the node's other
        cells are its neighbours."""
        running.started = time.monotonic()
        running.launched.node = node
        running.device = f"{self._name_of(node)} {device}".removesuffix(" cpu")
        self.log.append("cell_placed", key=running.cell.key, attempt_id=running.folder.name, device=running.device)
        if not self.cuda:  # GPUs are a cell's own; a node's processor is shared
            for other in self.progress.running:
                if other is not running and other.launched.node == node:
                    note_neighbour(other.folder, running.cell.key)
                    note_neighbour(running.folder, other.cell.key)

    def _lost(self, running: OnCluster, error: Exception) -> Ended | None:
        """Start a cell anew whose node was lost, which is no fault of the cell's. Returns None, or how the cell ended
        when it was lost too often (`LOSSES`)."""
        import ray

        sent = running.launched
        sent.losses += 1
        reason = str(error).splitlines()[0]
        where = self._name_of(sent.node) if sent.node else "a node"
        if sent.losses >= LOSSES:
            out_of_memory = isinstance(error, ray.exceptions.OutOfMemoryError)
            status = Status.OOM if out_of_memory else Status.INTERRUPTED
            return Ended(status, f"lost {sent.losses} times, at last with {where}: {reason}")
        self.log.append("warning", message=f"{running.cell.key} was lost with {where} and starts anew: {reason}")
        shutil.rmtree(running.folder / INCOMING, ignore_errors=True)
        for name in FOLLOWED:
            (running.folder / name).unlink(missing_ok=True)
        running.handle = replace(sent, stream=self._send(sent.order, running.slot), node="", ran=0.0, over=False)
        running.device = WAITING
        return None

    def _settle_files(self, running: OnCluster) -> None:
        """Move the files that have come to their final names, the result last."""
        incoming, folder = running.folder / INCOMING, running.folder
        if not (incoming / RESULT).exists():
            return
        for name, path in files_in(incoming / "documents").items():
            target = self.store.folder / "documents" / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                settle(path, target)
        for name in (ITEMS, "weights"):
            if (incoming / name).exists():
                settle(incoming / name, folder / name)
        beside = neighbours_of(folder)
        result = read_result(incoming)
        result = replace(result, attempt_id=folder.name, device=running.device, beside=beside, contended=bool(beside))
        write_result(folder, result)

    def kill(self, running: OnCluster) -> None:
        """End a cell: its task is interrupted, and ends the cell's processes before it ends; if it does not, Ray ends
        the task."""
        import ray

        for force in (False, True):
            ray.cancel(running.launched.stream, force=force)
            if self._drained(running.launched.stream, GRACE_SECONDS):
                return

    def _drained(self, stream: ObjectRefGenerator, seconds: float) -> bool:
        """Returns whether a task ends within some seconds; the messages that it still sends are dropped."""
        import ray

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if stream.next_ready() or stream.is_finished():
                try:
                    ray.get(next(stream))
                except (StopIteration, ray.exceptions.RayError):
                    return True
            else:
                time.sleep(POLL_SECONDS / 5)
        return False

    def wait(self, seconds: float) -> None:
        """Return when a cell's task has sent something, at the latest after `seconds`."""
        import ray

        streams = [running.launched.stream for running in self.progress.running]
        ray.wait(streams, timeout=seconds) if streams else super().wait(seconds)

    def _name_of(self, node_id: str) -> str:
        """Returns a node's host name, with the beginning of its id where several nodes share a host."""
        hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in self.nodes()}
        host = hosts.get(node_id, "")
        alone = list(hosts.values()).count(host) == 1
        return host if alone else f"{host}-{node_id[:6]}".removeprefix("-")


def is_expected(kind: str, name: str) -> bool:
    """Returns whether a node may send a file of this name: news of one of the files that are followed, or a piece of
    what a cell leaves behind. A name that leads elsewhere is none."""
    if kind == "follow":
        return name in FOLLOWED
    return name in (ITEMS, RESULT) or (is_inside(name) and name.split("/")[0] in ("weights", "documents"))


def computing(nodes: list[Node]) -> list[Node]:
    """Returns those of Ray's `nodes` on which cells can run: living ones with GPUs or, if there are none, with CPUs."""
    alive = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    return [node for node in alive if node["Resources"].get("GPU")] or alive


def connect(address: str) -> None:
    """Join the cluster at an address (or, where it is "", at RAY_ADDRESS), or start one here. Raises UserError where
    none answers.

    The nodes get this process's own code, so that all compute with the same tunebench.
    """
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise UserError(
            f"--address {address}: Ray Client cannot stream results. Run tunebench on a node of the cluster (with "
            "`ray job submit`, or on the head), and give --address auto."
        )
    host, _, port = address.rpartition(":")
    options: dict[str, object] = {}
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError as error:  # Ray itself would try for more than a minute
            raise UserError(
                f"no Ray cluster answers at {address}: {error}. `ray status` shows one's address."
            ) from error
    elif address == "local":
        options = {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": STORE_BYTES}
        os.environ.setdefault("RAY_worker_niceness", "0")  # cells are timed: not behind whatever else runs here
    code = str(Path(harness.__file__).parent)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level="ERROR", runtime_env={"py_modules": [code]}, **options
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot join the Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray puts its own in their place


def append(path: Path, data: bytes) -> None:
    """Add bytes at the end of a file; file and folder are made where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
