"""Tells a webhook of a run: when it starts, when a cell does not end as done, when it ends, and what it answers.

A POST with a JSON body: {"event", "time", "suite", "run_id", …}. Events are "cell_failed" (key, status, reason,
seconds), "run_ended" (status, and counts of cells by how they ended) and "verdict" (the sentences of the answer).
Nothing here stops or delays a run: posts wait in a queue of their own thread, and the first that fails is told once.
"""

from __future__ import annotations

import json
import queue
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.environment import now
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.records import CellResult, RunRecord
    from harness.trackers import TrackerGroup

POST_SECONDS = 5.0
LAST_SECONDS = 10.0  # that the end of a command waits for what is still to be posted
OPTION = "--notify"


class Webhooks:
    """Posts events to some addresses, in the order in which they come. `warn` is called with a sentence when an address
    fails for the first time. Raises UserError for an address that is none of http or https."""

    def __init__(self, addresses: Iterable[str], warn: Callable[[str], None]):
        self.addresses, self.warn = tuple(addresses), warn
        for address in self.addresses:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UserError(
                    f"--notify: got {address!r}, wanted the address of a webhook, such as https://HOST/PATH."
                )
        self.about: dict[str, Any] = {}
        self.failed: set[str] = set()
        self.waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.thread: threading.Thread | None = None

    def tell(self, event: str, **what: object) -> None:
        """Post an event, later; does nothing without an address."""
        if not self.addresses:
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self._post_all, daemon=True)
            self.thread.start()
        self.waiting.put({"event": event, "time": now(), **self.about, **what})

    def close(self) -> None:
        """Wait until all is posted, `LAST_SECONDS` at the most."""
        if self.thread is not None:
            self.waiting.put(None)
            self.thread.join(LAST_SECONDS)

    def _post_all(self) -> None:
        while (event := self.waiting.get()) is not None:
            body = json.dumps(event, default=str).encode()
            for address in self.addresses:
                try:
                    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
                    urllib.request.urlopen(request, timeout=POST_SECONDS).close()
                except Exception as error:  # whatever a network or a server does, the run goes on
                    if address not in self.failed:
                        self.failed.add(address)
                        # The path of a webhook is often its secret.
                        self.warn(f"{urlsplit(address).hostname} was not told of {event['event']}: {error}")


class NotifyingTrackers:
    """The trackers of a run, of whose events webhooks are told as well."""

    def __init__(self, trackers: TrackerGroup, hooks: Webhooks):
        self.trackers, self.hooks = trackers, hooks
        self.counts: Counter[str] = Counter()
        self.begun = False

    def begin(self, run: RunRecord) -> None:
        """Begin the trackers, and keep what every event says of the run."""
        self.hooks.about = {"suite": run["suite"], "run_id": run["run_id"]}
        self.begun = True
        self.trackers.begin(run)

    def cell(self, result: CellResult, folder: Path) -> None:
        """Report an attempt to the trackers, and tell of one that did not end as done."""
        self.trackers.cell(result, folder)
        self.counts[str(result.status)] += 1
        if result.status != "done":
            self.hooks.tell("cell_failed", key=result.cell.key, status=str(result.status), reason=result.reason,
                            seconds=result.seconds)  # fmt: skip

    def end(self, status: str) -> None:
        """End the trackers, and tell how the run ended; nothing is told of a run that had nothing to do."""
        self.trackers.end(status)
        if self.begun:
            self.hooks.tell("run_ended", status=status, cells=dict(self.counts))
        self.begun = False


def without_addresses(words: Sequence[str]) -> list[str]:
    """Returns a command line without `--notify` and its addresses: commands are stored with results, and an address
    often holds a secret."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != OPTION and not word.startswith(f"{OPTION}="):
            kept.append(word)
        skip = word == OPTION and not skip
    return kept
