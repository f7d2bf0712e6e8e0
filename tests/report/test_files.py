"""What lies beside the page: tables that can be read back, plots, and the list of all reports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from results_factory import Results, answered, cell, demo, items, scores

from harness.report import load, write_contents, write_report
from harness.report.files import FileNames, csv_text, latex, tables, tex
from harness.report.sections.item_browser import MOST_TEXT, explorer, shortened, verdicts
from harness.report.table import Report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return load(demo(tmp_path_factory.mktemp("files")), "demo")


def test_csv_has_the_figures_as_they_are(report: Report) -> None:
    table = next(one for one in tables(report) if one.file[:4] == ("scores", "tiny", "topic", "n128"))
    assert table.numbers
    rows = list(csv.DictReader(io.StringIO(csv_text(*table.numbers))))
    lora = next(row for row in rows if row["label"] == "lora")
    assert float(lora["acc"]) == pytest.approx((0.87 + 0.89) / 2)
    assert float(lora["acc stderr"]) > 0
    assert float(lora["peak memory"]) == 1536 * 1024**2
    qlora = next(row for row in rows if row["label"] == "qlora")
    assert (qlora["status"], qlora["acc"]) == ("oom", "")
    assert lora["status"] == "done"


def test_every_pair_is_a_row_of_the_verdicts(report: Report) -> None:
    table = next(one for one in tables(report) if one.file[:4] == ("verdicts", "tiny", "topic", "n128"))
    assert len(table.rows) == 15
    assert all(len(row) == len(table.headers) for row in table.rows)


def test_latex_is_booktabs_with_nothing_left_to_escape(report: Report) -> None:
    for table in tables(report):
        text = latex(table)
        assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
        assert not set("−±Δ†‡§×") & set(text)
        assert len({line.count(" & ") for line in text.splitlines() if line.endswith("\\\\")}) == 1
    assert tex(r"50% of a_b & c#{d} ~^\ ± −1") == (
        r"50\% of a\_b \& c\#\{d\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\pm$ $-$1"
    )


def test_names_of_files_do_not_meet_and_are_not_too_long(tmp_path: Path) -> None:
    names = FileNames()
    given = [names.of("scores", "tiny", task, "n32") for task in ("a b", "a-b", "A-B", "x" * 300, "x" * 301, "/")]
    assert len({name.lower() for name in given}) == len(given)
    assert given[0] == "scores-tiny-a-b-n32"
    assert max(map(len, given)) < 120
    assert len({names.of("/"), names.of("/"), names.of("/")} - set(given)) == 3
    for name in (*given, "old"):
        (tmp_path / f"{name}.csv").write_text("")
    names.tidy(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(given)


def test_the_explorer_holds_what_every_row_answered(report: Report) -> None:
    (block,) = report.blocks
    found = explorer(report, block)
    assert found
    assert len(found["docs"]) == 200
    row = next(one for one in found["rows"] if (one["label"], one["n"]) == ("full", 128))
    assert row["seeds"] == 3
    assert sum(map(int, row["right"])) == round(200 * 0.88) + round(200 * 0.90) + round(200 * 0.89)
    assert {found["answers"]["0123456789".index(code)] for code in set(row["said"])} == {"p"}
    (large,) = [table for table in verdicts(block) if table["n"] == 128]
    assert large["labels"] == list(block.ranking(128).labels)
    assert len(large["pairs"]) == 15


def test_values_that_are_no_answers_right_or_wrong_are_kept_as_numbers(tmp_path: Path) -> None:
    results = Results(tmp_path)
    base = cell("base")
    told = [f"answer {place}" for place in range(90)]
    for one, shift in ((base, 0.0), (cell("lora", 32, 0, baseline=base.spec_digest), 0.25)):
        values = [place / 200 + shift for place in range(90)]
        found = items("topic", "acc", values)
        results.add(one, scores(sum(values) / 90, n=90),
                    items=[type(item)(item.task, item.doc_id, item.metric, item.value, said, "t")
                           for item, said in zip(found, told, strict=True)])  # fmt: skip
    report = load(results.store(), "demo")
    found = explorer(report, report.blocks[0])
    assert found
    lora = next(row for row in found["rows"] if row["label"] == "lora")
    assert max(lora["values"]) == pytest.approx(89 / 200 + 0.25)
    assert isinstance(lora["said"], list)  # more answers than there are letters
    assert {found["answers"][place] for place in lora["said"]} == set(told)


def test_long_texts_are_cut() -> None:
    assert len(shortened("word " * 1000)) <= MOST_TEXT + 2
    assert shortened("short") == "short"


def test_the_list_of_reports_names_those_without_one(tmp_path: Path) -> None:
    store = demo(tmp_path / "results")
    other = Results(tmp_path / "results", suite="other", run_id="run-2", question="And <this>?")
    base = cell("base")
    other.add(base, scores(0.6), items=answered(0.6, 1))
    other.store()
    folder = tmp_path / "reports"
    write_report(load(store, "demo"), folder / "demo")
    page = write_contents(store, folder).read_text(encoding="utf-8")
    assert 'href="demo/index.html"' in page
    assert "Use setfit" in page
    assert "tunebench report other" in page
    told = json.loads((folder / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert (told["cells"], told["done"]) == (37, 27)
    (folder / "demo" / "summary.json").write_text("{half")
    assert "tunebench report demo" in write_contents(store, folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\ufeff=1",
        "\u200b=1",
        "＝1",
        "＠a",
        "\r\n=1",
    ],
)
def test_no_cell_of_a_csv_file_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_text([text], [[text]]), newline="")))
    assert rows == [["'" + text.replace("\r\n", "\n").replace("\r", "\n")]] * 2


@pytest.mark.parametrize("divider", [";", "\t", "\n", "; ", ';"'])
@pytest.mark.parametrize("formula", ["=1+1", "@x", "-1+cmd|' /C calc'!A0", "+a"])
def test_no_cell_is_a_formula_where_other_signs_divide_cells(divider: str, formula: str) -> None:
    text = csv_text(["a"], [[f"text{divider}{formula}"]])
    for sign in (";", "\t"):
        for line in text.split("\n"):
            assert not any(cell.lstrip(' "').startswith(("=", "+", "-", "@")) for cell in line.split(sign))


@pytest.mark.parametrize(
    "value", ["-0.5", "+3", "-1e-5", "+3%", "lora", "a=b", "a; b", "fine ;-)", "a;b", "-", "", -0.5, 3, None, True]
)
def test_what_is_no_formula_stays(value: object) -> None:
    (row,) = csv.reader(io.StringIO(csv_text([], [[value]]).removeprefix("\n")))  # type: ignore[list-item]
    assert row == ["" if value is None else str(value)]
