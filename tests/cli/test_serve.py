"""The live page shows a run from its files, to whoever has the address, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from results_factory import demo

from harness.cli.serving import Live, make_app, seconds_left
from harness.store import Store

TOKEN = "a-token"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, Store]]:
    """A client of the application, over the demo's results with a run's events, one cell running and one report."""
    from starlette.testclient import TestClient

    store = demo(tmp_path / "results")
    attempts = sorted(path.parent.name for path in (tmp_path / "results").glob("attempts/*/*/result.json"))
    events = [
        {"event": "run_started", "run_id": "r1", "suite": "demo", "time": "2026-01-02T10:00:00+00:00", "pid": 1,
         "cells": 9, "states": {"to do": 9}},
        *({"event": "cell_started", "key": f"k{n}", "attempt_id": name, "time": "2026-01-02T10:00:00+00:00", "pid": 1}
          for n, name in enumerate(attempts[:3])),
        *({"event": "cell_ended", "key": f"k{n}", "attempt_id": name, "status": "done", "reason": "", "seconds": 60.0}
          for n, name in enumerate(attempts[:2])),
        {"event": "cell_ended", "key": "k2", "attempt_id": attempts[2], "status": "oom", "reason": "<b>big</b>",
         "seconds": 5.0},
    ]  # fmt: skip
    path = tmp_path / "results" / "runs" / "r1.events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    report = tmp_path / "reports" / "demo"
    report.mkdir(parents=True)
    (report / "index.html").write_text("<h1>the report</h1>")
    app = make_app(store, tmp_path / "reports", TOKEN)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client, store


def test_the_state_tells_of_cells_scores_and_the_answer(served: tuple[Any, Store]) -> None:
    client, _ = served
    run = client.get(f"/{TOKEN}/status").json()["run"]
    assert (run["suite"], run["cells"], run["counts"]) == ("demo", 9, {"to do": 6, "done": 2, "oom": 1})
    assert [row["key"] for row in run["scores"]] == ["k0", "k1"]
    assert run["scores"][0]["value"] == pytest.approx(0.6)
    assert run["unfinished"] == [{"key": "k2", "status": "oom", "reason": "<b>big</b>"}]
    assert run["answer"], "the stored results answer already"
    assert run["seconds_left"] is None, "nothing runs"


def test_only_the_address_with_its_token_on_this_machine_is_answered(served: tuple[Any, Store]) -> None:
    client, _ = served
    for path in (
        "/",
        "/status",
        "/another/status",
        f"/{TOKEN}x/status",
        f"/{TOKEN}/reports/../../results/runs/r1.json",
    ):
        assert client.get(path).status_code == 404, path
    assert client.get(f"/{TOKEN}/status", headers={"Host": "evil.example"}).status_code == 400
    assert client.post(f"/{TOKEN}/status").status_code == 405
    page = client.get(f"/{TOKEN}/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert '["demo"]' in page.text
    assert client.get(f"/{TOKEN}/reports/demo/").text == "<h1>the report</h1>"


def test_events_are_sent_when_something_changed(served: tuple[Any, Store], tmp_path: Path) -> None:
    _, store = served
    app = make_app(store, tmp_path / "reports", TOKEN, every=0.0)
    sent: list[bytes] = []

    async def ask() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                sent.append(message["body"])
                path = store.folder / "runs" / "r1.events.jsonl"
                if len(sent) == 1:
                    with path.open("a") as file:
                        file.write(json.dumps({"event": "run_ended", "time": "2026-01-02T11:00:00+00:00"}) + "\n")
                else:
                    gone.set()

        scope = {
            "type": "http", "method": "GET", "path": f"/{TOKEN}/events", "raw_path": b"", "query_string": b"",
            "headers": [(b"host", b"127.0.0.1")], "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 60)

    asyncio.run(ask())
    told = [json.loads(message.removeprefix(b"data: "))["run"] for message in sent]
    assert [bool(run["ended"]) for run in told[:2]] == [False, True]


def test_running_cells_have_their_losses_and_the_time_left(tmp_path: Path) -> None:
    from harness.cli.serving import losses

    lines = [{"step": n, "loss": 2.0 / (n + 1)} for n in range(300)] + [{"phase": "evaluate"}]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3')
    found = losses(tmp_path)
    assert (len(found), found[-1]) == (200, [299, 2.0 / 300])
    assert losses(tmp_path / "none") == []
    run = {"counts": {"to do": 3}, "running": [{"started": "2020-01-01T00:00:00+00:00"}]}
    assert seconds_left(run, [10.0, 20.0]) == 45.0
    assert seconds_left(run, []) is None


def test_without_any_run_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert Live(Store(tmp_path / "results")).state() == {"run": None}


@pytest.mark.slow
@pytest.mark.process
def test_the_page_follows_a_run_in_a_real_browser(project: Path) -> None:
    from playwright.sync_api import sync_playwright

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "harness.cli"]
    server = subprocess.Popen([*command, "serve", "--port", "0"], cwd=project, env=environment, text=True,
                              stdout=subprocess.PIPE)  # fmt: skip
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[0]
        with sync_playwright() as playwright:
            path = next(name for name in (os.environ.get("CHROMIUM"), "/usr/bin/chromium") if name)
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 390, "height": 800})
            wrong: list[str] = []
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.goto(address)
            assert "Waiting for a run" in page.inner_text("#summary")
            running = subprocess.Popen([*command, "run", "small"], cwd=project, env=environment,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            page.wait_for_selector("#running table", timeout=240_000)
            page.wait_for_selector("#scores table", timeout=240_000)
            assert running.wait(300) == 0
            page.wait_for_function("document.querySelector('#summary').textContent.includes('Ended.')", timeout=60_000)
            page.wait_for_selector("#answer li", timeout=60_000)
            assert "base/tiny/colours" in page.inner_text("#scores")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it fits a phone"
            assert wrong == []
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()
