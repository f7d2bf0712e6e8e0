"""The chaos script in small; `python tests/chaos.py` is the whole of it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_is_killed_starved_and_damaged_ends_as_an_undisturbed_one() -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / "chaos.py"), "--parents", "3", "--workers", "6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode in (0, 3), done.stdout + done.stderr[-3000:]
    if done.returncode == 3:
        pytest.skip("all but a full disk: this user may not mount one")
