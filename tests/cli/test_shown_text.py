"""Stored text is anybody's: labels, models, reasons and warnings are shown as they are, by every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import tunebench
from results_factory import Results, answered, cell, scores

from harness.cli.display import watcher
from harness.execute.events import EventLog
from harness.records import Flag

ODD = "lora[r=8] :x: [/b] [red]"
ESCAPE = "\x1b[31m\x07\u202e"
COMMANDS = (
    ("report", "demo"),
    ("compare", f"a{ODD}", f"b{ODD}"),
    ("compare", f"a{ODD}/tiny/topic/n32/s0", f"b{ODD}/tiny/topic/n32/s0"),
    ("recommend", "demo"),
    ("recommend", "demo", "--memory", "1KiB"),
    ("show", f"a{ODD}/tiny/topic/n32/s0"),
    ("show", f"c{ODD}/tiny/topic/n32/s0"),
    ("studies", "demo"),
    ("sql", "select label, reason, ':x:' as \"[b]:x:\" from members join attempts using (spec_digest)"),
    ("status",),
    ("show", f"nowhere{ODD}{ESCAPE}"),
    ("plan", f"nowhere{ODD}{ESCAPE}"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    results = Results(tmp_path / "results", margin=0.02)
    base = cell("base", family="no training")
    results.add(base, scores(0.60, 0.035, -5.25, 0.47), items=answered(0.60, 1, 40))
    for seed in (0, 1):
        for letter, share in (("a", 0.85), ("b", 0.75)):
            made = cell(f"{letter}{ODD}", 32, seed, baseline=base.spec_digest)
            flags = [Flag("learned_nothing", {"p": 0.4, "task": f"topic{ODD}{ESCAPE}"})]
            figures = scores(share, 0.03, -5.4, 0.44)
            results.add(made, figures, items=answered(share, 10 * seed + 1, 40), flags=flags, train_seconds=5.0)
    failed = cell(f"c{ODD}", 32, 0, baseline=base.spec_digest)
    results.add(failed, (), status="failed", reason=f"reason {ODD}{ESCAPE}")
    results.store()
    log = EventLog(tmp_path / "results" / "runs" / "run-1.events.jsonl")
    log.append("run_started", run_id="run-1", suite="demo", pid=1, cells=3, states={"to do": 3}, margin=0.02)
    log.append("cell_started", key=failed.key, attempt_id="x", device=f"cpu{ODD}{ESCAPE}", pid=1, predicted_bytes=1)
    log.append("warning", message=f"warned {ODD}{ESCAPE}")
    return tmp_path / "results"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:25])
def test_stored_text_is_shown_as_it_is(folder: Path, command: tuple[str, ...]) -> None:
    place = () if command[0] == "plan" else ("--results", str(folder))
    done = tunebench(*command, *place)
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1, 2), said
    assert ODD in said or command[0] == "studies", said
    for sign in ("\x1b", "\x07", "\u202e", "❌"):
        assert sign not in said


def test_a_run_without_a_terminal_tells_labels_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    odd = SimpleNamespace(key=f"a{ODD}{ESCAPE}", method="lora")
    news = SimpleNamespace(ended=[(odd, "done", 1.0)], counts={"done": 1})
    with watcher(SimpleNamespace(), {}) as tell:  # type: ignore[arg-type]
        tell(news)  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert f"a{ODD}\\x1b[31m" in printed
    assert "\x1b" not in printed
    assert "❌" not in printed


def test_json_is_json_whatever_was_stored(folder: Path) -> None:
    done = tunebench("show", f"c{ODD}/tiny/topic/n32/s0", "--json", "--results", str(folder))
    assert json.loads(done.stdout)["attempts"][0]["reason"] == f"reason {ODD}{ESCAPE}"
