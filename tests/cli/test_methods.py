"""`tunebench methods` lists every type of adapter that peft has without importing peft each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import tunebench

from harness.cli.commands.methods import describe, shown
from harness.methods import all_methods
from harness.methods.base import remembered
from harness.objectives import all_objectives
from harness.objectives.anchored import EWC

LIST = """
import contextlib, io, json, sys
from harness.cli import application
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    application()(["methods", "--json"])
print(json.dumps([sorted({"torch", "peft"} & set(sys.modules)), json.loads(out.getvalue())]))
"""


def listing() -> tuple[list[str], list[dict[str, object]]]:
    """(which of torch and peft were imported, the listing), of a new process."""
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    imported, rows = json.loads(done.stdout.splitlines()[-1])
    return imported, rows


@pytest.mark.process
def test_peft_is_imported_for_the_first_listing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path))
    imported, first = listing()
    assert imported == ["peft", "torch"]
    imported, second = listing()
    assert imported == []
    assert second == first
    (peft,) = (row for row in second if row["name"] == "peft")
    assert "lora" in peft["variants"]  # type: ignore[operator]


def test_the_list_fits_a_screen_and_a_name_tells_all() -> None:
    listed = tunebench("methods").stdout
    assert len(listed.splitlines()) <= 24
    assert all(name in listed for name in (*all_methods(), *all_objectives()))
    one = tunebench("methods", "dora").stdout
    assert "arXiv:2402.09353" in one
    assert "rank=8" in one
    assert "qlora" not in one
    wrong = tunebench("methods", "lroa")
    assert wrong.returncode == 2
    assert "Did you mean 'lora'?" in wrong.stderr
    assert len(tunebench("methods", "--all").stdout.splitlines()) > 100


def test_what_is_remembered_goes_by_its_name_and_survives_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path))
    assert remembered("lib-1", lambda: {"a": 1}) == {"a": 1}
    assert remembered("lib-1", lambda: {"a": 2}) == {"a": 1}
    assert remembered("lib-2", lambda: {"a": 2}) == {"a": 2}
    for damage in ("{", "[]"):
        (tmp_path / "facts" / "lib-1.json").write_text(damage)
        assert remembered("lib-1", lambda: {"a": 3}) == {"a": 3}
    monkeypatch.setenv("TUNEBENCH_CACHE", "/proc/nowhere")
    assert remembered("lib-1", lambda: {"a": 4}) == {"a": 4}


@pytest.mark.parametrize(
    ("name", "origin"), [("lora", "reparameterised, arXiv:2106.09685, folds into the model"), ("ewc", EWC.paper)]
)
def test_a_row_has_what_a_part_is_and_its_settings_below_each_other(name: str, origin: str) -> None:
    part = {**all_methods(), **all_objectives()}[name]
    title, text = shown(describe(part))
    assert title == name
    assert text.splitlines()[:2] == [(part.__doc__ or "").splitlines()[0], origin]
    assert text.splitlines()[-1].startswith(next(iter(part.fields())))
