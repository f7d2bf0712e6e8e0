"""Serves the reports and the live page of a run on the loopback interface, to be read in a browser.

Everything is read from files: the events of the run and of its cells, results, and `reports/`. Nothing is written and
no request changes anything. Whoever has the address, with its token, can read; requests under another host's name are
refused, so that no page elsewhere can reach it by a name that points here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import BusyStore, UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from harness.store import Store

HOSTS = ["127.0.0.1", "localhost"]
EVERY_SECONDS = 1.0  # between looks at the files
MOST_LOSSES = 200  # of a running cell, the newest
REMEDY = "Run: pip install 'tunebench[serve]'"


def new_token() -> str:
    """Returns 128 random bits as text for an address."""
    return secrets.token_urlsafe(16)


@dataclass
class Live:
    """Reads how a run stands, from files. `scores` and `answers` are kept, as what has ended does not change."""

    store: Store
    scores: dict[str, list[Any]] = field(default_factory=dict)  # attempt -> [metric, value, stderr, task]
    answered: tuple[Any, list[str]] = ((), [])

    def state(self, suite: str | None = None) -> dict[str, Any]:
        """Returns the newest run (of `suite`, if named) as the page shows it: cells by state, those that run with their
        losses, scores so far, seconds left, and the answer as it stands; {"run": None} where nothing has run."""
        from harness.execute import live_status

        status = live_status(self.store.folder, suite)
        if status is None:
            return {"run": None}
        found = asdict(status)
        for row in found["running"]:
            row["losses"] = losses(self.store.attempt_folder(row["attempt_id"]))
        ended = ended_cells(self.store, status.run_id)
        found["scores"] = [row for event in ended if (row := self.score(event))]
        found["seconds_left"] = (
            seconds_left(found, [float(event["seconds"]) for event in ended]) if status.alive else None
        )
        found["answer"] = self.answer(status.suite, len(ended))
        return {"run": found}

    def score(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the headline score of a cell that is done; None for others, and for a result that cannot be read."""
        from harness.store import read_result

        attempt = str(event["attempt_id"])
        if event["status"] != "done":
            return None
        if attempt not in self.scores:
            try:
                first = read_result(self.store.attempt_folder(attempt)).scores[0]
            except (UserError, OSError, ValueError, IndexError):
                return None
            self.scores[attempt] = [first.task, first.metric, first.value, first.stderr]
        task, metric, value, stderr = self.scores[attempt]
        return {"key": event["key"], "task": task, "metric": metric, "value": value, "stderr": stderr}

    def answer(self, suite: str, ended: int) -> list[str]:
        """Returns what the stored results of a suite answer now; the last known answer while the run has the database
        open, and none before there are results."""
        from harness.report import answer_lines, load

        if self.answered[0] != (suite, ended):
            try:
                self.answered = ((suite, ended), list(answer_lines(load(self.store, suite))))
            except BusyStore:
                return self.answered[1]
            except UserError:
                return []
        return self.answered[1]


def ended_cells(store: Store, run_id: str) -> list[dict[str, Any]]:
    """Returns the events "cell_ended" of a run."""
    from harness.execute import read_events

    events = read_events(store.folder / "runs" / f"{run_id}.events.jsonl")
    return [event for event in events if event["event"] == "cell_ended"]


def losses(folder: Path) -> list[list[float]]:
    """Returns [step, loss] of the newest steps that a cell has reported into its folder."""
    from harness.execute import read_lines

    rows = [[event["step"], event["loss"]] for event in read_lines(folder / "events.jsonl") if is_step(event)]
    return rows[-MOST_LOSSES:]


def is_step(event: dict[str, Any]) -> bool:
    """Returns whether a line of a cell's events tells of a training step and its loss."""
    return all(isinstance(event.get(name), int | float) for name in ("step", "loss"))


def seconds_left(run: dict[str, Any], taken: list[float]) -> float | None:
    """Returns about how many seconds a run still takes, one cell after the other: the mean of the cells that have
    ended, for each that has not, less what those that run have run already. None before a cell has ended."""
    if not taken:
        return None
    each = sum(taken) / len(taken)
    now = datetime.now(UTC)
    gone = [(now - datetime.fromisoformat(row["started"])).total_seconds() for row in run["running"]]
    return each * run["counts"].get("to do", 0) + sum(max(0.0, each - seconds) for seconds in gone)


def make_app(
    store: Store, reports: Path, token: str, suite: str | None = None, every: float = EVERY_SECONDS
) -> Starlette:
    """Returns the application: the live page at /TOKEN/, its state as JSON at status, as server-sent events at events,
    and the folder `reports` below reports/. Raises UserError where Starlette is not installed."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles
    except ImportError:
        raise UserError(f"serve needs the package starlette. {REMEDY}") from None
    live = Live(store)
    template = resources("harness.report").joinpath("templates/live.html").read_text(encoding="utf-8")

    def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(12)
        names = sorted(path.parent.name for path in reports.glob("*/index.html")) if reports.is_dir() else []
        shown = template.replace("{{nonce}}", nonce).replace("{{reports}}", json.dumps(names).replace("<", "\\u003c"))
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'"
        return HTMLResponse(shown, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    def status(request: Request) -> Response:
        return JSONResponse(json.loads(json.dumps(live.state(suite), default=str)))

    async def told(request: Request) -> AsyncIterator[str]:
        last = ""
        while not await request.is_disconnected():
            text = await asyncio.to_thread(lambda: json.dumps(live.state(suite), default=str))
            if text != last:
                yield f"data: {text}\n\n"
            last = text
            await asyncio.sleep(every)

    async def events(request: Request) -> Response:
        return StreamingResponse(told(request), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def nothing(request: Request) -> Response:
        return PlainTextResponse("not found: the address needs the token that `tunebench serve` printed", 404)

    inside = [Route("/", page), Route("/status", status), Route("/events", events)]
    if reports.is_dir():
        inside.append(Mount("/reports", StaticFiles(directory=reports, html=True)))  # type: ignore[arg-type]
    return Starlette(
        routes=[Mount(f"/{token}", routes=inside), Route("/{path:path}", nothing)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
    )
