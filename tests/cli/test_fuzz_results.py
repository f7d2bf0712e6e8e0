"""One field of one results file changed at random; `python tests/fuzz_results.py` makes 2,000 such changes."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_results import fuzz


@pytest.mark.slow
def test_a_changed_field_costs_its_own_attempt_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    assert fuzz(tmp_path / "project", range(24)) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_two_thousand_changed_fields() -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / "fuzz_results.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
