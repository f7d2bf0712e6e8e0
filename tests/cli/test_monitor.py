"""An export is watched on fresh data by what was stored in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import refused, tunebench
from tiny import rows as sentences

from harness.cli.monitoring import (
    Known,
    compared,
    item_id,
    question_of,
    read_known,
    target_of,
    template,
    told,
    value_of,
)
from harness.data import render_template
from harness.errors import UserError

ROWS = sentences()
KNOWN = Known(
    "lora/tiny/colours/n16/s0", "colours", "acc", 0.9, True, "Text: {{text}}\nColour:", "colour",
    ("blue", "green", "red"), "", {"r": "red"}, {}, 16, 12.0,
    [
        {"id": item_id(f"Text: {row['text']}\nColour:"), "value": float(n % 10 > 0), "answer": row["colour"],
         "words": 6, "buckets": []}
        for n, row in enumerate(ROWS[:100])
    ],
)  # fmt: skip


def with_words(known: Known) -> Known:
    from harness.analysis import buckets_of

    items = [
        {**item, "buckets": buckets_of(f"Text: {row['text']}\nColour:")}
        for item, row in zip(known.items, ROWS[:100], strict=True)
    ]
    return replace(known, items=items)


def watched(rows: list[dict[str, str]], answers: list[str], known: Known | None = None):  # type: ignore[no-untyped-def]
    known = known or with_words(KNOWN)
    asked = [question_of(known, row) for row in rows]
    return compared(known, asked, answers, [target_of(known, row) for row in rows], len(rows))


def test_the_same_rows_are_compared_pair_by_pair_and_show_no_drift() -> None:
    answers = [row["colour"] if n % 10 else "none" for n, row in enumerate(ROWS[:100])]
    found = watched(ROWS[:100], answers)
    assert found.change.is_paired
    assert (found.change.difference.value, found.advice) == (0.0, "keep")
    assert {one.name: one.p > 0.05 for one in found.drifts}["words"]
    assert "no need to train again" in "\n".join(told(KNOWN, found, 0.02))


def test_other_rows_with_a_lower_score_pay_to_train_again_and_name_their_words() -> None:
    rows = [{"text": f"{n} nurses left the hospital ward", "colour": "red"} for n in range(100)]
    found = watched(rows, ["blue"] * 60 + ["red"] * 40)
    assert not found.change.is_paired
    assert found.advice == "retrain"
    text = "\n".join(told(KNOWN, found, 0.02))
    assert "training again pays: the score is shown to be lower by more than 0.02; training took 12 s" in text
    assert {one.name for one in found.drifts if one.p < 0.05} >= {"words", "answers"}
    assert "words and answers\n" in text
    assert {"nurses", "hospital", "ward", "left"} <= set(found.telling)
    assert "the rule: train again where the whole interval" in text


def test_rows_without_labels_show_drift_alone() -> None:
    rows = [{"text": f"{n} nurses left the hospital ward"} for n in range(40)]
    found = watched(rows, ["blue"] * 40)
    assert (found.change, found.labelled, found.advice) == (None, 0, "no labels")
    assert "label a sample of these rows" in "\n".join(told(KNOWN, found, 0.02))
    few = watched(rows[:5], ["blue"] * 5)
    assert few.drifts == []
    assert "fewer than 20 rows: drift is not tested" in few.notes


def test_labels_are_read_as_the_task_reads_them() -> None:
    assert target_of(KNOWN, {"text": "x", "colour": "r"}) == "red"
    assert target_of(KNOWN, {"text": "x", "colour": 1}) == "green"
    assert target_of(KNOWN, {"text": "x", "colour": ""}) is None
    assert target_of(KNOWN, {"text": "x"}) is None
    assert question_of(KNOWN, {"question": "whole?"})["question"] == "whole?"
    with pytest.raises(UserError, match="unknown column 'text'"):
        question_of(KNOWN, {"txt": "x"})
    own = replace(KNOWN, choices=(), choices_template="{{options}}", target="{{options.index(right)}}")
    assert question_of(own, {"text": "x", "options": ["a", "b"]})["choices"] == ("a", "b")
    assert target_of(own, {"text": "x", "options": ["a", "b"], "right": "b"}) == "b"
    assert template("/folder/utils.doc_to_text") == ""
    with pytest.raises(Exception, match="unsafe"):
        render_template("{{ ''.__class__.__mro__ }}", {})
    ended = replace(KNOWN, question="Text: {{text}}\n")
    assert question_of(ended, {"text": "x"})["question"] == "Text: x\n", "as lm-eval asks, the line break included"


def test_metrics_of_written_answers() -> None:
    exact = replace(KNOWN, metric="exact_match", options={"ignore_case": True, "ignore_punctuation": True})
    assert value_of(exact, "Paris.", "paris") == 1.0
    assert value_of(replace(exact, options={}), "Paris.", "paris") == 0.0
    assert value_of(replace(KNOWN, metric="rouge_l"), "a b", "a b") == 1.0
    unknown = replace(with_words(KNOWN), metric="bleu")
    found = watched(ROWS[:30], ["x"] * 30, unknown)
    assert (found.change, found.notes) == (None, ["the metric bleu cannot be computed from an export: no score"])


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    refused(tunebench("monitor", str(tmp_path), "--data", "x.csv"), "has no monitor.json")
    (tmp_path / "monitor.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match="format 9"):
        read_known(tmp_path)
    (tmp_path / "monitor.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_known(tmp_path)
    (tmp_path / "monitor.json").write_text(KNOWN.to_json())
    assert read_known(tmp_path).to_json() == KNOWN.to_json()
    refused(tunebench("monitor", str(tmp_path), "--data", str(tmp_path / "no.csv")), "no file")


@pytest.mark.slow
@pytest.mark.process
def test_an_exports_own_test_items_come_out_as_they_were_scored(project: Path, tmp_path: Path) -> None:
    suite = "version: 1\nmodels: [tiny]\ntasks: [{learn: colours, sizes: [16]}]\n"
    (project / "suites" / "one.yaml").write_text(
        f"{suite}methods: {{lora: {{learning_rate: 1e-2}}}}\ntrain: {{steps: 12}}"
    )
    assert tunebench("run", "one").returncode == 0
    out = tmp_path / "out"
    assert tunebench("export", "lora/tiny/colours/n16/s0", str(out), "--no-check").returncode == 0
    known = read_known(out)
    ids = {str(item["id"]): item for item in known.items}
    scored = [row for row in ROWS if item_id(f"Text: {row['text']}\nColour:") in ids]
    assert len(scored) == len(ids) == 30
    assert not any(row["text"] in (out / "monitor.json").read_text() for row in scored), "no text of the data"
    file = tmp_path / "fresh.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in scored))
    done = tunebench("monitor", str(out), "--data", str(file), "--json", "--gate")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["change"]["is_paired"]
    assert found["change"]["difference"]["value"] == 0.0
    assert found["change"]["now"]["value"] == pytest.approx(known.score)
    assert found["advice"] == "keep"
