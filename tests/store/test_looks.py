"""Looks of a run that decides a suite: kept as lines, read whatever a hand or a power cut made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.records import LookRecord
from harness.store import add_look, looks_of


def look(suite: str = "demo", **changes: Any) -> LookRecord:
    values: dict[str, Any] = {
        "time": "2026-01-02T10:00:00.000+00:00", "seconds": 12.5, "suite": suite, "model": "tiny", "task": "topic",
        "n_train": 32, "sure": 0.95, "margin": 0.02, "state": "open", "answer": "lora", "confidence": 0.7,
        "chances": {"lora": 0.6, "full": 0.4}, "seeds": {"lora": 2, "full": 1}, "out": {}, "ruled_out": {},
        "reach": None, "cells": 3, "next": "full/tiny/topic/n32/s1", "next_seconds": 40.0, **changes,
    }  # fmt: skip
    return LookRecord(**values)  # type: ignore[typeddict-item]


def test_the_newest_run_that_decided_the_suite_counts(tmp_path: Path) -> None:
    add_look(tmp_path, "20260101T000000-a", look(cells=1))
    add_look(tmp_path, "20260102T000000-b", look(cells=2))
    add_look(tmp_path, "20260102T000000-b", look(cells=3))
    add_look(tmp_path, "20260103T000000-c", look("another"))
    assert [each["cells"] for each in looks_of(tmp_path, "demo")] == [2, 3]
    assert looks_of(tmp_path, "none") == []


def test_lines_that_are_no_looks_are_left_out(tmp_path: Path) -> None:
    add_look(tmp_path, "run", look(cells=1))
    path = tmp_path / "runs" / "run.looks.jsonl"
    path.write_text(path.read_text() + '{"seconds": 1}\n[]\nno JSON\n' + path.read_text()[:100])
    assert [each["cells"] for each in looks_of(tmp_path, "demo")] == [1]
