"""What the report says of a machine whose speed was not steady, and what it then leaves undecided."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from results_factory import Results, cell, scores
from rich.console import Console

from harness.records import SPEED_AFTER, SPEED_BEFORE, Fact
from harness.report import load, printable, questions, write_report
from harness.report.columns import texts
from harness.report.pareto import seconds
from harness.report.sections.answer import costs
from harness.report.sections.base import Subject
from harness.report.sections.facts import names_of
from harness.report.sections.footnotes import footnotes
from harness.report.sections.machine_speed import MachineSpeed
from harness.report.table import Report

QUIET = 1e11  # FLOP/s


def report_of(folder: Path, shares: list[float]) -> Report:
    """Three seeds of two labels in turn, with the machine at these shares of its speed."""
    results = Results(folder)
    base = cell("base")
    results.add(base, scores(0.6), speed=(QUIET, QUIET))
    for number, share in enumerate(shares):
        label = ("quick", "slow")[number % 2]
        results.add(
            cell(label, 32, number // 2, baseline=base.spec_digest), scores(0.8), speed=(QUIET * share, QUIET * share),
            train_seconds=(5.0 if label == "quick" else 9.0) + 0.01 * number, energy=100.0,
            facts=[Fact("latency_ms_p50", 30.0, "ms", False)],
        )  # fmt: skip
    return load(results.store(), "demo")


def written(report: Report, folder: Path) -> str:
    return write_report(report, folder).markdown.read_text(encoding="utf-8").replace("\\", "")


def printed(report: Report) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(printable(report))
    return console.export_text()


def test_a_steady_machine_takes_no_place(tmp_path: Path) -> None:
    report = report_of(tmp_path / "results", [1.0, 1.01, 0.99, 1.0, 1.01, 1.0])
    assert report.machine == []
    assert list(MachineSpeed().elements(Subject(report))) == []
    assert "Speed of the machine" not in written(report, tmp_path / "out")
    assert "machine" not in printed(report)
    (block,) = report.blocks
    assert not {SPEED_BEFORE, SPEED_AFTER} & set(names_of(block)), "they are no measurements of a method"
    assert not any(row.disturbed for row in block.rows)


def test_a_drift_stands_in_the_answer_and_in_a_section(tmp_path: Path) -> None:
    report = report_of(tmp_path / "results", [0.985**place for place in range(1, 7)])
    (sentence,) = report.machine
    assert sentence.startswith("The machine slowed by 8.7% (95% interval 8.7% to 8.7%) from the first cell to the last")
    markdown = written(report, tmp_path / "out")
    assert "## Speed of the machine" in markdown
    assert sentence in markdown
    assert "8.7% slower" in markdown
    assert sentence in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert " ".join(printed(report).split()).endswith(sentence)
    assert list((tmp_path / "out" / "plots").glob("*machine*.svg"))
    assert not any(row.disturbed for row in report.blocks[0].rows)


def test_a_cell_at_another_speed_takes_its_label_out_of_what_times_decide(tmp_path: Path) -> None:
    report = report_of(tmp_path / "results", [1.0, 1.0, 0.7, 1.0, 1.0, 1.0])
    (block,) = report.blocks
    rows = {row.label: row for row in block.rows}
    assert (rows["quick"].disturbed, rows["quick"].contended, rows["slow"].disturbed) == (True, False, False)
    assert seconds(rows["quick"]) is None
    assert seconds(rows["slow"]) == pytest.approx(9.03)
    assert [text for text in texts(block, rows["quick"]) if text.endswith("‡")][-2:] == ["100 J ‡", "30 ‡"]
    assert "to train" not in " ".join(costs(list(block.rows), block.ranking(32)))
    (question,) = questions(report)
    assert {one.label: one.disturbed for one in question.candidates}["quick"]
    notes = [note.text for note in footnotes(report) if "‡" in note.text]
    assert notes == [
        "‡ in a cell of this row the machine's speed was more than 10% off the median of the run: do not compare this "
        "figure."
    ]
    assert report.machine[-1] == (
        "In 1 of 7 cells the machine's speed was more than 10% off the median of the run: their times, rates and "
        "energy decide nothing."
    )
    markdown = written(report, tmp_path / "out")
    assert "| quick/tiny/topic/n32/s1 | 70 GFLOP/s | 70 GFLOP/s | 30% slower |" in markdown


def test_the_same_labels_at_a_steady_speed_are_decided_by_time(tmp_path: Path) -> None:
    (block,) = report_of(tmp_path, [1.0] * 6).blocks
    assert "quick 5.0 s to train" in " ".join(costs(list(block.rows), block.ranking(32)))
