"""The report's section on library versions shows what `regress` found, the package first."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

from results_factory import demo
from rich.console import Console

from harness.analysis import Cause, ProbeChange
from harness.analysis.regression import (
    Attribution,
    Change,
    EnvironmentFindings,
    MetricChanges,
    PairFindings,
    Pattern,
    Regression,
    RegressionFindings,
    kept_findings,
)
from harness.report import load, printable, write_report
from harness.report.sections.versions import matrix, matrix_rows

SLOWER = MetricChanges(
    "train_seconds", "cost", 0.05, Pattern("only", "only lora (1.2 ×) moved", ("lora",)),
    labels=(
        Change("label", "lora", "train_seconds", "different", 0.05, effect=1.2, p=0.001, better=False, relative=True),
        Change("label", "full", "train_seconds", "same", 0.05),
    ),
    cells=(Change("cell", "lora/n32", "train_seconds", "different", 0.05, "lora", effect=1.2, better=False),),
    timed=True,
)  # fmt: skip
PAIR = PairFindings(
    "peft==0.20.0", "peft==0.21.2", ("peft 0.20.0 → 0.21.2",),
    (ProbeChange("svd", "merge: size", "1", "0.5"),),
    (Attribution((("svd", "merge: size"),), Cause(("peft",)), ("peft 0.20.0 → 0.21.2",)),),
    Regression("a", "b", (SLOWER,)),
    (("qlora", "no bitsandbytes"),),
)  # fmt: skip
FOUND = RegressionFindings(
    "demo", ("lora", "full", "svd", "qlora"),
    (
        EnvironmentFindings("peft==0.20.0", "a"), EnvironmentFindings("peft==0.21.2", "b"),
        EnvironmentFindings("peft==9", cannot="no such <release>"),
    ),
    (PAIR,),
)  # fmt: skip


def test_each_label_has_the_gravest_verdict_in_each_environment() -> None:
    entries = matrix(FOUND)
    assert matrix_rows(entries, ["peft==0.20.0", "peft==0.21.2", "peft==9"]) == [
        ["lora", "", "worse", "cannot run"],
        ["full", "", "same", "cannot run"],
        ["svd", "", "differs", "cannot run"],
        ["qlora", "", "not compared", "cannot run"],
    ]
    assert next(entry for entry in entries if entry.label == "lora").why == "train_seconds 1.2 ×"


def test_it_is_kept_and_shown_in_every_form(tmp_path: Path) -> None:
    store = demo(tmp_path / "results")
    assert load(store, "demo").versions is None
    FOUND.keep(store.folder)
    report = load(store, "demo")
    assert report.versions == FOUND
    paths = write_report(report, tmp_path / "out")
    page, markdown = paths.html.read_text(), paths.markdown.read_text()
    assert "peft 0.20.0 → 0.21.2 changed merge: size of svd." in page
    assert "no such &lt;release&gt;" in page
    assert "Verdicts by label and environment" in page
    assert page.index("changed merge: size of svd") < page.index("only lora (1.2 ×) moved")
    assert "| svd |  | differs | cannot run |" in markdown
    terminal = StringIO()
    Console(width=80, file=terminal).print(printable(report))
    assert "not compared" in terminal.getvalue()


def test_without_a_comparison_there_is_no_section(tmp_path: Path) -> None:
    store = demo(tmp_path / "results")
    folder = store.folder / "regressions"
    folder.mkdir()
    (folder / "demo.json").write_text('{"suite": 3}')
    assert kept_findings(store.folder, "demo") is None
    report = load(store, "demo")
    assert "Library versions" not in write_report(report, tmp_path / "out").html.read_text()
    assert replace(report, versions=None).steps == ()
