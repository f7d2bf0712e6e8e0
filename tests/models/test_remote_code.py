"""Python code that comes with a model is not run, and no prompt asks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.models.loading import load_model, load_tokenizer
from harness.records import TrainSettings


def test_code_that_comes_with_a_model_is_not_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail("asked on a terminal"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(folder, TrainSettings())
    load_tokenizer(folder)
    assert not mark.exists()
