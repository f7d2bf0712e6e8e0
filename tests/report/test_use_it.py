"""The page's answer ends with the commands that use what it advises."""

from __future__ import annotations

from pathlib import Path

from results_factory import Results, cell, demo, scores

from harness.report import load
from harness.report.advice import advised
from harness.report.sections.answer import use_it


def test_the_advised_cell_is_exported_and_asked(tmp_path: Path) -> None:
    report = load(demo(tmp_path), "demo")
    told = [element.text for element in use_it(report)]
    answer, _ = advised(report)[0]
    assert answer.first is not None
    label = answer.first.candidate.label
    (row,) = [row for row in report.cells if row.label == label and row.n_train == 128 and row.seed == 0]
    assert told[1:] == [
        f"tunebench export {row.key} {label}", f'tunebench try demo "your own text" --label {label}',
    ]  # fmt: skip


def test_nothing_is_offered_where_nothing_is_advised(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add(cell("lora", 32, 0), scores(0.8, 0.03, -5, 0.4))
    store = results.store()
    assert list(use_it(load(store, results.suite))) == []
