"""The events of a run, as JSON lines that anybody may follow (`tail -f results/runs/*.events.jsonl`).

An event is `{"time": …, "event": …, …}`: run_started, cell_added (a trial), cell_chosen (of a suite that is being
decided), cell_started, cell_ended, warning, run_ended; on a cluster also cell_placed (its node is known now) and
sources_fetched (by a node). What a cell does meanwhile (phase, step, loss) stands in `events.jsonl` of its own folder.
Live status is read from these files and never from the database, which only one process can have open."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from harness.analysis import CellSpeed, speed_sentences
from harness.environment import now
from harness.execute.queue import HELD
from harness.execute.watchdog import resident
from harness.records import (
    MARGIN,
    SPEED_AFTER,
    SPEED_BEFORE,
    CellResult,
    Count,
    Name,
    Seconds,
    check_positive,
    read_record,
)
from harness.store import files

TAIL_BYTES = 4096
Event = dict[str, Any]  # a line of an events file: {"time", "event", …}
Speed = Annotated[float, check_positive]


class News(TypedDict, total=False):
    """What a cell's worker last reported: its phase; in training the optimiser step of how many, and the loss; in
    evaluation the task that is asked, and how many of its requests are answered."""

    phase: NotRequired[str]
    step: NotRequired[Count]
    steps: NotRequired[Count]
    loss: NotRequired[float]
    task: NotRequired[str]
    answered: NotRequired[Count]
    asked: NotRequired[Count]


def progress_text(news: Mapping[str, Any]) -> str:
    """Returns how far a cell is in its phase: "12/48" steps of training, "topic 40/200" requests of evaluation; ""
    where nothing was reported of the phase."""
    if news.get("phase") == "evaluate":
        known = {"task", "answered", "asked"} <= news.keys()
        return f"{news['task']} {news['answered']}/{news['asked']}" if known else ""
    return f"{news['step']}/{news['steps']}" if {"step", "steps"} <= news.keys() else ""


# What the events of each kind must hold to be counted; they may hold more.
class RunStarted(TypedDict):
    """The fields of the event "run_started", the first of a run; `states` counts the plan's cells by state."""

    run_id: str
    suite: str
    time: str
    pid: int
    cells: Count
    states: dict[str, Count]
    margin: NotRequired[Seconds]


class CellStarted(TypedDict):
    """The fields of the event "cell_started"."""

    key: str
    attempt_id: Name
    time: str
    pid: int
    device: NotRequired[str | None]
    predicted_bytes: NotRequired[Count | None]


class CellEnded(TypedDict):
    """The fields of the event "cell_ended"; `machine_speeds` are in FLOP/s."""

    key: str
    attempt_id: Name
    status: str
    reason: str
    seconds: Seconds
    device: NotRequired[str]
    contended: NotRequired[bool]
    machine_speeds: NotRequired[dict[str, Speed]]


class CellPlaced(TypedDict):
    """The fields of the event "cell_placed"."""

    attempt_id: Name
    device: str


class Warned(TypedDict):
    """The fields of the event "warning"."""

    message: str


class RunEnded(TypedDict):
    """The fields of the event "run_ended"."""

    time: str


class OtherEvent(TypedDict):
    """The fields that every other kind of event needs: none."""


KINDS: dict[str, type[Any]] = {
    "run_started": RunStarted,
    "cell_started": CellStarted,
    "cell_ended": CellEnded,
    "cell_placed": CellPlaced,
    "warning": Warned,
    "run_ended": RunEnded,
}


class EventLog:
    """Appends events to a run's file. No result depends on them, so a full disk raises no error here."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, event: str, **what: object) -> None:
        """Write an event (`what` are its fields) with the current time; errors of the disk are ignored."""
        line = json.dumps({"time": now(), "event": event, **what}, default=str) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            pass


def read_events(path: Path) -> list[Event]:
    """Returns the events of a run so far, from its events file; none where the file cannot be read. Incomplete lines
    are skipped, and events that lack a field of their kind or have another type in it: a disk may fail, a hand may
    edit."""
    return [event for event in read_lines(path) if is_event(event)]


def read_lines(path: Path) -> list[Event]:
    """Returns the JSON objects among the lines of an events file, of a run or of a cell; none where it cannot be read.
    Incomplete lines are skipped."""
    try:
        return list(records(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return []


def is_event(record: Event) -> bool:
    """Returns whether a line of an events file has what an event of its kind needs."""
    name = record.get("event")
    if not isinstance(name, str):
        return False
    kind = KINDS.get(name, OtherEvent)
    try:
        read_record(kind, {field: record[field] for field in kind.__annotations__ if field in record})
    except ValueError:
        return False
    return True


def latest_news(folder: Path) -> News:
    """Returns the newest value of each field that a cell's worker reported into its attempt's `folder`: phase, step,
    steps, loss, task, answered, asked. Only the end of its events file is read; empty where there is none."""
    try:
        with (folder / files.EVENTS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return {}
    news = News()
    for event in records(text):
        for name in News.__annotations__.keys() & event.keys():
            with suppress(ValueError):  # of a damaged line
                news |= read_record(News, {name: event[name]})
    return news


def records(text: str) -> Iterator[Event]:
    """Yields the JSON objects among the lines of a text. Incomplete lines are skipped: the first may be cut, the last
    half written."""
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


@dataclass
class LiveStatus:
    """The state of a run, as its events tell it. `pid` is its command's; `alive`: that command still holds the results
    folder. `cells` is the number of the plan's cells and trials, `counts` that of each state. `started` and `ended` are
    in ISO 8601, `ended` "" until then. `slowest` are the five longest cells that are done, `unfinished` those that
    ended otherwise."""

    run_id: str
    suite: str
    started: str
    pid: int
    alive: bool
    cells: int
    ended: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    running: list[Event] = field(default_factory=list)  # key, attempt_id, started, device, and the worker's news
    slowest: list[Event] = field(default_factory=list)  # key, seconds
    unfinished: list[Event] = field(default_factory=list)  # key, status, reason
    warnings: list[str] = field(default_factory=list)
    machine: list[str] = field(default_factory=list)  # sentences on the machine's speed, where it matters for costs


def live_status(root: Path, suite: str | None = None) -> LiveStatus | None:
    """Returns the status of the newest run in the results folder `root` (of one suite, if named); None when there is
    none."""
    for path in sorted(root.glob("runs/*.events.jsonl"), reverse=True):
        events = read_events(path)
        if events and events[0]["event"] == "run_started" and suite in (None, events[0]["suite"]):
            return replay(root, events)
    return None


def replay(root: Path, events: list[Event]) -> LiveStatus:
    """Returns the status that a run's events add up to. `root` is the results folder: memory and progress of running
    cells are read there now."""
    first = events[0]
    status = LiveStatus(
        run_id=first["run_id"],
        suite=first["suite"],
        started=first["time"],
        pid=first["pid"],
        alive=files.holder(root) == first["pid"] and files.is_held(root),
        cells=first["cells"],
    )
    counts: Counter[str] = Counter(first["states"])
    speeds: dict[str, CellSpeed | None] = {}  # by attempt, in the order of their start; None where not measured
    running: dict[str, Event] = {}
    ended: list[Event] = []
    for event in events[1:]:
        kind = event["event"]
        if kind == "cell_started":
            running[event["attempt_id"]] = event
            speeds[event["attempt_id"]] = None
            counts["to do"] -= 1
        elif kind == "cell_ended":
            if running.pop(event["attempt_id"], None) is None:
                counts["to do"] -= 1  # it was skipped
            if event.get("machine_speeds"):
                speeds[event["attempt_id"]] = speed_of(event)
            counts[event["status"]] += 1
            ended.append(event)
        elif kind == "cell_chosen":  # of a suite that is being decided
            counts["to do"] += 1
            counts[HELD] -= 1
        elif kind == "cell_added":  # a trial
            counts["to do"] += 1
            status.cells += 1
        elif kind == "cell_placed":
            running.get(event["attempt_id"], {}).update(device=event["device"])
        elif kind == "warning":
            status.warnings.append(event["message"])
        elif kind == "run_ended":
            status.ended = event["time"]
    status.alive = status.alive and not status.ended
    if status.alive:
        counts["running"] = len(running)
        for event in running.values():
            news = latest_news(files.attempt_folder(root, event["attempt_id"]))
            about = {name: event.get(name) for name in ("key", "attempt_id", "device", "pid", "predicted_bytes")}
            status.running.append(
                {**about, "started": event["time"], **news, "rss_bytes": resident(event["pid"]) or None}
            )
    else:
        counts["to do"] += len(running)  # they were cut short, and run again
    done = [{"key": event["key"], "seconds": event["seconds"]} for event in ended if event["status"] == "done"]
    status.slowest = sorted(done, key=lambda row: -row["seconds"])[:5]
    status.unfinished = [
        {name: event[name] for name in ("key", "status", "reason")} for event in ended if event["status"] != "done"
    ]
    status.counts = dict(+counts)
    measured = [speed for speed in speeds.values() if speed]
    status.machine = [f"{text}." for text in speed_sentences(measured, first.get("margin", MARGIN))]
    return status


def speeds_of(result: CellResult) -> dict[str, float]:
    """Returns the machine's speed before and after an attempt, as {name of the fact: FLOP/s}; empty where it was not
    measured."""
    return {fact.name: fact.value for fact in result.facts if fact.name in (SPEED_BEFORE, SPEED_AFTER)}


def speed_of(ended: Event) -> CellSpeed:
    """Returns the machine's speed around a cell, from its "cell_ended" event."""
    return CellSpeed(ended["key"], ended.get("device", ""), ended["machine_speeds"], ended.get("contended", False))
