"""A model and a suite from a Hub on the loopback interface, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, tunebench
from hub_server import Hub

SUITE = """version: 1
models: [hf:org/tiny]
tasks: [{learn: colours, sizes: [8]}]
methods: {base: {}}
seeds: [0]
train: {steps: 3}
"""


@pytest.fixture
def online(hub_server: Hub, project: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub with the tiny model, and a suite that names it."""
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    hub_server.add("org/tiny", files)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (project / "suites" / "hub.yaml").write_text(SUITE)
    return hub_server


def test_the_commit_is_shown_and_planned_and_stays(online: Hub, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = online.repositories["models", "org/tiny"]
    commit = repository.branches["main"]
    done = tunebench("fetch", "hub")
    assert done.returncode == 0, done.stderr
    assert f"hf:org/tiny is at commit {commit}" in done.stdout + done.stderr
    repository.push({**repository.commits[commit], "README.md": b"newer"})
    planned = tunebench("plan", "hub", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["revisions"] == {"hf:org/tiny": commit}
    online.stop()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert tunebench("plan", "hub").returncode == 0, "after fetch no network is needed"


def test_models_that_cannot_be_had_are_named_together_with_their_lines(online: Hub, project: Path) -> None:
    online.add("org/gated", {"config.json": b"{}"}, gated=True)
    suite = project / "suites" / "hub.yaml"
    suite.write_text(SUITE.replace("[hf:org/tiny]", "\n  - hf:org/gated\n  - hf:org/nowhere\n  - hf:org/tiny@v9"))
    done = tunebench("fetch", "hub")
    for line, said in (
        (3, "it is gated: accept its terms"),
        (4, "has no model 'org/nowhere'"),
        (5, "tag or commit 'v9'"),
    ):
        refused(done, said)
        assert f"hub.yaml:{line}: cannot fetch hf:org/" in done.stderr
