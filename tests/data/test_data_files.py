"""Which texts of a task's YAML are looked up as files: those that name its data, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data.catalog import data_files, local_stamp


def found(folder: Path, text: str) -> list[str]:
    path = folder / "task.yaml"
    path.write_text(f"task: t\n{text}\n")
    return [str(place.relative_to(folder)) for place in data_files(path, folder)]


def test_a_delimiter_is_no_folder(tmp_path: Path) -> None:
    text = 'dataset_kwargs: {source: "file:a.csv", delimiter: "/", quotechar: "."}'
    (tmp_path / "t.yaml").write_text(text)
    assert data_files(tmp_path / "t.yaml", tmp_path) == [tmp_path / "a.csv"]


def test_data_is_named_by_its_keys_or_by_file(tmp_path: Path) -> None:
    for name in ("a.csv", "b1.csv", "b2.csv"):
        (tmp_path / name).write_text("x\n1\n")
    assert found(tmp_path, "dataset_path: csv\ndataset_kwargs: {data_files: {train: a.csv}}") == ["a.csv"]
    assert found(tmp_path, "dataset_kwargs: {data_files: [b*.csv, a.csv]}") == ["b1.csv", "b2.csv", "a.csv"]
    assert found(tmp_path, "dataset_kwargs: {source: file:missing.csv}") == ["missing.csv"]


@pytest.mark.parametrize(
    "text",
    [
        'generation_kwargs: {until: ["/", "*", "a.csv"]}',
        'doc_to_text: "a.csv"',
        f"description: {'word ' * 80}",
        f"dataset_kwargs: {{data_files: {'x' * 400}.csv}}",
        "dataset_kwargs: {data_files: ~nosuchuser/x.csv}",
        r'dataset_kwargs: {data_files: "a\0b"}',
        "dataset_kwargs: 7",
    ],
)
def test_other_texts_and_impossible_names_are_no_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    assert found(tmp_path, text) == []


def test_a_whole_disk_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dataset_kwargs: {unique: /}` names a folder by chance: looking at all its files took half a minute."""
    for place in range(30):
        (tmp_path / f"{place:02}.csv").write_text("x\n1\n")
    assert len(local_stamp(tmp_path)) == 30
    monkeypatch.setattr("harness.data.catalog.MOST_FILES", 20)
    assert local_stamp(tmp_path) == [str(tmp_path), "more than 20 files"]
    assert len(found(tmp_path, "dataset_kwargs: {data_files: '*.csv'}")) == 20
