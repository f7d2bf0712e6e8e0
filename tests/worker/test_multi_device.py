"""Several devices a cell, as two processes that talk over gloo: the same experiment as one process's."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools import by_label, cell_named, plan_of, results_of, run_cells, wait_for, write_job

from harness.records import CellResult, Status
from harness.store import files

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [16]}
retain: [prose]
methods: {base: {}}
train: {steps: 8, batch_size: 4}
"""


def suite(labels: dict[str, Any], n_train: int = 16) -> str:
    text = yaml.safe_load(SUITE)
    text["methods"] |= labels
    text["tasks"][0]["sizes"] = [n_train]
    return yaml.safe_dump(text)


def run_both(project: Path, method: dict[str, Any], n_train: int = 16, strategy: str = "ddp") -> list[CellResult]:
    """The results of a method on one device and on two."""
    train = {**method.pop("train", {}), "fast": []}  # several devices pad; rounding would tell the two apart
    labels = {
        "one": {**method, "train": train},
        "two": {**method, "train": {**train, "devices": 2, "strategy": strategy}},
    }
    progress = run_cells(project, plan_of(project, suite(labels, n_train)))
    found = {result.cell.label: result for result in results_of(project)}
    assert set(map(str, progress.states.values())) == {"done"}, [result.reason for result in found.values()]
    assert (attempt_folder(project, found["two"]) / "log-1.txt").exists()  # there was a second process
    return [found["one"], found["two"]]


def attempt_folder(project: Path, result: CellResult) -> Path:
    return files.attempt_folder(project / "results", result.attempt_id)


def assert_same(project: Path, one: CellResult, two: CellResult) -> None:
    losses = [[step.loss for step in result.steps] for result in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name in ("step", "split", "tokens", "learning_rate"):
        assert [getattr(step, name) for step in two.steps] == [getattr(step, name) for step in one.steps]
    for score in one.scores:
        other = next(x for x in two.scores if (x.task, x.metric) == (score.task, score.metric))
        assert other.value == pytest.approx(score.value, rel=1e-4), score.metric
    counts = [[(phase.phase, phase.tokens, phase.samples) for phase in result.phases] for result in (one, two)]
    assert counts[0] == counts[1]
    facts = [{fact.name: fact.value for fact in result.facts} for result in (one, two)]
    for name in ("trainable_params", "total_params", "optimizer_steps", "artifact_bytes"):
        assert facts[0][name] == facts[1][name], name
    first, second = weights(project, one), weights(project, two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).abs().max() < 1e-4, name


def weights(project: Path, result: CellResult) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(next((attempt_folder(project, result) / "weights").glob("*.safetensors")))


@pytest.mark.process
@pytest.mark.parametrize(
    ("method", "n_train"),
    [
        ({"method": "full", "learning_rate": 1e-3, "train": {"steps": 12, "weight_decay": 0.1}}, 16),
        pytest.param(
            {"method": "lora", "train": {"gradient_accumulation": 2, "gradient_checkpointing": True}},
            16,
            marks=pytest.mark.slow,
        ),
        # 5 examples in batches of 4, validated in sevens: of each second batch, one device has nothing
        ({"method": "prompt_tuning", "train": {"eval_every": 3, "eval_batch_size": 7, "early_stopping": 9}}, 5),
        pytest.param(
            {"method": "layerwise", "layers": 1, "layer_decay": 0.5, "train": {"epochs": 3, "optimizer": "adafactor"}},
            10,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_are_the_one_process_run(project: Path, method: dict[str, Any], n_train: int) -> None:
    assert_same(project, *run_both(project, method, n_train))


@pytest.mark.process
@pytest.mark.parametrize(
    "method",
    [
        {"method": "full", "train": {"gradient_accumulation": 2, "eval_every": 4, "early_stopping": 9}},
        pytest.param({"method": "lora", "train": {"gradient_checkpointing": True}}, marks=pytest.mark.slow),
    ],
)
def test_divided_weights_are_gathered(project: Path, method: dict[str, Any]) -> None:
    assert_same(project, *run_both(project, method, strategy="fsdp"))


@pytest.mark.process
def test_divergence_is_told_apart(project: Path) -> None:
    plan = plan_of(project, suite({"full": {"learning_rate": 1e30, "train": {"devices": 2}}}))
    assert by_label(plan, run_cells(project, plan)) == {"base": "done", "full": "diverged"}
    assert "the training loss is" in results_of(project)[-1].reason
    assert results_of(project)[-1].steps


# --- what goes wrong on one rank ---


def out_of_memory() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


def fault() -> None:
    raise KeyError("what rank 1 lacks")


def stuck() -> None:
    import time

    time.sleep(1000)


FAULTS: dict[str, Any] = {
    "out_of_memory": out_of_memory,
    "fault": fault,
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stuck": stuck,
}


def cell_process(folder: str, name: str, phase: str) -> None:
    """A cell's process, whose second rank has a fault as it begins (`load`), or after a step (`train`)."""
    from harness.worker import run
    from harness.worker.cell import CellRun
    from harness.worker.profiling.meter import StepRecorder

    os.setsid()
    target: Any = CellRun if phase == "load" else StepRecorder
    hook = "course" if phase == "load" else "on_step_end"
    sound = getattr(target, hook)

    def faulty(*arguments: Any, **options: Any) -> Any:
        if os.environ.get("RANK") == "1":
            (Path(folder) / "reached").touch()
            FAULTS[name]()
        return sound(*arguments, **options)

    setattr(target, hook, faulty)
    run(Path(folder), "cpu")


def start_cell(project: Path, fault: str, phase: str) -> tuple[Any, Path]:
    plan = plan_of(project, suite({"lora": {"train": {"devices": 2}}}))
    folder = project / "attempt"
    write_job(plan, cell_named(plan, "lora/tiny/colours/n16/s0"), folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.worker.preload"])
    process = context.Process(target=cell_process, args=(str(folder), fault, phase))
    process.start()
    return process, folder


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.process
@pytest.mark.parametrize(
    ("fault", "phase", "status", "reason"),
    [
        ("out_of_memory", "train", Status.OOM, "rank 1: RuntimeError: CUDA out of memory"),
        pytest.param("fault", "load", Status.FAILED, "rank 1: KeyError: 'what rank 1 lacks'", marks=pytest.mark.slow),
        ("fault", "train", Status.FAILED, "rank 1: KeyError: 'what rank 1 lacks'"),
        pytest.param(
            "crash", "train", Status.FAILED, "rank 1: the process ended with signal 11", marks=pytest.mark.slow
        ),
        ("exit", "load", Status.FAILED, "rank 1: the process ended with exit code 3"),
        # as for a cell of one process: no evidence of anything
        ("kill", "train", Status.INTERRUPTED, "rank 1: the process was killed by signal 9"),
    ],
)
def test_a_failing_rank_ends_the_cell(project: Path, fault: str, phase: str, status: Status, reason: str) -> None:
    process, folder = start_cell(project, fault, phase)
    process.join(60)
    assert process.exitcode == 0
    result = CellResult.from_json(json.loads((folder / "result.json").read_text()))
    assert (result.status, result.reason[: len(reason)]) == (status, reason)
    assert result.scores == ()
    assert group_is_gone(process.pid)
    assert not list(folder.glob("rank-*.json"))


@pytest.mark.process
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_stuck_rank_ends_with_its_cell(project: Path, whole_group: bool) -> None:
    process, folder = start_cell(project, "stuck", "train")
    wait_for((folder / "reached").exists, 60)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.join(10)
    wait_for(lambda: group_is_gone(process.pid), 10)
    assert not (folder / "result.json").exists()


REAL = """\
version: 1
models: [smollm2-135m]
tasks:
  - {learn: bbc-few, sizes: [8]}
methods:
  one: {method: lora}
  two: {method: lora, train: {devices: 2}}
train: {steps: 2, batch_size: 4}
"""


@pytest.mark.slow  # the tiny model goes the same way in seconds
@pytest.mark.real
@pytest.mark.timeout(600)
def test_the_real_model_too(tmp_path: Path) -> None:
    tasks = tmp_path / "suites" / "tasks"
    shutil.copytree(Path(__file__).parents[2] / "suites", tmp_path / "suites")
    text = (tasks / "bbc-topic.yaml").read_text().replace("test: 200", "test: 10")
    (tasks / "bbc-few.yaml").write_text(text.replace("task: bbc-topic\n", "task: bbc-few\n"))
    run_cells(tmp_path, plan_of(tmp_path, REAL, "real"))
    found = {result.cell.label: result for result in results_of(tmp_path)}
    assert {label: result.reason for label, result in found.items()} == {"base": "", "one": "", "two": ""}
    assert_same(tmp_path, found["one"], found["two"])
