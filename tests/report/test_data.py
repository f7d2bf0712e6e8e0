"""The report says what became of the rows of each task's data."""

import csv
from pathlib import Path

from results_factory import Results, cell, scores

from harness.report import load, write_report

ROWS = {
    "tickets": {
        "read": {"train": 1500, "test": 300},
        "dropped": {"repeats": 4, "empty <b>": 1},
        "kept": {"train": {"billing": 1400, "[red]": 95}, "validation": {"billing": 100}, "test": {"billing": 200}},
    },
    "prose": {"read": {}, "dropped": {}, "kept": {"test": {"": 9}}},
}


def made(folder: Path, **options: object) -> Results:
    found = Results(folder / "results", **options)  # type: ignore[arg-type]
    base = cell("base")
    found.add(base, scores(0.6))
    found.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.8), train_seconds=5.0)
    return found


def test_rows_read_dropped_and_kept_are_on_the_page(tmp_path: Path) -> None:
    paths = write_report(load(made(tmp_path, task_rows=ROWS).store(), "demo"), tmp_path / "out")
    markdown, page = paths.markdown.read_text(), paths.html.read_text()
    for text in ("1,800 (train 1,500, test 300)", "1,495 (billing 1400", "100 (billing 100)"):
        assert text in markdown
        assert text in page
    assert "[red] 95" in page
    assert "empty &lt;b&gt; 1" in page
    with next((tmp_path / "out").rglob("*rows*.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert {"task": "tickets", "what": "train", "of": "billing", "rows": "1400"} in rows
    assert {"task": "prose", "what": "scored", "of": "", "rows": "9"} in rows


def test_a_run_of_an_earlier_tunebench_has_no_such_section(tmp_path: Path) -> None:
    report = load(made(tmp_path).store(), "demo")
    assert report.task_rows == {}
    assert "Rows of the data" not in write_report(report, tmp_path / "out").markdown.read_text()
