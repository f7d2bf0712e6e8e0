"""One contract for every curriculum found in harness/curricula, on the tiny model; and what each one says it does."""

import math
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from results_factory import OTHER, PROSE, TASK, Results, cell, scores
from tiny import write_csv
from tools import cell_named, context_of, plan_of, results_of, run_cells, run_here, training_of

from harness.curricula import Stage, all_curricula
from harness.curricula.base import mixture, rows_of_steps
from harness.curricula.sequential import average, backward_transfer, forgetting
from harness.errors import SuiteError
from harness.methods import LogFloat, Method, Options
from harness.plan.plan import Plan
from harness.records import CellResult, Score, TrainSettings

CURRICULA = sorted(all_curricula())
# What a curriculum cannot do without; everything else runs on its defaults.
NEEDED: dict[str, dict[str, Any]] = {
    "multi_task": {"tasks": ["sounds"]},
    "instruction": {"tasks": ["sounds"]},
    "sequential": {"tasks": ["sounds", "colours"]},
    "continued_pretraining": {"text": "stories"},
    "replay": {"text": "stories"},
}
STEPS, BATCH = 7, 4
ANIMALS = {"moo": ["cow", "ox", "calf"], "baa": ["sheep", "ram", "lamb"]}
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
SOUNDS = """\
task: sounds
custom_dataset: !function harness.data.splits.documents
dataset_kwargs: {source: "file:sounds.csv", label: sound, unique: [text], test: 12, validation: 6}
training_split: train
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "Animal: {{text}}\\nSound:"
doc_to_choice: [moo, baa]
doc_to_target: sound
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
STORIES = """\
task: stories
dataset_path: csv
dataset_kwargs: {data_files: {train: stories.csv, test: prose.csv}}
training_split: train
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


@pytest.fixture
def world(project: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny project with a second task, running text to learn from, and a model that can chat."""
    folder = tmp_path / "chatty"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    tasks = project / "suites" / "tasks"
    with (project / "suites" / "models.yaml").open("a") as file:
        file.write(f"chatty:\n  kind: causal\n  source: 'file:{folder}'\n  parameters: 30000\n")
    sounds = [
        {"text": f"the {colour} {name} number {number}", "sound": sound}
        for sound, names in ANIMALS.items()
        for name in names
        for colour in ("red", "old", "big")
        for number in range(4)
    ]
    random.Random(0).shuffle(sounds)
    write_csv(tasks / "sounds.csv", sounds)
    words = ["once", "upon", "a", "time", "a", "king", "had", "a", "red", "house", "by", "the", "sea"]
    write_csv(tasks / "stories.csv", [{"text": " ".join(words[place:] + words[:place])} for place in range(10)])
    (tasks / "sounds.yaml").write_text(SOUNDS)
    (tasks / "stories.yaml").write_text(STORIES)
    return project


def suite_of(methods: dict[str, Any], model: str = "chatty", size: Any = 8, **train: Any) -> str:
    train = {"batch_size": BATCH, **({} if "epochs" in train else {"steps": STEPS}), **train}
    return yaml.safe_dump(
        {
            "version": 1,
            "models": [model],
            "tasks": [{"learn": "colours", "sizes": [size]}],
            "retain": ["prose"],
            "methods": methods,
            "train": train,
        }
    )


def label(name: str, method: Any = "lora", **settings: Any) -> dict[str, Any]:
    return {"method": method, "curriculum": {name: {**NEEDED.get(name, {}), **settings}}}


def planned(world: Path, entry: dict[str, Any], **options: Any) -> Plan:
    return plan_of(world, suite_of({"x": entry}, **options))


def run_one(world: Path, folder: Path, entry: dict[str, Any], **options: Any) -> CellResult:
    plan = planned(world, entry, **options)
    result = run_here(plan, next(cell for cell in plan.cells if cell.label == "x"), folder / "attempts" / "a")
    assert result.status == "done", result.reason
    return result


def facts_of(result: CellResult) -> dict[str, float]:
    return {fact.name: fact.value for fact in result.facts}


# --- the contract ---


@pytest.mark.parametrize("name", CURRICULA)
def test_it_describes_itself(name: str) -> None:
    kind = all_curricula()[name]
    assert kind.name == name
    text = kind.__doc__ or ""
    assert text.splitlines()[0].endswith(".")
    for key in kind.fields():
        assert f"`{key}`" in text, f"{name} says nothing of {key}"
    for key, space in kind.space.items():
        assert key in kind.fields()
        assert isinstance(space, LogFloat | Options)
    made = kind(**NEEDED.get(name, {}))
    assert list(made.problems()) == []
    assert kind(**made.settings).settings == made.settings
    with pytest.raises(ValueError, match="unknown setting"):
        kind(no_such_setting=1)
    assert made.learns("colours")[0] == "colours"


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, "full") for name in CURRICULA), ("sequential", ["layerwise", "prompt_tuning"])],
    ids=str,
)
def test_it_trains_and_every_learned_task_is_scored(name: str, method: Any, world: Path, tmp_path: Path) -> None:
    result = run_one(world, tmp_path, label(name, method))
    cell = result.cell
    assert [step.step for step in result.steps if step.split == "train"] == list(range(1, STEPS + 1))
    assert facts_of(result)["optimizer_steps"] == STEPS
    phases = {phase.phase: phase for phase in result.phases}
    assert len(phases) == len(result.phases)
    between = {"score_stages"} if all_curricula()[name].scores_stages else set()
    if method == "full":  # a soft prompt does not start as the base model
        between |= {"check"}
    assert phases.keys() == {"load", "train", "evaluate", "compare", "infer", "save"} | between
    assert phases["train"].samples == STEPS * BATCH
    assert {score.task for score in result.scores if score.role == "task"} == set(cell.learn)
    assert {score.task for score in result.scores if score.role == "retain"} == {"prose"}
    read = set(all_curricula()[name](**NEEDED.get(name, {})).reads("colours"))
    assert set(cell.fingerprints) == {"model", "prose", *cell.learn, *read}


@pytest.mark.parametrize("name", [name for name in CURRICULA if name not in ("single", "replay", "instruction")])
def test_epochs_and_early_stopping(name: str, world: Path, tmp_path: Path) -> None:
    result = run_one(world, tmp_path, label(name), epochs=2, eval_every=1, early_stopping=1)
    train = [step.step for step in result.steps if step.split == "train"]
    assert train == list(range(1, len(train) + 1))
    assert any(step.split == "validation" for step in result.steps)
    assert {step.step for step in result.steps if step.split == "validation"} <= set(train)


@pytest.mark.parametrize("name", CURRICULA)
def test_each_example_is_learned_once_an_epoch(name: str, world: Path, tmp_path: Path) -> None:
    """Over two epochs every example of every learned task is learned twice, whatever comes on top."""
    plan = planned(world, label(name), epochs=2)
    cell = cell_named(plan, "x/chatty/colours/n8/s0")
    work, model = ready(plan, cell, tmp_path / "attempts" / "a")
    stages = training_of(work).encode_stages(model)
    learned = [
        tuple(row["input_ids"]) for stage in stages for row in stage.rows for _ in range(1 if stage.ordered else 2)
    ]
    render = work.language_model(model).apply_chat_template if all_curricula()[name].chat else None
    for task in cell.learn:
        for row in work.rows(model, work.examples(task=task, render=render)):
            assert learned.count(tuple(row["input_ids"])) == 2


@pytest.mark.parametrize("name", [name for name in CURRICULA if name != "single"])
def test_a_seed_repeats_and_another_does_not(name: str, world: Path, tmp_path: Path) -> None:
    drawn = []
    for place, seed in enumerate((0, 0, 1)):
        text = yaml.safe_load(suite_of({"x": label(name, "full")})) | {"seeds": [seed]}
        plan = plan_of(world, yaml.safe_dump(text))
        work, model = ready(plan, cell_named(plan, f"x/chatty/colours/n8/s{seed}"), tmp_path / "attempts" / str(place))
        drawn.append([stage.rows for stage in training_of(work).encode_stages(model)])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.parametrize("name", CURRICULA)
def test_what_trains_nothing_or_by_itself_is_refused(name: str, world: Path) -> None:
    for entry, said in (
        ({"method": "base", "quantize": "nf4"}, "base trains nothing"),
        ({"method": "setfit"}, "setfit has a trainer of its own"),
    ):
        with pytest.raises(SuiteError, match=said):
            planned(world, {**label(name), **entry})


@pytest.mark.parametrize("name", [name for name in CURRICULA if name != "single"])
def test_a_classifier_is_refused(name: str) -> None:
    class Head(Method):
        name = "head"
        is_language_model = False

    curriculum = all_curricula()[name](**NEEDED.get(name, {}))
    assert "head has the answers of one task" in " ".join(curriculum.refuses(Head(), TrainSettings()))


def ready(plan: Plan, cell: Any, folder: Path) -> tuple[Any, Any]:
    """A cell's worker, and its attached model."""
    work = context_of(plan, cell, folder)
    return work, work.method.attach(work.method.load(work))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi_task", "replay", "continued_pretraining"])
def test_two_devices_are_one(name: str, world: Path) -> None:
    """Ranks share each batch, with the rows' weights, stage after stage."""
    plan = plan_of(world, suite_of({"one": label(name), "two": {**label(name), "train": {"devices": 2}}}))
    assert set(map(str, run_cells(world, plan).states.values())) == {"done"}
    found = {result.cell.label: result for result in results_of(world)}
    one, two = ([step.loss for step in found[which].steps] for which in ("one", "two"))
    assert len(one) == STEPS
    assert two == pytest.approx(one, rel=1e-4)


# --- mixing ---

shares_of = st.dictionaries(st.sampled_from("abcd"), st.floats(0.05, 1.0), min_size=2)


@given(shares=shares_of, count=st.integers(0, 200), seed=st.integers(0, 5))
def test_every_stretch_of_a_mixture_holds_its_shares(shares: dict[str, float], count: int, seed: int) -> None:
    parts = {name: [{"input_ids": [ord(name), k], "labels": [-100, k]} for k in range(7)] for name in shares}
    made = mixture(parts, shares, count, seed)
    assert len(made) == count
    names = [chr(row["input_ids"][0]) for row in made]
    total = sum(shares.values())
    for end in range(count + 1):
        for name, share in shares.items():
            ahead = names[:end].count(name) - end * share / total
            assert -len(shares) < ahead < 1 + 1e-9
    for name in shares:
        own = [row["input_ids"][1] for row in made if chr(row["input_ids"][0]) == name]
        for start in range(0, len(own) - 6, 7):
            assert sorted(own[start : start + 7]) == list(range(7))  # each row once a pass


@pytest.mark.parametrize("name", ["replay", "continued_pretraining"])
def test_general_text_is_set_aside_from_the_tasks_own_rows(name: str, world: Path, tmp_path: Path) -> None:
    plan = planned(world, label(name))
    work = context_of(plan, next(cell for cell in plan.cells if cell.label == "x"), tmp_path / "a")
    rows = [row for stage in training_of(work).encode_stages(work.method.load(work)) for row in stage.rows]
    learned = {tuple(row["input_ids"]) for row in work.rows(work.method.load(work), work.examples())}
    assert {("aside" in row, tuple(row["input_ids"]) in learned) for row in rows} == {(True, False), (False, True)}


def test_rows_of_a_mixture_count_the_same_and_alone_as_they_are() -> None:
    long, short = {"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, 4]}, {"input_ids": [1, 2], "labels": [-100, 2]}
    both = mixture({"long": [long], "short": [short]}, {"long": 1, "short": 1}, 2, 0)
    assert [row["weight"] for row in both] == [1 / 3, 1]
    assert mixture({"long": [long], "short": [short]}, {"long": 1, "short": 0}, 2, 0) == [long, long]


@given(steps=st.integers(4, 300), share=st.floats(0.0, 1.0), batch=st.integers(1, 9), passes=st.integers(1, 3))
def test_stages_share_the_steps_of_their_cell(steps: int, share: float, batch: int, passes: int) -> None:
    class OfJob:
        settings = TrainSettings(steps=steps, batch_size=batch, gradient_accumulation=passes)

    counts = rows_of_steps(OfJob(), [share, 1 - share], [1, 1])  # type: ignore[arg-type]
    assert sum(counts) == steps * batch * passes
    assert abs(counts[0] / (batch * passes) - share * steps) <= 0.5


@pytest.mark.parametrize(
    ("name", "settings", "wanted"),
    [
        ("multi_task", {}, {"colours": 14, "sounds": 14}),
        ("multi_task", {"weights": {"sounds": 3}}, {"colours": 7, "sounds": 21}),
        ("instruction", {"tasks": []}, {"colours": 28}),
        ("replay", {}, {"colours": 21, "text": 7}),
        ("continued_pretraining", {"share": 0.3}, {"text": 8, "colours": 20}),
        ("sequential", {"tasks": ["colours", "sounds"]}, {"colours": 16, "sounds": 12}),
        ("sequential", {"tasks": ["colours", "sounds"], "replay": 0.25}, {"colours": 16 + 3, "sounds": 9}),
    ],
)
def test_the_data_is_divided_as_asked(
    name: str, settings: dict[str, Any], wanted: dict[str, int], world: Path, tmp_path: Path
) -> None:
    plan = planned(world, label(name, **settings))
    work, model = ready(plan, cell_named(plan, "x/chatty/colours/n8/s0"), tmp_path / "attempts" / "a")
    rows = [row for stage in training_of(work).encode_stages(model) for row in stage.rows]

    def kind(row: dict[str, Any]) -> str:
        text = work.tokenizer.decode(row["input_ids"])
        return "sounds" if "Sound:" in text else "colours" if "Colour:" in text else "text"

    kinds = [kind(row) for row in rows]
    assert {one: kinds.count(one) for one in dict.fromkeys(kinds)} == wanted
    if name in ("multi_task", "replay"):  # every batch sees the mixture
        for start in range(0, len(kinds), BATCH):
            assert set(kinds[start : start + BATCH]) == set(wanted)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_of_a_mixture_is_the_mean_over_its_rows(accumulation: int, tiny_model: Path, tmp_path: Path) -> None:
    """Each row's mean over its own answer tokens, then the mean over the rows of the step."""
    from transformers import AutoModelForCausalLM

    from harness.methods import make_method
    from harness.worker.profiling.meter import StepRecorder
    from harness.worker.train import TrainRun, train

    rows = [
        {"input_ids": [5, 6, 7, 8, 9, 10], "labels": [-100, 6, 7, 8, 9, 10]},
        {"input_ids": [11, 12, 13], "labels": [-100, -100, 13]},
        {"input_ids": [14, 15, 16, 17], "labels": [-100, -100, 16, 17]},
        {"input_ids": [18, 19], "labels": [-100, 19]},
    ]
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        each = [model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss for row in rows]
    mixed = mixture({"a": rows[:2], "b": rows[2:]}, {"a": 1, "b": 1}, 4, 0)
    settings = TrainSettings(epochs=1, batch_size=4 // accumulation, gradient_accumulation=accumulation)
    recorder = StepRecorder()
    stage = Stage("mixed", mixed, ordered=True)
    train(model, make_method("full", {}), stage, settings, TrainRun(0, recorder, tmp_path))
    assert [step.loss for step in recorder.steps] == pytest.approx([float(torch.stack(each).mean())], rel=1e-5)


# --- continual learning ---


def test_figures_of_continual_learning_by_hand() -> None:
    matrix = [[0.8, 0.1, 0.3], [0.6, 0.9, 0.2], [0.5, 0.95, 0.7]]
    assert average(matrix) == pytest.approx((0.5 + 0.95 + 0.7) / 3)
    assert backward_transfer(matrix) == pytest.approx(((0.5 - 0.8) + (0.95 - 0.9)) / 2)
    assert forgetting(matrix) == pytest.approx(((0.8 - 0.5) + (0.9 - 0.95)) / 2)
    # of a metric that falls when it is better, the same forgetting under the other sign
    assert forgetting([[-value for value in row] for row in matrix], False) == pytest.approx(forgetting(matrix))


values = st.floats(0, 1)
matrices = st.integers(2, 5).flatmap(
    lambda size: st.lists(st.lists(values, min_size=size, max_size=size), min_size=size, max_size=size)
)


@given(matrix=matrices, lift=st.floats(-1, 1))
def test_laws_of_continual_learning(matrix: list[list[float]], lift: float) -> None:
    assert min(matrix[-1]) - 1e-12 <= average(matrix) <= max(matrix[-1]) + 1e-12
    # the best of all stages before is no worse than that after the task's own
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12
    if len(matrix) == 2:
        assert forgetting(matrix) == pytest.approx(-backward_transfer(matrix))
    lifted = [[value + lift for value in row] for row in matrix]
    assert backward_transfer(lifted) == pytest.approx(backward_transfer(matrix), abs=1e-9)
    assert forgetting(lifted) == pytest.approx(forgetting(matrix), abs=1e-9)
    still = [matrix[0]] * len(matrix)
    assert backward_transfer(still) == forgetting(still) == 0


def test_the_matrix_is_stored(world: Path, tmp_path: Path) -> None:
    result = run_one(world, tmp_path, label("sequential", tasks=["sounds", "colours"]), steps=8)
    facts = facts_of(result)
    final = {(score.task, score.metric): score.value for score in result.scores}
    for task in ("sounds", "colours"):
        for metric in ("acc", "choice_cross_entropy"):
            assert facts[f"after:colours:{task}:{metric}"] == final[task, metric]
            assert math.isfinite(facts[f"after:sounds:{task}:{metric}"])
    assert facts["after:sounds:sounds:choice_cross_entropy"] != final["sounds", "choice_cross_entropy"]
    matrix = [[facts[f"after:{stage}:{task}:acc"] for task in ("sounds", "colours")] for stage in ("sounds", "colours")]
    assert facts["average_accuracy"] == pytest.approx(average(matrix))
    assert facts["backward_transfer"] == pytest.approx(backward_transfer(matrix))
    assert facts["forgetting"] == pytest.approx(forgetting(matrix))
    about = {fact.name: (fact.unit, fact.higher_is_better) for fact in result.facts}
    assert about["forgetting"] == ("acc", False)
    assert about["after:sounds:colours:choice_cross_entropy"] == ("choice_cross_entropy", False)
    # a schedule of its own for each stage: the rate rises and falls twice
    rates = [step.learning_rate or 0.0 for step in result.steps]
    assert rates[:4] == rates[4:]
    assert rates[0] == max(rates) or rates[1] == max(rates)


def test_a_stage_is_not_flagged_for_the_losses_of_the_one_before(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.worker import cell as worker

    looked_at: list[Any] = []
    monkeypatch.setattr(worker, "overfitted", lambda steps: looked_at.extend(steps) or [])
    result = run_one(world, tmp_path, label("sequential"), eval_every=1)
    second = STEPS - STEPS // 2  # the steps of the first of two stages are rounded up
    assert {step.step for step in looked_at} == set(range(second + 1, STEPS + 1))
    assert {step.split for step in looked_at} == {"train", "validation"}
    assert {step.step for step in result.steps} == set(range(1, STEPS + 1))


def test_tasks_of_different_metrics_have_a_matrix_and_no_mean() -> None:
    def scores(first: float, second: float) -> list[Score]:
        return [
            Score("a", "task", "acc", first, None, 9, True),
            Score("b", "task", "exact_match", second, None, 9, True),
        ]

    made = all_curricula()["sequential"](tasks=["a", "b"])
    names = {fact.name for fact in made.summary([("a", scores(0.1, 0.2)), ("b", scores(0.3, 0.4))])}
    assert names == {"after:a:a:acc", "after:a:b:exact_match", "after:b:a:acc", "after:b:b:exact_match"}


def test_a_phase_within_another_is_none_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.worker.profiling import meter as measure

    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    meter = measure.Meter()
    with suppress(ValueError), meter.phase("train"):
        now[0] += 1
        meter.count(tokens=5)
        for _ in range(2):
            with meter.phase("score_stages"):
                now[0] += 10
                meter.count(tokens=7, samples=3)
        now[0] += 2
        meter.count(tokens=6)
        raise ValueError("stop")
    found = {phase.phase: (phase.seconds, phase.tokens, phase.samples) for phase in meter.phases}
    assert found == {"train": (3.0, 11, None), "score_stages": (20.0, 14, 6)}


def test_a_diverging_stage_ends_the_cell(world: Path, tmp_path: Path) -> None:
    plan = planned(world, {**label("sequential", "full", tasks=["colours", "sounds"]), "learning_rate": 1e30})
    result = run_here(plan, cell_named(plan, "x/chatty/colours/n8/s0"), tmp_path / "attempts" / "a")
    assert result.status == "diverged"
    assert f"of {STEPS // 2 + 1}" in result.reason or "the score" in result.reason


# --- chat ---


def test_what_is_learned_in_chat_is_scored_token_for_token(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the very documents that are scored, made into training rows: each row is a request, answer and all."""
    from harness.data import tasks
    from harness.worker import evaluate

    asked: list[list[int]] = []
    real = evaluate.TunedLM._loglikelihood_tokens

    def listen(self: Any, requests: Any, **options: Any) -> Any:
        asked.extend([*context, *answer] for _, context, answer in requests)
        return real(self, requests, **options)

    monkeypatch.setattr(evaluate.TunedLM, "_loglikelihood_tokens", listen)
    plan = planned(world, label("instruction", tasks=["sounds"]), steps=1)
    cell = cell_named(plan, "x/chatty/colours/n8/s0")
    folder = tmp_path / "attempts" / "a"
    result = run_here(plan, cell, folder)
    assert result.status == "done", result.reason
    work, model = ready(plan, cell, tmp_path / "attempts" / "b")
    render = work.language_model(model).apply_chat_template
    for name in cell.learn:
        task = work.data.tasks[name]
        found = [tasks.example(task, document, False, render) for document in task.eval_docs]
        for one, row in zip(found, work.rows(model, found), strict=True):
            assert one.context.startswith("<user>")
            assert one.context.endswith("<assistant>\n")
            assert row["input_ids"] in asked
            answer = [label for label in row["labels"] if label != -100]
            assert row["input_ids"][-len(answer) :] == answer
            assert work.tokenizer.decode(answer) == one.target  # and not the template's line break before it
        learned = work.rows(model, work.examples(task=name, render=render))
        course = {tuple(row["input_ids"]) for row in training_of(work).encode_stages(model)[0].rows}
        assert course & {tuple(row["input_ids"]) for row in learned}
    # texts are kept by task: another cell's plain question is the same document
    import pyarrow.parquet as pq

    stored = [row["text"] for path in (tmp_path / "documents").iterdir() for row in pq.read_table(path).to_pylist()]
    assert any(text.startswith("Animal:") for text in stored)
    assert not any("<user>" in text for text in stored)


def test_an_answer_in_chat_is_what_is_generated(world: Path, tmp_path: Path) -> None:
    """Without the blank that parts question and answer in plain text, and with an end."""
    plan = planned(world, label("instruction", tasks=["names"]))
    work, model = ready(plan, cell_named(plan, "x/chatty/colours/n8/s0"), tmp_path / "attempts" / "a")
    render = work.language_model(model).apply_chat_template
    plain, asked = (work.examples(task="names", render=how)[0] for how in (None, render))
    assert asked.target == plain.target.removeprefix(" ")
    assert asked.context == f"<user>{plain.context}</user>\n<assistant>\n"
    assert asked.closed


# --- refusals ---


@pytest.mark.parametrize(
    ("entry", "options", "said"),
    [
        ({"curriculum": "multi_task"}, {}, "tasks is empty"),
        ({"curriculum": {"multi_task": {"tasks": ["colours"]}}}, {}, "names 'colours' alone"),
        ({"curriculum": {"multi_task": {"tasks": ["sounds"], "weights": {"sound": 1}}}}, {}, "weights names 'sound'"),
        ({"curriculum": {"multi_task": {"tasks": ["sounds"], "weights": {"sounds": 0}}}}, {}, "must be above 0"),
        ({"curriculum": {"multi_task": {"tasks": ["sounds"]}}}, {"size": 60}, "60 examples of each task are wanted"),
        ({"curriculum": {"multi_task": {"tasks": ["sounds"]}}}, {"size": "all"}, "'sounds' has 54 training examples"),
        ({"curriculum": {"multi_task": {"tasks": ["prose"]}}}, {}, "'prose' cannot be learned"),
        ({"curriculum": {"sequential": {"tasks": ["sounds", "sounds"]}}}, {}, "names 'sounds' twice"),
        ({"curriculum": {"sequential": {"tasks": ["sounds"], "replay": 1}}}, {}, "replay is 1.0"),
        ({"curriculum": {"sequential": {"tasks": ["sounds"]}}}, {"steps": 1}, "there are 2 tasks to learn"),
        ({"curriculum": {"sequential": {"tasks": ["sounds"]}}}, {"devices": 2}, "sequential scores between stages"),
        (
            {"curriculum": {"continued_pretraining": {"text": "stories"}}},
            {"devices": 2, "strategy": "fsdp"},
            "fsdp leaves the weights on one device",
        ),
        ({"curriculum": "replay"}, {}, "text is missing"),
        ({"curriculum": {"replay": {"text": "stories", "share": 1}}}, {}, "share is 1.0"),
        ({"curriculum": {"replay": {"text": "prose"}}}, {}, "'prose' has no training text"),
        ({"curriculum": {"replay": {"text": "colours"}}}, {}, "its answers are in there"),
        ({"curriculum": {"continued_pretraining": {"text": "stories", "share": 0.1}}}, {"steps": 2}, "leaves none"),
        ({"curriculum": "instruction"}, {"model": "tiny"}, "tiny has none"),
    ],
)
def test_what_cannot_be_is_refused_before_it_runs(
    entry: dict[str, Any], options: dict[str, Any], said: str, world: Path
) -> None:
    with pytest.raises(SuiteError, match=said) as caught:
        planned(world, {"method": "lora", **entry}, **options)
    assert "small.yaml:" in str(caught.value)


# --- beside other cells ---


@pytest.mark.parametrize(
    "name", [name for name in CURRICULA if len(all_curricula()[name](**NEEDED.get(name, {})).learns("colours")) > 1]
)
def test_the_base_model_is_scored_on_every_learned_task(name: str, world: Path) -> None:
    plan = plan_of(world, suite_of({"x": label(name), "alone": {"method": "lora"}}))
    bare, tuned = (next(cell for cell in plan.cells if cell.label == one) for one in ("base", "x"))
    assert set(tuned.learn) <= {bare.task, *bare.retain}
    assert tuned.baseline == bare.spec_digest
    others = [cell for cell in plan.cells if cell.label == "alone"]
    assert others[0].spec_digest != tuned.spec_digest


def test_the_report_shows_every_learned_task(tmp_path: Path) -> None:
    from dataclasses import replace

    from harness.records import Fact
    from harness.report import load
    from harness.report.columns import headers, texts
    from harness.report.sections.footnotes import footnotes

    results = Results(tmp_path)
    base = cell("base", retain=(PROSE, OTHER))
    results.add(base, scores(0.6, 0.03, -5.2, 0.4))
    learned = [*scores(0.7, 0.03, -5.3), Score(OTHER, "task", "acc", 0.8, 0.03, 200, True)]
    for name, extra in (("order", {"forgetting": 0.125, "backward_transfer": -0.125}), ("joint", {})):
        both = replace(cell(name, 32, 0, baseline=base.spec_digest, retain=(PROSE,)), learn=(TASK, OTHER))
        results.add(both, learned, train_seconds=5.0, facts=[Fact(key, value, "acc") for key, value in extra.items()])
    alone = cell("alone", 32, 0, baseline=base.spec_digest, retain=(PROSE,))
    results.add(alone, scores(0.8, 0.03, -5.3), train_seconds=5.0)
    report = load(results.store(), "demo")
    (block,) = report.blocks
    rows = {row.label: dict(zip(headers(block), texts(block, row), strict=True)) for row in block.at(32)}
    for name in ("order", "joint"):
        assert rows[name]["Δ other (acc)"].startswith("+0.40")
        assert rows[name]["Δ other (acc)"].endswith("§")
        assert rows[name]["average"] == "0.75"
    assert rows["alone"]["Δ other (acc)"] == rows["alone"]["average"] == "n/a"
    assert (rows["order"]["backward transfer"], rows["order"]["forgetting"]) == ("−0.12", "+0.12")
    assert rows["joint"]["forgetting"] == "n/a"
    assert any(note.text.startswith("Average:") for note in footnotes(report))
