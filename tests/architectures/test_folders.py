"""Model folders as people have them: what cannot be used is refused by `tunebench check`, before anything is fetched,
in a sentence that says what it is and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refused, tunebench
from tools import plan_of, run_here

from architectures.families import STRANGERS, make_stranger

SUITE = """\
version: 1
models: [{model}]
tasks:
  - {{learn: colours, sizes: [8]}}
methods: {{base: {{}}, lora: {{}}}}
train: {{steps: 1, batch_size: 4, attention: {attention}}}
"""


def suite(project: Path, model: Path | str, attention: str = "auto") -> None:
    text = model if isinstance(model, str) else f"'file:{model}'"
    (project / "suites" / "small.yaml").write_text(SUITE.format(model=text, attention=attention))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t5", "T5ForConditionalGeneration, an encoder-decoder"),
        ("bart", "BartForConditionalGeneration, an encoder-decoder"),
        ("bert", "BertForMaskedLM: it fills gaps"),
        ("encoder", "BertModel, an encoder"),
        ("classifier", "LlamaForSequenceClassification: it classifies texts"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(
    name: str, said: str, project: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert set(STRANGERS) == {"t5", "bart", "bert", "encoder", "classifier"}
    suite(project, make_stranger(name, tiny_model, tmp_path / "models" / name))
    done = tunebench("check", "small")
    refused(done, said)
    assert "small.yaml:2" in done.stderr


def only_an_adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


def a_missing_shard(folder: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / names["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def cut_off(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def more_tokens_than_rows(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))


def its_own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "code.M", "AutoConfig": "code.C"}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (only_an_adapter, "holds an adapter of org/base, not a model"),
        (a_missing_shard, "lacks 1 of the 2 files of its weights, such as model-00002-of-00002.safetensors"),
        (cut_off, "is cut off"),
        (no_tokenizer, "has no tokenizer"),
        (more_tokens_than_rows, "has tokens up to number 373, and the model's embedding has 300 rows"),
        (its_own_code, "trust_remote_code: true"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "holds list, wanted a mapping"),
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs…"), "only a pointer of Git"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 40), "is damaged"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_in_one_sentence(
    spoil: Callable[[Path], Any], said: str, project: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "spoilt")
    spoil(folder)
    suite(project, folder)
    done = tunebench("check", "small")
    refused(done, said)
    assert "Traceback" not in done.stderr


def test_a_tokenizer_file_alone_is_enough(project: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "alone")
    for path in folder.glob("*token*"):
        if path.name != "tokenizer.json":
            path.unlink()
    plan = plan_of(project, SUITE.format(model=f"'file:{folder}'", attention="auto"))
    for cell in plan.cells:
        result = run_here(plan, cell, tmp_path / cell.label)
        assert str(result.status) == "done", result.reason


def test_an_attention_kernel_that_a_model_lacks_is_refused(project: Path, tiny_model: Path, tmp_path: Path) -> None:
    from architectures.families import make_family
    from harness.errors import SuiteError

    folder = make_family("bloom", tiny_model, tmp_path / "models" / "bloom")
    with pytest.raises(SuiteError, match="attention sdpa: transformers has none for bloom"):
        plan_of(project, SUITE.format(model=f"'file:{folder}'", attention="sdpa"))
    plan = plan_of(project, SUITE.format(model=f"'file:{folder}'", attention="auto"))
    assert [cell.label for cell in plan.cells] == ["base", "lora"]


CODE = """\
from transformers import LlamaConfig, LlamaForCausalLM

class C(LlamaConfig):
    model_type = "strange"

class M(LlamaForCausalLM):
    config_class = C
"""


def test_a_models_own_code_runs_where_the_suite_says_so_by_name(
    project: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail("asked on a terminal"))
    folder = shutil.copytree(tiny_model, tmp_path / "own")
    its_own_code(folder)
    (folder / "code.py").write_text(CODE)
    model = f"{{source: 'file:{folder}', trust_remote_code: true}}"
    plan = plan_of(project, SUITE.format(model=model, attention="auto"))
    assert {cell.model for cell in plan.cells} == {f"file:{folder}+code"}
    result = run_here(plan, plan.cells[-1], tmp_path / "cell")
    assert str(result.status) == "done", result.reason
    before = plan.cells[0].spec_digest
    (folder / "code.py").write_text(CODE + "\n# changed\n")
    assert plan_of(project, SUITE.format(model=model, attention="auto")).cells[0].spec_digest != before
    suite(project, folder)
    refused(tunebench("check", "small"), "transformers knows only by the code that comes with it (code.py)")


@pytest.mark.parametrize("label", ["full", "prompt_tuning", "prefix_tuning"])
def test_texts_longer_than_the_model_are_cut(label: str, tiny_model: Path, tmp_path: Path) -> None:
    """GPT-2 has 256 places and no more: token 257 has no embedding."""
    from types import SimpleNamespace

    import torch

    from architectures.families import make_family
    from harness.data import Example
    from harness.methods import all_methods
    from harness.models.loading import load_model, load_tokenizer
    from harness.records import TrainSettings
    from harness.worker.encoding import Encoding
    from harness.worker.evaluate import TunedLM, virtual_tokens

    folder = make_family("gpt2", tiny_model, tmp_path / "gpt2")
    settings = {} if label == "full" else {"init": "random", "virtual_tokens": 20}
    model = all_methods()[label](**settings).attach(load_model(folder, TrainSettings()))
    assert virtual_tokens(model) == (0 if label == "full" else 20)
    lm = TunedLM(model, load_tokenizer(folder), 2)
    assert lm.max_length == 256 - virtual_tokens(model)
    long = "zq " * 400
    (row,) = Encoding(512).rows(lm, [Example(long, " red", False)])
    assert len(row["input_ids"]) == lm.max_length
    model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False)
    assert lm.loglikelihood([SimpleNamespace(args=(long, " red"))])[0][0] < 0
    assert lm.loglikelihood_rolling([SimpleNamespace(args=(long,))], disable_tqdm=True)[0] < 0
    assert lm.truncated


@pytest.mark.parametrize("wrong", [{"auto_map": []}, {"model_max_length": "x"}, {"eos_token": 7}])
def test_a_tokenizer_that_cannot_be_used_is_no_fault_of_the_task(
    wrong: dict[str, Any], project: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "odd")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    suite(project, folder)
    refused(tunebench("fetch", "small"), "its tokenizer cannot be used (")
