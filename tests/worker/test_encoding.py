"""What is learned is what is asked: training and generating give the model the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data.catalog import lm_eval_tasks
from harness.data.heard_task import HeardTask
from harness.data.tasks import Example, example, unlearnable
from harness.worker.encoding import Encoding, encoded
from harness.worker.evaluate import TunedLM, evaluate

OPTIONS = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> TunedLM:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return TunedLM(model, AutoTokenizer.from_pretrained(tiny_model), 8)


class Echo:
    """In place of a model's generating: keeps what it was asked with, and writes what was learned behind it."""

    def __init__(self, lm: TunedLM, rows: list[dict[str, list[int]]]):
        self.end = lm.eot_token_id
        self.asked: list[list[int]] = []
        self.learned = {tuple(prompt_of(row)): answer_of(row) for row in rows}

    def __call__(self, context: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        asked = [ids[mask.bool()].tolist() for ids, mask in zip(context, attention_mask, strict=True)]
        self.asked += asked
        written = [self.learned.get(tuple(ids), []) for ids in asked]
        longest = max(map(len, written))
        tails = torch.tensor([ids + [self.end] * (longest + 1 - len(ids)) for ids in written])
        return torch.cat([context, tails], dim=1)


def prompt_of(row: dict[str, list[int]]) -> list[int]:
    return [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]


def answer_of(row: dict[str, list[int]]) -> list[int]:
    return [label for label in row["labels"] if label != -100]


FORMS = [
    ("Text: the sky\nColour:", " blue"),
    ("Text: the sky\nColour: ", "blue"),
    ("Text: the sky\nColour: ", " blue"),
    ("Text: the sky\nColour:\n", "blue"),
    ("Text: the sky\nColour:\n\n", "\nblue"),
    ("Text: the sky\nColour:\t ", "blue"),
    ("Text: the sky is bl", "ue"),
    ("Ada sees the le", "af and Ben"),
    (" ", "blue"),
    ("", "blue"),
]


@pytest.mark.parametrize(("context", "answer"), FORMS)
def test_the_prompt_that_is_learned_is_the_one_that_is_asked(
    lm: TunedLM, monkeypatch: pytest.MonkeyPatch, context: str, answer: str
) -> None:
    rows, _ = encoded(lm, [Example(context, answer, True, written=True)], 64)
    echo = Echo(lm, rows)
    monkeypatch.setattr(lm, "_model_generate", echo)
    said = lm.generate_until([Instance("generate_until", {}, (context, OPTIONS), 0)], disable_tqdm=True)
    assert echo.asked == [prompt_of(rows[0])]
    assert answer_of(rows[0])[-1] == lm.eot_token_id
    assert said == [answer]


def test_questions_of_a_batch_are_those_asked_alone(lm: TunedLM) -> None:
    texts = ["Text: the sky\nColour: ", "", "Ada"]
    for side in ("left", "right"):
        ids, mask = lm.tok_batch_encode(texts, padding_side=side, left_truncate_len=6)
        kept = [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]
        assert kept == [lm.question_tokens(text)[-6:] for text in texts]


LANGUAGES = ("ar", "de", "en", "fr", "ro")
SOME = [
    "afrimgsm_cot_eng_prompt_1",
    "afrimgsm_cot_eng_prompt_2",
    "afrimgsm_cot_eng_prompt_4",
    "afridiacritics_bbj_prompt_1",
    "arc_challenge_chat",
    "babi",
    "boolq-seq2seq",
    "assin2_sts",
    "mgsm_direct_es_spanish_bench",
    "mgsm_direct_en",
    "nq_open",
    "wmt14-en-fr",
    "super_glue-rte-t5-prompt",
    "qasper_freeform",
    "cocoteros_es",
]


def forms(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The trainable ones among lm-eval's tasks of generated text, one of each form of question and answer: name -> its
    YAML."""
    from lm_eval.tasks._yaml_loader import load_yaml

    found: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}
    keys = ("doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "gen_prefix", "description")
    for name in names:
        path = lm_eval_tasks()[name]
        text = path.read_text()
        if "generate_until" not in text and ("doc_to_text" not in text or "include:" not in text):
            continue
        try:
            config = load_yaml(path)
        except Exception:  # it needs a package or data that are not here
            continue
        if config.get("output_type") == "generate_until" and config.get("training_split") and "class" not in config:
            found.setdefault(tuple(str(config.get(key)) for key in keys), (name, config))
    return dict(found.values())


def made_up(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Documents with every column that the templates name; empty where they need more than text."""
    import jinja2
    import jinja2.meta

    templates = [config.get(key) for key in ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")]
    if any(callable(template) for template in templates):
        return
    names: set[str] = set()
    for template in filter(None, map(str, templates)):
        names |= jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template))
        names |= {template} if template.isidentifier() else set()
    for number in range(3):
        text = f"of number {number}, which is long enough to be cut anywhere"
        columns: dict[str, Any] = {name: f"{name} {text}" for name in sorted(names)}
        columns |= {name: {tongue: f"{tongue} {text}" for tongue in LANGUAGES} for name in names & {"translation"}}
        columns |= {name: {"text": [f"{letter} {text}" for letter in "ABCD"]} for name in names & {"choices"}}
        columns |= {name: 0 for name in names & {config["doc_to_target"]} if config.get("doc_to_choice")}
        columns |= dict.fromkeys(names & {"answerKey"}, "B")
        yield columns


@pytest.mark.parametrize(("names", "least"), [(SOME, 12), pytest.param(None, 180, marks=pytest.mark.slow)])
def test_lm_evals_own_tasks_are_asked_as_they_are_learned(
    lm: TunedLM, monkeypatch: pytest.MonkeyPatch, names: list[str] | None, least: int
) -> None:
    from datasets import Dataset

    tried, blank = 0, 0
    for name, config in forms(names or lm_eval_tasks()).items():
        documents = list(made_up(config))
        splits = {config[key] for key in ("training_split", "validation_split", "test_split") if config.get(key)}
        kept = {
            key: value for key, value in config.items() if key not in ("tag", "group", "dataset_kwargs", "metadata")
        }
        kept |= {
            "custom_dataset": lambda found=documents, names=splits, **_: {n: Dataset.from_list(found) for n in names}
        }
        kept |= {"process_docs": None, "fewshot_config": None, "num_fewshot": 0, "fewshot_split": None}
        kept |= {"test_split": next(iter(splits))}
        kept |= {"metric_list": [{"metric": "exact_match"}], "process_results": None, "filter_list": None}
        kept |= {"generation_kwargs": {"until": ["###"], "max_gen_toks": 200}, "repeats": 1}
        try:
            task: Any = HeardTask(config=kept)
            if unlearnable(task):
                continue
            learned = [example(task, document, True) for document in task.eval_docs]
        except Exception:  # its templates need other columns
            continue
        rows, _ = encoded(lm, learned, 10_000)
        echo = Echo(lm, rows)
        with monkeypatch.context() as patch:
            patch.setattr(lm, "_model_generate", echo)
            patch.setattr(TunedLM, "max_length", 10_000)
            scores, _, _ = evaluate(lm, {name: task}, {name: "task"})
        assert sorted(echo.asked) == sorted(map(prompt_of, rows)), name
        assert scores[0].value == 1, name
        tried += 1
        blank += learned[0].context[-1:].isspace()
    assert tried >= least, tried
    assert blank >= 3, blank


def test_what_is_cut_off_is_counted_for_written_answers_too(lm: TunedLM) -> None:
    encoding = Encoding(8)
    one = Example("Text: the sky and the sea and the ink\nColour: ", "blue", True, written=True)
    (row,) = encoding.rows(lm, [one])
    assert len(row["input_ids"]) == 8
    whole = len(lm.question_tokens(one.context)) + len(answer_of(row))
    assert encoding.cut[one] == whole - 8
