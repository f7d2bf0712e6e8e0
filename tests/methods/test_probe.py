"""Classification heads: on a frozen body, on one that is trained with it, and SetFit's."""

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lm_eval.api.instance import Instance
from tiny import opens_texts
from tools import cell_named, context_of, plan_of, run_here, training_of
from transformers import AutoModelForCausalLM, set_seed

from harness.errors import SuiteError
from harness.methods import make_method
from harness.methods.predictors import FLOOR, classifier_lm
from harness.methods.probe import encode, pooled, row, with_head
from harness.worker.cell import parameter_facts
from harness.worker.context import CellContext

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: {task}, sizes: [{size}]}}
retain: [prose]
methods:
  x: {label}
train: {{steps: 12, batch_size: 8, warmup: 0.0, schedule: constant}}
"""
PROBES = ["{method: linear_probe}", "{method: linear_probe, solver: sgd, pool: last}"]
CLASSIFIER = "{method: classifier, learning_rate: 1e-3, pool: last}"
SETFITS = ["{method: setfit, encoder: tiny-encoder}", "{method: setfit, encoder: tiny-encoder, head: differentiable}"]


def work(project: Path, folder: Path, label: str, size: int = 12) -> CellContext:
    plan = plan_of(project, SUITE.format(label=label, task="colours", size=size))
    return context_of(plan, next(cell for cell in plan.cells if cell.label == "x"), folder)


def trained(job: CellContext) -> Any:
    """The course of a cell, up to the trained model."""
    set_seed(job.seed)
    model = job.method.attach(job.method.load(job))
    training_of(job).encode_stages(model)
    return job.method.fit(model, job)


def chances(job: CellContext, model: Any) -> list[float]:
    """The log-probabilities of every label for the first training examples."""
    asked = [
        Instance("loglikelihood", {}, (one.context, f" {label}"), 0)
        for one in job.examples()[:6]
        for label in ("blue", "green", "red")
    ]
    return [value for value, _ in job.method.predictor(model, job).loglikelihood(asked)]


@pytest.mark.parametrize("label", [PROBES[1], CLASSIFIER, SETFITS[0]])
def test_the_loss_of_labels_is_no_cross_entropy_of_answer_tokens(
    label: str, encoding_project: Path, tmp_path: Path
) -> None:
    job = work(encoding_project, tmp_path / "attempts" / "a", label)
    trained(job)
    steps = training_of(job).recorder.steps
    assert steps
    assert {step.cross_entropy for step in steps} == {None}


@pytest.mark.parametrize("label", SETFITS)
def test_an_encoder_learns_from_pairs_of_different_texts(
    label: str, encoding_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer is given, read off its own batches: as many pairs of either kind as `pairs` says."""
    from sentence_transformers.sentence_transformer import losses

    job = work(encoding_project, tmp_path / "attempts" / "a", label.replace("}", ", pairs: 3}"), size=16)
    seen: list[tuple[str, str, float]] = []
    forward = losses.CosineSimilarityLoss.forward

    def listening(self: Any, sentences: Any, labels: torch.Tensor) -> Any:
        texts = [self.model.tokenizer.batch_decode(side["input_ids"], skip_special_tokens=True) for side in sentences]
        seen.extend(zip(*texts, labels.tolist(), strict=True))
        return forward(self, sentences, labels)

    monkeypatch.setattr(losses.CosineSimilarityLoss, "forward", listening)
    trained(job)
    assert len(seen) == 2 * 3 * 16
    assert sum(same for _, _, same in seen) == 3 * 16
    assert all(one != other for one, other, _ in seen)


def test_the_first_step_of_an_encoder_has_a_rate(encoding_project: Path, tmp_path: Path) -> None:
    job = work(encoding_project, tmp_path / "attempts" / "a", SETFITS[0])
    trained(job)
    rates = [step.learning_rate for step in training_of(job).recorder.steps]
    assert all(rates)


def test_a_text_that_is_too_long_keeps_what_opens_it(project: Path, tmp_path: Path) -> None:
    job = work(project, tmp_path / "attempts" / "a", CLASSIFIER)
    opens_texts(job.tokenizer)
    long = job.tokenizer("Ada likes the sky")["input_ids"]
    assert encode(job, ["Ada likes the sky", "Ada"], 4) == [[1, *long[-3:]], job.tokenizer("Ada")["input_ids"][-4:]]


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_head_reads_the_text_up_to_its_place(tiny_model: Path, pool: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = with_head(base, ["a", "b"], pool)
    torch.nn.init.normal_(model.head.weight)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        hidden = base.get_decoder()(ids).last_hidden_state[0]
        read = hidden[2] if pool == "last" else hidden[:3].mean(0)
        wanted = model.head(read)
        places = model(ids, logits_to_keep=torch.tensor([-2])).logits
        alone = model(ids[:, :3]).logits[:, -1]
    assert torch.allclose(places[0, 0], wanted, atol=1e-5)
    assert torch.allclose(alone[0], wanted, atol=1e-5)
    batch = [row([5, 6, 7], 0), row([9] * 7, 1), row([5], 0)]
    with torch.no_grad():
        assert torch.allclose(pooled(model, batch, 3)[0], read, atol=1e-5)


@pytest.mark.parametrize("label", PROBES)
def test_a_probe_moves_its_head_alone(project: Path, tmp_path: Path, label: str) -> None:
    job = work(project, tmp_path / "attempts" / "x", label)
    before = job.load_model().state_dict()
    model = trained(job)
    body = dict(model.body.named_parameters())
    assert body
    assert all(torch.equal(value, before[f"model.{name}"]) for name, value in body.items())
    assert model.head.weight.abs().sum() > 0
    counted = {fact.name: fact.value for fact in parameter_facts(model)}["trainable_params"]
    assert counted == 3 * (64 + 1)


def test_a_logistic_probe_is_scikit_learns(project: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    job = work(project, tmp_path / "attempts" / "x", "{method: linear_probe, strength: 0.5}")
    model = trained(job)
    states = pooled(model, [row(ids, 0) for ids in encode(job, [one.context for one in job.examples()], 99)], 4)
    features = StandardScaler().fit_transform(states.double().numpy())
    solved = LogisticRegression(C=0.5, max_iter=1000).fit(features, [one.target.strip() for one in job.examples()])
    wanted = numpy.log(solved.predict_proba(features))[:6].ravel()
    assert list(solved.classes_) == ["blue", "green", "red"]
    assert chances(job, model) == pytest.approx(wanted.tolist(), abs=1e-3)


def test_a_classifier_moves_head_and_body_at_their_own_rates(project: Path, tmp_path: Path) -> None:
    job = work(project, tmp_path / "attempts" / "x", CLASSIFIER)
    before = job.load_model().state_dict()
    model = trained(job)
    moved = {name for name, value in model.body.named_parameters() if not torch.equal(value, before[f"model.{name}"])}
    assert moved == {name for name, _ in model.body.named_parameters()}
    groups = job.method.parameter_groups(model) or []
    assert [group["lr"] for group in groups] == [1e-3, 1e-2]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    losses = [step.loss for step in training_of(job).recorder.steps]
    assert len(losses) == 12
    assert losses[0] == pytest.approx(math.log(3), rel=1e-5)  # a head at zero
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("label", [*PROBES, CLASSIFIER])
def test_what_it_saves_is_restored_bit_for_bit(project: Path, tmp_path: Path, label: str) -> None:
    job = work(project, tmp_path / "attempts" / "x", label)
    model = trained(job)
    job.method.save(model, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"classifier.safetensors", "labels.json"}
    if "probe" in label:
        assert (tmp_path / "saved" / "classifier.safetensors").stat().st_size < 4000  # the base is not shipped again
    restored = make_method(job.cell.method, job.cell.settings).restore(job, tmp_path / "saved")
    assert chances(job, restored) == chances(job, model)


@pytest.mark.parametrize("label", SETFITS)
def test_setfit_is_restored_bit_for_bit_and_pickles_nothing(encoding_project: Path, tmp_path: Path, label: str) -> None:
    job = work(encoding_project, tmp_path / "attempts" / "x", label, size=6)
    set_seed(0)
    method = job.method
    model = method.fit(method.load(job), job)
    method.save(model, tmp_path / "saved")
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert tmp_path / "saved" / "head.safetensors" in files
    restored = make_method(job.cell.method, job.cell.settings).restore(job, tmp_path / "saved")
    said = chances(job, model)
    assert chances(job, restored) == said
    assert len(set(said)) > 3


@pytest.mark.parametrize(("label", "size"), [(PROBES[0], 2), (PROBES[0], 1), (CLASSIFIER, 2), (CLASSIFIER, 1)])
def test_a_class_that_was_never_seen(project: Path, tmp_path: Path, label: str, size: int) -> None:
    """It is not predicted, has a finite cross-entropy, and is left out of validation."""
    plan = plan_of(project, SUITE.format(label=label, task="colours", size=size).replace("steps: 12", "steps: 2"))
    made = run_here(plan, cell_named(plan, f"x/tiny/colours/n{size}/s0"), tmp_path / "results" / "attempts" / "x")
    assert made.status == "done", made.reason
    scores = {score.metric: score.value for score in made.scores}
    assert scores["acc"] <= size / 3 + 1e-9
    assert math.isfinite(scores["choice_cross_entropy"])
    job = work(project, tmp_path / "attempts" / "y", label, size=size)
    model = job.method.load(job)
    assert len(model.labels) == size
    rows = job.method.rows(model, job.examples("validation"), job)
    assert len(rows) == size * 10
    assert {one["labels"][-1] for one in rows} == set(range(size))


def test_two_classes_are_solved_as_two(project: Path, tmp_path: Path) -> None:
    job = work(project, tmp_path / "attempts" / "x", "{method: linear_probe, strength: 10}", size=2)
    model = trained(job)
    lm = job.method.predictor(model, job)
    for one in job.examples():
        asked = [Instance("loglikelihood", {}, (one.context, f" {label}"), 0) for label in model.labels]
        answers = dict(zip(model.labels, lm.loglikelihood(asked), strict=True))
        assert answers[one.target.strip()][1]
        assert sum(math.exp(value) for value, _ in answers.values()) == pytest.approx(1)


def test_probabilities_become_likelihoods() -> None:
    lm = classifier_lm(["a", "b"], lambda texts: [[0.25, 0.75]] * len(texts))
    asked = [Instance("loglikelihood", {}, ("text", f" {label}"), 0) for label in ("a", "b", "c")]
    values, best = zip(*lm.loglikelihood(asked), strict=True)
    assert values == (math.log(0.25), math.log(0.75), math.log(FLOOR))
    assert best == (False, True, False)


def test_as_a_cell_it_has_no_retention_and_a_loss_curve(project: Path, tmp_path: Path) -> None:
    label = "{method: classifier, train: {gradient_checkpointing: true, eval_every: 4, early_stopping: 3}}"
    plan = plan_of(project, SUITE.format(label=label, task="colours", size=12))
    cell = cell_named(plan, "x/tiny/colours/n12/s0")
    assert cell.retain == ()
    made = run_here(plan, cell, tmp_path / "results" / "attempts" / "x")
    assert made.status == "done", made.reason
    assert {score.role for score in made.scores} == {"task"}
    assert [step.split for step in made.steps].count("validation") == 3
    assert all(step.tokens for step in made.steps if step.split == "train")
    again = run_here(plan, cell, tmp_path / "results" / "attempts" / "y")
    assert [score.value for score in again.scores] == [score.value for score in made.scores]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: classifier, quantize: nf4}", "cannot train nf4 weights. Use linear_probe"),
        ("{method: linear_probe, strength: 0}", "strength is 0"),
        ("{method: linear_probe, curriculum: single}", "linear_probe is no language model, and single is about one"),
        ("{method: [lora, classifier]}", "classifier cannot be combined"),
        ("{method: classifier, train: {devices: 2}}", "classifier is trained on one device"),
        ("{method: setfit, head_epochs: 0}", "head_epochs is 0"),
    ],
)
def test_what_cannot_be(project: Path, label: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        plan_of(project, SUITE.format(label=label, task="colours", size=12))


def test_only_questions_with_choices_are_classified(project: Path) -> None:
    with pytest.raises(SuiteError, match="linear_probe classifies, and 'names' is generate_until"):
        plan_of(project, SUITE.format(label=PROBES[0], task="names", size=12))
