"""One contract for every tracker found in harness/trackers, and each real client against a store in tmp_path."""

from __future__ import annotations

import inspect
import json
import math
import os
import struct
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from results_factory import OTHER, PROSE, TASK, Results, cell, scores

from harness.errors import UserError
from harness.records import CellResult, Flag, RunRecord, Status, Step
from harness.store.files import attempt_folder, shard
from harness.trackers import Tracker, TrackerGroup, all_trackers, open_trackers
from harness.trackers.content import content

pytestmark = pytest.mark.process  # trackers are told from a process of their own

TRACKERS = sorted(all_trackers())
RUN: RunRecord = {
    "run_id": "run-1", "suite": "demo", "question": "Does it learn?", "env_digest": "e" * 64,
    "started": "2026-01-02T10:00:00.000+00:00", "finished": None, "status": "running",
    "command": "tunebench run demo", "members": [], "margin": 0.02, "only_cells": [],
}  # fmt: skip


def read(folder: Path) -> CellResult:
    return CellResult.from_json(json.loads((folder / "result.json").read_text()))


@pytest.fixture
def attempts(tmp_path: Path) -> dict[str, Path]:
    """The folders of three attempts: the base model, a trained cell that names it, and one out of memory."""
    results = Results(tmp_path / "results")
    base = cell("base", family="no training")
    trained = cell("lora", 32, 1, baseline=base.spec_digest, settings={"rank": 8, "experts": {"learn": ["a", "b"]}})
    names = {
        "base": results.add(base, scores(0.60, 0.035, -5.25, 0.47)),
        "lora": results.add(
            trained, scores(0.80, 0.03, -5.35, 0.44), train_seconds=50.0, losses=[2.0, 1.0, 0.5],
            flags=[Flag("overfitting", {"step": 3})],
        ),
        "qlora": results.add(cell("qlora", 32, 1), status=Status.OOM, reason="resident memory passed 7.5 GiB"),
    }  # fmt: skip
    folders = {label: attempt_folder(results.folder, name) for label, name in names.items()}
    # Where the results folder was when the job was written.
    moved = f"/elsewhere/attempts/{shard(names['base'])}/{names['base']}/items.parquet"
    (folders["lora"] / "job.json").write_text(json.dumps({"baseline": moved}))
    return folders


def tell(trackers: TrackerGroup, attempts: dict[str, Path], status: str = "failed") -> None:
    trackers.begin(RUN)
    for folder in attempts.values():
        trackers.cell(read(folder), folder)
    trackers.end(status)


# --- the contract ---


@pytest.mark.parametrize("name", TRACKERS)
def test_it_describes_itself(name: str) -> None:
    kind = all_trackers()[name]
    assert kind.__doc__
    assert ":" in kind.__doc__
    assert kind.package
    assert kind.skip() is None or "pip install" in str(kind.skip())
    for hook in ("begin", "cell", "end"):
        assert list(inspect.signature(getattr(kind, hook)).parameters) == list(
            inspect.signature(getattr(Tracker, hook)).parameters
        )


@pytest.mark.parametrize("name", TRACKERS)
def test_its_name_is_an_extra_that_installs_its_client(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    kind = all_trackers()[name]
    assert f"{kind.package}>={kind.at_least}" in project["optional-dependencies"][name]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_or_old_client_is_said_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = all_trackers()[name]
    monkeypatch.setattr(kind, "package", "no-such-package")
    with pytest.raises(UserError, match=rf"no-such-package, which is not installed. Run: pip .*tunebench\[{name}\]"):
        open_trackers([name], print)
    monkeypatch.setattr(kind, "package", "pytest")
    monkeypatch.setattr(kind, "at_least", "999.0")
    with pytest.raises(UserError, match=r"pytest 999.0 or newer; version \d"):
        open_trackers([name], print)


def test_every_mistake_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_trackers()["wandb"], "package", "no-such-package")
    with pytest.raises(UserError, match="unknown tracker 'mlfow'. Did you mean 'mlflow'") as raised:
        open_trackers(["mlfow", "wandb", "wandb"], print)
    assert str(raised.value).count("not installed") == 1


def test_no_tracker_is_a_tracker_that_does_nothing(attempts: dict[str, Path]) -> None:
    complaints: list[str] = []
    tell(open_trackers([], complaints.append), attempts)
    assert complaints == []


# --- what is shown ---


def test_scores_stand_beside_the_untouched_models(attempts: dict[str, Path]) -> None:
    shown = content(read(attempts["lora"]), attempts["lora"]).metrics
    assert shown[f"{TASK}/acc"] == 0.80
    assert shown[f"{TASK}/acc_stderr"] == 0.03
    assert shown[f"{TASK}/acc_base"] == 0.60
    assert shown[f"{TASK}/acc_change"] == pytest.approx(0.20)
    assert shown[f"{PROSE}/log_likelihood_per_word_change"] == pytest.approx(-0.10)
    assert shown[f"{OTHER}/acc_change"] == pytest.approx(-0.03)
    assert shown["phase/train/seconds"] == 50.0
    assert shown["phase/train/rss_bytes"] == 1536 * 1024**2
    assert "phase/train/energy_j" not in shown
    assert shown["fact/trainable_params"] == 1e6
    alone = content(read(attempts["base"]), attempts["base"]).metrics
    assert not [name for name in alone if name.endswith(("_base", "_change"))]


def test_params_and_tags_say_what_it_is_and_how_it_ended(attempts: dict[str, Path]) -> None:
    shown = content(read(attempts["lora"]), attempts["lora"])
    assert shown.params["seed"] == 1
    assert shown.params["settings"]["rank"] == 8
    assert "seed" not in content(read(attempts["base"]), attempts["base"]).params
    assert shown.tags["flags"] == "overfitting"
    assert shown.tags["folder"] == str(attempts["lora"])
    assert shown.tags["status"] == "done"
    assert "reason" not in shown.tags
    out = content(read(attempts["qlora"]), attempts["qlora"]).tags
    assert out["status"] == "oom"
    assert out["reason"] == "resident memory passed 7.5 GiB"


def test_losses_of_one_step_stand_together(attempts: dict[str, Path]) -> None:
    from dataclasses import replace

    steps = (Step(2, "train", 1.5, 1e-3, 10, 0.1, 1.25), Step(1, "train", 2.0, 1e-3, 10, 0.1),
             Step(2, "validation", 1.8, None, None, None))  # fmt: skip
    shown = content(replace(read(attempts["lora"]), steps=steps), attempts["lora"])
    assert list(shown.series) == [1, 2]
    assert shown.series[2] == {
        "train/loss": 1.5, "train/cross_entropy": 1.25, "train/learning_rate": 1e-3, "validation/loss": 1.8,
    }  # fmt: skip


# --- a tracker that fails harms nothing. These are started in processes of their own, by their names ---


class Noting(Tracker):
    """Noting: writes down what it was told, in a file named by a variable."""

    name = "noting"
    environment = {"NOTES_STYLE": "plain"}

    def note(self, *words: str) -> None:
        with open(os.environ["NOTES"], "a") as file:
            print(*words, os.environ["NOTES_STYLE"], file=file)

    def begin(self, run: RunRecord) -> None:
        print("chatter")
        self.note("begin", run["run_id"], str(bool(run["members"])))

    def cell(self, result: CellResult, folder: Path) -> None:
        self.note("cell", result.cell.label, folder.name)

    def end(self, status: str) -> None:
        self.note("end", status)


class Raising(Tracker):
    """Raising: refuses every cell."""

    name = "raising"

    def cell(self, result: CellResult, folder: Path) -> None:
        raise ConnectionError("no network:\n  refused.")


class Hanging(Tracker):
    """Hanging: never answers."""

    name = "hanging"

    def cell(self, result: CellResult, folder: Path) -> None:
        time.sleep(1000)


class Crashing(Tracker):
    """Crashing: ends its process."""

    name = "crashing"

    def begin(self, run: RunRecord) -> None:
        os._exit(1)


class Asking(Tracker):
    """Asking: wants an answer from the keyboard."""

    name = "asking"

    def begin(self, run: RunRecord) -> None:
        input("key? ")


def test_one_that_fails_is_told_of_once_and_the_others_go_on(
    attempts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    complaints: list[str] = []
    trackers = TrackerGroup([Raising, Crashing, Asking, Noting], complaints.append)
    tell(trackers, attempts)
    assert sorted(complaint.partition(": ")[2].partition(". The")[0] for complaint in complaints) == [
        "ConnectionError: no network: refused", "EOFError: EOF when reading a line", "its process ended",
    ]  # fmt: skip
    assert (tmp_path / "notes").read_text().splitlines() == [
        "begin run-1 False plain",
        *(f"cell {label} {folder.name} plain" for label, folder in attempts.items()),
        "end failed plain",
    ]
    assert capfd.readouterr().out == ""
    trackers.end("failed")
    assert len(complaints) == 3


def test_one_that_hangs_is_waited_for_once(attempts: dict[str, Path]) -> None:
    complaints: list[str] = []
    trackers = TrackerGroup([Hanging], complaints.append, patience=5.0)
    trackers.begin(RUN)
    process = trackers.processes[0].process
    before = time.monotonic()
    for folder in attempts.values():
        trackers.cell(read(folder), folder)
    trackers.end("done")
    assert 4 < time.monotonic() - before < 20
    assert ["did not answer in time" in complaint for complaint in complaints] == [True]
    assert not process.is_alive()


# --- MLflow, in a database of its own ---


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracker.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return lambda: tracking.MlflowClient(f"sqlite:///{tmp_path}/tracker.db")


def test_mlflow_keeps_every_attempt_below_its_run(attempts: dict[str, Path], mlflow_client: Any) -> None:
    complaints: list[str] = []
    tell(open_trackers(["mlflow"], complaints.append), attempts)
    assert complaints == []
    client = mlflow_client()
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"run-1", "base/tiny/topic", "lora/tiny/topic/n32/s1", "qlora/tiny/topic/n32/s1"}
    parent, lora = runs["run-1"], runs["lora/tiny/topic/n32/s1"]
    assert parent.data.tags["command"] == "tunebench run demo"
    assert parent.info.status == "FAILED"
    assert lora.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert lora.info.status == "FINISHED"
    assert lora.info.end_time - lora.info.start_time == 60_000
    stored = read(attempts["lora"])
    expected = {
        "label": "lora", "method": "lora", "model": "tiny", "task": TASK, "n_train": "32", "seed": "1",
        "settings.rank": "8", "settings.experts.learn": '["a","b"]', "train.steps": "48",
    }  # fmt: skip
    assert expected.items() <= lora.data.params.items()
    assert lora.data.metrics[f"{TASK}/acc"] == 0.80
    assert lora.data.metrics[f"{TASK}/acc_base"] == 0.60
    assert lora.data.tags["spec_digest"] == stored.cell.spec_digest
    assert lora.data.tags["env_digest"] == stored.environment.env_digest
    assert lora.data.tags["commit"] == stored.environment.commit
    assert lora.data.tags["folder"] == str(attempts["lora"])
    losses = client.get_metric_history(lora.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    oom = runs["qlora/tiny/topic/n32/s1"]
    assert oom.info.status == "FAILED"
    assert oom.data.tags["status"] == "oom"
    assert oom.data.tags["reason"] == "resident memory passed 7.5 GiB"


def test_mlflow_takes_long_series_odd_names_and_losses_that_are_no_numbers(
    attempts: dict[str, Path], mlflow_client: Any
) -> None:
    from dataclasses import replace

    stored = read(attempts["lora"])
    steps = [Step(n + 1, "train", 1.0, 1e-3, 10, 0.1) for n in range(1200)] + [
        Step(1201, "train", math.nan, None, 1, 1)
    ]
    odd = replace(stored.scores[0], task="odd,task(1)")
    settings = {f"setting_{number}": number for number in range(150)}
    result = replace(stored, steps=tuple(steps), scores=(odd,), cell=replace(stored.cell, settings=settings))
    tracker = all_trackers()["mlflow"]()
    tracker.begin(RUN)
    tracker.cell(result, attempts["lora"])
    tracker.end("done")
    client = mlflow_client()
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id], "params.label = 'lora'")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 1201
    assert run.data.metrics["odd_task_1_/acc"] == 0.80
    assert run.data.params["settings.setting_149"] == "149"


def test_mlflow_without_a_server_leaves_a_warning(
    attempts: dict[str, Path], mlflow_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    complaints: list[str] = []
    tell(open_trackers(["mlflow"], complaints.append), attempts)
    (complaint,) = complaints
    assert "the tracker mlflow is off" in complaint
    assert "127.0.0.1:9" in complaint


# --- Weights & Biases, offline ---


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run's file: a LevelDB log of blocks of 32 KiB, after a header of 7 bytes.

    Each piece of a record has a header of 7 bytes: checksum, length, and 1 whole, 2 first, 3 middle, 4 last.
    """
    from wandb.proto import wandb_internal_pb2

    data, records, place, whole = path.read_bytes(), [], 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return records


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # were it to ask anybody, it would ask nobody
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "wandb"


def test_wandb_writes_a_run_for_every_attempt(
    attempts: dict[str, Path], wandb_offline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    complaints: list[str] = []
    tell(open_trackers(["wandb"], complaints.append), attempts)
    assert complaints == []
    assert capfd.readouterr() == ("", "")
    files = {path.stem.removeprefix("run-"): path for path in wandb_offline.glob("offline-run-*/run-*.wandb")}
    assert set(files) == {folder.name for folder in attempts.values()}
    records = wandb_records(files[attempts["lora"].name])
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("demo", "run-1", "lora/tiny/topic/n32/s1")
    assert list(run.tags) == ["lora", "tiny", TASK, "done"]
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert config["label"] == "lora"
    assert config["settings"]["rank"] == 8
    assert config["spec_digest"] == read(attempts["lora"]).cell.spec_digest
    assert config["folder"] == str(attempts["lora"])
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(row["_step"], row["train/loss"]) for row in history] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    summary = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in records
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary[f"{TASK}/acc"] == 0.80
    assert summary[f"{TASK}/acc_base"] == 0.60
    (ended,) = [record.exit for record in records if record.HasField("exit")]
    assert ended.exit_code == 0
    (oom,) = [r.exit for r in wandb_records(files[attempts["qlora"].name]) if r.HasField("exit")]
    assert oom.exit_code == 1


def test_wandb_without_a_key_leaves_a_warning(
    attempts: dict[str, Path], wandb_offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(wandb_offline / "no-netrc"))
    complaints: list[str] = []
    tell(open_trackers(["wandb"], complaints.append), attempts)
    (complaint,) = complaints
    assert "No API key configured" in complaint
