"""`tunebench decide` from the command line: what it runs and says, what a `run` then has left, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, tunebench

from harness.analysis.deciding import Look
from harness.cli.commands.decide import seconds_of
from harness.cli.deciding import decision_line, ending, left_out, time_line
from harness.errors import UserError
from harness.execute import Decision, Race
from harness.store import looks_of

SUITE = """
version: 1
question: Which colours?
models: [tiny]
tasks: [{learn: colours, sizes: [8, 16]}]
methods:
  base: {}
  full: {}
  lora: {}
seeds: [0, 1, 2]
train: {steps: 2, batch_size: 4, max_length: 32}
"""


@pytest.mark.process
def test_a_suite_is_decided_with_some_of_its_cells_and_run_completes_it(project: Path) -> None:
    """With a margin of 0.99 any label is good enough once two seeds of each are known."""
    (project / "suites" / "quick.yaml").write_text(SUITE)
    first = tunebench("decide", "quick", "--dry")
    assert first.returncode == 0, first.stderr
    assert "next: base/tiny/colours" in first.stdout
    assert not list((project / "results").glob("runs/*"))

    done = tunebench("decide", "quick", "--margin", "0.99", "--sure", "0.6", "--within", "1h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Use " in done.stdout
    assert "Decided: " in done.stdout
    assert "all of them would have taken about" in done.stdout
    attempts = len(list((project / "results").glob("attempts/*/*/result.json")))
    assert 5 <= attempts < 13
    assert looks_of(project / "results", "quick")[-1]["state"] == "settled"

    again = json.loads(tunebench("decide", "quick", "--margin", "0.99", "--sure", "0.6", "--json").stdout)
    assert (again["cells_run"], again["answers"][0]["state"]) == (0, "settled")
    assert again["answers"][0]["use"] in ("base", "full", "lora")
    assert again["answers"][0]["confidence"] >= 0.6

    assert tunebench("report", "quick").returncode == 0
    assert "How it was decided" in (project / "reports" / "quick" / "report.md").read_text()
    rest = tunebench("run", "quick", "--no-answer")
    assert rest.returncode == 0, rest.stderr
    assert f"13 cells, {attempts} finished before, {13 - attempts} to run" in rest.stdout
    assert len(list((project / "results").glob("attempts/*/*/result.json"))) == 13


def test_what_cannot_be_used_is_refused_before_anything_runs(project: Path) -> None:
    (project / "suites" / "quick.yaml").write_text(SUITE)
    refused(tunebench("decide", "quick", "--within", "half an hour"), "--within: got 'half an hour'")
    refused(tunebench("decide", "quick", "--size", "9"), "unknown size of colours '9'")
    refused(tunebench("decide", "quick", "--task", "colors"), "Did you mean 'colours'?")
    refused(tunebench("decide", "quick", "--latency", "50"), "wanted a duration with its unit")
    refused(tunebench("decide", "quick", "--max-forgetting", "0.1"), "retains no task")
    assert not (project / "results" / "runs").exists()


@pytest.mark.parametrize(("text", "seconds"), [("30min", 1800.0), ("1.5 h", 5400.0), ("90s", 90.0)])
def test_a_time_has_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    for wrong in (text[:-1] + "x", "0s", "-1s", "5"):
        with pytest.raises(UserError, match="--within"):
            seconds_of(wrong)


def decision(**changes: object) -> Decision:
    values = {
        "state": "open", "answer": "setfit", "confidence": 0.8, "chances": {"lora": 0.25, "setfit": 0.71, "full": 0.04},
        "seeds": {"lora": 2, "setfit": 2, "full": 3, "grpo": 1}, "out": {"grpo": "lora"}, "settled": (), "reach": 0.4,
        "steps": (),
    }  # fmt: skip
    look = Look(**{**values, **{key: value for key, value in changes.items() if key in values}})  # type: ignore[arg-type]
    return Decision(Race("tiny", "topic", 32, {}), look, reason=str(changes.get("reason", "")))


def test_the_line_says_who_leads_and_what_comes_next() -> None:
    now = decision()
    now.next_key, now.next_seconds = "lora/tiny/topic/n32/s2", 40.0
    assert decision_line(now) == "setfit or lora; 71% setfit; next: lora/tiny/topic/n32/s2, 40 s"
    assert decision_line(decision(reason="settled")) == "setfit or lora; 71% setfit; settled"
    some = decision(seeds={"lora": 1, "setfit": 0}, answer="lora", chances={})
    assert decision_line(some) == "1 of 2 labels tried, lora leads"
    assert decision_line(Decision(Race("tiny", "topic", 32, {}))) == ""


def test_every_ending_says_why_and_what_it_would_take() -> None:
    takes = ("lora", "900 items")
    for reason, said in {
        "settled": "Decided: with a confidence of 95%",
        "out of reach": "under 5%, so the rest were not run. To settle setfit against lora would take 900 items.",
        "out of time": "no cell fits into what is left. All cells together would settle it with a chance of 40%.",
        "exhausted": "every cell that could say more was run.",
        "": "the same command goes on.",
    }.items():
        assert said in ending(decision(reason=reason), 0.95, takes)


def test_what_was_left_out_is_said_with_the_reason() -> None:
    now = decision(seeds={"lora": 2, "grpo": 1, "dpo": 0})
    now.ruled_out = {"full": "predicted memory: 17 GiB, more than 16 GiB"}
    assert left_out(now) == [
        "full is ruled out: predicted memory: 17 GiB, more than 16 GiB.",
        "grpo is left out after 1 seed: lora is shown to be better.",
        "Not tried: dpo.",
    ]


def test_what_it_took_is_set_against_all_cells() -> None:
    assert time_line(60.0, 5, 15, 180.0) == (
        "It took 1 min 00 s for 5 of 20 cells; all of them would have taken about 4 min 00 s (25%)."
    )
    assert time_line(60.0, 5, 0, 0.0) == "It took 1 min 00 s for 5 cells; none is left."
