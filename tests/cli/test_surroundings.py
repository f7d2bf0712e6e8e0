"""What a command does where its surroundings are not as they should be: one message, or it goes on."""

import sys
from pathlib import Path

import pytest
from commands import refused, tunebench

from harness.cli import open_closed_streams


def test_a_folder_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused(tunebench("check", "small"), "the current folder is no longer there")
    monkeypatch.chdir(tmp_path)


def test_a_cache_that_is_no_folder_is_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "file"))
    done = tunebench("fetch", "small")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: the system refuses {tmp_path / 'file'}")
    assert "Not a directory" in done.stderr


def test_streams_that_were_closed_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_closed_streams()
    opened = [sys.stdin, sys.stdout, sys.stderr]
    monkeypatch.undo()
    assert opened[0].read() == ""
    for stream in opened:
        stream.close()
