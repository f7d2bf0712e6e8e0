"""DPO and GRPO through trl, on the tiny model: what is learned, what is measured, what is left behind."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import cell_named, context_of, plan_of, run_here, training_of
from transformers import set_seed

from harness.architecture import read_network
from harness.data.tasks import Example, load_task, mark
from harness.errors import SuiteError
from harness.methods import all_methods
from harness.methods.base import Method
from harness.worker.cell import parameter_facts
from harness.worker.context import CellContext

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: {task}, sizes: [8]}}
methods:
  x: {label}
train: {{steps: {steps}, batch_size: 8, warmup: 0.0, schedule: constant}}
"""
IDS = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
KINDS = {
    "dpo": "{method: dpo, learning_rate: 1e-2}",
    "dpo-full": "{method: dpo, learning_rate: 1e-3, train_with: {method: full}}",
    "dpo-layers": "{method: dpo, learning_rate: 1e-2, train_with: {method: layerwise, layers: 1, layer_decay: 0.5}}",
    "dpo-prompt": "{method: dpo, learning_rate: 1e-2, train_with: {method: prompt_tuning, init: random}}",
    "dpo-warm": "{method: dpo, learning_rate: 1e-2, sft_share: 0.5}",
    "dpo-qlora": "{method: dpo, learning_rate: 1e-2, train_with: {method: qlora}}",
    "grpo": "{method: grpo, learning_rate: 1e-2}",
    "grpo-full": "{method: grpo, learning_rate: 1e-3, train_with: {method: full, learning_rate: 3e-3}}",
}


def work(project: Path, folder: Path, label: str, task: str = "colours", steps: int = 8) -> CellContext:
    plan = plan_of(project, SUITE.format(label=label, task=task, steps=steps))
    return context_of(plan, cell_named(plan, f"x/tiny/{task}/n8/s0"), folder)


def trained(done: CellContext) -> tuple[Method, Any, dict[str, torch.Tensor], set[str]]:
    """(method, trained model, every parameter before, names of the trainable ones)."""
    set_seed(done.seed)
    method = done.method
    model = method.attach(method.load(done))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    return method, method.fit(model, done), before, trainable


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits[:, -IDS.shape[1] :].float()


def losses(done: CellContext) -> list[float]:
    return [step.loss for step in training_of(done).recorder.steps if step.split == "train"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_the_contract(kind: str, project: Path, tmp_path: Path) -> None:
    """Only what is declared moves, the steps are the cell's, what is saved is restored bit for bit and folds."""
    done = work(project, tmp_path / "attempts" / "a", KINDS[kind])
    method, model, before, trainable = trained(done)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()  # nothing of trl's stays
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert moved <= trainable
    assert [step.step for step in training_of(done).recorder.steps] == list(range(1, 9))
    # Only the steps on right answers have a cross-entropy: preferences and rewards are none.
    on_answers = round(8 * method.sft_share)
    assert [step.cross_entropy is None for step in training_of(done).recorder.steps] == [
        step >= on_answers for step in range(8)
    ]
    assert {value.dtype for value in after.values() if value.requires_grad} == {torch.float32}
    assert "forward" not in vars(getattr(model, "get_base_model", lambda: model)()) or method.quantize
    network = read_network(done.base)
    assert network is not None
    footprint = method.footprint(network)
    assert footprint is not None
    counted = {fact.name: fact.value for fact in parameter_facts(model)}["trainable_params"]
    if kind != "dpo-prompt":  # the length of a text depends on the tokenizer
        assert sum(math.prod(shape) for shape in footprint.trained.values()) == counted
    result = logits_of(model)
    method.save(model, tmp_path / "weights")
    assert torch.equal(logits_of(method.restore(done, tmp_path / "weights")), result)
    if method.foldable and not method.quantize:
        folded = method.fold(method.restore(done, tmp_path / "weights"))
        assert torch.allclose(logits_of(folded), result, rtol=0, atol=1e-4)
    assert list(done.scratch.iterdir()) == []


def test_what_begins_as_a_part_of_the_weights_is_restored_on_the_untouched_base(project: Path, tmp_path: Path) -> None:
    done = work(project, tmp_path / "attempts" / "a", "{method: dpo, train_with: {method: lora, init: pissa}}")
    method, model, _, _ = trained(done)
    method.save(model, tmp_path / "weights")
    assert torch.allclose(logits_of(method.restore(done, tmp_path / "weights")), logits_of(model), atol=1e-5)


@pytest.mark.parametrize("kind", ["dpo-full", "dpo-layers", "grpo-full"])
def test_norms_do_not_decay(kind: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    made: list[Any] = []
    create = Trainer.create_optimizer

    def keeping(self: Any, model: Any = None) -> Any:
        made.append((create(self, model), self.model))
        return made[-1][0]

    monkeypatch.setattr(Trainer, "create_optimizer", keeping)
    text = SUITE.replace("warmup: 0.0", "weight_decay: 0.3")
    plan = plan_of(project, text.format(label=KINDS[kind], task="colours", steps=2))
    trained(context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "a"))
    assert made
    for optimizer, model in made:
        names = {id(value): name for name, value in model.named_parameters()}
        for group in optimizer.param_groups:
            for value in group["params"]:
                assert group["weight_decay"] == (0.0 if "norm" in names[id(value)] else 0.3)


@pytest.mark.parametrize("kind", ["dpo", "grpo", "dpo-warm"])
def test_the_first_step_has_a_rate(kind: str, project: Path, tmp_path: Path) -> None:
    text = SUITE.replace("warmup: 0.0, schedule: constant", "warmup: 0.5")
    plan = plan_of(project, text.format(label=KINDS[kind], task="colours", steps=4))
    done = context_of(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "a")
    trained(done)
    rates = [step.learning_rate for step in training_of(done).recorder.steps]
    assert len(rates) == 4
    assert all(rates)


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
def test_the_same_seed_gives_the_same_result(kind: str, project: Path, tmp_path: Path) -> None:
    one, two = (work(project, tmp_path / "attempts" / name, KINDS[kind], steps=4) for name in ("a", "b"))
    first, second = trained(one)[1], trained(two)[1]
    assert losses(one) == losses(two)
    assert torch.equal(logits_of(first), logits_of(second))


def test_dpos_first_loss_is_that_of_the_reference_itself(project: Path, tmp_path: Path) -> None:
    """Before any step p is p₀, so the loss is -log σ(0); it falls on pairs that can be memorised."""
    label = "{method: dpo, learning_rate: 1e-2, beta: 1, train_with: {method: full}}"
    done = work(project, tmp_path / "attempts" / "a", label, steps=12)
    trained(done)
    assert losses(done)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses(done)[-1] < 0.5 * losses(done)[0]


def test_dpos_loss_is_its_formula(project: Path, tmp_path: Path) -> None:
    """Trained once, another training's first loss against the base model's likelihoods, by hand."""
    label = "{method: dpo, learning_rate: 1e-2, train_with: {method: full}, beta: 0.3}"
    done = work(project, tmp_path / "attempts" / "a", label, steps=1)
    done.settings = done.settings.changed({"batch_size": 16})  # all of the pairs
    method = done.method
    model = method.attach(method.load(done))
    pairs = method.preferences(model, done)  # type: ignore[attr-defined]
    assert len(pairs) == 16
    for pair in pairs:
        pair["ref_chosen_logps"] -= 1.0  # as if the reference had thought less of the right answers
    method.preferences = lambda *_: pairs  # type: ignore[attr-defined]
    method.fit(model, done)
    assert losses(done)[0] == pytest.approx(math.log1p(math.exp(-0.3)), abs=1e-4)


def test_pairs_are_encoded_as_they_are_scored(project: Path, tmp_path: Path) -> None:
    done = work(project, tmp_path / "attempts" / "a", KINDS["dpo"])
    model = done.method.load(done)
    pairs = done.method.preferences(model, done)  # type: ignore[attr-defined]
    right = done.rows(model, done.examples())
    assert [pair["chosen_ids"] for pair in pairs[::2]] == [row["input_ids"] for row in right]
    scorer = done.language_model(model)
    for pair, example in zip(pairs[::2], done.examples(), strict=True):
        wrong = done.wrong(example)
        assert [one.context for one in wrong] == [example.context] * 2
        assert example.target not in {one.target for one in wrong}
        context, answer = scorer._encode_pair(example.context, wrong[0].target)
        assert pair["rejected_ids"] == context + answer
        assert pair["rejected_labels"] == [-100] * len(context) + answer
        logs = scorer._loglikelihood_tokens([(None, context, answer)], disable_tqdm=True)[0][0]
        assert pair["ref_rejected_logps"] == pytest.approx(logs, abs=1e-4)


def test_tokens_and_samples_are_counted(project: Path, tmp_path: Path) -> None:
    done = work(project, tmp_path / "attempts" / "a", KINDS["dpo"], steps=2)
    model = done.method.load(done)
    lengths = [
        len(pair[f"{side}_ids"])
        for pair in done.method.preferences(model, done)
        for side in ("chosen", "rejected")  # type: ignore[attr-defined]
    ]
    trained(done)
    assert training_of(done).recorder.total_samples == 2 * 8 * 2  # steps × pairs × sequences: every pair once
    assert training_of(done).recorder.total_tokens == sum(lengths)
    again = work(project, tmp_path / "attempts" / "b", KINDS["grpo"], steps=4)
    trained(again)
    assert (
        training_of(again).recorder.total_samples == 4 * 8
    )  # half of the steps on 8 examples, the others on 2 × 4 answers
    assert training_of(again).recorder.total_tokens > training_of(again).recorder.total_samples


def test_grpo_learns_what_is_rewarded(project: Path, tmp_path: Path) -> None:
    """Whatever the task: answers that begin with a vowel, as the model says them now and then, are learned."""
    label = "{method: grpo, learning_rate: 1e-2, sft_share: 0, group: 8, answer_tokens: 1, train_with: {method: full}}"
    done = work(project, tmp_path / "attempts" / "a", label, steps=48)
    method = done.method
    model = method.attach(method.load(done))
    tokens = [done.tokenizer.decode([place]).strip() for place in range(len(done.tokenizer))]
    wanted = torch.tensor([token[:1] in set("aeiou") for token in tokens])
    contexts = [row["input_ids"][:-1] for row in done.rows(model, done.examples())]

    def chance() -> float:
        with torch.no_grad():
            last = [model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1) for ids in contexts]
        return float(torch.stack(last)[:, wanted].sum(1).mean())

    before = chance()
    done.mark = lambda example, text: float(text.strip()[:1] in set("aeiou"))  # type: ignore[method-assign]
    model = method.fit(model, done)
    assert 0.01 < before < 0.3
    assert chance() > 0.9


def test_each_part_of_the_steps_has_its_own_rate(project: Path, tmp_path: Path) -> None:
    done = work(project, tmp_path / "attempts" / "a", KINDS["grpo-full"], steps=4)
    trained(done)
    assert [step.learning_rate for step in training_of(done).recorder.steps] == [3e-3, 3e-3, 1e-3, 1e-3]
    layered = all_methods()["dpo"](
        learning_rate=1e-2, train_with={"method": "layerwise", "layers": 2, "layer_decay": 0.5}
    )
    model = layered.attach(layered.load(done))
    assert [group["lr"] for group in layered.parameter_groups(model)] == [1e-2, 1e-2, 5e-3]


# --- marks ---


@pytest.mark.parametrize(
    ("answer", "worth"), [(" red", 1.0), ("red and more", 1.0), (" Red", 0.0), (" blue", 0.0), ("", 0.0)]
)
def test_a_right_label_is_marked(answer: str, worth: float, project: Path) -> None:
    task = load_task(project / "suites" / "tasks" / "colours.yaml")
    assert (
        mark(task, Example("Text: x\nColour:", " red", False, document={"text": "x", "colour": "red"}), answer) == worth
    )


def test_a_longer_label_is_another(project: Path) -> None:
    path = project / "suites" / "tasks" / "colours.yaml"
    path.write_text(path.read_text().replace("[blue, green, red]", "[blue, green, red, reddish]"))
    one = Example("Text: x\nColour:", " red", False, document={"text": "x", "colour": "red"})
    assert mark(load_task(path), one, " reddish") == 0.0
    assert mark(load_task(path), one, " red dish") == 1.0


def test_generated_text_is_marked_by_the_tasks_metric(project: Path) -> None:
    task = load_task(project / "suites" / "tasks" / "names.yaml")
    one = Example("Text: x\nColour:", " red", True, document={"text": "x", "colour": "red"})
    assert mark(task, one, "red\nText:") == mark(task, one, "red") == 1.0
    assert mark(task, one, "blue") == 0.0
    assert mark(task, one, " red") == 0.0  # as in scoring: this task counts the space


# --- settings, and as cells ---


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: dpo, beta: 0}", "beta is 0"),
        ("{method: dpo, pairs: 0}", "pairs is 0"),
        ("{method: dpo, sft_share: 1.0}", "sft_share is 1.0"),
        ("{method: dpo, train_with: {method: lroa}}", "Did you mean|unknown method 'lroa'"),
        ("{method: dpo, train_with: {rank: 4}}", "unknown method 'None'"),
        ("{method: dpo, train_with: {method: lora, rnk: 4}}", "unknown setting of lora 'rnk'"),
        ("{method: dpo, train_with: {method: lora, rank: 0}}", "rank is 0"),
        (
            "{method: dpo, train_with: {method: lora, learning_rate: 1e-3}}",
            "learning_rate is that of sft_share's steps",
        ),
        ("{method: dpo, train_with: {method: setfit}}", "dpo cannot train setfit"),
        ("{method: dpo, train_with: {method: base}}", "dpo cannot train base"),
        ("{method: dpo, train_with: {method: dpo}}", "dpo cannot train dpo"),
        ("{method: dpo, quantize: nf4, train_with: {method: full}}", "full cannot train nf4 weights"),
        ("{method: dpo, train_with: {method: adalora}}", "adalora adds a term of its own to its loss"),
        ("{method: dpo, curriculum: single}", "dpo has a trainer of its own"),
        ("{method: dpo, train: {eval_every: 2}}", "dpo has no validation loss"),
        ("{method: dpo, train: {devices: 2}}", "dpo is trained on one device"),
        ("{method: grpo, group: 1}", "group is 1"),
        ("{method: grpo, group: 3}", "cannot be divided into groups of 3"),
        ("{method: grpo, temperature: 0}", "temperature is 0"),
        ("{method: grpo, answer_tokens: 0}", "answer_tokens is 0"),
        ("{method: grpo, train: {steps: 1}}", "steps is 1, which sft_share cannot divide"),
        (
            "{method: merge, experts: {method: dpo, train_with: {method: lroa}, learn: [names]}}",
            "unknown method 'lroa'",
        ),
        ("{method: [dpo, layerwise]}", "dpo cannot be combined with other methods"),
    ],
)
def test_what_cannot_be(label: str, said: str, project: Path) -> None:
    with pytest.raises(SuiteError, match=said):
        plan_of(project, SUITE.format(label=label, task="colours", steps=4))


def test_dpo_wants_choices(project: Path) -> None:
    with pytest.raises(SuiteError, match="dpo learns from right and wrong choices, and 'names' is generate_until"):
        plan_of(project, SUITE.format(label="{method: dpo}", task="names", steps=4))


def test_settings_of_the_method_inside_are_coerced_and_part_of_the_cell(project: Path) -> None:
    def digest(label: str) -> Any:
        return cell_named(plan_of(project, SUITE.format(label=label, task="colours", steps=4)), "x/tiny/colours/n8/s0")

    cell = digest("{method: dpo, train_with: {method: lora, dropout: 1e-1}}")
    assert cell.settings["train_with"]["dropout"] == 0.1  # YAML reads 1e-1 as a string
    assert cell.settings["train_with"]["rank"] == 8  # a default that changes is another cell
    assert "learning_rate" not in cell.settings["train_with"]
    plain, other = digest("{method: dpo}"), digest("{method: dpo, train_with: {method: lora, rank: 4}}")
    assert len({cell.spec_digest, plain.spec_digest, other.spec_digest}) == 3
    assert all_methods()["dpo"](**cell.settings).settings == cell.settings


@pytest.mark.parametrize(("kind", "task"), [("dpo", "colours"), ("grpo", "colours"), ("grpo", "names")])
def test_as_a_cell(
    kind: str,
    task: str,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: Callable[[], list[Any]],
) -> None:
    plan = plan_of(project, SUITE.format(label=KINDS[kind], task=task, steps=4))
    folder = tmp_path / "attempts" / "a"
    result = run_here(plan, cell_named(plan, f"x/tiny/{task}/n8/s0"), folder)
    assert result.status == "done", result.reason
    assert offline() == []
    facts = {fact.name: fact.value for fact in result.facts}
    assert facts["optimizer_steps"] == 4
    assert facts["tokens_per_second"] > 0
    assert len([step for step in result.steps if step.split == "train"]) == 4
    phases = {phase.phase: phase for phase in result.phases}
    assert phases["train"].samples == (4 * 16 if kind == "dpo" else 4 * 8)
    left = {path.name for path in folder.iterdir()}
    assert left == {"job.json", "result.json", "items.parquet", "weights", "events.jsonl"}
    assert {path.suffix for path in (folder / "weights").iterdir()} <= {".safetensors", ".json", ".md"}
    assert json.loads((folder / "weights" / "adapter_config.json").read_text())["peft_type"] == "LORA"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Addresses that anything asked for, which are refused."""
    import socket

    asked: list[Any] = []

    def refuse(self: Any, address: Any) -> None:
        asked.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return lambda: asked
