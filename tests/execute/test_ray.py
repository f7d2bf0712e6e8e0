"""A Ray cluster of several nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import writers
from tools import plan_of, results_of, run_cells, wait_for

from harness.data.catalog import load_catalog
from harness.data.facts import Facts
from harness.environment import environment
from harness.errors import CellError, UserError
from harness.execute.executors.ray import RayExecutor, parcel
from harness.execute.executors.ray.executor import computing, connect, is_expected
from harness.execute.executors.ray.provision import catalog_here, project_files, provide
from harness.execute.node_environment import same_environment
from harness.execute.placement import GIB
from harness.execute.running import Progress, Run, Running
from harness.records import CellResult
from harness.store.database import Store
from harness.store.files import attempt_folder

KEY = bytes(range(32))
needs_ray = pytest.mark.skipif(RayExecutor.skip() is not None, reason=str(RayExecutor.skip()))

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
retain: [prose]
methods:
  base: {}
  lora: {learning_rate: 1e-2}
  merged: {method: merge, experts: {method: lora, learning_rate: 1e-2, learn: [colours, names]}}
seeds: [0, 1]
train: {steps: 20, batch_size: 4}
"""


@pytest.fixture
def cluster(project: Path, tmp_path: Path) -> Iterator[Any]:
    """A head without room for cells, a node that shares this process's cache, and one with a cache of its own."""
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
    made.shared = made.add_node(num_cpus=1, **common)
    made.apart = made.add_node(num_cpus=2, env_vars={"TUNEBENCH_CACHE": str(tmp_path / "apart")}, **common)
    yield made
    made.shutdown()


def items_of(root: Path, result: CellResult) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(attempt_folder(root / "results", result.attempt_id) / "items.parquet").to_pylist()
    return sorted(rows, key=lambda row: (row["task"], row["doc_id"], row["metric"]))


@pytest.mark.slow
@pytest.mark.process
@needs_ray
def test_a_node_is_killed_in_the_middle_and_nothing_is_lost(project: Path, cluster: Any) -> None:
    plan = plan_of(project, SUITE)
    killed: list[str] = []
    shared = cluster.shared.node_id[:6]

    def watch(progress: Progress) -> None:
        for running in progress.running:
            early = running.cell.n_train and running.events().get("phase") in (None, "load")
            if shared in running.device and early and not killed:
                killed.append(running.cell.key)
                cluster.remove_node(cluster.shared, allow_graceful=False)

    progress = run_cells(project, plan, executor=RayExecutor, watch=watch, address=cluster.address)
    assert killed
    assert set(map(str, progress.states.values())) == {"done"}
    on_ray = results_of(project)
    assert len(on_ray) == len(plan.cells) == 7
    assert {shared in result.device for result in on_ray if result.cell.key in killed} == {False}

    events = [
        json.loads(line) for path in project.glob("results/runs/*.jsonl") for line in path.read_text().splitlines()
    ]
    assert [event["message"].split()[0] for event in events if event["event"] == "warning"] == killed
    fetched = [name for event in events if event["event"] == "sources_fetched" for name in event["names"]]
    assert sorted(fetched) == ["colours", "names", "prose", "tiny"]

    theirs = {result.cell.key: (result.scores, items_of(project, result)) for result in on_ray}
    (project / "results").rename(project / "results-of-ray")
    run_cells(project, plan)
    assert {result.cell.key: (result.scores, items_of(project, result)) for result in results_of(project)} == theirs
    assert {result.environment.env_digest for result in [*on_ray, *results_of(project)]} == {environment(1).env_digest}


@needs_ray
@pytest.mark.slow
def test_no_cell_outlives_a_killed_command(project: Path) -> None:
    """kill -9 of a command that has a Ray cluster of its own: its cells' processes end too."""
    (project / "suites" / "long.yaml").write_text(SUITE.replace("steps: 20", "steps: 1000000"))
    command = [sys.executable, "-m", "harness.cli", "run", "long", "--executor", "ray", "--threads", "1"]
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        attempts = project / "results" / "attempts"

        def training() -> list[Path]:
            news = (path for path in attempts.glob("*/*/events.jsonl") if '"steps": 1000000' in path.read_text())
            return [path.parent for path in news]

        wait_for(training, 120)
        folder = training()[0]
        assert list(writers(folder.name))
    finally:
        os.kill(done.pid, signal.SIGKILL)
        done.wait()
    wait_for(lambda: not list(writers(folder.name)), 30)
    assert not (folder / "result.json").exists()


def test_cells_are_handed_over_as_the_cluster_has_room(project: Path, monkeypatch: Any) -> None:
    plan = plan_of(project, SUITE)
    cell = plan.cells[0]
    executor = executor_on(project, monkeypatch, [{"CPU": 4, "memory": 8 * GIB}, {"CPU": 2, "memory": 4 * GIB}], GIB)
    assert executor.refuse(cell) is None
    placed = []
    while (wanted := executor.take_slot(cell)) is not None:
        assert wanted == {"CPU": 2, "memory": GIB}
        placed.append(wanted)
        executor.progress.running.append(Running(cell, project, wanted))
    assert len(placed) == 3

    small = executor_on(project, monkeypatch, [{"CPU": 1, "memory": 8 * GIB}], GIB)
    assert small.refuse(cell) == "asks for 2 CPUs on one node; the largest node has 1. Give fewer --threads."
    narrow = executor_on(project, monkeypatch, [{"CPU": 2, "memory": GIB}], 3 * GIB)
    assert narrow.refuse(cell) == "is predicted to need 3.0 GiB; the largest node has 1.0 GiB"
    growing = executor_on(project, monkeypatch, [], GIB)
    assert growing.refuse(cell) is None
    assert growing.take_slot(cell) is not None  # so that a cluster that grows on demand does

    gpus = executor_on(project, monkeypatch, [{"CPU": 8, "GPU": 2}, {"CPU": 64}], 80 * GIB, "NVIDIA H100, NVIDIA H100")
    assert gpus.take_slot(cell) == {"GPU": 1, "CPU": 1}
    assert gpus.refuse(cell) is None
    trained = next(cell for cell in plan.cells if cell.n_train)
    many = replace(trained, train=trained.train.changed({"devices": 4}))
    assert gpus.refuse(many) == "asks for 4 GPUs on one node; the largest node has 2."


def executor_on(
    root: Path, monkeypatch: Any, nodes: list[dict[str, float]], predicted: int, accelerator: str = ""
) -> RayExecutor:
    """An executor of two threads a cell that believes in these nodes."""
    here = replace(environment(2), accelerator=accelerator)
    run = Run("run", here, Facts({}, {}), 2, predict=lambda cell: predicted)
    executor = RayExecutor(Store(root / "results"), run)
    executor.progress, executor.cuda = Progress(plan_of(root), {}), bool(accelerator)
    found = computing([{"Alive": True, "Resources": resources} for resources in nodes])
    monkeypatch.setattr(executor, "nodes", lambda: found)
    return executor


@pytest.mark.parametrize("size", [1, 5, 7, 100])
def test_a_parcel_is_cut_into_pieces_and_put_together(tmp_path: Path, monkeypatch: Any, size: int) -> None:
    monkeypatch.setattr(parcel, "PIECE_BYTES", size)
    folder = tmp_path / "from"
    (folder / "deep").mkdir(parents=True)
    for name, content in {"a": b"", "deep/b": b"0123456789", "deep/c": b"xy", "d": bytes(range(256))}.items():
        (folder / name).write_bytes(content)
    store: list[bytes] = []
    packed = parcel.pack(parcel.files_in(folder), lambda data: store.append(data) or len(store) - 1, KEY)
    assert max(map(len, store)) == min(size, 268)
    packed.unpack(tmp_path / "to", store.__getitem__, KEY)
    assert packed.lies_in(tmp_path / "to")
    (tmp_path / "to" / "deep" / "b").write_bytes(b"9876543210")
    assert not packed.lies_in(tmp_path / "to")


def test_a_parcel_that_was_changed_on_its_way_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    store: list[bytes] = []

    def packed(name: str = "a") -> parcel.Parcel:
        return parcel.pack({name: tmp_path / "a"}, lambda data: store.append(data) or len(store) - 1, KEY)

    sent, to = packed(), tmp_path / "to"
    with pytest.raises(CellError, match="signature is wrong"):
        sent.unpack(to, store.__getitem__, bytes(32))
    with pytest.raises(CellError, match="signature is wrong"):
        replace(sent, files=(("b", 10, sent.files[0][2]),)).unpack(to, store.__getitem__, KEY)
    with pytest.raises(CellError, match="its SHA-256 is another"):
        sent.unpack(to, lambda reference: b"9876543210", KEY)
    with pytest.raises(CellError, match="its SHA-256 is another"):
        replace(sent, pieces=()).unpack(to, store.__getitem__, KEY)
    for name in ("../out", "/tmp/out", "a/../../out"):
        with pytest.raises(CellError, match="outside its folder"):
            packed(name).unpack(to, store.__getitem__, KEY)
    assert [path for path in to.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "weights/../../evil", "job.json", "weights/../x"])
def test_a_node_cannot_write_elsewhere_on_the_driver(name: str) -> None:
    assert not is_expected("piece", name)
    assert not is_expected("follow", name)


def test_what_a_node_sends_is_expected() -> None:
    assert is_expected("follow", "log.txt")
    assert all(is_expected("piece", name) for name in ("items.parquet", "result.json", "weights/a/b", "documents/x"))


def test_a_slurm_job_that_was_changed_is_not_run(tmp_path: Path) -> None:
    from harness.execute.executors.slurm import run_cell
    from harness.execute.signing import signature_of

    (tmp_path / "job.json").write_bytes(b"{}")
    with pytest.raises(CellError, match="the job in .* is not what this run sent"):
        run_cell(str(tmp_path), environment(1), 1, KEY, signature_of(KEY, b"{ }"), {})


@pytest.mark.process
def test_a_node_that_sees_none_of_the_drivers_disk(project: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """It gets the project's files, prepares model and tasks itself, and has what the cell was planned with."""
    plan = plan_of(project, SUITE)
    (cell,) = (cell for cell in plan.cells if cell.label == "base")
    store: list[bytes] = []
    files = project_files(load_catalog(project))
    assert "suites/tasks/colours.csv" in files
    packed = parcel.pack(files, lambda data: store.append(data) or len(store) - 1, KEY)
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("harness.execute.executors.ray.provision.BEFORE", dict(os.environ))
    get = store.__getitem__
    models, tasks, fetched = provide(cell, packed, Path("/not/here"), get, KEY, {})
    assert sorted(fetched) == ["colours", "names", "prose", "tiny"]
    assert all(path.is_relative_to(tmp_path / "elsewhere" / "projects") for path in tasks.values())
    assert provide(cell, packed, Path("/not/here"), get, KEY, {}) == (models, tasks, [])
    other = replace(cell, fingerprints={**cell.fingerprints, "prose": "another"})
    with pytest.raises(CellError, match="task 'prose' is not the same on node"):
        provide(other, packed, Path("/not/here"), get, KEY, {})
    assert catalog_here(packed, project, get, KEY).root == project


def test_a_node_with_other_packages_is_refused_with_the_reason() -> None:
    here = environment(1)
    assert same_environment(replace(here, commit="c"), 1).commit == "c"
    older = replace(here, env_digest="other", packages={**here.packages, "peft": "0.1"})
    with pytest.raises(CellError, match=f"peft {here.packages['peft']} instead of 0.1. Every node"):
        same_environment(older, 1)
    with pytest.raises(CellError, match="no accelerator instead of NVIDIA H100"):
        same_environment(replace(here, env_digest="other", accelerator="NVIDIA H100"), 1)


@needs_ray
@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"), ("ray://head:10001", "Ray Client")]
)
def test_an_address_without_a_cluster_is_told_at_once(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        connect(address)
