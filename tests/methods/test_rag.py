"""Retrieval: what is found for a question, over examples and over documents, alone and on top of a tuned model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import cell_named, context_of, plan_of, run_here, training_of

from harness.errors import SuiteError
from harness.methods import all_methods, make_method
from harness.methods.rag import cut
from harness.worker.context import CellContext

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [12]}}
retain: [names]
methods:
  x: {label}
train: {{steps: 4, batch_size: 4}}
"""
EXAMPLES = "{method: rag, encoder: tiny-encoder, passages: 3}"
STORE = "{method: rag, encoder: tiny-encoder, store: names, words: 5}"
TUNED = "{method: [lora, rag], lora: {learning_rate: 1e-2}, rag: {encoder: tiny-encoder, passages: 2}}"


def work(project: Path, folder: Path, label: str, key: str) -> CellContext:
    plan = plan_of(project, SUITE.format(label=label))
    return context_of(plan, cell_named(plan, key), folder)


def test_passages_are_whole_sentences() -> None:
    text = 'One two three. "Four five." Six seven eight nine! Ten.'
    assert list(cut(text, 4)) == ['One two three. "Four five."', "Six seven eight nine!", "Ten."]
    assert " ".join(cut(text, 2)) == text
    assert list(cut("", 4)) == []


def test_the_nearest_examples_stand_next_to_the_question(encoding_project: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    job = work(encoding_project, tmp_path / "attempts" / "x", EXAMPLES, "x/tiny/colours/n12/s0")
    method: Any = job.method
    method.fit(job.load_model(), job)
    question = job.examples()[4].context
    (found,) = method._nearest(job, [question])
    encoder = SentenceTransformer(str(job.models["tiny-encoder"]), device="cpu")
    vectors = encoder.encode([one.context for one in job.examples()], normalize_embeddings=True)
    wanted = sorted(range(12), key=lambda place: -float(vectors[place] @ vectors[4]))[:3]
    assert found == [job.examples()[place].context + job.examples()[place].target for place in wanted]
    assert wanted[0] == 4
    prompt = method._write(found, question, [])
    assert prompt == "\n\n".join([*reversed(found), question])
    assert method._write([], question, []) == question


def test_a_template_says_where_passages_stand() -> None:
    method = all_methods()["rag"](template="Q: {question} Known: {passages}.", separator="; ")
    assert method._write(["near {question}", "far"], "who {passages}?", []) == (
        "Q: who {passages}? Known: far; near {question}."
    )


def test_over_examples_it_has_a_size_and_keeps_an_index(encoding_project: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    plan = plan_of(encoding_project, SUITE.format(label=EXAMPLES))
    folder = tmp_path / "results" / "attempts" / "x"
    made = run_here(plan, cell_named(plan, "x/tiny/colours/n12/s0"), folder)
    assert made.status == "done", made.reason
    assert made.cell.borrows == ("tiny-encoder",)
    assert {phase.phase for phase in made.phases} == {"load", "train", "evaluate", "infer", "save"}
    base = run_here(plan, cell_named(plan, "base/tiny/colours"), tmp_path / "results" / "attempts" / "base")
    scores = [{(s.task, s.metric): s.value for s in one.scores} for one in (made, base)]
    for (task, metric), value in scores[0].items():
        if task == "names" or metric == "choice_cross_entropy":
            assert (value == scores[1][task, metric]) is (task == "names")
    vectors = load_file(folder / "weights" / "index.safetensors")["vectors"]
    assert vectors.shape == (12, 32)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(12))
    assert len(json.loads((folder / "weights" / "passages.json").read_text())) == 12


def test_over_a_store_it_has_none_and_still_measures_taking_it_in(encoding_project: Path, tmp_path: Path) -> None:
    plan = plan_of(encoding_project, SUITE.format(label=STORE))
    made = run_here(plan, cell_named(plan, "x/tiny/colours"), tmp_path / "results" / "attempts" / "x")
    assert made.status == "done", made.reason
    assert (made.cell.n_train, made.cell.seed) == (0, None)
    assert [phase.phase for phase in made.phases] == ["load", "train", "evaluate", "save", "infer"]
    passages = json.loads((tmp_path / "results" / "attempts" / "x" / "weights" / "passages.json").read_text())
    assert len(passages) > 600


def test_the_store_is_part_of_what_a_cell_is(encoding_project: Path) -> None:
    label = STORE.replace("names", "colours")
    one = cell_named(plan_of(encoding_project, SUITE.format(label=STORE)), "x/tiny/colours")
    other = cell_named(plan_of(encoding_project, SUITE.format(label=label)), "x/tiny/colours")
    assert one.spec_digest != other.spec_digest


def likelihoods(job: CellContext, model: Any) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance

    asked = [
        Instance("loglikelihood", {}, (one.context, choice), 0, (job.task, 0, 1))
        for one in job.examples()[:4]
        for choice in (" red", " blue", " green")
    ]
    return job.method.predictor(model, job).loglikelihood(asked)


@pytest.mark.parametrize("label", [EXAMPLES, TUNED])
def test_what_it_saves_is_restored(encoding_project: Path, tmp_path: Path, label: str) -> None:
    job = work(encoding_project, tmp_path / "attempts" / "x", label, "x/tiny/colours/n12/s0")
    model = job.method.load(job)
    if job.method.trains:
        model = job.method.attach(model)
        training_of(job).encode_stages(model)
    model = job.method.fit(model, job)
    said = likelihoods(job, model)
    job.method.save(model, tmp_path / "saved")
    assert {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()} <= {
        ".safetensors",
        ".json",
        ".md",
    }
    job.recipe = replace(job.recipe, method=make_method(job.cell.method, job.cell.settings))
    assert likelihoods(job, job.method.restore(job, tmp_path / "saved")) == said


def test_on_top_of_a_tuned_model_it_asks_that_model(encoding_project: Path, tmp_path: Path) -> None:
    """Both parts show: neither the adapter alone nor retrieval alone gives the same answers."""
    job = work(encoding_project, tmp_path / "attempts" / "x", TUNED, "x/tiny/colours/n12/s0")
    model = job.method.attach(job.method.load(job))
    training_of(job).encode_stages(model)
    model = job.method.fit(model, job)
    both = likelihoods(job, model)
    untuned = likelihoods(job, job.load_model())
    job.recipe = replace(job.recipe, method=job.method.parts[0])
    assert both not in (likelihoods(job, model), untuned)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: rag, passages: 0}", "passages is 0"),
        ("{method: rag, words: 0}", "words is 0"),
        ("{method: rag, template: '{question}'}", "it must hold {passages} once"),
        ("{method: rag, encoder: nothing}", "unknown model 'nothing'"),
        ("{method: rag, encoder: tiny-encoder, store: nothing}", "unknown task 'nothing'"),
    ],
)
def test_what_cannot_be(encoding_project: Path, label: str, said: str) -> None:
    from harness.data.catalog import load_catalog
    from harness.suite.load import load_suite

    path = encoding_project / "suites" / "small.yaml"
    path.write_text(SUITE.format(label=label))
    with pytest.raises(SuiteError, match=said):
        load_suite(path, load_catalog(encoding_project))
