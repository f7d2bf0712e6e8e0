"""A webhook is told of failed cells, of the end and of the answer, and cannot stop a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import refused, tunebench

from harness.cli.notifying import NotifyingTrackers, Webhooks, without_addresses


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook on the loopback interface, and what it has been told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            told.append(json.loads(body))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", told
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_tells_of_what_failed_of_its_end_and_of_its_answer(
    project: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, told = hook
    (project / "suites" / "one.yaml").write_text(
        "version: 1\nmodels: [tiny]\ntasks: [{learn: colours, sizes: [8]}]\nmethods:\n  full: {learning_rate: 1e9}\n"
        "train: {steps: 4, batch_size: 4}\n"
    )
    done = tunebench("run", "one", "--notify", f"{url}/secret")
    kinds = [event["event"] for event in told]
    assert kinds == [*(["cell_failed"] if done.returncode else []), "run_ended", "verdict"]
    ended = next(event for event in told if event["event"] == "run_ended")
    assert (ended["suite"], sum(ended["cells"].values())) == ("one", 2)
    assert all(event["run_id"] == ended["run_id"] for event in told)
    assert told[-1]["answer"]
    assert not any("secret" in path.read_text() for path in (project / "results" / "runs").glob("*.json"))


def test_events_come_in_order_and_a_hook_that_fails_is_told_once(hook: tuple[str, list[dict[str, Any]]]) -> None:
    url, told = hook
    warned: list[str] = []
    hooks = Webhooks([f"{url}/good", f"{url}/broken"], warned.append)
    calls: list[str] = []
    group = SimpleNamespace(
        begin=lambda run: calls.append("begin"), cell=lambda *a: calls.append("cell"), end=lambda s: calls.append("end")
    )
    trackers = NotifyingTrackers(group, hooks)  # type: ignore[arg-type]
    trackers.begin({"suite": "s", "run_id": "r"})  # type: ignore[typeddict-item]
    for status, reason in (("done", ""), ("oom", "too large")):
        cell = SimpleNamespace(key=f"k-{status}")
        trackers.cell(SimpleNamespace(status=status, cell=cell, reason=reason, seconds=3.0), Path("x"))  # type: ignore[arg-type]
    trackers.end("failed")
    trackers.end("failed")
    hooks.close()
    assert calls == ["begin", "cell", "cell", "end", "end"]
    assert [event["event"] for event in told] == ["cell_failed", "cell_failed", "run_ended", "run_ended"], "each twice"
    assert told[0] | {"time": ""} == {
        "event": "cell_failed", "time": "", "suite": "s", "run_id": "r", "key": "k-oom", "status": "oom",
        "reason": "too large", "seconds": 3.0,
    }  # fmt: skip
    assert told[-1]["cells"] == {"done": 1, "oom": 1}
    assert len(warned) == 1
    assert "broken" not in warned[0], "the path may be a secret"


def test_an_unreachable_hook_only_warns() -> None:
    warned: list[str] = []
    hooks = Webhooks(["http://127.0.0.1:9/x"], warned.append)
    hooks.tell("run_ended")
    hooks.close()
    assert warned[0].startswith("127.0.0.1 was not told of run_ended")


def test_addresses_are_checked_and_are_not_stored(project: Path) -> None:
    refused(tunebench("run", "small", "--notify", "file:///etc/passwd"), "wanted the address of a webhook")
    words = ["run", "s", "--notify", "http://a/b", "--jobs", "2", "--notify=http://c"]
    assert without_addresses(words) == ["run", "s", "--jobs", "2"]
