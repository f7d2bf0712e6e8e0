"""A section of the report is one file: what it yields is on the page, in Markdown, on a terminal and in files."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from results_factory import Results, cell, scores

from harness.report import load, printable, sections, write_report
from harness.report.sections import all_sections, parts_of

ONE_FILE = '''
"""How long each label's name is."""

from harness.report.elements import Bullets, Entries, Entry, Footnote, Folded, Plot, Text, TextTable
from harness.report.sections.base import Section

CHART = {"mark": "point", "data": {"values": [{"x": 1, "y": 2}]},
         "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}}}


class Names(Section):
    name = "names"
    title = "Lengths of names"
    order = 195
    per_block = True

    def elements(self, subject):
        rows = [[row.label, str(len(row.label))] for row in subject.block.rows]
        yield Text("Every label has a <name>.")
        yield TextTable("Letters by label", ["method", "letters"], rows)
        yield Folded("More on names", (Bullets(["Short names are read fast."]),))
        yield Entries([Entry("lora", "short", "four letters")])
        yield Plot("Letters drawn", {"": CHART}, "One point.")

    def footnotes(self, report):
        yield Footnote("Letters: of the Latin alphabet.", "letters")


class Whole(Section):
    name = "whole"
    title = "Of the whole report"
    order = 205

    def elements(self, subject):
        yield Text(f"{len(subject.report.cells)} cells were counted.")
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one file of two sections, as if it lay among the others."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "names_of_labels.py").write_text(ONE_FILE)
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(folder)])
    all_sections.cache_clear()
    yield folder
    all_sections.cache_clear()
    sys.modules.pop("harness.report.sections.names_of_labels", None)


def results(folder: Path) -> Results:
    made = Results(folder)
    base = cell("base")
    made.add(base, scores(0.6))
    made.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.8), train_seconds=5.0)
    return made


def test_a_section_is_one_file(added: Path, tmp_path: Path) -> None:
    from rich.console import Console

    report = load(results(tmp_path / "results").store(), "demo")
    paths = write_report(report, tmp_path / "out")
    page, markdown = (path.read_text(encoding="utf-8") for path in (paths.html, paths.markdown))
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(printable(report))
    terminal = console.export_text()
    for form in (page, markdown, terminal):
        for text in (
            "Lengths of names", "Letters by label", "Short names are read fast.", "four letters", "Of the whole report",
            "2 cells were counted.", "Letters: of the Latin alphabet.",
        ):  # fmt: skip
            assert text in form
    assert "Every label has a &lt;name&gt;." in page
    assert "<summary>More on names</summary>" in page
    assert '<a href="#whole">Of the whole report</a>' in page
    assert page.index("Lengths of names") < page.index("2 cells were counted.")
    assert "| lora | 4 |" in markdown
    assert "![Letters drawn: topic, tiny](plots/Letters-drawn-tiny-topic.svg)" in markdown
    tables = tmp_path / "out" / "tables"
    assert (tables / "names-tiny-topic-Letters-by-label.csv").read_text() == "method,letters\nbase,4\nlora,4\n"
    assert "Letters by label" in (tables / "names-tiny-topic-Letters-by-label.tex").read_text()
    assert (tmp_path / "out" / "plots" / "Letters-drawn-tiny-topic.png").exists()


def test_the_order_is_that_of_the_sections(tmp_path: Path) -> None:
    report = load(results(tmp_path).store(), "demo")
    page = [part.section.name for part in parts_of(report, "page")]
    terminal = [part.section.name for part in parts_of(report, "terminal")]
    assert page[0] == terminal[-1] == "answer"
    assert page.index("leaderboard") < page.index("notes") < page.index("instruments") < page.index("reproduce")
    assert "reproduce" not in terminal


def test_every_section_is_documented_and_has_its_place() -> None:
    orders = [section.order for section in all_sections()]
    assert len(set(orders)) == len(orders) > 14
    for section in all_sections():
        assert section.__doc__, section.name


def test_a_section_of_the_whole_report_has_no_block(tmp_path: Path) -> None:
    subject = sections.Subject(load(results(tmp_path).store(), "demo"))
    with pytest.raises(ValueError, match="per_block"):
        _ = subject.block
