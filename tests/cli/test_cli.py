"""The commands, as a user meets them: one clear message for bad input, exit code 2, nothing written over."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import refused, tunebench
from results_factory import Results, cell, scores

from harness.cli import commands
from harness.cli.commands import all_commands
from harness.cli.options import GROUPS
from harness.execute.events import EventLog
from harness.records import SPEED_BEFORE

COMMANDS = list(all_commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = tunebench(command, "--help")
    assert done.returncode == 0
    assert f"Example: tunebench {command}" in done.stdout


def test_help_lists_every_command_by_what_it_is_for_in_80_columns() -> None:
    shown = tunebench("--help").stdout
    assert max(map(len, shown.splitlines())) <= 80
    groups = dict(re.findall(r"^([A-Z][\w ]+):\n((?:  .*\n)+)", shown, re.M))
    assert list(groups)[-len(GROUPS) :] == list(GROUPS)
    for group in GROUPS:
        assert "..." not in groups[group], "no summary is cut"
        listed = re.findall(r"^  (\w+)  ", groups[group], re.M)
        assert listed == [name for name, command in all_commands().items() if command.group == group]
        assert listed


def test_every_command_is_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    pages = " ".join(page.read_text() for page in (root / "README.md", *(root / "docs").glob("*.md")))
    assert [name for name in COMMANDS if f"tunebench {name}" not in pages] == []


@pytest.mark.process
def test_the_installed_command_starts() -> None:
    done = subprocess.run([sys.executable, "-m", "harness.cli", "--help"], capture_output=True, text=True, check=True)
    assert "Answer a question:" in done.stdout


HELLO = '''
from harness.cli.options import command

@command("Keep", "say a word of greeting")
def hello(name: str) -> None:
    """Say a word of greeting.

    Example: tunebench hello Ada
    """
    print(f"hello, {name}")
'''


def test_a_command_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "harness.cli.commands.hello", raising=False)
    try:
        assert tunebench("hello", "Ada").stdout == "hello, Ada\n"
        assert re.search(r"^  hello +say a word of greeting$", tunebench("--help").stdout, re.M)
    finally:
        sys.modules.pop("harness.cli.commands.hello", None)


def test_from_nothing_to_a_report(project: Path) -> None:
    done = tunebench("run", "small")
    assert done.returncode == 0, done.stderr
    assert "5 cells, 0 finished before, 5 to run" in done.stdout
    assert "no tie within 0.02 can be expected: 30 items of colours find differences from 0." in done.stdout
    assert "• " in done.stdout.split("5 to run")[1], "it ends with the answer"
    assert "next: `tunebench report small`" in done.stdout
    again = tunebench("run", "small")
    assert again.returncode == 0
    assert "5 finished before, 0 to run" in again.stdout
    once_more = tunebench("run", "small", "--only", "base", "--retry", "done")
    assert "1 to run, about " in once_more.stdout, "what was measured foretells"
    assert "no tie" not in again.stdout
    shown = tunebench("report", "small")
    assert shown.returncode == 0, shown.stderr
    assert "Which colours?" in shown.stdout
    page = (project / "reports" / "small" / "index.html").read_text()
    assert "colours" in page
    assert (project / "reports" / "small" / "report.md").exists()
    plan = json.loads(tunebench("plan", "small", "--json").stdout)
    assert {row["status"] for row in plan["cells"]} == {"done"}
    (outlook,) = plan["outlook"]
    assert (outlook["task"], outlook["items"], outlook["margin"], outlook["figures"]["decides"]) == (
        "colours", 30, 0.02, False,
    )  # fmt: skip
    assert "30 test items, so one score has a standard error of 0.091" in tunebench("plan", "small").stdout
    margin = tunebench("sql", "select distinct margin from runs", "--json").stdout
    assert json.loads(margin) == [{"margin": 0.02}]
    text = tunebench("sql", "select distinct suite_text from runs", "--json").stdout
    assert json.loads(text) == [{"suite_text": (project / "suites" / "small.yaml").read_text()}]
    rows = tunebench("sql", "select distinct task_rows -> '$.colours.kept.test' as test from runs", "--json").stdout
    (counts,) = json.loads(rows)
    assert sum(json.loads(counts["test"]).values()) == 30
    detail = json.loads(tunebench("show", "lora/tiny/colours/n8/s0", "--json").stdout)
    assert detail["settings"]["rank"] == 8
    assert detail["attempts"][0]["status"] == "done"
    assert "tunebench export lora/tiny/colours/n8/s0 DIR" in tunebench("show", "lora/tiny/colours/n8/s0").stdout
    missed = tunebench("show", "lora/tiny/colours/n9/s0")
    assert missed.returncode == 2
    assert "Did you mean 'lora/tiny/colours/n8/s0'?" in missed.stderr
    counted = tunebench("sql", "select status, count(*) as n from attempts group by 1", "--json")
    assert json.loads(counted.stdout) == [{"status": "done", "n": 6}]
    before = tunebench("sql", "from scores order by all", "--json").stdout
    assert "6 attempts" in tunebench("rebuild").stdout
    assert tunebench("sql", "from scores order by all", "--json").stdout == before


def test_a_cell_is_done_again_by_the_command_that_show_prints(project: Path) -> None:
    key = "lora/tiny/colours/n8/s0"
    refused(tunebench("run", "small", "--only", "lroa/*"), "unknown cell of small 'lroa/*'. Did you mean 'lora'?")
    assert not (project / "results").exists()
    planned = json.loads(tunebench("plan", "small", "--only", key, "--json").stdout)["cells"]
    assert [row["key"] for row in planned] == ["base/tiny/colours", key]
    done = tunebench("run", "small", "--only", key, "--threads", "1", "--memory", "64GiB")
    assert done.returncode == 0, done.stderr
    assert "2 cells, 0 finished before, 2 to run" in done.stdout
    assert json.loads(tunebench("status", "--json").stdout)["counts"] == {"done": 2}

    detail = json.loads(tunebench("show", key, "--json").stdout)
    assert detail["repeats"] == {"attempts": 1}
    assert set(detail["fingerprints"]) == {"colours", "prose", "model"}
    again = detail["again"]
    assert again["run"] == f"tunebench run small --only {key} --retry done --threads 1 --memory 64GiB"
    commit = detail["attempts"][0]["commit"]
    assert (again["commit"], again["dirty"]) == (commit, detail["attempts"][0]["dirty"])
    assert again["command"].startswith(f"git checkout {commit} && pip install " if commit else "pip install ")
    assert f"torch=={version('torch')}" in again["requirements"]
    lines = tunebench("show", key).stdout.splitlines()
    assert lines[lines.index("to do it again:") + 1 :] == [*(f"# {it}" for it in again["remarks"]), again["command"]]

    repeated = tunebench(*shlex.split(again["run"])[1:])
    assert repeated.returncode == 0, repeated.stderr
    assert "2 cells, 1 finished before, 1 to run" in repeated.stdout  # the base model is not scored again
    detail = json.loads(tunebench("show", key, "--json").stdout)
    assert detail["repeats"]["attempts"] == 2
    difference = detail["repeats"]["largest_difference"]
    assert set(difference) == {"colours/acc", "prose/log_likelihood_per_word"}
    assert set(difference.values()) == {0.0}  # one seed on one CPU
    assert "  attempts: 2" in tunebench("show", key).stdout
    stored = tunebench("sql", "select distinct only_cells from runs", "--json").stdout
    assert json.loads(stored) == [{"only_cells": [key]}]


def test_a_machine_whose_speed_was_off_is_told_by_show_compare_and_status(project: Path) -> None:
    results = Results(project / "results")
    log = EventLog(project / "results" / "runs" / "run-1.events.jsonl")
    log.append("run_started", run_id="run-1", suite="demo", pid=1, cells=8, states={"to do": 8}, margin=0.02)
    for number in range(8):
        speed = 1e11 * (0.75 if number == 5 else 1.0)
        of = cell(("lora", "full")[number % 2], 32, number // 2)
        attempt = results.add(of, scores(0.7), train_seconds=5.0 + 0.1 * number, speed=(speed, speed))
        log.append("cell_started", key=of.key, attempt_id=attempt, device="cpu", pid=1, predicted_bytes=None)
        log.append(
            "cell_ended", key=of.key, attempt_id=attempt, status="done", reason="", seconds=1.0, device="cpu",
            contended=False, machine_speeds={SPEED_BEFORE: speed},
        )  # fmt: skip
    results.store()
    shown = tunebench("show", "full/tiny/topic/n32/s2").stdout
    assert "machine_speed: 25% slower than in the median cell of run run-1: its times decide nothing" in shown
    assert "machine_speed_before: 75 GFLOP/s" in shown
    assert "machine_speed:" not in tunebench("show", "full/tiny/topic/n32/s1").stdout
    compared = tunebench("compare", "lora", "full", "--metric", "train_seconds").stdout
    assert "incomparable: the machine was 25% slower in full/tiny/topic/n32/s2 than in the median cell" in compared
    status = tunebench("status")
    assert "In 1 of 8 cells the machine's speed was more than 10% off the median of the run" in status.stdout
    assert len(json.loads(tunebench("status", "--json").stdout)["machine"]) == 1


def test_a_failed_cell_is_said_and_the_exit_code_is_1(project: Path) -> None:
    path = project / "suites" / "small.yaml"
    path.write_text(path.read_text().replace("full: {learning_rate: 1e-2}", "full: {learning_rate: 1e30}"))
    path.write_text(path.read_text().replace("steps: 2", "steps: 9").replace("sizes: [8, 16]", "sizes: [8]"))
    done = tunebench("run", "small")
    assert done.returncode == 1
    assert "diverged: full/tiny/colours/n8/s0: the training loss is" in done.stderr
    assert tunebench("report", "small").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("models: [tiny]", "models: [tyni]", "small.yaml:3: unknown model 'tyni'. Did you mean 'tiny'?"),
        ("learn: colours", "learn: colors", "small.yaml:5: unknown task 'colors'. Did you mean 'colours'?"),
        ("retain: [prose]", "retain: [porse]", "small.yaml:6: unknown task 'porse'. Did you mean 'prose'?"),
        ("lora: {}", "lroa: {}", "small.yaml:10: unknown method 'lroa'. Did you mean 'lora'?"),
        ("retain:", "retian:", "small.yaml:6: unknown key 'retian'. Did you mean 'retain'?"),
        (
            "[8, 16]",
            "[8, 9999]",
            "small.yaml:5: size 9999 is more than the 690 training examples of 'colours'.",
        ),
        ("learn: colours", "learn: prose", "small.yaml:5: task 'prose' cannot be learned"),
        ("[8, 16]", "[]", "small.yaml:5: tasks.0.sizes is empty"),
        ("version: 1", "version: one", "small.yaml:1: version: got 'one'"),
    ],
)
def test_mistakes_in_a_suite(project: Path, old: str, new: str, said: str) -> None:
    path = project / "suites" / "small.yaml"
    path.write_text(path.read_text().replace(old, new))
    refused(tunebench("run", "small"), said)
    assert not (project / "results").exists()


def test_several_mistakes_at_once(project: Path) -> None:
    path = project / "suites" / "small.yaml"
    assert tunebench("fetch", "small").returncode == 0  # what is known of the data counts too
    text = path.read_text().replace("tiny", "tyni").replace("prose", "porse").replace("lora: {}", "lroa: {}")
    path.write_text(text.replace("[8, 16]", "[8, 9999]"))
    done = tunebench("check", "small")
    for said in ("unknown model 'tyni'", "unknown task 'porse'", "unknown method 'lroa'", "size 9999 is more than"):
        refused(done, said)


def test_a_model_of_the_wrong_kind(project: Path) -> None:
    path = project / "suites" / "models.yaml"
    path.write_text(path.read_text().replace("kind: causal", "kind: encoder"))
    refused(tunebench("check", "small"), "small.yaml:3: model 'tiny' is of the kind encoder; causal is wanted here.")


def test_check_before_anything_is_fetched(project: Path) -> None:
    done = tunebench("check", "small")
    assert done.returncode == 0
    assert "Not fetched yet" in done.stdout
    refused(tunebench("plan", "small"), "tunebench fetch small")
    fetched = tunebench("fetch", "small")
    assert fetched.returncode == 0
    assert "no mistakes found, 5 cells" in tunebench("check", "small").stdout
    line = (
        "colours: 750 rows read, 0 dropped, 750 kept: train 690 (blue 280, green 130, red 280), "
        "validation 30 (blue 10, green 10, red 10), test 30 (blue 10, green 10, red 10)"
    )
    for said in (fetched, tunebench("fetch", "small"), tunebench("check", "small"), tunebench("plan", "small")):
        assert line in said.stdout
    for command in ("check", "plan"):
        assert line in json.loads(tunebench(command, "small", "--json").stdout)["data"]
    data = project / "suites" / "tasks" / "colours.csv"
    data.write_text(data.read_text() + "Zoe paints the rust,red\n")
    assert "colours (colours.csv has changed since it was fetched)" in tunebench("check", "small").stdout
    refused(tunebench("plan", "small"), "colours (colours.csv has changed since it was fetched)")


def test_things_that_are_not_there(project: Path) -> None:
    refused(tunebench("run", "smal"), "unknown suite 'smal'. Did you mean 'small'?")
    refused(tunebench("report", "small"), "no database at")
    refused(tunebench("sql", "select 1"), "no database at")
    refused(tunebench("show", "x"), "no database at")
    refused(tunebench("run", "small", "--retry", "faild"), "unknown status 'faild'. Did you mean 'failed'?")


def test_a_corrupt_database_is_not_written_over(project: Path) -> None:
    (project / "results").mkdir()
    path = project / "results" / "tunebench.duckdb"
    path.write_bytes(b"no database at all")
    for command in (["report", "small"], ["sql", "select 1"]):
        refused(tunebench(*command), "cannot be read as a DuckDB database")
    assert path.read_bytes() == b"no database at all"


@pytest.mark.slow  # half a minute; what it comes down to is in test_store and test_resume
def test_a_run_keeps_a_corrupt_database_and_makes_it_anew(project: Path) -> None:
    assert tunebench("run", "small").returncode == 0
    path = project / "results" / "tunebench.duckdb"
    path.write_bytes(path.read_bytes()[:5000])
    done = tunebench("run", "small")
    assert done.returncode == 0, done.stderr
    assert "it is kept as tunebench.damaged-" in done.stderr
    assert "5 finished before, 0 to run" in done.stdout
    assert [kept.stat().st_size for kept in path.parent.glob("tunebench.damaged-*.duckdb")] == [5000]


def test_a_query_that_is_wrong(project: Path) -> None:
    assert "0 attempts" in tunebench("rebuild").stdout
    refused(tunebench("sql", "select nothing"), "the query failed")


def test_a_second_run_is_refused_with_the_holders_pid(project: Path) -> None:
    from filelock import FileLock

    (project / "results").mkdir()
    (project / "results" / ".run.pid").write_text("4242")
    with FileLock(project / "results" / ".run.lock"):
        refused(tunebench("run", "small"), "another `tunebench` (pid 4242)")


def test_recommend_within_limits_and_with_every_mistake_at_once(project: Path) -> None:
    from results_factory import demo

    demo(project / "results")
    done = tunebench("recommend", "demo", "--examples", "64", "--max-forgetting", "0.2", "--requests", "1000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "topic on tiny, 64 examples"
    for said in ("Use setfit (encoder): acc ", "Ruled out", "oom: resident memory passed", "Assumptions", "(assumed;"):
        assert said in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    (found,) = json.loads(tunebench("recommend", "demo", "--memory", "1MiB", "--json").stdout)
    assert found["use"] is None
    assert all(out["why"] for out in found["ruled_out"])
    refused(tunebench("recommend", "dmo"), "unknown suite with results 'dmo'. Did you mean 'demo'?")
    refused(tunebench("recommend", "demo", "--forgetting-on", "porse"), "Did you mean 'prose'?")
    refused(tunebench("recommend", "demo", "--budget", "5EUR"), "the assumed price of the device is in USD")
    several = tunebench(
        "recommend", "demo", "--memory", "much", "--latency", "50", "--budget", "five", "--price", "x/h"
    )
    for said in ("--memory: got 'much'", "--latency: got '50'", "--budget: got 'five'", "--price: got 'x'"):
        refused(several, said)


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tunebench("run", "small"), "unknown suite 'small'. Known: none. A suite is a file in")


def test_listings(project: Path) -> None:
    methods = json.loads(tunebench("methods", "--json").stdout)
    assert {"base", "full", "lora", "merge"} <= {row["name"] for row in methods}
    assert all(row["about"] for row in methods)
    assert next(row for row in methods if row["name"] == "full")["space"] == {
        "learning_rate": {"low": 1e-6, "high": 1e-3}
    }
    tasks = json.loads(tunebench("tasks", "--json").stdout)
    assert {row["name"] for row in tasks} == {"colours", "names", "prose"}
    everything = json.loads(tunebench("tasks", "--all", "--json").stdout)
    assert "arc_easy" in {row["name"] for row in everything}
    assert json.loads(tunebench("models", "--json").stdout)[0]["name"] == "tiny"


TUNED = """
version: 1
question: Which, tuned?
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
methods:
  base: {}
  full: {}
  lora: {space: {learning_rate: {low: 1e-6, high: 1e-5}, rank: [2, 4, 8]}}
train: {steps: 2, batch_size: 4}
tune: {trials: 3, batch: 3}
"""


REPEATED = TUNED.replace("trials: 3, batch: 3", "studies: 2, trials: 2, batch: 2").replace(
    "train:", "seeds: [0, 1]\ntrain:"
)


@pytest.mark.slow
def test_studies_that_are_repeated_are_a_procedure_from_plan_to_report(project: Path) -> None:
    (project / "suites" / "tuned.yaml").write_text(REPEATED.replace("[0, 1]", "[0]"))
    refused(tunebench("check", "tuned"), "studies: 2, and the suite has 1 seed")
    (project / "suites" / "tuned.yaml").write_text(REPEATED)
    assert tunebench("fetch", "tuned").returncode == 0
    planned = tunebench("plan", "tuned").stdout
    assert "tuning: 4 studies, at most 8 trials in all" in planned
    assert "compared as tuned procedures, as several studies choose: full, lora" in planned
    done = tunebench("run", "tuned")
    assert done.returncode == 0, done.stderr
    assert "9 cells, 0 finished before, 9 to run" in done.stdout
    listed = json.loads(tunebench("studies", "tuned", "--json").stdout)
    assert [(study["label"], study["seed"]) for study in listed] == [("full", 0), ("full", 1), ("lora", 0), ("lora", 1)]
    for study in listed:
        final = json.loads(tunebench("show", f"{study['label']}/tiny/colours/n8/s{study['seed']}", "--json").stdout)
        assert final["attempts"][0]["tuned"] == study["chosen"]
    compared = tunebench("compare", "lora", "full").stdout
    assert "lora: the tuned procedure, over 2 studies. full: the tuned procedure, over 2 studies." in compared
    assert "one study" not in tunebench("recommend", "tuned").stdout
    assert tunebench("report", "tuned").returncode == 0
    markdown = (project / "reports" / "tuned" / "report.md").read_text()
    for name in ("lora, seed 0", "lora, seed 1", "full, seed 0", "full, seed 1"):
        assert f"| {name} |" in markdown
    again = tunebench("run", "tuned")
    assert "9 finished before, 0 to run" in again.stdout
    (project / "suites" / "tuned.yaml").write_text(REPEATED.replace("studies: 2, ", ""))
    once = json.loads(tunebench("plan", "tuned", "--json").stdout)
    assert once["tuning"]["labels"] == ["full", "lora"]
    states = {row["key"]: row["status"] for row in once["cells"]}
    assert states["lora/tiny/colours/n8/study"] == states["lora/tiny/colours/n8/s0"] == "done", "the first study is it"
    assert states["lora/tiny/colours/n8/s1"] == "to do"
    assert "compared as the setting that one study chooses" in tunebench("plan", "tuned").stdout


def test_tuning_one_method_then_the_suite(project: Path) -> None:
    (project / "suites" / "tuned.yaml").write_text(TUNED)
    found = tunebench("tune", "tuned", "--method", "lora")
    assert found.returncode == 0, found.stderr
    assert "best, on validation items: {learning_rate:" in found.stdout
    refused(tunebench("tune", "tuned", "--method", "lorra"), "Did you mean 'lora'?")
    forecast = json.loads(tunebench("plan", "tuned", "--json").stdout)["cells"]
    assert {row["key"]: row["status"] for row in forecast}["lora/tiny/colours/n8/study"] == "done"
    done = tunebench("run", "tuned")
    assert done.returncode == 0, done.stderr
    assert "5 cells, 1 finished before, 4 to run" in done.stdout
    assert "[8/8] done" in done.stdout, "the trials of the other study are counted as they come"
    listed = json.loads(tunebench("studies", "tuned", "--json").stdout)
    assert [study["label"] for study in listed] == ["full", "lora"]
    assert all(len(study["trials"]) == 3 and study["chosen"] for study in listed)
    stored = tunebench("studies", "tuned", "--storage", "tuned.db")
    assert "tuned.db: 2 studies" in stored.stdout
    shown = tunebench("report", "tuned")
    assert shown.returncode == 0, shown.stderr
    assert "Tuning: colours, tiny, 8 examples" in shown.stdout
    markdown = (project / "reports" / "tuned" / "report.md").read_text()
    assert "## Tuning" in markdown
    assert "× full's" in markdown
    page = (project / "reports" / "tuned" / "index.html").read_text()
    assert "Best validation score by budget" in page
    detail = json.loads(tunebench("show", "full/tiny/colours/n8/s0", "--json").stdout)
    assert detail["attempts"][0]["tuned"]
    (verdict,) = json.loads(tunebench("compare", "lora", "full", "--json").stdout)
    assert verdict["where"] == "colours, tiny, 8 examples"
    assert verdict["verdict"] == "underpowered", "one seed each"


def test_texts_are_printed_as_they_are_and_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Labels, reasons and values come from files: brackets are no markup, colons no emoji, escapes no commands."""
    from harness.cli.display import show_table

    show_table("of [red]x", ["cell", "[/b]"], [["lora[r=8]", "[/pytorch/x] :x: \x1b[31mred"]])
    printed = capsys.readouterr().out
    assert "of [red]x" in printed
    assert "lora[r=8]" in printed
    assert r"[/pytorch/x] :x: \x1b[31mred" in printed
    assert "\x1b" not in printed
