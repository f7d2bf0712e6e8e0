"""How far a run is: what a cell's phase has done, and the time that is left."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from results_factory import cell

from harness.cli.display import console, show_status, table
from harness.execute.durations import START_SECONDS, Durations
from harness.execute.events import LiveStatus, latest_news, progress_text
from harness.execute.queue import Queue
from harness.execute.running import Progress, Running
from harness.records import Cell
from harness.worker.request_progress import EVERY_SECONDS, RequestProgress


def test_requests_are_told_once_a_second_and_when_a_task_is_through(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = [100.0], list[tuple[str, int, int]]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = RequestProgress(lambda task, answered, asked: told.append((task, answered, asked)))
    progress.begin(["a"] * 4 + ["b"] * 2)
    progress.advance(["a"])
    progress.advance(["a", "b"])  # within the same second
    clock[0] += EVERY_SECONDS
    progress.advance(["a"])
    progress.advance(["a"])
    progress.advance(["b"])
    assert told == [("a", 1, 4), ("a", 3, 4), ("a", 4, 4), ("b", 2, 2)]
    progress.begin(["a"])
    progress.advance(["a"])
    assert told[-1] == ("a", 1, 1)


def test_progress_is_that_of_the_phase() -> None:
    trained = {"phase": "train", "step": 3, "steps": 9}
    assert progress_text(trained) == "3/9"
    assert progress_text({**trained, "phase": "evaluate"}) == ""
    assert progress_text({**trained, "phase": "evaluate", "task": "topic", "answered": 5, "asked": 20}) == "topic 5/20"
    assert progress_text({"phase": "load"}) == ""


def test_news_of_requests_are_read_and_odd_ones_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"phase": "evaluate"}\n{"task": "topic", "answered": 5, "asked": 20}\n{"answered": -1, "asked": "x"}\n'
    )
    assert latest_news(tmp_path) == {"phase": "evaluate", "task": "topic", "answered": 5, "asked": 20}


def test_the_live_table_and_status_say_how_far_an_evaluation_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell("lora", 8, seed) for seed in range(2)]
    progress = progress_of(cells, running=1, done={0: 100.0})
    progress.plan = SimpleNamespace(suite=SimpleNamespace(name="demo"))  # type: ignore[assignment]
    progress.running[0].folder = tmp_path
    news = {"phase": "evaluate", "task": "topic", "answered": 50, "asked": 200}
    (tmp_path / "events.jsonl").write_text(json.dumps(news) + "\n")
    console().print(table(progress, 12.0))
    shown = capsys.readouterr().out
    assert "12 s gone, about 1 min 40 s left" in shown
    assert re.search(r"lora/tiny/topic/n8/s1 +evaluate +topic 50/200", shown)
    show_status(
        LiveStatus("r1", "demo", "2026-01-01T00:00:00", 1, True, 1, running=[
            {"key": "c1", "device": "cpu", "rss_bytes": 0, **news}])
    )  # fmt: skip
    assert re.search(r"c1 +cpu +evaluate +topic 50/200", capsys.readouterr().out)


# --- the time that is left ---


def progress_of(
    cells: list[Cell], running: int = 0, done: dict[int, float] | None = None, before: Durations | None = None
) -> Progress:
    """Cells by their place: those `done` (place -> seconds), then so many `running`; the rest is to do."""
    done = done or {}
    states = {one.spec_digest: "done" if place in done else "to do" for place, one in enumerate(cells)}
    waiting = [one for place, one in enumerate(cells) if place not in done]
    under_way = waiting[:running]
    states |= {one.spec_digest: "running" for one in under_way}
    queue = Queue(cells, states, lambda cell: 1.0)
    ended = [(cells[place], "done", seconds) for place, seconds in done.items()]
    rows = [Running(one, Path("/nowhere"), None) for one in under_way]
    return Progress(None, states, Counter(), rows, ended, queue=queue, before=before or Durations())  # type: ignore[arg-type]


def gone(progress: Progress, seconds: float) -> None:
    """Let the running cells have run for so many seconds."""
    for running in progress.running:
        running.started = time.monotonic() - seconds


def test_time_left_is_of_the_cells_like_it() -> None:
    cells = [cell("lora", 8, seed) for seed in range(3)] + [cell("full", 8, seed) for seed in range(2)]
    progress = progress_of(cells, done={0: 10.0, 3: 100.0})
    assert progress.seconds_left() == pytest.approx(2 * 10 + 100)
    assert progress_of(cells).seconds_left() is None


def test_what_was_measured_before_counts_until_the_run_has_its_own() -> None:
    one = cell("lora", 8, 0)
    before = Durations([("lora", one.model, one.task, 8, 60.0)])
    cells = [cell("lora", 8, seed) for seed in range(3)]
    assert progress_of(cells, before=before).seconds_left() == pytest.approx(180)
    assert progress_of(cells, done={0: 10.0}, before=before).seconds_left() == pytest.approx(20)


def test_time_left_falls_as_a_cell_runs_and_grows_once_it_is_late() -> None:
    cells = [cell("lora", 8, seed) for seed in range(2)]
    progress = progress_of(cells, running=1, done={0: 100.0})
    left = []
    for seconds in (10, 60, 200, 400):
        gone(progress, seconds)
        left.append(progress.seconds_left())
    assert left == pytest.approx([90, 40, 20, 40], abs=0.5)


def test_steps_of_training_say_that_a_cell_needs_longer(tmp_path: Path) -> None:
    cells = [cell("lora", 8, seed) for seed in range(2)]
    progress = progress_of(cells, running=1, done={0: 10.0})
    progress.running[0].folder = tmp_path
    (tmp_path / "events.jsonl").write_text(json.dumps({"phase": "train", "step": 10, "steps": 100}) + "\n")
    gone(progress, 20)
    assert progress.seconds_left() == pytest.approx(180, abs=1)


def test_a_model_that_was_not_measured_is_foretold_by_its_size() -> None:
    large = cell("lora", 8, 0)
    history = [("lora", large.model, large.task, 8, 104.0)]
    sizes = {large.model: 135e6, "small": 13.5e6, "huge": 1350e6}
    durations = Durations(history, sizes)
    assert durations.seconds(large) == 104.0
    assert durations.seconds(cell("lora", 8, 0, model="small")) == pytest.approx(START_SECONDS + 10.0)
    assert durations.seconds(cell("lora", 8, 0, model="huge")) == pytest.approx(START_SECONDS + 1000.0)
    assert durations.seconds(cell("lora", 8, 0, model="not known")) == 104.0
    quick = Durations([("lora", large.model, large.task, 8, 1.0)], sizes)
    assert quick.seconds(cell("lora", 8, 0, model="huge")) == 1.0


def test_time_left_scales_with_the_size_of_the_model() -> None:
    cells = [cell("lora", 8, 0), cell("lora", 8, 0, model="small")]
    sizes = {cells[0].model: 100e6, "small": 10e6}
    progress = progress_of(cells, done={0: 104.0}, before=Durations((), sizes))
    assert progress.seconds_left() == pytest.approx(START_SECONDS + 10)
