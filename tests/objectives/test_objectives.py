"""One contract for every objective found in harness/objectives, and what each of them computes, on the tiny model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file
from tiny import write_story
from tools import cell_named, job_of, plan_of, run_here
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.curricula import Stage
from harness.data.catalog import Catalog, load_catalog
from harness.errors import SuiteError
from harness.methods import LogFloat, Options
from harness.objectives import Batch, Objective, all_objectives
from harness.plan.fetch import fetch_suite
from harness.plan.plan import make_plan
from harness.records import TrainSettings
from harness.suite.load import load_suite
from harness.worker.cell import CellRun
from harness.worker.context import CellContext
from harness.worker.examples import CellExamples
from harness.worker.profiling.meter import StepRecorder
from harness.worker.train import TrainRun, train

OBJECTIVES = sorted(all_objectives())
# What an objective cannot do without, and what suits the tiny project; everything else runs on its defaults.
NEEDED: dict[str, dict[str, Any]] = {
    "distil": {"teacher": {"model": "tiny"}},
    "ewc": {"text": "story", "samples": 4},
    "retain": {"text": "story", "batch": 2},
}
SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: colours, sizes: [8]}}
retain: [prose]
methods:
{labels}
train: {{steps: 4, batch_size: 4}}
"""
FULL = "{method: full, learning_rate: 1e-2, objectives: %s}"
LORA = "{method: lora, learning_rate: 1e-2, objectives: %s}"


def make(name: str, **settings: Any) -> Objective:
    return all_objectives()[name](**{**NEEDED.get(name, {}), **settings})


def weight_of(name: str) -> str:
    """The setting that says how much an objective counts."""
    return next(key for key in ("strength", "alpha") if key in all_objectives()[name].fields())


def suite_of(**labels: str) -> str:
    return SUITE.format(labels="\n".join(f"  {name}: {label}" for name, label in labels.items()))


def work_of(project: Path, tmp_path: Path, label: str = FULL % "{}") -> CellContext:
    """The context of a cell of the tiny project."""
    if not (project / "suites" / "tasks" / "story.yaml").exists():
        write_story(project)
    text = suite_of(x=label).replace("retain: [prose]", "retain: [prose, story]")
    plan = plan_of(project, text)
    cell = cell_named(plan, "x/tiny/colours/n8/s0")
    folder = tmp_path / "attempts" / "work"
    folder.mkdir(parents=True)
    return CellRun(folder, job_of(plan, cell, folder)).context


def ready(work: CellContext) -> tuple[Any, list[dict[str, list[int]]]]:
    """The attached model, in training mode, and the rows that it learns."""
    torch.manual_seed(0)
    model = work.method.attach(work.method.load(work))
    rows = work.rows(model, work.examples())
    return model.train(), rows


def batch_of(work: CellContext, model: Any, rows: list[dict[str, list[int]]]) -> Batch:
    batch = work.collate(rows)
    ask = work.padded_logits if any(one.reads_states for one in work.recipe.objectives) else work.answer_logits
    logits, targets, _ = ask(model, **batch)
    return Batch(batch["input_ids"], batch["labels"], batch["attention_mask"], logits, targets)


def disturb(model: Any, size: float = 0.03) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += size * torch.randn_like(value)


# --- every objective ---


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_describes_itself(name: str) -> None:
    kind = all_objectives()[name]
    assert kind.name == name
    assert kind.paper
    for key in kind.fields():
        assert f"`{key}`" in (kind.__doc__ or "") or f"`{key}:" in (kind.__doc__ or ""), (
            f"{name}: {key} is not explained"
        )
    for key, space in kind.space.items():
        assert key in kind.fields()
        assert isinstance(space, LogFloat | Options)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_are_whole_and_defaults_sound(name: str) -> None:
    objective = make(name)
    assert list(objective.problems()) == []
    assert all_objectives()[name](**objective.settings).settings == objective.settings
    with pytest.raises(ValueError, match="unknown setting"):
        make(name, no_such_setting=1)


@pytest.mark.parametrize("label", [FULL, LORA])
def test_without_weight_it_is_plain_training_bit_for_bit(label: str, project: Path, tmp_path: Path) -> None:
    write_story(project)
    nothing = {name: {**NEEDED.get(name, {}), weight_of(name): 0.0} for name in OBJECTIVES}
    plan = plan_of(project, suite_of(plain=label % "{}", x=label % json.dumps(nothing)))
    saved = []
    for key in ("plain", "x"):
        folder = tmp_path / "attempts" / key
        result = run_here(plan, cell_named(plan, f"{key}/tiny/colours/n8/s0"), folder)
        assert result.status == "done", result.reason
        (file,) = (folder / "weights").glob("*.safetensors")
        saved.append((load_file(file), [score.value for score in result.scores]))
    assert {f"{name}_loss" for name in OBJECTIVES} <= {fact.name for fact in result.facts}
    assert saved[0][0].keys() == saved[1][0].keys()  # nothing of a teacher or of the start is saved with it
    assert all(torch.equal(value, saved[1][0][key]) for key, value in saved[0][0].items())
    assert saved[0][1] == saved[1][1]


@pytest.mark.parametrize("label", [FULL % "{}", LORA % "{}", "{method: layerwise, layers: 1}"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_nothing_at_the_start_and_grows_from_there(name: str, label: str, project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path, label)
    model, rows = ready(work)
    marks = {key: value.requires_grad for key, value in model.named_parameters()}
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    objective = make(name)
    objective.prepare(model, work)
    assert {key: value.requires_grad for key, value in model.named_parameters()} == marks
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())
    model.train()
    start = objective.loss(model, batch_of(work, model, rows))
    assert start.shape == ()
    assert abs(float(start)) < 1e-6
    disturb(model)
    later = float(objective.loss(model, batch_of(work, model, rows)))
    assert later > 1e-6
    assert torch.isfinite(torch.tensor(later))
    changed = make(name, **{weight_of(name): getattr(objective, weight_of(name)) / 2})
    changed.__dict__.update({key: value for key, value in vars(objective).items() if key.startswith("_")})
    if name != "retain":  # it reads on
        assert float(changed.loss(model, batch_of(work, model, rows))) == pytest.approx(later / 2, rel=1e-5)


@pytest.mark.parametrize("label", [FULL % "{}", LORA % "{}"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_gradient_is_that_of_its_value(name: str, label: str, project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path, label)
    model, rows = ready(work)
    objective = make(name)
    objective.prepare(model, work)
    model.train()
    disturb(model)
    trained = [value for value in model.parameters() if value.requires_grad]

    def value() -> torch.Tensor:
        if name == "retain":
            objective._rows = iter(work.text_rows(model, "story", 2))  # type: ignore[attr-defined]
        return objective.loss(model, batch_of(work, model, rows))

    gradients = torch.autograd.grad(value(), trained, allow_unused=True)
    slope = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
    ends = []
    for sign in (1, -2, 1):  # forth, back, and to the middle again
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    parameter += sign * 3e-3 * gradient / slope
            ends.append(float(value()))
    assert (ends[0] - ends[1]) / 6e-3 == pytest.approx(float(slope), rel=0.03)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_is_the_same_however_it_is_split(name: str, project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path)
    losses, terms = [], []
    for size, passes in ((8, 1), (2, 4)):
        model, rows = ready(work)
        objective = make(name)
        objective.prepare(model, work)
        disturb(model)
        uneven = [{**row, "labels": row["labels"] if place % 3 else row["input_ids"]} for place, row in enumerate(rows)]
        settings = TrainSettings(steps=3, batch_size=size, gradient_accumulation=passes, warmup=0.0)
        recorder = StepRecorder()
        train(model, work.method, Stage("all", uneven), settings, TrainRun(0, recorder, tmp_path, [objective]))
        losses.append([step.loss for step in recorder.steps])
        terms.append({fact.name: fact.value for fact in recorder.facts()}[f"{name}_loss"])
    assert terms[0] > 0
    # Adam's first steps are gradients' signs, so where a gradient is near zero rounding decides.
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert terms[0] == pytest.approx(terms[1], rel=2e-3)


def test_they_go_with_accumulation_checkpointing_and_each_other(project: Path, tmp_path: Path) -> None:
    write_story(project)
    every = {name: NEEDED.get(name, {}) for name in reversed(OBJECTIVES)}
    every["distil"] = {**every["distil"], "hidden": 1.0}
    text = suite_of(x=LORA % json.dumps(every)).replace(
        "batch_size: 4", "batch_size: 2, gradient_accumulation: 2, gradient_checkpointing: true"
    )
    plan = plan_of(project, text)
    result = run_here(plan, cell_named(plan, "x/tiny/colours/n8/s0"), tmp_path / "attempts" / "a")
    assert result.status == "done", result.reason
    facts = {fact.name: fact.value for fact in result.facts}
    assert all(facts[f"{name}_loss"] > 0 for name in every)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: full, train: {devices: 2}, objectives: %s}", "is computed on one device, and devices is 2"),
        ("{method: setfit, objectives: %s}", "setfit has a trainer of its own"),
        ("{method: base, quantize: nf4, objectives: %s}", "base trains nothing"),
    ],
)
def test_what_no_objective_goes_with(name: str, label: str, said: str, project: Path) -> None:
    write_story(project)
    with pytest.raises(SuiteError, match=said):
        plan_of(project, suite_of(x=label % json.dumps({name: NEEDED.get(name, {})})))


# --- what each one computes ---

WRAPPED: dict[str, Callable[[Any], Any]] = {
    "{method: lora, alpha: 32, rslora: true}": lambda model: model,
    "{method: dora}": lambda model: model,
    "{method: full}": lambda model: get_peft_model(
        model, IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    ),
    "{method: [layerwise, lora], layerwise: {layers: 1}}": lambda model: model,
}


@pytest.mark.parametrize("label", sorted(WRAPPED))
def test_l2sp_is_the_distance_of_the_folded_weights(label: str, project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path, label)
    model = WRAPPED[label](ready(work)[0])
    objective = make("l2sp", strength=0.5)
    objective.prepare(model, work)
    disturb(model)
    found = float(objective.loss(model, None))  # type: ignore[arg-type]
    folded = dict(model.merge_and_unload().named_parameters())
    base = dict(work.load_model().named_parameters())
    assert folded.keys() == base.keys()
    wanted = 0.25 * sum(float((folded[key] - base[key]).detach().square().sum()) for key in base)
    assert found == pytest.approx(wanted, rel=1e-3)


def test_l2sp_of_full_training_by_hand(project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path)
    model, _ = ready(work)
    objective = make("l2sp", strength=2.0)
    objective.prepare(model, work)
    with torch.no_grad():
        model.model.norm.weight[:3] += 0.5
    loss = objective.loss(model, None)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(3 * 0.25)
    loss.backward()
    assert model.model.norm.weight.grad[:4].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize("label", [FULL % "{}", LORA % "{}"])
def test_ewc_weighs_by_an_independent_fisher(label: str, project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path, label)
    model, _ = ready(work)
    objective = make("ewc", strength=3.0)
    objective.prepare(model, work)
    disturb(model)
    found = float(objective.loss(model, None))  # type: ignore[arg-type]
    folded = dict((model.merge_and_unload() if hasattr(model, "merge_and_unload") else model).named_parameters())
    base = work.load_model().eval()
    start = {key: value.detach().clone() for key, value in base.named_parameters()}
    squares = {key: torch.zeros_like(value) for key, value in start.items()}
    tokens = 0
    for row in work.text_rows(base, "story", 4):
        base.zero_grad()
        ids = torch.tensor([row["input_ids"]])
        count = len(row["input_ids"]) - 1
        (base(input_ids=ids, labels=ids).loss * count).backward()  # transformers' own mean over the tokens
        for key, value in base.named_parameters():
            squares[key] += value.grad.square()
        tokens += count
    parts = [(squares[key] / tokens * (folded[key] - start[key]).detach().square()).sum() for key in start]
    assert found == pytest.approx(1.5 * float(sum(parts)), rel=1e-3)


def test_retain_is_the_divergence_from_the_base_on_every_token_of_the_text(project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path)
    model, _ = ready(work)
    objective = make("retain", strength=2.0, batch=3)
    objective.prepare(model, work)
    disturb(model)
    base = work.load_model()
    rows = work.text_rows(model, "story")
    for start in (0, 3):  # the next three each time
        total, tokens = 0.0, 0
        for row in rows[start : start + 3]:
            with torch.no_grad():
                p, q = (
                    one(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].softmax(-1) for one in (base, model)
                )
            total += float((p * (p / q).log()).sum())
            tokens += len(row["input_ids"]) - 1
        assert float(objective.loss(model, None)) == pytest.approx(2 * total / tokens, rel=1e-4)  # type: ignore[arg-type]


def test_retain_reads_every_passage_before_it_reads_one_again(project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path)
    model, _ = ready(work)
    objective: Any = make("retain")
    objective.prepare(model, work)
    rows = work.text_rows(model, "story")
    seen = [next(objective._rows) for _ in range(2 * len(rows))]
    assert seen == rows + rows


def test_distillation_by_hand(project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path)
    model, rows = ready(work)
    objective: Any = make("distil", alpha=0.75, temperature=3.0)
    assert objective.task_weight == 0.25
    objective.prepare(model, work)
    disturb(model)
    total, count = 0.0, 0
    teacher = work.load_model()
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            p, q = ((one(input_ids=ids).logits[0] / 3).softmax(-1) for one in (teacher, model))
        for place, label in enumerate(row["labels"]):
            if label != -100:
                total += float((p[place - 1] * (p[place - 1] / q[place - 1]).log()).sum())
                count += 1
    found = float(objective.loss(model, batch_of(work, model, rows)))
    assert found == pytest.approx(0.75 * 9 * total / count, rel=1e-4)


def test_hidden_states_of_a_deeper_teacher(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deeper"
    variant(project, folder, num_hidden_layers=4)
    work = work_of(project, tmp_path, FULL % "{distil: {teacher: {model: other}, alpha: 0.0, hidden: 2.0}}")
    model, rows = ready(work)
    (objective,) = work.recipe.objectives
    objective.prepare(model, work)
    found = float(objective.loss(model, batch_of(work, model, rows)))
    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            # states[0] is the embedding; a last state is after the final norm, so it is made without it
            one = layer_outputs(model, ids)
            other = layer_outputs(teacher, ids)
        for place, pair in enumerate(((one[0], other[1]), (one[1], other[3]))):
            assert place < 2
            unit = [state / state.norm(dim=-1, keepdim=True) for state in pair]
            total += float((unit[0] - unit[1]).square().sum())
        count += ids.shape[1]
    assert found == pytest.approx(2.0 * total / count / 2, rel=1e-4)


def layer_outputs(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    kept: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(lambda module, given, made: kept.append(made)) for layer in model.model.layers
    ]
    model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return kept


def variant(project: Path, folder: Path, **changes: Any) -> None:
    """A model of another shape with the tiny model's tokenizer, in the catalog as `other`."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    entry = (project / "suites" / "models.yaml").read_text()
    tiny = Path(entry.split("file:")[1].split("'")[0])
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(tiny)
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder)
    (project / "suites" / "models.yaml").write_text(f"{entry}other:\n  kind: causal\n  source: 'file:{folder}'\n")


def test_hidden_states_of_another_width_are_refused(project: Path, tmp_path: Path) -> None:
    variant(project, tmp_path / "wide", hidden_size=32, num_hidden_layers=1)
    work = work_of(project, tmp_path, FULL % "{distil: {teacher: {model: other}, hidden: 1.0}}")
    model, _ = ready(work)
    with pytest.raises(ValueError, match="student are 64 wide, the teacher's 32"):
        work.recipe.objectives[0].prepare(model, work)


def test_a_teacher_of_another_size_gives_its_logits(project: Path, tmp_path: Path) -> None:
    variant(project, tmp_path / "wide", hidden_size=32, num_hidden_layers=1)
    write_story(project)
    plan = plan_of(project, suite_of(x=FULL % "{distil: {teacher: {model: other}}}"))
    cell = cell_named(plan, "x/tiny/colours/n8/s0")
    assert cell.borrows == ("other",)
    result = run_here(plan, cell, tmp_path / "attempts" / "a")
    assert result.status == "done", result.reason


def other_words(project: Path, tmp_path: Path) -> None:
    """Make `other` a model with another vocabulary."""
    folder = tmp_path / "foreign"
    variant(project, folder, num_hidden_layers=1)
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = [word for word in vocabulary if len(word) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(words))


def test_another_vocabulary_is_refused_for_logits(project: Path, tmp_path: Path) -> None:
    other_words(project, tmp_path)
    work = work_of(project, tmp_path, FULL % "{distil: {teacher: {model: other}}}")
    model, _ = ready(work)
    with pytest.raises(ValueError, match="different vocabularies .* Use targets: answers"):
        work.recipe.objectives[0].prepare(model, work)


@pytest.mark.parametrize("learn", ["colours", "names"])
def test_a_teacher_with_another_vocabulary_answers(learn: str, project: Path, tmp_path: Path) -> None:
    other_words(project, tmp_path)
    work = work_of(project, tmp_path, FULL % "{distil: {teacher: {model: other}, targets: answers}}")
    from harness.data.tasks import load_task

    work.data.tasks = {learn: load_task(project / "suites" / "tasks" / f"{learn}.yaml")}  # type: ignore[misc]
    plain = without_objectives(work)
    right = plain.examples(task=learn)
    found = work.examples(task=learn)
    lm = work.language_model(work.load_model(work.models["other"]), work.models["other"])
    assert [one.context for one in found] == [one.context for one in right]
    for one in found[:4]:
        if learn == "colours":
            encoded = [(("", ""), *lm._encode_pair(one.context, choice)) for choice in one.choices]
            best = max(zip(lm._loglikelihood_tokens(encoded), one.choices, strict=True))[1]
            assert one.target == best
        else:
            assert not one.choices
            assert "\n" not in one.target
    assert [one.target for one in found] != [one.target for one in right]
    assert work.examples("validation", learn) == plain.examples("validation", learn)


def without_objectives(work: CellContext) -> CellExamples:
    """The examples of a cell as its data have them."""
    plain = CellExamples(work.job, work.cell, work.findings)
    plain.tasks = work.data.tasks  # type: ignore[misc]
    return plain


# --- a teacher that is a cell ---

TEACHER = "{method: lora, learning_rate: 1e-2, objectives: {distil: {teacher: {method: full, learning_rate: 1e-2}%s}}}"


def test_students_learn_from_a_cell(project: Path, tmp_path: Path) -> None:
    students = {"logits": TEACHER % "", "hidden": TEACHER % ", hidden: 1.0", "answers": TEACHER % ", targets: answers"}
    plan = plan_of(project, suite_of(full="{learning_rate: 1e-2}", **students))
    assert len(plan.cells) == 5  # the teacher is a row of the suite, and made once
    teacher = cell_named(plan, "full/tiny/colours/n8/s0")
    assert run_here(plan, teacher, tmp_path / "attempts" / "t").status == "done"
    weights = tmp_path / "attempts" / "t" / "weights"
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    for label in students:
        student = cell_named(plan, f"{label}/tiny/colours/n8/s0")
        assert student.needs == {"teacher": teacher.spec_digest}
        result = run_here(plan, student, tmp_path / "attempts" / label, {"teacher": weights})
        assert result.status == "done", result.reason
        saved = load_file(tmp_path / "attempts" / label / "weights" / "adapter_model.safetensors")
        assert all("lora_" in name for name in saved)
        trainable = {fact.name: fact.value for fact in result.facts}["trainable_params"]
        assert sum(value.numel() for value in saved.values()) == trainable
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before


def test_a_teacher_is_frozen(project: Path, tmp_path: Path) -> None:
    work = work_of(project, tmp_path)
    model, rows = ready(work)
    objective: Any = make("distil")
    objective.prepare(model, work)
    disturb(model)
    objective.loss(model, batch_of(work, model, rows)).backward()
    assert not objective._teacher.training
    assert all(value.grad is None and not value.requires_grad for value in objective._teacher.parameters())
    assert any(value.grad is not None for value in model.parameters())


def test_a_teacher_on_another_model_gains_from_its_own_base(project: Path, tmp_path: Path) -> None:
    variant(project, tmp_path / "deeper", num_hidden_layers=4)
    label = "{method: lora, objectives: {distil: {teacher: {method: full, model: other}}}}"
    plan = plan_of(project, suite_of(x=label))
    student = cell_named(plan, "x/tiny/colours/n8/s0")
    teacher = plan.by_digest()[student.needs["teacher"]]
    assert (teacher.model, teacher.method, teacher.n_train, teacher.seed) == ("other", "full", 8, 0)
    untouched = plan.by_digest()[teacher.baseline]
    assert (untouched.model, untouched.method) == ("other", "base")
    assert student.borrows == ("other",)
    assert plan.by_digest()[student.baseline].model == "tiny"


def told(project: Path, label: str) -> Iterator[str]:
    write_story(project)
    path, catalog = project / "suites" / "small.yaml", load_catalog(project)
    path.write_text(suite_of(x=label))
    with pytest.raises(SuiteError) as error:
        planned(path, catalog)
    return iter(str(error.value).splitlines())


def planned(path: Path, catalog: Catalog) -> None:
    suite = load_suite(path, catalog)
    make_plan(suite, fetch_suite(catalog, suite))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (FULL % "{distil: {}}", "teacher is missing"),
        (FULL % "{distil: {teacher: {learning_rate: 1}}}", "learning_rate and no method"),
        (FULL % "{distil: {teacher: {method: 3}}}", "teacher.method is 3"),
        (FULL % "{distil: {teacher: {method: ful}}}", "Did you mean 'full'"),
        (FULL % "{distil: {teacher: {method: full, rate: 1}}}", "unknown setting of full 'rate'"),
        (FULL % "{distil: {teacher: {method: base}}}", "base cannot be a teacher"),
        (FULL % "{distil: {teacher: {method: setfit}}}", "setfit cannot be a teacher"),
        (FULL % "{distil: {teacher: {model: tyny}}}", "unknown model 'tyny'"),
        (FULL % "{distil: {teacher: {model: tiny}, temperature: 0}}", "temperature is 0"),
        (FULL % "{distil: {teacher: {model: tiny}, alpha: 2}}", "alpha is 2"),
        (FULL % "{distil: {teacher: {model: tiny}, hidden: -1}}", "hidden is -1"),
        (FULL % "{distil: {teacher: {model: tiny}, targets: answers, alpha: 1}}", "alpha has no effect on"),
        (FULL % "{ewc: {text: story, samples: 0}}", "samples is 0"),
        (FULL % "{ewc: {text: story, strength: -1}}", "strength is -1"),
        (FULL % "{ewc: {text: prose}}", "'prose' has no training text to read"),
        (FULL % "{ewc: {text: stories}}", "unknown task 'stories'"),
        (FULL % "{retain: {text: story, batch: 0}}", "batch is 0"),
        (FULL % "{l2sp: {strenght: 1}}", "Did you mean 'strength'"),
        ("{method: prompt_tuning, objectives: {l2sp: {}}}", "what prompt_tuning learns is not in them"),
        ("{method: qlora, objectives: {ewc: {text: story}}}", "cannot measure from nf4 weights"),
    ],
)
def test_what_cannot_be_is_said_with_its_line(label: str, said: str, project: Path) -> None:
    lines = list(told(project, label))
    assert any(said in line and "small.yaml:7" in line for line in lines), lines
    assert len(lines) == 1, lines
