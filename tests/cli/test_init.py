"""From a data file to a report without an edit."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import yaml
from commands import tunebench

THINGS = {"red": "rose", "blue": "sky", "green": "leaf"}


def write_reviews(folder: Path) -> Path:
    """Reviews as a spreadsheet saves them: quotes, line breaks, emoji, stars."""
    random.seed(0)
    path = folder / "My Reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "Review Text", "Stars"])
        for n in range(120):
            stars = 1 + n % 3
            writer.writerow([n, f'it was "{["bad", "fair", "good"][stars - 1]}" 😀\nno. {n}', stars])
    return path


def write_instructions(folder: Path) -> Path:
    rows = [
        {"instruction": "Name the colour.", "input": f"{thing} {n}" if n % 4 else "", "output": colour}
        for n in range(60)
        for colour, thing in [list(THINGS.items())[n % 3]]
    ]
    rows = [{**row, "instruction": f"Name the colour, number {n}."} for n, row in enumerate(rows)]
    return write_jsonl(folder / "instructions.jsonl", rows)


def write_chats(folder: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}: which colour has the {thing}?"},
                      {"role": "assistant", "content": colour}]}
        for n in range(60)
        for colour, thing in [list(THINGS.items())[n % 3]]
    ]  # fmt: skip
    return write_jsonl(folder / "chats.jsonl", rows)


def write_table(folder: Path) -> Path:
    import pandas

    path = folder / "table.parquet"
    rows = [{"sentence": f"{'good' if n % 2 else 'bad'} {n}", "label": n % 2} for n in range(100)]
    pandas.DataFrame(rows).to_parquet(path)
    return path


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.mark.parametrize(
    "write",
    [
        write_chats,
        pytest.param(write_reviews, marks=pytest.mark.slow),
        pytest.param(write_instructions, marks=pytest.mark.slow),
        pytest.param(write_table, marks=pytest.mark.slow),
    ],
)
@pytest.mark.process
def test_a_file_ends_in_a_report_without_an_edit(project: Path, tmp_path: Path, write: object) -> None:
    assert callable(write)
    data = write(tmp_path)
    made = tunebench("init", str(data), "--yes", "--model", "tiny", "--name", "mine")
    assert made.returncode == 0, made.stderr
    assert "wrote suites/tasks/mine.yaml" in made.stdout
    assert "next: `tunebench run mine`" in made.stdout
    assert "lora" in made.stdout, "what each method takes is shown"
    ran = tunebench("run", "mine")
    assert ran.returncode == 0, ran.stderr
    shown = tunebench("report", "mine")
    assert shown.returncode == 0, shown.stderr
    assert "mine" in shown.stdout


def test_files_that_are_there_are_kept_unless_force_is_said(project: Path, tmp_path: Path) -> None:
    data = write_reviews(tmp_path)
    assert tunebench("init", str(data), "--yes", "--model", "tiny").returncode == 0
    task = project / "suites" / "tasks" / "my-reviews.yaml"
    task.write_text("# mine\n")
    again = tunebench("init", str(data), "--yes", "--model", "tiny")
    assert again.returncode != 0
    assert "my-reviews.yaml is there already" in again.stderr
    assert task.read_text() == "# mine\n"
    assert tunebench("init", str(data), "--yes", "--model", "tiny", "--force").returncode == 0
    assert "Review Text" in task.read_text()


def test_another_delimiter_is_found_and_said(project: Path) -> None:
    path = project / "daten.csv"
    path.write_text("text; klasse\n" + "".join(f"Satz, {n}; {'ab'[n % 2]}\n" for n in range(80)))
    made = tunebench("init", "daten.csv", "--yes", "--model", "tiny")
    assert "read with delimiter: ';', skipinitialspace: True" in made.stdout
    text = (project / "suites" / "tasks" / "daten.yaml").read_text()
    assert "source: file:../../daten.csv" in text, "within the project, a path that can be moved with it"
    assert yaml.safe_load(text.replace("!function ", ""))["doc_to_choice"] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,b,c\nd,e\n", "the row has 3 cells"),
        ("text,label\n", "and no rows"),
        ("text,label\n" + "a,b\nc,d\n" * 3, "too few are left to learn from"),
    ],
    ids=["broken", "empty", "few"],
)
def test_what_cannot_be_used_is_said_and_nothing_is_written(project: Path, content: str, message: str) -> None:
    (project / "data.csv").write_text(content)
    made = tunebench("init", "data.csv", "--yes", "--model", "tiny")
    assert made.returncode != 0
    assert message in made.stderr
    assert not (project / "suites" / "data.yaml").exists()
    assert "no file or folder" in tunebench("init", "none.csv", "--yes").stderr


@pytest.mark.parametrize("name", ["2024-01-15.csv", "null.csv", "on.csv", "2024.csv"])
def test_a_file_may_have_any_name(project: Path, name: str) -> None:
    (project / name).write_text("text,label\n" + "".join(f"t {n},{'ab'[n % 2]}\n" for n in range(80)))
    made = tunebench("init", name, "--yes", "--model", "tiny")
    assert made.returncode == 0, made.stderr


def test_a_damaged_byte_does_not_turn_a_file_into_another_encoding(project: Path) -> None:
    rows = "".join(f"日本 😀 {n},{'ab'[n % 2]}\n" for n in range(80)).encode()
    (project / "damaged.csv").write_bytes(b"text,label\n" + rows + b"x \xe4,a\n")
    made = tunebench("init", "damaged.csv", "--yes", "--model", "tiny")
    assert made.returncode == 2
    assert "cp1252" not in made.stdout
    (project / "latin.csv").write_bytes(b"text\n" + "".join(f"schön {n} süß\n" for n in range(80)).encode("latin-1"))
    latin = tunebench("init", "latin.csv", "--yes", "--model", "tiny")
    assert latin.returncode == 0, latin.stderr
    assert "read with encoding: 'cp1252'" in latin.stdout


def test_running_text_is_a_task_to_be_retained_or_learned_first(project: Path) -> None:
    (project / "prose-of-mine.csv").write_text("text\n" + "".join(f"a sentence with number {n}\n" for n in range(80)))
    made = tunebench("init", "prose-of-mine.csv", "--yes", "--model", "tiny")
    assert made.returncode == 0, made.stderr
    assert "retain: [prose-of-mine]" in made.stdout
    assert not (project / "suites" / "prose-of-mine.yaml").exists()
    (project / "suites" / "with.yaml").write_text(
        "version: 1\nmodels: [tiny]\ntasks: [{learn: colours, sizes: [8]}]\nretain: [prose]\nmethods:\n"
        "  x: {method: full, curriculum: {continued_pretraining: {text: prose-of-mine}}}\ntrain: {steps: 2}\n"
    )
    checked = tunebench("fetch", "with")
    assert checked.returncode == 0, checked.stderr
    assert tunebench("check", "with").returncode == 0


def test_rows_without_an_answer_are_left_out_and_counted(project: Path) -> None:
    rows = [{"instruction": f"say {n}", "output": None if n % 3 == 0 else f"word {n}"} for n in range(90)]
    write_jsonl(project / "some.jsonl", rows)
    made = tunebench("init", "some.jsonl", "--yes", "--model", "tiny")
    assert made.returncode == 0, made.stderr
    assert "30 dropped (without an answer 30)" in made.stdout
