"""Doctor tries what a run needs, and names the command that mends what is broken."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import tunebench
from results_factory import demo

from harness.cli import checkup
from harness.cli.checkup import Finding, disk, findings, reachable, requirements, results_folder, writable
from harness.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return demo(tmp_path / "results")


def broken(found: Iterator[Finding] | list[Finding]) -> list[str]:
    return [f"{one.name}: {one.said} -> {one.mend}" for one in found if one.state == "problem"]


def test_this_machine_is_fit(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    found = findings(store, tmp_path / "cache", hub=False)
    assert broken(found) == []
    names = {one.name for one in found}
    assert {"packages", "bitsandbytes on cpu", "attention on cpu", "disk of cache", "memory", "results"} <= names


def test_a_package_that_does_not_fit_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "tunebench": ["peft>=99", "nothing-like-it", "torch", 'absent; extra == "dev"'], "torch": ["sympy<1"],
    }  # fmt: skip
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted.get(name, []))
    told = broken(requirements())
    assert len(told) == 3
    assert any("tunebench needs peft>=99" in line and 'pip install "peft>=99"' in line for line in told)
    assert any("nothing-like-it, which tunebench needs, is missing" in line for line in told)
    assert any("torch needs sympy<1" in line for line in told), "also what a requirement requires"


def test_a_full_disk_and_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1 << 20

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    assert all("tunebench cache" in line for line in broken(disk(tmp_path, tmp_path / "a" / "b")))
    (tmp_path / "file").write_text("")
    assert "export TUNEBENCH_CACHE=FOLDER" in broken(writable(tmp_path / "file" / "in", "cache", "TUNEBENCH_CACHE"))[0]


def test_a_damaged_database_is_rebuilt(store: Store) -> None:
    store.path.write_bytes(b"no database")
    assert broken(results_folder(store))[0].endswith("-> tunebench rebuild")


def test_a_hub_that_does_not_answer_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNEBENCH_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (found,) = reachable()
    assert (found.state, "does not answer" in found.said) == ("note", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = reachable()
    assert found.mend.startswith("unset HF_HUB_OFFLINE")


def test_a_kernel_that_computes_otherwise_is_a_problem(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr(checkup, "apart", lambda found, wanted: 0.5)
    assert "off by 50%" in broken(checkup.packed_weights())[0]
    assert "gives wrong values" in broken(checkup.attention_kernels())[0]


def test_a_check_that_breaks_is_a_finding(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Iterator[Finding]:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    for name in ("devices", "packed_weights", "attention_kernels", "requirements"):
        monkeypatch.setattr(checkup, name, fails)
    told = broken(findings(store, tmp_path / "cache", hub=False))
    assert len(told) == 4
    assert "libcudart" in told[0]


def test_the_command_ends_with_1_where_something_is_broken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    fine = tunebench("doctor", "--json", "--no-hub")
    assert fine.returncode == 0, fine.stdout
    assert {one["name"] for one in json.loads(fine.stdout)["findings"]} >= {"packages", "memory"}
    monkeypatch.setattr(checkup, "LEAST_DISK", 2**60)
    low = tunebench("doctor", "--no-hub")
    assert low.returncode == 1
    assert "PROBLEM" in low.stdout
    assert "tunebench cache (says what can go)" in low.stdout
