"""What a fetch says that it will download, before it does."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from commands import tunebench
from hub_server import Hub

from harness.cli import commands
from harness.cli.options import download_lines
from harness.data import Download
from harness.data.catalog import load_catalog
from harness.data.downloads import model_download, task_download

SUITE = """version: 1
models: [hf:org/tiny]
tasks: [{learn: colours, sizes: [8]}]
methods: {base: {}}
seeds: [0]
train: {steps: 3}
"""


def test_a_model_of_the_hub_is_told_with_its_size_before_it_is_fetched(
    hub_server: Hub, project: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    hub_server.add("org/tiny", files)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (project / "suites" / "hub.yaml").write_text(SUITE)
    size = sum(map(len, files.values()))
    assert model_download(load_catalog(project), "hf:org/tiny") == Download(
        "model", "hf:org/tiny", ("hf:org/tiny",), size
    )
    done = tunebench("fetch", "hub")
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("to download: model hf:org/tiny (about ")
    assert second.startswith("about ")
    assert second.endswith(f"in all, to {project.parent / 'cache'}")
    assert "to download" not in tunebench("fetch", "hub").stderr, "it is here"
    monkeypatch.setenv("TUNEBENCH_OFFLINE", "1")
    (project / "suites" / "hub.yaml").write_text(SUITE.replace("org/tiny", "org/other"))
    assert "to download" not in tunebench("fetch", "hub").stderr, "nothing will be"
    monkeypatch.delenv("TUNEBENCH_OFFLINE")
    assert model_download(load_catalog(project), "hf:org/tiny") is None


def test_a_size_that_nobody_says_is_not_known(hub_server: Hub, project: Path) -> None:
    for name in ("hf:org/nowhere", "pypi:some-package==1.0"):
        found = model_download(load_catalog(project), name)
        assert found is not None
        assert (found.size, found.places) == (None, (name,))


def test_the_projects_list_of_models_says_how_much(project: Path) -> None:
    path = project / "suites" / "models.yaml"
    entry = "other:\n  kind: causal\n  source: pypi:some-package==1.0\n"
    path.write_text(path.read_text() + entry)
    before = load_catalog(project)
    assert model_download(before, "other").size is None  # type: ignore[union-attr]
    path.write_text(path.read_text() + "  download: 5000000\n")
    catalog = load_catalog(project)
    assert model_download(catalog, "other").size == 5_000_000  # type: ignore[union-attr]
    assert catalog.model_facts_path("other") == before.model_facts_path("other"), "it is the same model"


def test_data_on_this_machine_is_not_downloaded_and_other_data_is_named(project: Path) -> None:
    tasks = project / "suites" / "tasks"
    assert task_download(load_catalog(project), "colours") is None
    text = (tasks / "colours.yaml").read_text().replace("task: colours", "task: far")
    (tasks / "far.yaml").write_text(text.replace("file:colours.csv", "pypi:some-data==1.0/colours.csv"))
    (tasks / "lib.yaml").write_text("task: lib\ndataset_path: org/questions\noutput_type: multiple_choice\n")
    catalog = load_catalog(project)
    assert task_download(catalog, "far") == Download("task", "far", ("pypi:some-data==1.0/colours.csv",), None)
    assert task_download(catalog, "lib") == Download("task", "lib", ("data set org/questions",), None)


def test_the_lines_say_what_is_known() -> None:
    one, two = Download("model", "a", ("hf:o/a",), 3 * 2**20), Download("task", "t", ("pypi:d==1",), None)
    lines = download_lines([one, two])
    assert lines[0] == "to download: model a (about 3 MiB; hf:o/a)"
    assert lines[1] == "to download: task t (size not known; pypi:d==1)"
    assert lines[2].startswith("more than 3 MiB in all, to ")
    assert download_lines([two])[-1].startswith("a size that is not known, to ")
    assert download_lines([]) == []


NOISY = '''
import logging
import warnings
from harness.cli.options import command

@command("Keep", "import a library that warns")
def noisy() -> None:
    """Import a library that warns.

    Example: tunebench noisy
    """
    warnings.warn("a library's warning")
    print(logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING))
'''


def test_warnings_of_libraries_stay_off_the_terminal_in_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "harness.cli.commands.noisy", raising=False)
    try:
        done = tunebench("noisy")
        assert (done.stdout, done.stderr) == ("False\n", "")
        assert logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING), "as before"
    finally:
        sys.modules.pop("harness.cli.commands.noisy", None)
