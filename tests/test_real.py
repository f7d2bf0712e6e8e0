"""The real 135M model and real data, once for each family of methods, end to end.

Needs what `tunebench fetch peft-vs-full` puts into the cache (`make test` does that first); no network.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tools import plan_of, results_of, run_cells

from harness.records import CellResult
from harness.store.files import attempt_folder

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SUITE = """\
version: 1
models: [smollm2-135m]
tasks:
  - {learn: bbc-few, sizes: [16]}
retain: [tales-few]
methods:
%s
train: {steps: 3, batch_size: 4}
tune: {trials: 2, batch: 2}
"""
# A family of methods each; those that share their path with one of these run in `make test-all`.
QUICK = {
    "base": "{}",
    "full": "{tune: false}",
    "lora": "{space: {rank: null}}",
    "qlora": "{tune: false}",
    "prompt_tuning": "{tune: false}",
    "setfit": "{tune: false}",
}
SLOW = {
    "base-nf4": "{method: base, quantize: nf4, tune: false}",
    "layerwise": "{tune: false}",
    "dora": "{tune: false}",
    "merged": "{method: merge, how: task_arithmetic, experts: {method: lora, learn: [bbc-few, reuters-few]}, "
    "tune: false}",
}
Finished = tuple[Path, dict[str, CellResult]]  # results folder, results by key (the study's and its trials' left out)
FinishedWith = Callable[[str], Finished]


def run_labels(root: Path, labels: dict[str, str]) -> Finished:
    """Run labels once on few items."""
    shutil.copytree(ROOT / "suites", root / "suites")
    tasks = root / "suites" / "tasks"
    for name, short, old, new in (
        ("bbc-topic", "bbc-few", "test: 200\n  validation: 100", "test: 10\n  validation: 10"),
        ("reuters-r8", "reuters-few", "test: 64", "test: 8"),
        ("tales-perplexity", "tales-few", "count: 20", "count: 2"),
    ):
        text = (tasks / f"{name}.yaml").read_text()
        assert old in text
        (tasks / f"{short}.yaml").write_text(text.replace(old, new).replace(f"task: {name}\n", f"task: {short}\n"))
    plan = plan_of(root, SUITE % "\n".join(f"  {label}: {recipe}" for label, recipe in labels.items()), "real")
    progress = run_cells(root, plan, threads=1)  # another process of tests has the other core
    results = {result.cell.key: result for result in results_of(root) if not (result.cell.study or result.cell.trial)}
    assert {cell.key: str(progress.states[cell.spec_digest]) for cell in plan.cells} == dict.fromkeys(
        (cell.key for cell in plan.cells), "done"
    ), {key: result.reason for key, result in results.items() if result.reason}
    return root / "results", results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Every family run once."""
    return run_labels(tmp_path_factory.mktemp("real"), QUICK)


@pytest.fixture(scope="module")
def finished_with(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FinishedWith:
    """What ran a label: those of SLOW run when the first of them is asked for."""

    @cache
    def rest() -> Finished:
        return run_labels(tmp_path_factory.mktemp("rest"), SLOW)

    return lambda label: rest() if label in SLOW else request.getfixturevalue("finished")


def test_a_label_is_tuned_end_to_end(finished: Finished) -> None:
    every = results_of(finished[0].parent)
    study = next(result for result in every if result.cell.study)
    assert [trial.status for trial in study.trials] == ["done", "done"]
    assert study.trials[0].params == {"learning_rate": 1e-3}
    assert all(0 < trial.values["choice_cross_entropy"] < 5 for trial in study.trials)  # nats; a guess among 5 has 1.6
    tuned = result_of(finished[1], "lora")
    assert tuned.tuned == study.tuned
    assert tuned.scores[0].n == 10
    trial = next(result for result in every if result.cell.trial)
    assert trial.scores[0].n == 10, "the validation items"


LABELS = [*QUICK, *(pytest.param(label, marks=pytest.mark.slow) for label in SLOW)]


def result_of(results: dict[str, CellResult], label: str, task: str = "bbc-few") -> CellResult:
    return next(result for key, result in results.items() if key.startswith(f"{label}/") and f"/{task}" in key)


@pytest.mark.parametrize("label", LABELS)
def test_a_family_end_to_end(finished_with: FinishedWith, label: str) -> None:
    _, results = finished_with(label)
    result = result_of(results, label)
    scores = {(score.task, score.metric): score for score in result.scores}
    assert scores["bbc-few", "acc"].n == 10
    if label != "setfit":
        assert -6 < scores["tales-few", "log_likelihood_per_word"].value < -3.5
    if result.cell.n_train and label not in ("setfit", "merged"):
        losses = [step.loss for step in result.steps if step.split == "train"]
        assert len(losses) == 3
        assert all(step.tokens for step in result.steps)
    if label == "full":
        peaks = {phase.phase: phase.rss_bytes for phase in result.phases}
        assert peaks["train"] is not None
        # weights, gradients and two Adam moments in fp32
        assert peaks["train"] > 4 * 4 * 134_515_008


@pytest.mark.parametrize("label", ["full", "lora", "qlora"])
def test_memory_is_as_predicted(finished: Finished, label: str) -> None:
    """Within 15% of the highest resident peak of the cell's phases (docs/performance.md has many more cells)."""
    from harness.data.catalog import load_catalog
    from harness.plan.fetch import fetched_facts
    from harness.plan.memory import predict_memory
    from harness.suite.load import load_suite

    folder, results = finished
    catalog = load_catalog(folder.parent)
    facts, _ = fetched_facts(catalog, load_suite(folder.parent / "suites" / "real.yaml", catalog))
    result = result_of(results, label)
    prediction = predict_memory(result.cell, facts, "cuda" if torch.cuda.is_available() else "cpu")
    assert prediction is not None
    gpu = torch.cuda.is_available()
    measured = max((phase.allocated_bytes if gpu else phase.rss_bytes) or 0 for phase in result.phases)
    assert prediction.peak == pytest.approx(measured, rel=0.15)


def test_the_base_is_what_it_is_known_to_be(finished: Finished) -> None:
    _, results = finished
    base = result_of(results, "base")
    facts = {fact.name: fact.value for fact in base.facts}
    assert facts["total_params"] == 134_515_008


@pytest.mark.slow
def test_quantising_costs_something_and_little(finished_with: FinishedWith) -> None:
    _, results = finished_with("base-nf4")  # with its base model
    values = [
        next(s.value for s in result_of(results, label).scores if s.metric == "log_likelihood_per_word")
        for label in ("base", "base-nf4")
    ]
    assert 0.02 < values[0] - values[1] < 0.6


@pytest.mark.parametrize(
    "label",
    ["full", "lora", "prompt_tuning", *(pytest.param(one, marks=pytest.mark.slow) for one in ("dora", "merged"))],
)
def test_saved_weights_score_as_stored(finished_with: FinishedWith, label: str) -> None:
    """The saved weights, loaded by transformers and peft alone, give the stored log-likelihoods."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, results = finished_with(label)
    result = result_of(results, label)
    base = Path(
        json.loads((attempt_folder(folder, result.attempt_id) / "job.json").read_text())["models"]["smollm2-135m"]
    )
    weights = attempt_folder(folder, result.attempt_id) / "weights"
    if (weights / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), weights)
    else:
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = {r["doc_id"]: r["text"] for f in (folder / "documents").iterdir() for r in pq.read_table(f).to_pylist()}
    items = pq.read_table(attempt_folder(folder, result.attempt_id) / "items.parquet").to_pylist()
    stored = [i for i in items if i["metric"] == "log_likelihood" and i["task"] == "bbc-few"]
    assert len(stored) == 50
    for item in stored[:10]:
        context = tokenizer(texts[item["doc_id"]], return_tensors="pt")["input_ids"]
        whole = tokenizer(f"{texts[item['doc_id']]} {item['prediction']}", return_tensors="pt")["input_ids"]
        answer = whole[0, context.shape[1] :]
        with torch.no_grad():
            logs = model(input_ids=whole).logits.log_softmax(-1)[0, -len(answer) - 1 : -1]
        assert float(logs.gather(1, answer[:, None]).sum()) == pytest.approx(item["value"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["bbc-topic", "bbc-headline", "reuters-r8", "newsgroups-20"])
def test_shipped_tasks_are_clean(name: str) -> None:
    """Splits of real data share no text, hold the classes in equal parts, and can be learned."""
    from collections import Counter

    from harness.data.catalog import load_catalog
    from harness.data.contamination import normalise
    from harness.data.sampling import examples
    from harness.data.tasks import load_task, prepare

    catalog = load_catalog(ROOT)
    facts = prepare(catalog, name)
    assert facts.unlearnable == ""
    assert facts.n_train >= 1500
    task = load_task(catalog.task_path(name))
    splits = {"train": task.training_docs(), "validation": task.validation_docs(), "test": task.test_docs()}
    column = "title" if name.startswith("bbc") else "text"
    texts = {split: {normalise(document[column]) for document in found} for split, found in splits.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    assert len(texts["test"]) == len(splits["test"])
    classes = Counter(document["label"] for document in splits["test"])
    assert max(classes.values()) == min(classes.values())
    drawn = examples(task, n=40, seed=1)
    assert drawn[:20] == examples(task, n=20, seed=1)
    assert all(example.target.startswith(" ") for example in drawn)


def test_prose_passages() -> None:
    from harness.data.catalog import load_catalog
    from harness.data.tasks import load_task

    documents = list(load_task(load_catalog(ROOT).task_path("tales-perplexity")).test_docs())
    assert len(documents) == 20
    assert {len(document["text"].split()) for document in documents} == {64}
    assert len({document["text"] for document in documents}) == 20
