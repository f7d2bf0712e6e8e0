"""Studies in a run: their trials, what the cells make of them, stopping and going on, failures, budgets."""

from __future__ import annotations

import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import make_project
from tools import plan_of, results_of, run_cells

from harness.data.tasks import for_validation, learning_docs, load_task
from harness.environment import environment
from harness.errors import TaskError
from harness.execute.studies import Studies
from harness.records import Cell, CellResult, Phase, Score, Status
from harness.store.database import Store

TUNED = """
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
methods:
  base: {}
  full: {}
seeds: [0]
train: {steps: 4, batch_size: 4, max_length: 32}
tune: {trials: 4, batch: 2}
"""


def hash_of(document: Any) -> str:
    """The start of a document's id, as lm-eval hashes it."""
    from lm_eval.utils import hash_string

    return str(hash_string(json.dumps(document, indent=2, default=str, ensure_ascii=False)))[:16]


def items_of(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [str(name) for name in pq.read_table(path)["doc_id"].to_pylist()]


def trials_of(root: Path) -> list[Any]:
    return [result for result in results_of(root) if result.cell.trial]


def study_result(root: Path) -> Any:
    return next(result for result in results_of(root) if result.cell.study)


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, checked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project in which TUNED has run to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(checked, folder / "cache")
    root = folder / "project"
    make_project(root, tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TUNEBENCH_CACHE", str(folder / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(folder / "hf-datasets"))
        plan = plan_of(root, TUNED)
        progress = run_cells(root, plan)
        assert {progress.states[cell.spec_digest] for cell in plan.cells} == {Status.DONE}
        yield root


def told(result: CellResult) -> list[Any]:
    return [(trial.params, trial.value) for trial in result.trials]


def test_a_study_runs_its_trials_and_its_cells_learn_with_what_it_found(undisturbed: Path) -> None:
    results = results_of(undisturbed)
    keys = [result.cell.key for result in results if not result.cell.trial]
    assert keys == ["base/tiny/colours", "full/tiny/colours/n8/study", "full/tiny/colours/n8/s0"]
    study = study_result(undisturbed)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert study.trials[0].params == {"learning_rate": 1e-4}
    assert study.trials[0].origin == "default"
    attempts = {result.attempt_id: result for result in trials_of(undisturbed)}
    assert [trial.seconds for trial in study.trials] == [attempts[t.attempt_id].seconds for t in study.trials]
    assert all(trial.tokens and trial.peak_bytes for trial in study.trials)
    best = max(study.trials, key=lambda trial: (trial.merits[0], -trial.values["choice_cross_entropy"]))
    assert study.tuned == best.params
    final = next(result for result in results if result.cell.seed == 0 and not result.cell.trial)
    assert final.tuned == best.params
    assert final.cell.settings["learning_rate"] == 1e-4, "the cell stays what was planned"
    assert max(step.learning_rate or 0 for step in final.steps) == pytest.approx(best.params["learning_rate"])
    assert {phase.phase for phase in trials_of(undisturbed)[0].phases} == {"load", "check", "train", "evaluate"}


def test_no_test_item_is_scored_before_the_end(undisturbed: Path) -> None:
    task = load_task(undisturbed / "suites" / "tasks" / "colours.yaml")
    tested = {hash_of(document) for document in task.test_docs()}
    held_out = {hash_of(document) for document in learning_docs(task)[1]}
    scored: dict[bool, set[str]] = {True: set(), False: set()}
    for path in undisturbed.glob("results/attempts/*/*/items.parquet"):
        result = json.loads(path.with_name("result.json").read_text())
        scored[bool(result["cell"]["trial"])] |= {name.split("-")[0] for name in items_of(path)}
    assert scored[True] == held_out
    assert scored[False] == tested
    assert not held_out & tested


def test_a_validation_task_cannot_reach_the_test_split(undisturbed: Path) -> None:
    task = for_validation(load_task(undisturbed / "suites" / "tasks" / "colours.yaml"))
    assert len(task.eval_docs) == 30
    assert not task.has_test_docs()
    with pytest.raises(TaskError, match="must not look at test items"):
        task.test_docs()


@pytest.mark.parametrize("split", ["test", "validation", "train"])
def test_what_is_shown_before_a_question_is_neither_scored_now_nor_later(undisturbed: Path, split: str) -> None:
    path = undisturbed / "suites" / "tasks" / "shown.yaml"
    text = path.with_name("colours.yaml").read_text()
    path.write_text(f"{text}num_fewshot: 3\nfewshot_split: {split}\n")
    whole = load_task(path)
    task = for_validation(whole)
    task.set_fewshot_seed(seed=1234)
    held = [document["text"] for document in (*whole.test_docs(), *task.validation_docs())]
    for document in task.validation_docs():
        context = task.fewshot_context(document, num_fewshot=3)
        assert context.count("Colour:") == 4
        shown = context.rsplit("Text:", 1)[0]
        assert not [text for text in held if f"{text}\n" in shown]
    path.unlink()


def test_what_was_found_is_in_the_store_and_survives_a_rebuild(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    store = Store(tmp_path / "results")
    queries = [
        "SELECT * FROM trials ORDER BY number",
        "SELECT spec_digest, tuned FROM attempts ORDER BY attempt_id",
        "SELECT spec_digest, study, trial FROM cells ORDER BY 1",
    ]
    with store.open() as connection:
        before = [connection.execute(query).fetchall() for query in queries]
        chosen = connection.execute("SELECT count(*) FROM trials WHERE chosen").fetchall()
    assert len(before[0]) == 4
    assert chosen == [(1,)]
    store.rebuild()
    with store.open() as connection:
        assert [connection.execute(query).fetchall() for query in queries] == before


@pytest.mark.process
@pytest.mark.parametrize("after", [1, 3])
def test_a_study_that_was_stopped_goes_the_same_way(project: Path, undisturbed: Path, after: int) -> None:
    plan = plan_of(project, TUNED)

    def watch(progress: Any) -> None:
        if sum(bool(cell.trial) for cell, _, _ in progress.ended) >= after and not progress.stopping:
            progress.stopping = True
            raise KeyboardInterrupt

    stopped = run_cells(project, plan, watch=watch)
    assert stopped.states[plan.cells[1].spec_digest] == "to do"
    ended = {result.attempt_id for result in trials_of(project) if result.status == Status.DONE}
    assert len(ended) >= after
    run_cells(project, plan)
    again, whole = study_result(project), study_result(undisturbed)
    assert again.tuned == whole.tuned
    assert told(again) == told(whole)
    assert ended <= {trial.attempt_id for trial in again.trials}, "a finished trial was run again"
    final, first = (
        next(result for result in results_of(root) if result.tuned and not result.cell.study)
        for root in (project, undisturbed)
    )
    assert final.scores == first.scores
    count = len(results_of(project))
    run_cells(project, plan)
    assert len(results_of(project)) == count, "a finished study was begun again"


@pytest.mark.process
def test_trials_beside_each_other_change_nothing(project: Path, undisturbed: Path) -> None:
    run_cells(project, plan_of(project, TUNED), jobs=2)
    assert told(study_result(project)) == told(study_result(undisturbed))
    assert any(result.beside for result in trials_of(project))


@pytest.mark.process
def test_a_diverged_trial_is_told_as_failed_and_the_search_goes_on(project: Path) -> None:
    rates = "space: {learning_rate: [1.0e-3, 1.0e+30]}"
    plan = plan_of(project, TUNED.replace("batch: 2", f"batch: 2, sampler: random, {rates}"))
    progress = run_cells(project, plan)
    assert {progress.states[cell.spec_digest] for cell in plan.cells} == {Status.DONE}
    trials = study_result(project).trials
    assert len(trials) == 4
    for trial in trials:
        assert trial.status == ("diverged" if trial.params["learning_rate"] > 1 else "done")
    lost = [trial for trial in trials if trial.status == "diverged"]
    assert lost
    assert all("loss is" in trial.reason and trial.value is None for trial in lost)


@pytest.mark.process
def test_a_trial_that_lags_is_ended(project: Path) -> None:
    # Rates at which nothing moves, against one at which the tiny model is worse half-way than at its start.
    text = TUNED.replace("full: {}", "full: {learning_rate: 1e-9, space: {learning_rate: [1e-9, 2e-9, 3e-2]}}")
    text = text.replace("steps: 4", "steps: 24").replace("sizes: [8]", "sizes: [96]")
    how = "trials: 8, batch: 4, sampler: random, pruner: median, rungs: 1, metric: choice_cross_entropy"
    run_cells(project, plan_of(project, text.replace("trials: 4, batch: 2", how)))
    study = study_result(project)
    ended = [trial for trial in study.trials if trial.status == "pruned"]
    assert ended
    assert all(trial.params["learning_rate"] == 3e-2 for trial in ended)
    assert all(trial.number >= 4 for trial in ended)
    assert study.tuned["learning_rate"] < 1e-8
    kept = next(result for result in trials_of(project) if result.attempt_id == ended[0].attempt_id)
    assert kept.scores == ()
    assert [score["step"] for score in kept.intermediate] == [12]
    assert max(step.step for step in kept.steps) == 12


# --- studies by themselves: what their trials come to is made up ---


class Fake:
    """Runs a study's trials one after the other. `outcome` makes (status, score, seconds, tokens, bytes) of a cell."""

    def __init__(self, folder: Path, outcome: Callable[[Cell], tuple[str, float, float, int, int]]):
        self.folder, self.outcome = folder, outcome
        self.waiting: deque[Cell] = deque()
        self.ran: list[Cell] = []
        self.results: dict[str, CellResult] = {}
        self.done: dict[str, Path] = {}
        self.studies = Studies(lambda cell, study: self.waiting.append(cell), {}, self.finish, environment(1), "run")

    def finish(self, study: Cell, made: Callable[[str], CellResult]) -> None:
        result = made(f"study-{len(self.results)}")
        self.results[study.spec_digest] = result
        self.done[study.spec_digest] = self.keep(result)

    def keep(self, result: CellResult) -> Path:
        folder = self.folder / result.attempt_id
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result.to_json()))
        return folder

    def run(self, study: Cell) -> CellResult:
        self.studies.begin(study, self.done)
        while self.waiting:
            cell = self.waiting.popleft()
            self.ran.append(cell)
            status, score, seconds, tokens, size = self.outcome(cell)
            result = CellResult(
                f"trial-{len(self.ran)}", "run", cell, environment(1), Status(status), "made up",
                "2026-01-01T00:00:00+00:00",
                seconds=seconds,
                scores=(Score(cell.task, "task", "acc", score, 0.01, 30, True),) if status == "done" else (),
                phases=(Phase("train", seconds, tokens, rss_bytes=size),),
            )  # fmt: skip
            self.studies.take(result, self.keep(result))
        return self.results[study.spec_digest]


def study_in(plan: Any, label: str = "full", n_train: int = 8) -> Cell:
    return next(cell for cell in plan.cells if cell.study and (cell.label, cell.n_train) == (label, n_train))


def rate(cell: Cell) -> float:
    return float(cell.settings["learning_rate"])


def test_a_study_of_which_nothing_ends_well_fails_and_says_so(project: Path, tmp_path: Path) -> None:
    fake = Fake(tmp_path, lambda cell: ("oom", 0.0, 1.0, 10, 1))
    result = fake.run(study_in(plan_of(project, TUNED)))
    assert result.status is Status.FAILED
    assert result.reason == "none of 4 trials ended well; the first: oom: made up"
    assert [trial.status for trial in result.trials] == ["oom"] * 4
    skipped = Fake(tmp_path / "cache", lambda cell: ("skipped", 0.0, 0.0, 0, 0))
    assert skipped.run(study_in(plan_of(project, TUNED))).status is Status.SKIPPED


def test_a_setting_tried_twice_is_run_once_and_costs_nothing_again(project: Path, tmp_path: Path) -> None:
    text = TUNED.replace("full: {}", "full: {learning_rate: 1e-3, space: {learning_rate: [1e-3]}}")
    fake = Fake(tmp_path, lambda cell: ("done", 0.5, 1.0, 10, 1))
    result = fake.run(study_in(plan_of(project, text)))
    assert len(fake.ran) == 1
    assert [trial.seconds for trial in result.trials] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("budget", "unit"), [("seconds: 10", "seconds"), ("tokens: 1000", "tokens")])
def test_a_budget_is_overrun_by_the_last_trial_at_most(project: Path, tmp_path: Path, budget: str, unit: str) -> None:
    text = TUNED.replace("full: {}", "full: {}\n  lora: {}").replace("trials: 4, batch: 2", f"{budget}, batch: 3")
    plan = plan_of(project, text)
    fake = Fake(tmp_path, lambda cell: ("done", rate(cell), 3.0 if cell.method == "lora" else 1.5, 300, 1))
    for label, expected in (("full", 7 if unit == "seconds" else 4), ("lora", 4)):
        result = fake.run(study_in(plan, label))
        assert len(result.trials) == expected
        spent = [getattr(trial, unit) for trial in result.trials]
        most = float(budget.split()[1])
        assert sum(spent[:-1]) < most <= sum(spent)
        assert {fact.name: fact.value for fact in result.facts}[f"{unit}_spent"] == sum(spent)


def test_a_budget_that_nothing_costs_has_an_end(project: Path, tmp_path: Path) -> None:
    text = TUNED.replace("full: {}", "full: {learning_rate: 1e-3, space: {learning_rate: [1e-3, 2e-3]}}")
    repeats = Fake(tmp_path / "a", lambda cell: ("done", rate(cell), 1.0, 10, 1))
    result = repeats.run(study_in(plan_of(project, text.replace("trials: 4", "seconds: 100"))))
    assert result.status is Status.DONE
    assert len(repeats.ran) == 2
    failing = Fake(tmp_path / "b", lambda cell: ("oom", 0.0, 1.0, 0, 1))
    result = failing.run(study_in(plan_of(project, TUNED.replace("trials: 4", "tokens: 100"))))
    assert result.status is Status.FAILED
    assert len(result.trials) == 8


def test_a_start_that_failed_is_done_without(project: Path, tmp_path: Path) -> None:
    text = TUNED.replace("sizes: [8]", "sizes: [8, 16]").replace("batch: 2", "batch: 2, warm_start: true")
    plan = plan_of(project, text)
    fake = Fake(tmp_path, lambda cell: ("oom" if cell.n_train == 8 else "done", rate(cell), 1.0, 10, 1))
    assert fake.run(study_in(plan)).status is Status.FAILED
    fake.done.clear()  # as of a run: only what is done
    result = fake.run(study_in(plan, n_train=16))
    assert result.status is Status.DONE
    assert {trial.origin for trial in result.trials} == {"default", "sampler"}


def test_a_larger_size_starts_from_the_best_of_the_smaller(project: Path, tmp_path: Path) -> None:
    text = TUNED.replace("sizes: [8]", "sizes: [8, 16]").replace("batch: 2", "batch: 2, warm_start: true")
    plan = plan_of(project, text)
    fake = Fake(tmp_path, lambda cell: ("done", rate(cell), 1.0, 10, 1))
    small = fake.run(study_in(plan))
    large = fake.run(study_in(plan, n_train=16))
    assert large.trials[1].params == small.tuned
    assert large.trials[1].origin == "warm start"
    assert len(large.trials) == 4
    assert large.cell.needs == {"warm": small.cell.spec_digest}


def test_each_of_several_studies_has_trials_of_its_own_seed_and_is_resumed_by_itself(
    project: Path, tmp_path: Path
) -> None:
    text = TUNED.replace("seeds: [0]", "seeds: [0, 7]").replace("trials: 4", "trials: 4, studies: 2")
    first, second = [cell for cell in plan_of(project, text).cells if cell.study]
    fake = Fake(tmp_path, lambda cell: ("done", rate(cell), 1.0, 10, 1))
    results = [fake.run(study) for study in (first, second)]
    assert [cell.seed for cell in fake.ran] == [0] * 4 + [7] * 4
    tried = [[trial.params for trial in result.trials] for result in results]
    assert tried[0][0] == tried[1][0], "both begin with the label's own setting"
    assert tried[0][1:] != tried[1][1:], "another seed, another course"
    again = Fake(tmp_path / "again", fake.outcome)
    again.studies.ended |= {cell.spec_digest: tmp_path / f"trial-{place}" for place, cell in enumerate(fake.ran, 1)}
    assert told(again.run(second)) == told(results[1])
    assert again.ran == []


def test_two_goals_leave_a_front(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, TUNED.replace("trials: 4, batch: 2", "trials: 9, batch: 2, goals: [score, memory]"))
    fake = Fake(tmp_path, lambda cell: ("done", rate(cell), 1.0, 10, int(1e12 * rate(cell))))  # the better, the larger
    result = fake.run(study_in(plan))
    assert all(len(trial.merits) == 2 for trial in result.trials)
    assert all(trial.front for trial in result.trials)
    best = max(trial.merits[0] for trial in result.trials)
    chosen = next(trial for trial in result.trials if trial.params == result.tuned)
    assert chosen.merits[0] >= best - 0.01, "within a standard error of the best"
    assert chosen.merits[1] == max(trial.merits[1] for trial in result.trials if trial.merits[0] >= best - 0.01)


@pytest.mark.parametrize(("low", "high", "end"), [(1e-6, 1e-5, "high"), (1e-2, 1e-1, "low"), (1e-6, 1e-1, "")])
def test_the_best_value_at_the_end_of_a_space_is_flagged(
    project: Path, tmp_path: Path, low: float, high: float, end: str
) -> None:
    space = f"space: {{learning_rate: {{low: {low}, high: {high}}}}}"
    text = TUNED.replace("full: {}", f"full: {{learning_rate: {(low * high) ** 0.5}, {space}}}")
    fake = Fake(tmp_path, lambda cell: ("done", -abs(math.log(rate(cell) / 3e-4)), 1.0, 10, 1))
    result = fake.run(study_in(plan_of(project, text.replace("trials: 4", "trials: 24"))))
    flags = {flag.name: flag.evidence for flag in result.flags}
    assert flags.get("edge_of_space", {}).get("learning_rate", {}).get("end", "") == end


def test_a_choice_that_the_label_begins_with_is_no_edge(project: Path, tmp_path: Path) -> None:
    for default, flagged in (("4", False), ("2", True)):
        space = "space: {learning_rate: null, rank: [1, 2, 4]}"
        text = TUNED.replace("full: {}", f"lora: {{rank: {default}, {space}}}").replace("trials: 4", "trials: 12")
        fake = Fake(tmp_path / default, lambda cell: ("done", float(cell.settings["rank"]), 1.0, 10, 1))
        result = fake.run(study_in(plan_of(project, text), "lora"))
        assert result.tuned == {"rank": 4}
        assert bool(result.flags) is flagged


def test_a_trial_whose_process_was_lost_is_started_once_more(project: Path, tmp_path: Path) -> None:
    losses = {"t00": 1, "t02": 2}  # how often each is lost

    def outcome(cell: Cell) -> tuple[str, float, float, int, int]:
        name = cell.key[-3:]
        losses[name] = losses.get(name, 0) - 1
        return ("done" if losses[name] < 0 else "interrupted"), 0.5, 1.0, 10, 1

    fake = Fake(tmp_path, outcome)
    result = fake.run(study_in(plan_of(project, TUNED)))
    assert result.status is Status.INTERRUPTED
    assert result.reason == "trial 2 was interrupted: made up"
    assert [cell.key[-3:] for cell in fake.ran] == ["t00", "t01", "t00", "t02", "t03", "t02"]


def test_a_metric_that_the_task_does_not_have_is_named(project: Path, tmp_path: Path) -> None:
    fake = Fake(tmp_path, lambda cell: ("done", 0.5, 1.0, 10, 1))
    result = fake.run(study_in(plan_of(project, TUNED.replace("batch: 2", "batch: 2, metric: f1"))))
    assert "colours has no metric 'f1', it has acc" in result.reason
