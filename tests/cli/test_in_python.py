"""`from harness import Suite, run, results`: tables, verdicts and charts of stored results, and the page about them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import tunebench
from results_factory import MODEL, TASK, Results, cell, demo, items, scores

import harness
from harness import results, run
from harness.analysis import LabelComparison
from harness.errors import StoreError, UserError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/ of the suite `demo`."""
    folder = tmp_path_factory.mktemp("in-python")
    demo(folder / "results")
    return folder


@pytest.fixture
def found(stored: Path, monkeypatch: pytest.MonkeyPatch) -> harness.Results:
    monkeypatch.chdir(stored)
    monkeypatch.delenv("TUNEBENCH_RESULTS", raising=False)
    return results("demo")


def test_cells_have_a_row_each_with_what_they_measured(found: harness.Results) -> None:
    cells = found.cells
    assert len(cells) == 37
    assert cells.status.value_counts().to_dict() == {"done": 27, "oom": 6, "failed": 2, "missing": 2}
    lora = cells[cells.key == f"lora/{MODEL}/{TASK}/n128/s1"].iloc[0]
    assert (lora.label, lora.n_train, lora.seed, lora.metric) == ("lora", 128, 1, "acc")
    assert lora.score == pytest.approx(0.89)
    assert lora.base_score == pytest.approx(0.60)
    assert lora.change == pytest.approx(0.29)
    assert lora.train_seconds == pytest.approx(54.0)
    assert (lora.artifact_bytes, lora.trainable_params) == (4 * 2**20, 1e6)
    assert lora.settings == {"rank": 8}
    prompt = cells[cells.label == "prompt"].iloc[0]
    assert prompt["flags"] == {"learned_nothing": {"p": 0.4, "task": TASK}}
    assert cells[cells.label == "base"].seed.isna().all(), "no seed"
    assert cells[cells.status == "oom"].score.isna().all()


def test_scores_have_a_row_for_every_task_and_metric(found: harness.Results) -> None:
    table = found.scores
    kept = table[(table.label == "full") & (table.metric == "log_likelihood_per_word")]
    assert set(kept.role) == {"retain"}
    assert set(kept.task) == {"prose"}
    assert set(kept.learned) == {TASK}
    assert kept.change.to_list() == pytest.approx([-0.45] * 6)
    assert (kept.change_stderr > 0).all()
    assert len(table) == found.sql("select count(*) as n from scores").n[0]


def test_items_have_a_row_each_with_the_cell_that_they_are_of(found: harness.Results) -> None:
    table = found.items
    assert len(table) == found.sql("select count(*) as n from items").n[0]
    own = table[(table.key == f"lora/{MODEL}/{TASK}/n32/s0") & (table.metric == "acc")]
    assert len(own) == 200
    assert own.value.mean() == pytest.approx(0.79)
    assert set(own.prediction) == {"p"}
    assert own.text.isna().all(), "no texts were kept"


def test_texts_stand_beside_the_items(tmp_path: Path) -> None:
    factory = Results(tmp_path)
    factory.add(cell("base"), scores(1.0), items=items(TASK, "acc", [1.0]))
    with factory.store().open() as connection:
        connection.execute("INSERT INTO documents VALUES (?, ?, 'doc0-0', 'What is it?')", [TASK, "f" * 8])
    assert results("demo", tmp_path).items.text.to_list() == ["What is it?"]


def test_a_suite_without_scores_has_empty_tables(tmp_path: Path) -> None:
    factory = Results(tmp_path)
    factory.member(cell("late", 32, 0))
    factory.store()
    empty = results("demo", tmp_path)
    assert empty.cells.status.to_list() == ["missing"]
    assert len(empty.scores) == len(empty.items) == 0
    assert {"value", "metric"} <= set(empty.scores.columns)
    assert {"value", "metric"} <= set(empty.items.columns)


def test_the_database_is_read_only_and_answers_with_a_table(found: harness.Results) -> None:
    counts = found.sql("select label, count(*) as n from members where label = $label group by 1", {"label": "lora"})
    assert counts.to_dict("records") == [{"label": "lora", "n": 6}]
    for query in ("delete from attempts", "select * from nothing", "select * from read_csv('/etc/passwd')"):
        with pytest.raises(UserError, match="the query failed"):
            found.sql(query)
    with found.connect() as connection:
        assert connection.sql("select * from runs").columns[0] == "run_id"


def test_verdicts_and_recommendations_are_those_of_the_commands(found: harness.Results) -> None:
    compared = found.compare("lora", "full")
    assert isinstance(compared, LabelComparison)
    printed = json.loads(tunebench("compare", "lora", "full", "--suite", "demo", "--json").stdout)
    assert json.loads(json.dumps(compared.to_json(), default=str)) == printed
    (one,) = found.recommend(memory=16 * 2**30, max_forgetting=0.2)
    (told,) = json.loads(
        tunebench("recommend", "demo", "--memory", "16GiB", "--max-forgetting", "0.2", "--json").stdout
    )
    assert one.use == told["use"]
    assert one.sentences == told["sentences"]
    assert found.recommend(memory=1)[0].use is None
    with pytest.raises(UserError, match="Did you mean 'lora'"):
        found.compare("lorra", "full")


def test_the_answer_the_charts_and_the_report(found: harness.Results, tmp_path: Path) -> None:
    assert found.answer[0].startswith("Use ")
    paths = found.write_report(str(tmp_path / "report"))
    assert paths.html.exists()
    assert {path.stem for path in (tmp_path / "report" / "plots").glob("*.svg")} == set(found.charts)
    for chart in found.charts.values():
        chart.to_dict()  # raises where Altair finds it wrong
    assert repr(found) == "<Results of demo: 27 of 37 cells done, run run-1>"


def test_results_are_found_by_name_path_folder_and_variable(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert results("somewhere/demo.yaml", stored / "results").run.suite == "demo"
    with pytest.raises(StoreError, match="no database at"):
        results("demo")
    monkeypatch.setenv("TUNEBENCH_RESULTS", str(stored / "results"))
    assert results(Path("demo")).run.suite == "demo"
    with pytest.raises(StoreError, match="Did you mean 'demo'"):
        results("dmo")


def test_every_public_name_is_there_and_on_the_page() -> None:
    for name in harness.__all__:
        assert getattr(harness, name) is not None
        assert name in dir(harness)
        assert name.startswith("__") or f"`{name}`" in PAGE or f"{name}(" in PAGE or f"{name}." in PAGE, name
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        _ = harness.runs  # type: ignore[attr-defined]
    public = {name for name in [*vars(harness.Results), "report", "store"] if not name.startswith("_")}
    assert {name for name in public if f"`{name}`" not in PAGE and f"found.{name}(" not in PAGE} == set()
    table = PAGE.split("| attribute |")[1].split("\n\n")[0]
    assert {
        name for names in re.findall(r"^\| ([^|]+) \|", table, re.M) for name in re.findall(r"`(\w+)`", names)
    } <= public


def test_every_column_that_the_page_names_exists(found: harness.Results) -> None:
    for name in ("cells", "scores", "items"):
        (row,) = re.findall(rf"^\| `{name}` \| (.+) \|$", PAGE, re.M)
        assert set(re.findall(r"`(\w+)`", row)) <= set(getattr(found, name).columns), name


def test_the_snippets_of_the_page_run(found: harness.Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_RESULTS", str(Path("results").resolve()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 8
    for block in blocks:
        if "run(suite" not in block:
            exec(compile(block.replace("peft-vs-full", "demo"), "docs/python.md", "exec"), names)
    assert (tmp_path / "reports" / "mine" / "index.html").exists()
    assert len(list(tmp_path.glob("*.html"))) == len(found.charts)


SCRIPT = """
import logging, os, sys
from harness import Suite, run

before = dict(os.environ)
found = run(Suite.load("small"), only=["base"], threads=1)
assert sys.modules["__main__"].__file__ == __file__
assert dict(os.environ) == before
assert logging.root.manager.disable == 0
print("status", *found.cells[found.cells.label == "base"].status)
"""


@pytest.mark.process
def test_a_script_runs_a_suite_without_a_guard_of_its_main_part(project: Path) -> None:
    (project / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("cells, 0 finished before") == 1, "the processes of cells do not run the script again"
    assert done.stdout.splitlines()[-1] == "status done"
    found = results("small")
    command = found.sql("select command from runs").command[0]
    assert command == f"tunebench run {project / 'suites' / 'small.yaml'} --only=base --threads=1"


def test_what_cannot_be_run_is_said(project: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'small'"):
        run("smal")
    with pytest.raises(UserError, match="Did you mean 'failed'"):
        run("small", retry=["faild"])
    with pytest.raises(UserError, match="Did you mean 'local'"):
        run("small", executor="locall")
