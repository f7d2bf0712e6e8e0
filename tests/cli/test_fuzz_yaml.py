"""Suites and task YAMLs changed at random; `python tests/fuzz_yaml.py` makes 2,000 such changes of each."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_yaml import KINDS, fuzz, make_shipped

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_a_changed_file_is_taken_or_refused(preloaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    make_shipped(tmp_path / "project")
    assert fuzz(tmp_path / "project", KINDS, range(30)) == []


@pytest.mark.timeout(14400)
def test_two_thousand_changed_files_of_each_kind() -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / "fuzz_yaml.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
