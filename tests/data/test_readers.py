from pathlib import Path

import pytest

from harness.data.readers import read
from harness.errors import TaskError


def test_every_format_gives_documents(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufefftext,label\nhello,x\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "hello", "label": 1}\n\n')
    (tmp_path / "a.tab").write_text("Category\tText\nd\tstring\nclass\t\n\nx\tone two three four\ny\tone\n")
    (tmp_path / "d" / "x").mkdir(parents=True)
    (tmp_path / "d" / "x" / "1.txt").write_text("Title\n\nBody of\nit")
    assert list(read(tmp_path / "a.csv", "auto", {})) == [{"text": "hello", "label": "x"}]
    assert list(read(tmp_path / "a.jsonl", "auto", {})) == [{"text": "hello", "label": 1}]
    orange = {"columns": {"label": "Category", "text": "Text"}, "words": 2, "skip_words": 1}
    assert list(read(tmp_path / "a.tab", "auto", orange)) == [{"label": "x", "text": "two three"}]
    assert list(read(tmp_path / "d", "auto", {})) == [{"label": "x", "title": "Title", "body": "Body of it"}]
    with pytest.raises(TaskError, match="unknown reader 'cvs'. Did you mean 'csv'?"):
        list(read(tmp_path / "a.csv", "cvs", {}))
