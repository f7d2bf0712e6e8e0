"""Which files of a folder are read, and which splits their names publish."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from harness.data import splits
from harness.data.readers import read_splits
from harness.data.readers.finding import split_of
from harness.errors import TaskError


def fill(folder: Path, *names: str) -> Path:
    """Make a folder with CSV files, each with one row: its own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pa.table({"text": [name]}), path)
        else:
            path.write_text(f"text\n{name}\n" if path.suffix in (".csv", ".tsv") else "nothing")
    return folder


def found(path: Path, **options: object) -> dict[str, list[str]]:
    by_split = read_splits({"": [path]}, "auto", options)
    return {split: [row["text"] for row in rows] for split, rows in by_split.items()}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation.csv", "validation"),
        ("my_dev_set.jsonl", "validation"),
        ("test/1.csv", "test"),
        ("eval.csv", "test"),
        ("train/test.csv", "test"),
        ("latest.csv", ""),
        ("contest_2024.csv", ""),
        ("Test.CSV", "test"),
    ],
)
def test_a_name_says_its_split(name: str, split: str) -> None:
    assert split_of(name) == split


def test_names_publish_splits(tmp_path: Path) -> None:
    names = ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", "data/validation-0.parquet"]
    fill(tmp_path, *names, "README.md", ".cache/train.csv", "dataset_info.json")
    assert found(tmp_path) == {"train": names[:2], "test": [names[2]], "validation": [names[3]]}


def test_validation_is_scored_where_there_is_no_test_split(tmp_path: Path) -> None:
    assert found(fill(tmp_path, "train.csv", "dev.csv")) == {"train": ["train.csv"], "test": ["dev.csv"]}


def test_files_without_splits_are_read_together(tmp_path: Path) -> None:
    assert found(fill(tmp_path, "b.csv", "a.csv", "c/d.tsv")) == {"": ["a.csv", "b.csv", "c/d.tsv"]}
    assert found(tmp_path / "*.csv") == {"": ["a.csv", "b.csv"]}
    assert found(tmp_path / "**" / "*.tsv") == {"": ["c/d.tsv"]}
    assert found(tmp_path, files="c/*") == {"": ["c/d.tsv"]}
    assert found(tmp_path, files={"train": ["a.csv"], "dev": "b.csv", "test": "c/*"}) == {
        "train": ["a.csv"],
        "validation": ["b.csv"],
        "test": ["c/d.tsv"],
    }
    only_train = fill(tmp_path / "only", "train-0.csv", "train-1.csv")
    assert found(only_train) == {"": ["train-0.csv", "train-1.csv"]}


README = """---
license: mit
configs:
- config_name: one
  data_files:
  - {split: train, path: x/*.csv}
  - {split: test, path: [y/a.csv]}
- config_name: two
  data_dir: y
  data_files: "*.csv"
---
# A data set
"""


def test_the_readme_says_which_files_make_which_split(tmp_path: Path) -> None:
    fill(tmp_path, "x/a.csv", "x/b.csv", "y/a.csv", "z.csv")
    (tmp_path / "README.md").write_text(README)
    assert found(tmp_path, config="one") == {"train": ["x/a.csv", "x/b.csv"], "test": ["y/a.csv"]}
    assert found(tmp_path, config="two") == {"": ["y/a.csv"]}
    (tmp_path / "README.md").write_text(README.replace("config_name: one", "config_name: one\n  default: true"))
    assert found(tmp_path)["test"] == ["y/a.csv"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "has several configs: one, two. Say which one: config: one."),
        ({"config": "tow"}, "unknown config 'tow'. Did you mean 'two'?"),
        ({"files": "*.json"}, "unknown file in"),
        ({"files": 3}, "files: got 3; give a pattern"),
        ({"config": "one", "files": "*"}, "`files` and `config` both say"),
    ],
)
def test_what_the_folder_does_not_have(tmp_path: Path, options: dict[str, object], said: str) -> None:
    fill(tmp_path, "x/a.csv", "y/a.csv")
    (tmp_path / "README.md").write_text(README)
    with pytest.raises(TaskError) as raised:
        found(tmp_path, **options)
    assert said in str(raised.value)


def test_other_names_of_splits(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv", "b.csv", "c.csv")
    head = "---\nconfigs:\n- config_name: default\n  data_files:\n"

    def readme(*names: str) -> Path:
        listed = "".join(f"  - {{split: {name}, path: {file}.csv}}\n" for name, file in zip(names, "abc", strict=False))
        (tmp_path / "README.md").write_text(f"{head}{listed}---\n")
        return tmp_path

    assert found(readme("train", "dev")) == {"train": ["a.csv"], "test": ["b.csv"]}
    assert found(readme("train_more", "train", "test")) == {"train": ["b.csv"], "test": ["c.csv"]}
    assert found(readme("test")) == {"": ["a.csv"]}
    with pytest.raises(TaskError, match="the splits 'train_a' and 'train_b' could both be train"):
        found(readme("train_a", "train_b", "test"))


def test_notes_beside_tables_are_no_data(tmp_path: Path) -> None:
    fill(tmp_path, "a.csv", "LICENSE.txt")
    assert found(tmp_path) == {"": ["a.csv"]}
    assert found(fill(tmp_path / "texts", "a.txt", "b.txt")) == {"": ["nothing", "nothing"]}


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text("")
    with pytest.raises(TaskError, match="holds no data files, but load.py"):
        found(tmp_path)


def test_text_files_by_class_and_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("pos", "neg"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.txt").write_text(f"{split} {name}")
    by_split = read_splits({"": [tmp_path]}, "auto", {})
    assert {split: [row["label"] for row in rows] for split, rows in by_split.items()} == {
        "train": ["neg", "pos"],
        "test": ["neg", "pos"],
    }


def test_the_split_of_a_source_is_taken_from_it(tmp_path: Path) -> None:
    fill(tmp_path, "train.csv", "test.csv")
    by_split = read_splits({"train": [tmp_path], "test": [tmp_path]}, "auto", {})
    assert {split: [row["text"] for row in rows] for split, rows in by_split.items()} == {
        "train": ["train.csv"],
        "test": ["test.csv"],
    }
    with pytest.raises(TaskError, match="unknown split 'validation'"):
        read_splits({"validation": [tmp_path]}, "auto", {})


def test_a_data_set_of_the_hub_becomes_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    chats = [
        {"chat": [{"role": "user", "content": f"Question {number}", "more": None}], "label": number % 2, "id": number}
        for number in range(40)
    ]
    (tmp_path / "data").mkdir()
    for name, part in (("train.jsonl", chats[:30]), ("test.jsonl", chats[30:])):
        (tmp_path / "data" / name).write_text("\n".join(map(json.dumps, part)))
    made = splits.documents("file:data", unique=["chat"], label="label", test=8, validation=4, base=str(tmp_path))
    assert {split: len(part) for split, part in made.items()} == {"train": 26, "validation": 4, "test": 8}
    again = splits.documents("file:data", unique=["chat"], label="label", test=8, validation=4, base=str(tmp_path))
    assert list(again["test"]) == list(made["test"])
    first = made["test"][0]
    assert first["chat"] == chats[first["id"]]["chat"]
    assert made["test"][0]["chat"][0]["content"].startswith("Question")
