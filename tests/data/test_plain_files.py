"""What never ends, hangs or cannot be held is refused at once, in every place where a file is named."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.data import definition_files, load_task, plain_files, sources
from harness.data.tasks import absolute
from harness.errors import SourceError, TaskError


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(path))


def to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


STRANGE = {
    "a named pipe": pipe,
    "a socket": listening,
    "a device": to("/dev/zero"),
    "the kernel's own": to("/proc/self/environ"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_plain_file_is_refused_by_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    STRANGE[kind](Path("x.csv"))
    said = f"is {kind}.* only plain files and folders are read"
    for is_data in (True, False):
        with pytest.raises(SourceError, match=said):
            sources.fetch(sources.parse("file:x.csv", is_data=is_data))
    with pytest.raises(SourceError, match=said):
        sources.fetch(sources.parse("file:x.*", is_data=True))
    with pytest.raises(TaskError, match=said):
        absolute({"train": ["x.csv"]}, tmp_path)
    task = project / "suites" / "tasks" / "colours.yaml"
    task.write_text(f"include: {tmp_path / 'x.csv'}\n{task.read_text()}")
    with pytest.raises(TaskError, match=said):
        load_task(task)
    assert task in definition_files(task)  # and what reads every task in passing goes on


def test_data_that_no_memory_holds_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**34))
    with (tmp_path / "x.csv").open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(SourceError, match="holds 64 GiB or more, and this machine's memory is 16.0 GiB"):
        sources.fetch(sources.parse(f"file:{tmp_path / 'x.csv'}", is_data=True))
    with pytest.raises(SourceError, match="holds 64 GiB or more"):
        sources.fetch(sources.parse(f"file:{tmp_path}", is_data=True))
    (tmp_path / "x.csv").write_text("a\n1\n")
    (tmp_path / "y.csv").write_text("a\n1\n")
    assert sources.fetch(sources.parse(f"file:{tmp_path}", is_data=True)) == tmp_path
    monkeypatch.setattr(plain_files, "MOST_FILES", 1)
    with pytest.raises(SourceError, match="holds more than 1 files"):
        sources.fetch(sources.parse(f"file:{tmp_path}", is_data=True))


def test_a_yaml_as_large_as_no_one_writes_is_refused(project: Path) -> None:
    task = project / "suites" / "tasks" / "colours.yaml"
    with task.open("ab") as file:
        file.truncate(2**33)
    with pytest.raises(TaskError, match="has more than 8,000,000 bytes"):
        load_task(task)


def test_links_that_lead_back_are_not_followed_for_ever(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "x.csv").write_text("a\n1\n")
    for name in ("", "/**/*.csv", "/*/*/*.csv"):
        source = sources.parse(f"file:{tmp_path}{name}", is_data=True)
        assert sources.fingerprint(source, sources.fetch(source))
    with pytest.raises(SourceError, match=r"unknown file or folder 'loop\.csv'"):
        sources.fetch(sources.parse(f"file:{tmp_path}/loop.csv", is_data=True))
