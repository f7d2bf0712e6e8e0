"""How the report shows a suite that was decided: the looks, as a chart and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results_factory import MODEL, TASK, demo

from harness.records import LookRecord
from harness.report import load
from harness.report.elements import Plot, Text, TextTable
from harness.report.sections.base import Subject
from harness.report.sections.deciding import Deciding
from harness.store import add_look


def looks() -> list[LookRecord]:
    shared: dict[str, Any] = {
        "time": "2026-01-02T10:00:00.000+00:00", "suite": "demo", "model": MODEL, "task": TASK, "n_train": 128,
        "sure": 0.95, "margin": 0.02, "reach": None, "next_seconds": 40.0,
    }  # fmt: skip
    first = {
        "seconds": 60.0, "state": "open", "answer": "lora", "confidence": None, "chances": {}, "out": {},
        "seeds": {"lora": 1, "full": 0, "dora": 1}, "ruled_out": {}, "cells": 3, "next": "full/tiny/topic/n128/s0",
    }  # fmt: skip
    last = {
        "seconds": 180.0, "state": "settled", "answer": "lora", "confidence": 0.96,
        "chances": {"lora": 0.9, "full": 0.1}, "seeds": {"lora": 3, "full": 2}, "out": {"full": "lora"},
        "ruled_out": {"dora": "latency 90 ms, more than 50 ms"}, "cells": 6, "next": "",
    }  # fmt: skip
    return [LookRecord(**shared, **each) for each in (first, last)]  # type: ignore[typeddict-item]


def test_a_decided_suite_shows_its_looks(tmp_path: Path) -> None:
    store = demo(tmp_path / "results")
    for look in looks():
        add_look(store.folder, "20260102T100000-run", look)
    report = load(store, "demo")
    note, plot, table = Deciding().elements(Subject(report, report.blocks[0]))
    assert isinstance(note, Text)
    assert isinstance(plot, Plot)
    assert isinstance(table, TextTable)
    assert "It was settled after 6 cells and 180 s: lora led, 96% sure (95% was asked for)." in note.text
    assert "dora was ruled out: latency 90 ms, more than 50 ms." in note.text
    assert "full was left out after 2 seeds: lora was shown to be better." in note.text
    assert table.rows[0] == ["3 cells", "60", "lora", "n/a", "lora 1, dora 1", "full/tiny/topic/n128/s0"]
    assert table.numbers
    headers, rows = table.numbers
    last = dict(zip(headers, rows[-1], strict=True))
    assert (last["label"], last["seeds"], last["chance_best"], last["leads"]) == ("full", 2, 0.1, 0)
    (drawn,) = plot.charts.values()
    points = drawn["data"]["values"]  # type: ignore[index]
    assert [(point["label"], point["chance"]) for point in points] == [("lora", 90.0), ("full", 10.0)]


def test_a_suite_that_was_not_decided_has_no_such_section(tmp_path: Path) -> None:
    report = load(demo(tmp_path / "results"), "demo")
    assert list(Deciding().elements(Subject(report, report.blocks[0]))) == []
