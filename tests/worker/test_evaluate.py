"""Scores are lm-eval's, computed faster; standard errors are what their formulas say."""

import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data.catalog import load_catalog
from harness.data.tasks import example, load_task, prepare
from harness.methods import all_methods
from harness.models import load_model, load_tokenizer
from harness.records import TrainSettings
from harness.worker.evaluate import (
    TunedLM,
    choice_cross_entropy,
    doc_ids,
    evaluate,
    jackknife,
    mean_and_stderr,
    ratio,
)

floats = st.floats(-1e3, 1e3)


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), AutoTokenizer.from_pretrained(
        tiny_model
    )


PAIRS = [("Text: Ada sees the sky\nColour:", word) for word in (" red", " blue", " green", " red and blue")]
PAIRS += [("Ben", " likes the rose"), ("", "Text"), ("x", " y")]


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, args if isinstance(args, tuple) else (args,), 0) for args in arguments]


@pytest.mark.parametrize("method", ["base", "lora", "dora", "prompt_tuning"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_log_likelihoods_are_hflms(tiny_model: Path, method: str, batch_size: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = all_methods()[method]().attach(model).eval()
    ours = TunedLM(model, tokenizer, batch_size)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, backend="causal")
    for mine, stock in zip(
        ours.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True),
        theirs.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True),
        strict=True,
    ):
        assert mine[0] == pytest.approx(stock[0], rel=1e-5)
        assert mine[1] == stock[1]
    texts = ["Ada sees the sky and Ben likes the rose", "Gus draws the leaf"]
    assert ours.loglikelihood_rolling(requests("rolling", texts), disable_tqdm=True) == pytest.approx(
        theirs.loglikelihood_rolling(requests("rolling", texts), disable_tqdm=True), rel=1e-5
    )


def test_scores_and_items_agree(project: Path, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    tasks = {name: load_task(project / "suites" / "tasks" / f"{name}.yaml") for name in ("colours", "prose", "names")}
    roles = {"colours": "task", "prose": "retain", "names": "task"}
    scores, items, documents = evaluate(TunedLM(model, tokenizer, 8), tasks, roles)
    by_metric = {(score.task, score.metric): score for score in scores}
    assert [s.metric for s in scores] == [
        "acc",
        "choice_cross_entropy",
        "log_likelihood_per_word",
        "word_perplexity",
        "exact_match",
    ]
    accuracy = by_metric["colours", "acc"]
    hits = [item for item in items if (item.task, item.metric) == ("colours", "acc")]
    assert accuracy.n == len(hits) == 30
    assert accuracy.value == pytest.approx(statistics.fmean(item.value for item in hits))
    assert all((item.prediction == item.target) == bool(item.value) for item in hits)
    # The choices' log-likelihoods are kept, and give the cross-entropy and the prediction back.
    for item in hits[:5]:
        logs = {
            i.prediction: i.value
            for i in items
            if i.metric == "log_likelihood" and i.doc_id == item.doc_id and i.task == "colours"
        }
        assert max(logs, key=logs.__getitem__) == item.prediction
        loss = next(i.value for i in items if i.metric == "choice_cross_entropy" and i.doc_id == item.doc_id)
        assert loss == pytest.approx(
            -math.log(math.exp(logs[item.target]) / sum(map(math.exp, logs.values()))), rel=1e-5
        )
    per_word = by_metric["prose", "log_likelihood_per_word"]
    assert by_metric["prose", "word_perplexity"].value == pytest.approx(math.exp(-per_word.value), rel=1e-6)
    assert per_word.higher_is_better
    assert per_word.stderr
    assert len({key for key in documents if key[0] == "colours"}) == 30


def test_the_same_document_twice_has_two_ids() -> None:
    samples = [{"doc_hash": "a" * 64}, {"doc_hash": "b" * 64}, {"doc_hash": "a" * 64}]
    assert doc_ids(samples) == ["a" * 16 + "-0", "b" * 16 + "-0", "a" * 16 + "-1"]


@given(st.lists(floats, min_size=2, max_size=20))
def test_jackknife_of_a_mean_is_its_standard_error(values: list[float]) -> None:
    mean, stderr = mean_and_stderr(values)
    whole, knife = jackknife(values, statistics.fmean)
    assert whole == pytest.approx(mean, abs=1e-9)
    assert knife == pytest.approx(stderr, rel=1e-6, abs=1e-6)


def test_single_values_have_no_standard_error() -> None:
    assert mean_and_stderr([2.0]) == (2.0, None)
    assert jackknife([(1.0, 2.0)], ratio) == (0.5, None)


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=8), st.data())
def test_choice_cross_entropy(logs: list[float], data: st.DataObject) -> None:
    right = data.draw(st.integers(0, len(logs) - 1))
    loss = choice_cross_entropy(logs, right)
    assert loss >= 0
    assert choice_cross_entropy([value - 7 for value in logs], right) == pytest.approx(loss, abs=1e-9)


def test_sequences_that_lose_their_beginning_are_counted(loaded: tuple[Any, Any]) -> None:
    lm = TunedLM(*loaded, batch_size=4)
    long = "sky " * 600
    asked = [("short", " red"), (long, " red"), (long, " blue"), (long + "sea", " red"), (long + "sea", " red")]
    lm.loglikelihood(requests("loglikelihood", asked), disable_tqdm=True)
    pairs = {(tuple(context), tuple(answer)) for context, answer in (lm._encode_pair(*pair) for pair in asked)}
    # What is run once counts once: answers of a single token share their context's run.
    wanted = {(*one, *two)[-257:-1] for one, two in pairs if len(one) + len(two) > 257}
    assert lm.truncated == len(wanted) > 0
    before = lm.truncated
    options = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
    lm.generate_until(requests("generate_until", [("short", options), (long, options)]), disable_tqdm=True)
    assert lm.truncated == before + 1
    assert lm.loglikelihood_rolling(requests("rolling", [long]), disable_tqdm=True)  # in windows: nothing is lost
    assert lm.truncated == before + 1


class Writer(LM):
    """A model that writes what it was taught, to every question."""

    def __init__(self, texts: dict[str, str]):
        super().__init__()
        self.texts = texts

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return [self.texts[request.args[0]] for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.mark.parametrize("delimiter", [" ", "", "\\t", " = "])
def test_a_model_that_writes_what_it_was_taught_scores_best(project: Path, delimiter: str) -> None:
    path = project / "suites" / "tasks" / "names.yaml"
    path.write_text(path.read_text() + f'target_delimiter: "{delimiter}"\n')
    task = load_task(path)
    taught = {one.context: one.target for one in (example(task, document, True) for document in task.eval_docs)}
    scores, items, _ = evaluate(Writer(taught), {"names": task}, {"names": "task"})
    assert [(score.metric, score.value) for score in scores] == [("exact_match", 1.0)]
    assert {item.prediction for item in items} == {"red", "blue", "green"}
    wrong = dict(zip(taught, [*taught.values()][1:] + [*taught.values()][:1], strict=True))
    scores, _, _ = evaluate(Writer(wrong), {"names": task}, {"names": "task"})
    assert scores[0].value < 1


@pytest.mark.parametrize("first", ["acc", "acc_norm", "acc_bytes"])
def test_the_headline_is_the_first_metric_of_the_yaml(project: Path, loaded: tuple[Any, Any], first: str) -> None:
    path = project / "suites" / "tasks" / "colours.yaml"
    others = [name for name in ("acc", "acc_norm", "acc_bytes") if name != first]
    lines = [f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n" for name in (first, *others)]
    path.write_text(path.read_text().split("metric_list:")[0] + "metric_list:\n" + "".join(lines))
    facts = prepare(load_catalog(project), "colours")
    scores, _, _ = evaluate(TunedLM(*loaded, 8), {"colours": load_task(path)}, {"colours": "task"})
    assert scores[0].metric == facts.metric == first
    assert {score.metric for score in scores} == {first, *others, "choice_cross_entropy"}


def test_the_headline_of_running_text_is_the_yamls_too(project: Path, loaded: tuple[Any, Any]) -> None:
    path = project / "suites" / "tasks" / "prose.yaml"
    path.write_text(
        path.read_text().split("metric_list:")[0]
        + "metric_list:\n  - {metric: bits_per_byte}\n  - {metric: word_perplexity}\n"
    )
    scores, _, _ = evaluate(TunedLM(*loaded, 8), {"prose": load_task(path)}, {"prose": "retain"})
    assert [score.metric for score in scores] == ["bits_per_byte", "log_likelihood_per_word", "word_perplexity"]


def test_an_answer_longer_than_the_window_is_an_error_that_says_so(loaded: tuple[Any, Any]) -> None:
    lm = TunedLM(*loaded, batch_size=4)
    long = "sky " * 600
    for context in ("Text", ""):
        with pytest.raises(ValueError, match=r"has \d+ tokens, and the model's window holds 256: 'sky sky"):
            lm.loglikelihood(requests("loglikelihood", [(context, " red"), (context, long)]), disable_tqdm=True)


def test_errors_of_clustered_values_leave_out_whole_clusters() -> None:
    values, clusters = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], ["a", "a", "b", "b", "c", "c"]
    wanted = statistics.stdev([1.0, 0.0, 0.5]) / math.sqrt(3)
    assert mean_and_stderr(values, clusters) == (0.5, pytest.approx(wanted))
    assert jackknife(values, statistics.fmean, clusters) == (0.5, pytest.approx(wanted))
    assert mean_and_stderr(values, ["a"] * 6) == (0.5, None)
    assert jackknife(values, statistics.fmean, ["a"] * 6) == (0.5, None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whatever_it_was_trained_in_a_model_is_scored_in_fp32(tiny_model: Path, precision: str) -> None:
    settings = TrainSettings(steps=1, precision=precision)
    seen = []
    model = load_model(tiny_model, settings)
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits.dtype))
    lm = TunedLM(model, load_tokenizer(tiny_model), 2)
    answers = lm.loglikelihood([SimpleNamespace(args=("Text: a", " red"))], disable_tqdm=True)
    exact = TunedLM(load_model(tiny_model, TrainSettings(steps=1)), load_tokenizer(tiny_model), 2)
    assert set(seen) == {torch.float32}
    assert answers == exact.loglikelihood([SimpleNamespace(args=("Text: a", " red"))], disable_tqdm=True)


def test_every_request_of_every_task_is_told(project: Path, loaded: tuple[Any, Any]) -> None:
    """Choices, running text in several windows, and generated answers; none while answers are timed."""
    model, tokenizer = loaded
    tasks = {name: load_task(project / "suites" / "tasks" / f"{name}.yaml") for name in ("colours", "prose", "names")}
    lm = TunedLM(model, tokenizer, 8)
    told: list[tuple[str, int, int]] = []
    lm.progress.tell = lambda task, answered, asked: told.append((task, answered, asked))
    evaluation = evaluate(lm, tasks, {"colours": "task", "prose": "retain", "names": "task"})
    last = {task: (answered, asked) for task, answered, asked in told}
    assert last.keys() == {"colours", "prose", "names"}
    assert last["colours"] == (90, 90), "three choices of each of 30 items"
    for task in ("prose", "names"):
        answered, asked = last[task]
        assert answered == asked >= len([name for name, _ in evaluation.documents if name == task])
    told.clear()
    with lm.ready():
        lm.loglikelihood(tasks["colours"].instances[:2])
    assert told == []
