"""`tunebench regress` from the command line: environments, a baseline in a file, and the report's section."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, tunebench
from wheels import doctored

from harness.environment import version_of

pytestmark = [pytest.mark.process, pytest.mark.slow]
SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
methods: {full: {learning_rate: 1e-2}, lora: {learning_rate: 1e-2}}
train: {steps: 2, batch_size: 4}
"""


@pytest.fixture
def suite(project: Path) -> str:
    (project / "suites" / "two.yaml").write_text(SUITE)
    return "two"


def test_an_innocent_release_moves_nothing_and_a_guilty_one_is_shown_in_the_report(suite: str, tmp_path: Path) -> None:
    innocent = doctored(tmp_path, "rouge_score", "99.0", "", "", "")
    ran = tunebench("regress", suite, "--with", "current", "--with", str(innocent), "--threads", "1", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    (pair,) = found["pairs"]
    assert pair["changes"] == []
    answers = {change["answer"] for metric in pair["results"]["metrics"] for change in metric["labels"]}
    assert "different" not in answers
    guilty = doctored(
        tmp_path, "peft", "0.99.0", "peft/tuners/lora/layer.py",
        "self.scaling[adapter_name] = lora_alpha / r\n", "self.scaling[adapter_name] = 0.5 * lora_alpha / r\n",
    )  # fmt: skip
    with_guilty = tunebench("regress", suite, "--with", "current", "--with", str(guilty), "--threads", "1", "--bisect")
    assert "Only lora moved; 1 other did not." in with_guilty.stdout
    assert "0.99.0 changed" in with_guilty.stdout
    assert tunebench("report", suite).returncode == 0
    page = Path("reports", suite, "index.html").read_text()
    assert "Library versions" in page
    assert "0.99.0 changed" in page


def test_a_baseline_is_kept_in_a_file_and_compared_with(suite: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json.gz"
    made = tunebench("regress", suite, "--save-baseline", str(kept), "--threads", "1")
    assert made.returncode == 0, made.stderr
    assert "3 attempts" in made.stderr
    assert kept.stat().st_size < 100_000
    same = tunebench("regress", suite, "--baseline", str(kept), "--threads", "1", "--gate", "--strict", "--json")
    assert same.returncode == 0, same.stdout
    (pair,) = json.loads(same.stdout)["pairs"]
    assert pair["old"] == "baseline kept.json.gz"
    assert pair["changes"] == []
    assert all(change["identical"] for metric in pair["results"]["metrics"] for change in metric["labels"]
               if metric["role"] != "cost")  # fmt: skip
    other = tunebench("regress", "small", "--baseline", str(kept), "--threads", "1", "--probe")
    refused(other, "is a baseline of the suite 'two', not of 'small'")


def test_one_environment_is_not_compared_with_itself(suite: str) -> None:
    version = version_of("peft")
    done = tunebench("regress", suite, "--with", "current", "--with", f"peft=={version}", "--threads", "1", "--probe")
    assert done.returncode == 0
    assert "packages that differ: none" in done.stdout
    assert "Nothing that was probed differs." in done.stdout
