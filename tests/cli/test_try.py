"""One's own questions are answered as in scoring, by every label that has its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import refused, tunebench
from tiny import rows as sentences

SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: %s, sizes: [16]}]
methods:
  base: {}
  lora: {learning_rate: 1e-2}
  shots: {method: prompting, examples: 2}
seeds: [0]
train: {steps: 12, batch_size: 4}
"""


def stored(project: Path, label: str) -> dict[str, str]:
    """Question -> the answer that a label's cell gave to it when it was scored."""
    from harness.store import Store, document_texts, item_answers, latest_run, member_rows

    with Store(project / "results").look() as connection:
        run = latest_run(connection, "one")
        assert run is not None
        row = next(row for row in member_rows(connection, run) if row.label == label)
        score = row.scores[0]
        answers = item_answers(connection, {row.attempt_id: (score.task, score.metric)})[row.attempt_id]
        texts = document_texts(connection, {row.fingerprint})
        return {texts[score.task, doc]: answer.prediction for doc, answer in answers.items()}


@pytest.mark.parametrize("task", ["colours", pytest.param("names", marks=pytest.mark.slow)])
def test_test_items_are_answered_as_they_were_scored(project: Path, tmp_path: Path, task: str) -> None:
    (project / "suites" / "one.yaml").write_text(SUITE % task)
    assert tunebench("run", "one").returncode == 0
    file = tmp_path / "mine.txt"
    by_text = {f"Text: {row['text']}\nColour:": row["text"] for row in sentences()}
    expected = {label: stored(project, label) for label in ("base", "lora", "shots")}
    asked = list(expected["lora"])[:6]
    file.write_text("\n".join(by_text[question] for question in asked))
    done = tunebench("try", "one", "--file", str(file), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [entry["question"] for entry in told["questions"]] == [by_text[question] for question in asked]
    for question, entry in zip(asked, told["questions"], strict=True):
        answers = {one["label"]: one for one in entry["answers"]}
        assert list(answers) == ["base", "lora", "shots"]
        for label, one in answers.items():
            assert one["answer"] == expected[label][question], label
            assert one["latency_ms"] > 0
            assert sum(one["probabilities"].values()) == pytest.approx(1.0 if task == "colours" else 0.0)
            assert one["prompt"].endswith(question)

    # What the whole prompt is, and which labels are asked, is one's own choice.
    raw = json.loads(tunebench("try", "one", asked[0], "--raw", "--label", "lora", "--json").stdout)["questions"][0]
    assert [one["label"] for one in raw["answers"]] == ["base", "lora"]
    assert raw["answers"][1]["answer"] == expected["lora"][asked[0]]

    shown = tunebench("try", "one", "Ada likes the sky").stdout
    assert "Ada likes the sky" in shown
    assert all(label in shown for label in ("base", "lora", "shots"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"txt": "Ada likes the sky"}))
    refused(tunebench("try", "one", "--file", str(rows)), "unknown column 'text'")
    refused(tunebench("try", "one", "x", "--label", "lara"), "Did you mean 'lora'")
    refused(tunebench("try", "one"), "nothing to ask")
    refused(tunebench("try", "none", "x"), "unknown suite with results 'none'")

    for weights in (project / "results" / "attempts").glob("*/*/weights"):
        shutil.rmtree(weights)
    left = tunebench("try", "one", "Ada likes the sky").stdout
    assert "left out: lora: lora/tiny" in left
    assert "its weights were deleted. Run the cell again" in left
    assert "base" in left
