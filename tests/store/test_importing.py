"""Published results of peft's comparison: small files of the same shape, from a folder, a zip and a git history."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import refused, tunebench

from harness.analysis.regression import changes_between
from harness.errors import UserError
from harness.store import Store, all_environments, import_published, latest_run, member_rows

METHODS = ("lora", "dora", "oft", "vera", "ia3", "miss")


def published(
    name: str = "lora/llama-rank32", accuracy: float = 0.48, created: str = "2026-01-10T03:01:44+00:00",
    peft: str = "0.18.1.dev0", **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """One result, with the fields that peft's script writes."""
    found: dict[str, Any] = {
        "run_info": {
            "created_at": created, "total_time": 1332.3, "experiment_name": name, "peft_branch": "main",
            "train_config": {
                "model_id": "meta-llama/Llama-3.2-3B", "dtype": "bfloat16", "batch_size": 4, "max_steps": 5000,
                "compile": False, "seed": 0, "optimizer_kwargs": {"lr": 0.0001}, "attn_implementation": None,
            },
            "peft_config": {
                "peft_type": name.split("/")[0].upper(), "peft_version": f"{peft}@UNKNOWN", "r": 32,
                "target_modules": ["v_proj", "q_proj"], "modules_to_save": None,
            },
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": 14, "accelerator_memory_max": 21533556736, "train_time": 1088.9,
            "file_size": 19204328, "num_trainable_params": 9175040, "num_total_params": 3221924864,
            "status": "success",
            "metrics": [
                {"step": 250, "valid accuracy": 0.34, "train loss": 1.1, "train samples": 1000, "train time": 33.5},
                {"step": 5000, "valid accuracy": 0.46, "train loss": 0.6, "train samples": 20000, "train time": 33.0},
                {
                    "step": 5000, "test accuracy": accuracy, "train loss": 0.6, "train samples": 20000,
                    "train total tokens": 4198051, "forgetting": 0.05,
                },
            ],
        },
        "meta_info": {
            "model_info": {"sha": "13afe5124825", "created_at": "2024-09-18T15:23:48+00:00"},
            "dataset_info": {"gsm8k": {"sha": "740312add88f781978", "created_at": "2022-04-12T10:22:10+00:00"}},
            "package_info": {
                "transformers-version": "4.57.1", "transformers-commit-hash": None, "peft-version": peft,
                "peft-commit-hash": "8be1a16", "torch-version": "2.9.0+cu128",
            },
            "system_info": {"system": "Linux", "release": "6.14", "processor": "x86_64", "accelerator": "NVIDIA L40S"},
            "pytorch_info": "PyTorch built with …",
        },
    }  # fmt: skip
    for path, value in changes.items():
        *parts, last = path.split("__")
        at = found
        for part in parts:
            at = at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return found


def file_of(folder: Path, result: dict[str, Any], name: str = "") -> Path:
    name = name or result["run_info"]["experiment_name"].replace("/", "--")
    path = folder / "method_comparison" / "MetaMathQA" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def two_series(folder: Path) -> None:
    """Every method loses 1.2 to 2.2 points between two versions."""
    for place, method in enumerate(METHODS):
        name = f"{method}/llama"
        file_of(folder, published(name, 0.48), f"{method}-old")
        later = published(name, 0.468 - 0.002 * place, "2026-07-15T00:19:55+00:00", "0.19.2.dev0")
        later["run_info"]["peft_config"] |= {"lora_ga_config": None, "use_bdlora": False, "rank_pattern": {}}
        file_of(folder, later, f"{method}-new")


def taken_in(root: Path, path: Path) -> Store:
    import_published(root, path)
    store = Store(root)
    with store.open() as connection:
        assert store.ingest(connection) == []
    return store


def test_a_folder_becomes_environments_cells_and_runs_of_their_own(tmp_path: Path) -> None:
    two_series(tmp_path / "in")
    found = import_published(tmp_path / "out", tmp_path / "in")
    assert (found.attempts, found.cells, len(found.environments), found.complaints) == (12, 6, 2, [])
    store = taken_in(tmp_path / "out", tmp_path / "in")
    with store.open(read_only=True) as connection:
        assert sorted(all_environments(connection)) == sorted(found.environments)
        run = latest_run(connection, "peft-method-comparison")
        assert run
        assert run.environment["packages"] == {
            "peft": "0.19.2.dev0", "torch": "2.9.0+cu128", "transformers": "4.57.1", "dataset:gsm8k": "740312add8",
        }  # fmt: skip
        rows = {row.label: row for row in member_rows(connection, run)}
        lora = rows["lora--llama"]
        assert (lora.method, lora.family, lora.task, lora.n_train, lora.seed) == (
            "imported",
            "lora",
            "MetaMathQA",
            20000,
            0,
        )
        assert [(score.metric, score.value, score.higher_is_better) for score in lora.scores] == [
            ("accuracy", 0.468, True), ("forgetting", 0.05, False),
        ]  # fmt: skip
        assert lora.phases["train"]["seconds"] == 66.5
        assert lora.facts["trainable_params"] == 9175040


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    two_series(tmp_path / "in")
    import_published(tmp_path / "out", tmp_path / "in")
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "out").rglob("*.json"))
    again = import_published(tmp_path / "out", tmp_path / "in")
    assert (again.attempts, again.known) == (0, 12)
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "out").rglob("*.json")) == files


def test_the_axis_moved_between_two_published_series(tmp_path: Path) -> None:
    two_series(tmp_path / "in")
    store = taken_in(tmp_path / "out", tmp_path / "in")
    with store.open(read_only=True) as connection:
        new, old = all_environments(connection)
        found = changes_between(connection, old, new)
    accuracy = found.metrics[0]
    assert accuracy.pattern.shape == "everything"
    assert accuracy.pattern.sentence.startswith("everything moved by −1.7 points")
    assert accuracy.pattern.down == 6
    assert {cell.answer for cell in accuracy.cells} == {"cannot tell"}
    times = next(metric for metric in found.metrics if metric.metric == "train_seconds")
    assert {change.answer for change in times.changes} <= {"cannot tell", "same"}


def test_a_git_history_gives_every_version_of_a_file(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    environment = {
        **os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null",
    }  # fmt: skip

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True, env=environment)

    repository.mkdir()
    git("init", "-q")
    versions = [
        published(accuracy=0.48),
        published(accuracy=0.48, meta_info__system_info__accelerator="NVIDIA L40S, 2"),  # the same run, told again
        published(accuracy=0.46, created="2026-07-15T00:00:00+00:00", peft="0.19.2.dev0"),
    ]
    for version in versions:
        file_of(repository, version)
        git("add", "-A")
        git("commit", "-q", "-m", "results")
    for path in (repository, repository / ".git", repository / "method_comparison"):
        out = tmp_path / f"out-{path.name}"
        found = import_published(out, path)
        assert (found.attempts, found.cells, len(found.environments)) == (2, 1, 2), path
        told = [json.loads(file.read_text()) for file in out.rglob("result.json")]
        assert "NVIDIA L40S, 2" in {one["environment"]["accelerator"] for one in told}


def test_a_zip_is_read_without_unpacking_it(tmp_path: Path) -> None:
    two_series(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        for path in sorted((tmp_path / "in").rglob("*.json")):
            archive.write(path, f"../../{path.relative_to(tmp_path / 'in')}")
    found = import_published(tmp_path / "out", tmp_path / "results.zip")
    assert found.attempts == 12
    (tmp_path / "broken.zip").write_bytes((tmp_path / "results.zip").read_bytes()[:-900] + b"PK\5\6" + b"\0" * 18)
    with pytest.raises(UserError, match="result of peft's method_comparison|damaged"):
        import_published(tmp_path / "other", tmp_path / "broken.zip")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_info": None}, "train_info: is missing"),
        ({"run_info__created_at": "yesterday"}, "run_info.created_at: got 'yesterday'"),
        ({"run_info__experiment_name": None}, "run_info: has no field 'experiment_name'"),
        ({"train_info__metrics": [3]}, "train_info.metrics[0]"),
        ({"train_info__status": "splendid"}, "train_info.status: got 'splendid'"),
        ({"run_info__train_config__seed": None}, "run_info.train_config.seed: is missing"),
        ({"run_info__train_config__seed": -1}, "run_info.train_config.seed: got -1"),
        ({"meta_info__package_info": []}, "meta_info.package_info"),
        ({"train_info__metrics": []}, "train_info.metrics: is empty"),
        ({"run_info__train_config__seed": 2**70}, "run_info.train_config.seed: got 1180591620717411303424"),
        ({"run_info__total_time": float("nan")}, "seconds"),
    ],
)
def test_another_shape_is_named_with_its_field_and_left_out(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file_of(tmp_path / "in", published())
    path = file_of(tmp_path / "in", published(**changes), "odd")
    found = import_published(tmp_path / "out", tmp_path / "in")
    assert found.attempts == 1
    (complaint,) = found.complaints
    assert complaint.startswith(f"{path}: ")
    assert said in complaint
    assert complaint.endswith("left out")


def test_files_that_are_no_results_are_counted(tmp_path: Path) -> None:
    file_of(tmp_path / "in", published())
    for name, text in (("list", "[1]"), ("config", '{"r": 8}'), ("deep", "[" * 100_000)):
        (tmp_path / "in" / f"{name}.json").write_text(text)
    found = import_published(tmp_path / "out", tmp_path / "in")
    assert any("2 JSON files of another kind" in text for text in found.complaints)
    assert any("deep.json: it is no JSON" in text for text in found.complaints)


def test_how_a_training_ended_is_kept(tmp_path: Path) -> None:
    """A score that is no number is left out, as a loss of the base model that cannot be told; failures have reasons."""
    ended = {
        "nan": published("nan/x"),
        "oom": published("oom/x", train_info__status="canceled", run_info__error_msg="CUDA out of memory"),
        "failed": published("failed/x", train_info__status="failed", train_info__metrics=[]),
    }
    ended["nan"]["train_info"]["metrics"][-1]["forgetting"] = float("nan")
    for result in ended.values():
        file_of(tmp_path / "in", result)
    found = import_published(tmp_path / "out", tmp_path / "in")
    assert len(found.complaints) == 1
    assert "forgetting: got nan, wanted a number" in found.complaints[0]
    store = taken_in(tmp_path / "out", tmp_path / "in")
    with store.open(read_only=True) as connection:
        run = latest_run(connection, "peft-method-comparison")
        assert run
        rows = {row.family: row for row in member_rows(connection, run)}
    assert (rows["oom"].status, rows["oom"].reason) == ("oom", "CUDA out of memory")
    assert rows["failed"].status == "failed"
    assert [score.metric for score in rows["nan"].scores] == ["accuracy"]


def test_the_command_compare_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(Path(__file__).parent.parent.parent)
    two_series(tmp_path / "in")
    out = str(tmp_path / "out")
    done = tunebench("import", str(tmp_path / "in"), "--results", out)
    assert done.returncode == 0, done.stderr
    assert (
        "12 results taken in, 0 known already: suite peft-method-comparison, 6 cells in 2 environments" in done.stdout
    )
    environments = done.stdout.split("oldest first: ")[1].splitlines()[0].split(", ")
    compared = tunebench("compare", *environments, "--results", out)
    assert compared.returncode == 0, compared.stderr
    assert f"from {environments[0]} to {environments[1]}, accuracy: everything moved by −1.7 points" in compared.stdout
    refused(tunebench("import", str(tmp_path / "nothing"), "--results", out), "there is no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(tunebench("import", str(tmp_path / "empty"), "--results", out), "no JSON file there is a result")
