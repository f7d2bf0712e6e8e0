"""A run as seen from another terminal: from files, never from the database."""

import json
import os
from pathlib import Path

import pytest

from harness.cli.display import show_status
from harness.execute.events import EventLog, latest_news, live_status, read_events
from harness.records import SPEED_BEFORE
from harness.store.files import attempt_folder, sole_writer


def begin(root: Path, suite: str = "small", run: str = "r1", cells: int = 4) -> EventLog:
    log = EventLog(root / "runs" / f"{run}.events.jsonl")
    states = {"done": 1, "to do": cells - 1}
    log.append("run_started", run_id=run, suite=suite, pid=os.getpid(), cells=cells, states=states)
    (root / ".run.pid").write_text(str(os.getpid()))
    return log


def started(log: EventLog, number: int, pid: int = 0) -> str:
    attempt = f"{number}-ab"
    log.append("cell_started", key=f"c{number}", attempt_id=attempt, device="cpu", pid=pid, predicted_bytes=None)
    return attempt


def ended(log: EventLog, number: int, status: str = "done", reason: str = "", seconds: float = 1.0) -> None:
    log.append("cell_ended", key=f"c{number}", attempt_id=f"{number}-ab", status=status, reason=reason, seconds=seconds)


def test_a_live_run(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        look_at_a_live_run(tmp_path)
    status = live_status(tmp_path)
    assert status is not None
    assert not status.alive, "a pid that is in use again is no run"


def look_at_a_live_run(tmp_path: Path) -> None:
    log = begin(tmp_path)
    started(log, 1)
    ended(log, 1, seconds=3.0)
    attempt = started(log, 2, os.getpid())
    folder = attempt_folder(tmp_path, attempt)
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text('{"phase": "train"}\n{"step": 2, "steps": 9, "loss": 0.5}\n{"st')
    status = live_status(tmp_path)
    assert status is not None
    assert status.alive
    assert dict(status.counts) == {"done": 2, "running": 1, "to do": 1}
    assert status.slowest == [{"key": "c1", "seconds": 3.0}]
    (running,) = status.running
    assert (running["key"], running["phase"], running["step"], running["loss"]) == ("c2", "train", 2, 0.5)
    assert running["rss_bytes"] > 10**6


def test_a_killed_run_and_an_ended_one(tmp_path: Path) -> None:
    log = begin(tmp_path)
    started(log, 1)
    (tmp_path / ".run.pid").write_text("1")
    status = live_status(tmp_path)
    assert status is not None
    assert not status.alive
    assert not status.ended
    assert dict(status.counts) == {"done": 1, "to do": 3}
    ended(log, 1, "failed", "it broke")
    ended(log, 2, "skipped", "needs c1 (failed)")
    log.append("warning", message="a file is damaged")
    log.append("run_ended")
    status = live_status(tmp_path)
    assert status is not None
    assert status.ended
    assert dict(status.counts) == {"done": 1, "failed": 1, "skipped": 1, "to do": 1}
    assert status.unfinished[0] == {"key": "c1", "status": "failed", "reason": "it broke"}
    assert status.warnings == ["a file is damaged"]


def test_the_newest_run_or_that_of_a_suite(tmp_path: Path) -> None:
    assert live_status(tmp_path) is None
    begin(tmp_path, "one", "r1")
    begin(tmp_path, "two", "r2")
    newest, one = live_status(tmp_path), live_status(tmp_path, "one")
    assert newest is not None
    assert one is not None
    assert (newest.suite, one.suite) == ("two", "one")
    assert live_status(tmp_path, "three") is None


def test_half_a_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    log = begin(tmp_path)
    with log.path.open("a") as file:
        file.write('{"event": "cell_sta')
    assert [event["event"] for event in read_events(log.path)] == ["run_started"]


def test_only_the_end_of_a_long_file_of_news_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"step": number, "steps": 5000, "loss": 1.0}) for number in range(5000)]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert latest_news(tmp_path) == {"step": 4999, "steps": 5000, "loss": 1.0}
    assert latest_news(tmp_path / "nowhere") == {}


def test_a_log_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    EventLog(tmp_path / "runs" / "x.events.jsonl").append("warning", message="lost")  # raises nothing
    assert (tmp_path / "runs").read_text() == "no folder"


@pytest.mark.parametrize("line", ["", "[]", "{"])
def test_a_file_that_is_no_event_log_is_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r9.events.jsonl").write_text(line)
    assert live_status(tmp_path) is None


def test_a_machine_that_slows_is_told_while_its_run_goes_on(tmp_path: Path) -> None:
    log = begin(tmp_path, cells=12)
    for number in range(1, 9):
        started(log, number)
    for number in (8, 2, 3, 4, 5, 6, 7, 1):  # by their starts, not by their ends
        log.append(
            "cell_ended", key=f"c{number}", attempt_id=f"{number}-ab", status="done", reason="", seconds=1.0,
            device="cpu", contended=False, machine_speeds={SPEED_BEFORE: 1e11 * 0.99**number},
        )  # fmt: skip
    status = live_status(tmp_path)
    assert status is not None
    (sentence,) = status.machine
    assert sentence.startswith("The machine slowed by 6.8% (95% interval")
    assert sentence.endswith("within that.")


def test_events_of_a_run_without_speeds_say_nothing_of_the_machine(tmp_path: Path) -> None:
    log = begin(tmp_path)
    started(log, 1)
    ended(log, 1)
    status = live_status(tmp_path)
    assert status is not None
    assert status.machine == []


@pytest.mark.parametrize(
    "line",
    [
        {"event": "cell_started", "key": "c9"},
        {"event": "cell_ended", "key": "c9", "attempt_id": "9-ab", "status": "done", "reason": "", "seconds": "long"},
        {"event": "cell_ended", "key": "c9", "attempt_id": "9-ab", "status": [], "reason": "", "seconds": 1.0},
        {"event": "cell_placed", "attempt_id": "1-ab"},
        {"event": "warning"},
        {"event": "warning", "message": "\ud800"},
        {"event": ["x"]},
        {"event": "run_ended"},
        {"event": None},
    ],
)
def test_odd_events_are_passed_over(tmp_path: Path, line: dict[str, object]) -> None:
    log = begin(tmp_path)
    started(log, 1)
    with log.path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    ended(log, 1)
    status = live_status(tmp_path)
    assert status is not None
    assert (dict(status.counts), status.warnings, status.ended) == ({"done": 2, "to do": 2}, [], "")


def test_odd_news_of_a_worker_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"step": 3, "steps": "x", "loss": null, "key": 1}\n{"phase": 7, "loss": 0.5}\n'
    )
    assert latest_news(tmp_path) == {"step": 3, "loss": 0.5}


def test_a_reason_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = begin(tmp_path)
    started(log, 1)
    ended(log, 1, "failed", "[/pytorch/x] [red]lora[r=8]")
    status = live_status(tmp_path)
    assert status is not None
    show_status(status)
    assert "[/pytorch/x] [red]lora[r=8]" in capsys.readouterr().out
