"""What is exported answers as it was scored, loaded by other libraries alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import tunebench

pytestmark = pytest.mark.process

SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: %s, sizes: [16]}]
methods:
  %s
seeds: [0]
train: {steps: 12, batch_size: 4}
"""
slow = pytest.mark.slow
CASES = [
    pytest.param("x: {method: lora, learning_rate: 1e-2}", "colours", (), "adapter_model.safetensors", id="lora"),
    pytest.param("x: {method: lora, learning_rate: 1e-2}", "colours", ("--folded",), "model.safetensors", id="folded",
                 marks=slow),
    pytest.param("x: {method: full, learning_rate: 1e-2}", "names", (), "model.safetensors", id="written", marks=slow),
    pytest.param("x: {method: layerwise, learning_rate: 1e-2}", "colours", (), "model.safetensors", id="parts",
                 marks=slow),
    pytest.param("x: {method: prompt_tuning, learning_rate: 1e-1}", "colours", (), "adapter_model.safetensors",
                 id="soft prompt", marks=slow),
    pytest.param("x: {method: prompting, examples: 4}", "colours", (), "model.safetensors", id="prompt", marks=slow),
    pytest.param("x: {method: [layerwise, lora]}", "colours", (), "model.safetensors", id="composed", marks=slow),
    pytest.param("x: {method: prompting, examples: 2}", "names", (), "model.safetensors", id="prompt, written",
                 marks=slow),
]  # fmt: skip


def run_one(project: Path, label: str, task: str) -> str:
    """Run one label; return its cell's key."""
    (project / "suites" / "one.yaml").write_text(SUITE % (task, label))
    assert tunebench("run", "one").returncode == 0
    return f"x/tiny/{task}/n16/s0"


@pytest.mark.parametrize(("label", "task", "options", "weights"), CASES)
def test_it_answers_as_stored_in_a_fresh_python(
    project: Path, tmp_path: Path, label: str, task: str, options: tuple[str, ...], weights: str
) -> None:
    key = run_one(project, label, task)
    made = tunebench("export", key, str(tmp_path / "out"), *options)
    assert made.returncode == 0, made.stderr + made.stdout
    assert "10 test items answered as stored" in made.stdout
    assert (tmp_path / "out" / weights).exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Exported by tunebench from the cell `{key}`" in card
    assert "tunebench" not in card.split("```python")[1].split("```")[0]
    assert str(project) not in (tmp_path / "out" / "expected.json").read_text()


@slow
def test_setfit_loads_in_plain_setfit(encoding_project: Path, tmp_path: Path) -> None:
    key = run_one(encoding_project, "x: {method: setfit, encoder: tiny-encoder}", "colours")
    made = tunebench("export", key.replace("/tiny/", "/tiny-encoder/"), str(tmp_path / "out"))
    assert made.returncode == 0, made.stderr + made.stdout
    assert "10 test items answered as stored" in made.stdout


def test_what_cannot_be_exported_is_said_and_leaves_nothing(project: Path, tmp_path: Path) -> None:
    key = run_one(project, "x: {method: linear_probe}", "colours")
    target = tmp_path / "out"
    refused = tunebench("export", key, str(target))
    assert refused.returncode == 2
    assert "no other library" in refused.stderr
    assert not target.exists()
    assert list(tmp_path.glob(".out*")) == []
    (target / "sub").mkdir(parents=True)
    assert "is there already" in tunebench("export", key, str(target)).stderr
    assert "Did you mean" in tunebench("export", "x/tiny/colour/n16/s0", str(tmp_path / "other")).stderr


@slow
def test_an_export_that_answers_otherwise_is_told(project: Path, tmp_path: Path) -> None:
    from harness.cli.exporting import check_export

    key = run_one(project, "x: {method: full, learning_rate: 1e-2}", "colours")
    assert tunebench("export", key, str(tmp_path / "out"), "--no-check").returncode == 0
    expected = tmp_path / "out" / "expected.json"
    told = json.loads(expected.read_text())
    told[0]["answer"] = "purple"
    expected.write_text(json.dumps(told))
    count, wrong = check_export(tmp_path / "out")
    assert (count, [one for one, _ in wrong]) == (10, ["purple"])


def test_text_of_the_data_stays_text_in_the_card() -> None:
    """What names and classes hold is written as text, and never run: the check takes the lines from `use.py`."""
    from harness.report import CardFacts, card_code, model_card
    from harness.worker import Exported

    hostile = "x\n```python\nraise SystemExit('run')\n```\n"
    facts = CardFacts(
        hostile, hostile, "lora", hostile, hostile, hostile, "f" * 64, 8, 0,
        [(hostile, "acc", "0.5", "", 10, "")], {hostile: hostile}, {}, {}, ["```", "it's", 'say "hi" {x}'],
    )  # fmt: skip
    made = Exported("adapter_weights", "a base", before="```\ncode\n```\n", priors={"```": 0.5})
    code = card_code(facts, made)
    compile(code, "use.py", "exec")
    assert not any(line.startswith("raise") for line in code.splitlines())
    card = model_card(facts, made)
    assert card.count("\nraise") == 0
    assert "````python\n" in card


def test_each_question_may_offer_its_own_choices() -> None:
    from harness.cli.exporting import Answered
    from harness.report import CardFacts, card_code
    from harness.worker import Exported

    answered = Answered([("q?", "a", ("a", "b")), ("r?", "d", ("c", "d"))], ())
    assert answered.own_choices
    assert json.loads(answered.to_json())[1]["choices"] == ["c", "d"]
    facts = CardFacts(
        "k", "l", "full", "m", "s", "t", "f", 8, 0, [], {}, {}, {}, (), own_choices=True, metric="acc_norm"
    )
    code = card_code(facts, Exported("plain_weights"))
    assert "def answer(question, choices):" in code
    assert "/ len(choice)" in code
