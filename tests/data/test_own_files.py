"""Files that people bring, through a task: what templates reach, and what a wrong file or template is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.data import tasks
from harness.data.catalog import Catalog, load_catalog
from harness.errors import TaskError, UserError

TASK = """task: {name}
custom_dataset: !function harness.data.splits.documents
dataset_kwargs: {{source: "file:{file}", label: label, unique: [{unique}], test: 12, validation: 6{more}}}
training_split: train
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "{question}"
doc_to_choice: [a, b]
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
PEOPLE = ["Ada", "Bo", "Cleo", "Dan", "Eve", "Finn"]
THINGS = ["the roof", "a clock", "her lamp", "the pump", "this shelf", "an oven"]
TEXTS = [f"{who} says {what} is broken, and wants number {who}{what} soon" for who in PEOPLE for what in THINGS]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder suites/tasks of an empty project, with a cache of its own."""
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "suites" / "tasks"
    folder.mkdir(parents=True)
    return folder


def catalog(folder: Path) -> Catalog:
    return load_catalog(folder.parent.parent)


def bring(folder: Path, file: str, content: str | bytes, **fields: str) -> Path:
    """Write a data file and a task on it; return the task's YAML."""
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    values = {
        "name": "own",
        "file": file,
        "unique": "text",
        "more": "",
        "question": "{{text}}\\nIs it a or b?",
    } | fields
    path = folder / f"{values['name']}.yaml"
    path.write_text(TASK.format(**values))
    return path


def refused(folder: Path, file: str, content: str | bytes, **fields: str) -> str:
    with pytest.raises(TaskError) as raised:
        tasks.load_task(bring(folder, file, content, **fields))
    return str(raised.value)


def csv_of(texts: list[str]) -> str:
    return "label,text\n" + "".join(f"{'ab'[place % 2]},{text}\n" for place, text in enumerate(texts))


def test_templates_reach_into_chats(own: Path) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "tool": {"n": place}}],
            "label": "ab"[place % 2],
            "stars": place,
            "note": None,
        }
        for place, text in enumerate(TEXTS)
    ]
    question = "{{messages[0].content}} {{stars + 1}} {{note is none}} {{messages | length}}"
    path = bring(own, "d.jsonl", "\n".join(map(json.dumps, rows)), unique="messages", question=question)
    task = tasks.load_task(path)
    for document in task.eval_docs:
        place = document["stars"]
        assert task.doc_to_text(document) == f"{TEXTS[place]} {place + 1} True 2"
        assert document == rows[place]


def test_values_of_several_types_and_missing_keys_are_kept(own: Path) -> None:
    odd: list[object] = [1, "one", [1], {"a": 1}, {"b": "x"}, None, True, 1.5]
    rows: list[dict[str, object]] = [
        {"text": text, "label": "ab"[place % 2], "odd": odd[place % 8]} for place, text in enumerate(TEXTS)
    ]
    for place in range(0, 36, 3):
        rows[place]["late"] = place
    path = bring(own, "d.jsonl", "\n".join(map(json.dumps, rows)), question="{{text}} {{odd}}?")
    for _ in range(2):  # made, and then from the cache
        task = tasks.load_task(path)
        documents = [*task.training_docs(), *task.validation_docs(), *task.eval_docs]
        assert len(documents) == 36
        by_text = {document["text"]: document for document in documents}
        assert [by_text[row["text"]] for row in rows] == [{"late": None, **row} for row in rows]


def test_what_a_task_says_of_itself_is_no_option_of_the_reader(own: Path) -> None:
    path = bring(own, "d.csv", csv_of([text.replace(",", "") for text in TEXTS]))
    path.write_text(f"{path.read_text()}metadata: {{version: 1.0, author: me}}\n")
    assert len([*tasks.load_task(path).eval_docs]) == 12


def test_unquoted_commas(own: Path) -> None:
    said = refused(own, "d.csv", csv_of(TEXTS))
    assert "task 'own'" in said
    assert "d.csv:2: the row has 3 cells, and the header names 2 columns (label, text)" in said
    assert "36 of 36 rows do not fit" in said


def test_a_broken_line(own: Path) -> None:
    lines = [json.dumps({"text": text, "label": "ab"[place % 2]}) for place, text in enumerate(TEXTS)]
    lines[20] = lines[20][:30]
    assert "d.jsonl:21: the line is no JSON (unterminated string" in refused(own, "d.jsonl", "\n".join(lines))


def test_a_mark_and_a_data_key(own: Path) -> None:
    rows = [{"text": text, "label": "ab"[place % 2]} for place, text in enumerate(TEXTS)]
    marked = tasks.load_task(bring(own, "d.jsonl", b"\xef\xbb\xbf" + "\n".join(map(json.dumps, rows)).encode()))
    inside = tasks.load_task(bring(own, "d.json", json.dumps({"data": rows}), name="inside"))
    assert [*marked.eval_docs] == [*inside.eval_docs]
    assert len([*marked.eval_docs]) == 12


def test_another_encoding(own: Path) -> None:
    content = csv_of([text.replace(",", "").replace("soon", "grün") for text in TEXTS]).encode("latin-1")
    assert "d.csv:2: it is not UTF-8 (byte 0xfc): add encoding: latin-1" in refused(own, "d.csv", content)
    task = tasks.load_task(bring(own, "d.csv", content, more=", encoding: latin-1"))
    assert all("grün" in task.doc_to_text(document) for document in task.eval_docs)


def test_a_template_that_names_no_column(own: Path) -> None:
    content = csv_of([text.replace(",", "") for text in TEXTS])
    said = refused(own, "d.csv", content, question="{{txt}} a or b?")
    assert said == f"{own / 'own.yaml'}:8: unknown column 'txt'. Did you mean 'text'? Known: label, text."
    nested = json.dumps([{"text": text, "label": "a", "m": {"role": "x"}} for text in TEXTS])
    said = refused(own, "d.json", nested, question="{{m.rol}} {{text}}")
    assert said == f"task 'own' ({own / 'own.yaml'}:8): 'dict object' has no attribute 'rol'."


def test_a_file_that_has_changed_is_named(own: Path) -> None:
    content = csv_of([text.replace(",", "") for text in TEXTS])
    path = bring(own, "d.csv", content)
    assert catalog(own).not_fetched("own") == "own"
    tasks.prepare(catalog(own), "own")
    assert catalog(own).task_facts("own") is not None
    (own / "d.csv").write_text(f"{content}a,one more\n")
    assert catalog(own).task_facts("own") is None
    assert catalog(own).not_fetched("own") == "own (d.csv has changed since it was fetched)"
    path.write_text(f"{path.read_text()}\n")
    os.utime(path)
    assert catalog(own).not_fetched("own") == "own (d.csv, own.yaml have changed since it was fetched)"


def test_a_task_that_calls_itself_otherwise(own: Path) -> None:
    (bring(own, "d.csv", csv_of(TEXTS), name="typo")).rename(own / "reviews.yaml")
    with pytest.raises(UserError, match="unknown task 'reviews': tasks/reviews.yaml calls itself 'typo'. Name 'typo'"):
        catalog(own).task_path("reviews")
