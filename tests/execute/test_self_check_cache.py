"""A run checks its instruments first, once; a failing one stops it, or marks every result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import refused, tunebench
from tools import plan_of, results_of

from harness.environment import environment
from harness.execute.self_check_cache import check_instruments, failures, keep, kept_at, matmul_peaks, peaks_kept_at
from harness.records import Check
from harness.store.files import INSTRUMENTS

BROKEN = Check("padding_side", "padded on the left instead of the right", 0.5, 1e-4, "ratio")
SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods: {base: {}}
"""


@pytest.fixture
def broken(project: Path) -> Path:
    """A project on whose model an instrument fails, with one thread a cell."""
    plan = plan_of(project, SUITE)
    settings = plan.suite.labels[0].train
    path = kept_at(environment(1).env_digest, plan.facts.models["tiny"].fingerprint, settings)
    keep(path, environment(1).env_digest, "tiny", settings, [BROKEN])
    return project


@pytest.mark.process
def test_a_failing_instrument_stops_the_run(broken: Path) -> None:
    done = tunebench("run", "small", "--threads", "1")
    refused(done, "padding_side on tiny: padded on the left instead of the right: measured 0.5 ratio, 0.0001 at most")
    assert "--allow-bad-instruments" in done.stderr
    assert results_of(broken) == []


@pytest.mark.process
def test_or_marks_every_result(broken: Path) -> None:
    done = tunebench("run", "small", "--threads", "1", "--allow-bad-instruments")
    assert done.returncode == 0, done.stderr
    (result,) = results_of(broken)
    assert [(flag.name, flag.evidence) for flag in result.flags] == [
        ("bad_instruments", {"failed": ["padding_side (tiny)"]})
    ]
    shown = tunebench("report", "small")
    assert "Instruments: 1 of 1 checks FAILED: padding_side (tiny)." in shown.stdout
    page = (broken / "reports" / "small" / "index.html").read_text()
    assert '<th scope="row">padding side</th><td class="bad">FAILED</td><td>0.5</td><td>0.0001</td>' in page
    query = "select model, name, measured, at_most, unit, passed from instruments"
    kept = [
        {"model": "tiny", "name": "padding_side", "measured": 0.5, "at_most": 1e-4, "unit": "ratio", "passed": False}
    ]
    assert json.loads(tunebench("sql", query, "--json").stdout) == kept
    assert tunebench("rebuild").returncode == 0
    assert json.loads(tunebench("sql", query, "--json").stdout) == kept


@pytest.mark.process
def test_checks_are_done_once_and_kept_with_the_results(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(project, SUITE)
    for path in (tmp_path / "cache" / INSTRUMENTS).iterdir():
        path.unlink()
    told: list[str] = []
    found = check_instruments(plan, project / "results", environment(1), 1, told.append)
    assert failures(found) == []
    again = check_instruments(plan, project / "results", environment(1), 1, told.append)
    assert (again, told) == (found, ["tiny"])
    (copy,) = (project / "results" / INSTRUMENTS).glob("*.json")
    record = json.loads(copy.read_text())
    assert (record["model"], record["env_digest"]) == ("tiny", environment(1).env_digest)
    assert [check["name"] for check in record["checks"]] == [check.name for check in found["tiny"]]


def test_newer_checks_take_the_place_of_those_kept_with_the_results(broken: Path) -> None:
    plan = plan_of(broken, SUITE)
    results, settings, here = broken / "results", plan.suite.labels[0].train, environment(1)

    def found() -> list[bool]:
        (checks,) = check_instruments(plan, results, here, 1).values()
        (copy,) = (results / INSTRUMENTS).glob("*.json")
        assert json.loads(copy.read_text())["checks"] == [vars(check) for check in checks]
        return [check.passed for check in checks]

    assert found() == [False]
    sound = replace(BROKEN, measured=0.0)  # as `tunebench doctor --instruments` finds it once it is mended
    path = kept_at(here.env_digest, plan.facts.models["tiny"].fingerprint, settings)
    keep(path, here.env_digest, "tiny", settings, [sound])
    assert found() == [True]


@pytest.mark.process
def test_the_devices_rate_is_measured_once(project: Path, tmp_path: Path) -> None:
    kept = peaks_kept_at(environment(1).env_digest)
    kept.unlink()
    found = matmul_peaks(["fp32", "fp16"], environment(1), 1)
    assert set(found) == {"fp32"}  # a CPU has no fp16
    assert found["fp32"] > 1e8
    assert json.loads(kept.read_text()) == {**found, "fp16": None}
    kept.write_text(json.dumps({"fp32": 5.0, "fp16": None}))
    assert matmul_peaks(["fp32", "fp16"], environment(1), 1) == {"fp32": 5.0}


@pytest.mark.process
def test_a_run_tells_its_cells_the_rate_and_what_memory_was_predicted(project: Path) -> None:
    suite = SUITE.replace("base: {}", "base: {}, lora: {}") + "train: {steps: 3, batch_size: 4}\nseeds: [0]\n"
    plan_of(project, suite)
    done = tunebench("run", "small", "--threads", "1")
    assert done.returncode == 0, done.stderr
    (found,) = (
        {fact.name: fact.value for fact in result.facts} for result in results_of(project) if result.cell.n_train
    )
    assert 0 < found["mfu"] < 1
    parts = ("weights", "gradients", "optimizer", "activations", "scoring", "loading", "process")
    predicted = {part: found[f"predicted_{part}_bytes"] for part in parts}
    assert found["predicted_bytes"] == predicted["process"] + predicted["weights"] + max(
        predicted["gradients"] + predicted["optimizer"] + predicted["activations"],
        predicted["scoring"],
        predicted["loading"],
    )


@pytest.mark.process
def test_doctor_tells_of_the_machine_and_of_failing_instruments(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = tunebench("doctor")
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout
    refused(tunebench("doctor", "--model", "nothing"), "unknown model 'nothing'")
    refused(tunebench("doctor", "--instruments", "--model", "file:nowhere"), "file:nowhere is not fetched yet")
    done = tunebench("doctor", "--model", "tiny", "--threads", "1", "--json")  # checked anew, and found sound
    assert done.returncode == 0, done.stderr
    assert {row["passed"] for row in json.loads(done.stdout)["instruments"]} == {True}
