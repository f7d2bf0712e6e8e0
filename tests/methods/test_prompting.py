"""Prompts: what stands before a question, for which requests, and what gives way in a short window."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tools import cell_named, context_of, plan_of, run_here

from harness.data.tasks import Example
from harness.errors import SuiteError
from harness.methods import all_methods
from harness.methods.predictors import prompted_lm
from harness.records import CellResult
from harness.store.files import ITEMS
from harness.worker.context import CellContext

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {{learn: {task}, sizes: [9]}}
retain: [prose]
methods:
  x: {label}
train: {{steps: 4, batch_size: 4}}
"""


class Recorder:
    """A language model that notes what it is asked. A character is a token."""

    max_length = 60
    max_gen_toks = 5
    scored_tokens = 7

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def tok_encode(self, text: str) -> list[int]:
        return [0] * len(text)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += [request.args for request in requests]
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        self.asked += [request.args for request in requests]
        return [0.0] * len(requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += [request.args for request in requests]
        return [""] * len(requests)


def asking(task: str, *arguments: Any, kind: Any = "loglikelihood") -> Instance:
    return Instance(kind, {}, arguments, 0, (task, 0, 1))


def prompted(recorder: Recorder, parts: list[str]) -> Any:
    return prompted_lm(
        recorder,
        "mine",
        lambda questions: [parts] * len(questions),
        lambda kept, question, choices: "|".join([*kept, ",".join(choices), question]),
    )


def test_only_the_cells_own_questions_are_rewritten() -> None:
    recorder = Recorder()
    lm = prompted(recorder, ["one"])
    lm.loglikelihood(
        [asking("mine", "Q", " a"), asking("mine", "Q", " b"), asking("other", "Q", " a"), asking("mine", "", " a")]
    )
    assert recorder.asked == [("one|a,b|Q", " a"), ("one|a,b|Q", " b"), ("Q", " a"), ("", " a")]
    recorder.asked.clear()
    lm.loglikelihood_rolling([asking("mine", "running text", kind="loglikelihood_rolling")])
    lm.generate_until([asking("mine", "Q", {"until": ["."]}), asking("other", "Q", {"until": []})])
    assert recorder.asked == [("running text",), ("one||Q", {"until": ["."]}), ("Q", {"until": []})]
    assert lm.scored_tokens == 7


def test_a_single_answer_is_never_told() -> None:
    recorder = Recorder()
    prompted(recorder, []).loglikelihood([asking("mine", "Q", " the answer")])
    assert recorder.asked == [("|Q", " the answer")]


@pytest.mark.parametrize(("length", "kept"), [(5, 3), (18, 3), (19, 2), (28, 2), (29, 1), (38, 1), (39, 0), (100, 0)])
def test_a_short_window_loses_the_last_examples_and_never_the_question(length: int, kept: int) -> None:
    recorder, question = Recorder(), "q" * length
    parts = ["A" * 9, "B" * 9, "C" * 9]
    prompted(recorder, parts).loglikelihood([asking("mine", question, " x"), asking("mine", question, " yyyy")])
    text = "|".join([*parts[:kept], "x,yyyy", question])
    assert [asked[0] for asked in recorder.asked] == [text] * 2
    assert kept == 0 or len(text) + len(" yyyy") <= recorder.max_length


def test_generation_leaves_room_for_the_answer() -> None:
    recorder = Recorder()
    lm = prompted(recorder, ["A" * 20, "B" * 20])
    lm.generate_until([asking("mine", "q" * 11, {}), asking("mine", "r" * 12, {"max_gen_toks": 10})])
    assert [asked[0].count("B") for asked in recorder.asked] == [20, 0]


FOUND = [Example(f"Q{place}", f" {answer}", False) for place, answer in enumerate("aaabbc")]


class Lent:
    """A context without a model."""

    def __init__(self, found: list[Example], seed: int = 0):
        self.found, self.seed = found, seed

    def examples(self) -> list[Example]:
        return self.found


@pytest.mark.parametrize(("pick", "shown"), [("fixed", "aaab"), ("balanced", "aabc")])
def test_examples_are_picked_in_order_or_in_turn(pick: str, shown: str) -> None:
    method = all_methods()["prompting"](examples=4, pick=pick)
    method.fit(None, Lent(FOUND))
    assert sorted(answer for _, answer in method._shown) == [f" {letter}" for letter in shown]
    method.fit(None, Lent(FOUND[:2]))
    assert len(method._shown) == 2


def test_the_seed_draws_their_order_which_is_no_pattern() -> None:
    orders = set()
    for seed in range(8):
        method = all_methods()["prompting"](examples=6)
        method.fit(None, Lent(FOUND, seed))
        orders.add(tuple(method._shown))
        again = all_methods()["prompting"](examples=6)
        again.fit(None, Lent(FOUND, seed))
        assert again._shown == method._shown
    assert len(orders) > 4


def test_a_prior_is_taken_off_where_all_questions_offer_the_same() -> None:
    """log p(y|x) - log mean p(y|x') over the references, by hand."""

    class Biased(Recorder):
        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            chances = {("Q", " a"): 0.9, ("Q", " b"): 0.1, ("R", " a"): 0.8, ("R", " b"): 0.2, ("S", " a"): 0.6}
            return [(math.log(chances.get(request.args, 0.4)), False) for request in requests]

    def lm(references: list[str]) -> Any:
        return prompted_lm(
            Biased(), "mine", lambda asked: [[]] * len(asked), lambda kept, question, _: question, str, references
        )

    asked = [asking("mine", "Q", " a"), asking("mine", "Q", " b"), asking("other", "Q", " a")]
    values = [value for value, _ in lm(["R", "S"]).loglikelihood(asked)]
    assert values == pytest.approx([math.log(0.9 / 0.7), math.log(0.1 / 0.3), math.log(0.9)])
    plain = [math.log(0.9), math.log(0.1), math.log(0.9)]
    assert [value for value, _ in lm([]).loglikelihood(asked)] == pytest.approx(plain)
    differing = [*asked, asking("mine", "T", " c"), asking("mine", "T", " d")]
    assert [value for value, _ in lm(["R", "S"]).loglikelihood(differing)][:3] == pytest.approx(plain)


def test_how_a_prompt_is_written() -> None:
    method = all_methods()["prompting"](instruction="Say {choices}.", separator="\n")
    shown = [("Q1", " a"), ("Q2", " b")]
    assert method._write(None, shown, "Q3", ["a", "b"]) == "Say a, b.\nQ1 a\nQ2 b\nQ3"
    with pytest.raises(ValueError, match="questions offer none"):
        method._write(None, shown, "Q3", [])
    plain = all_methods()["prompting"](instruction="", separator="\n")
    assert plain._write(None, [], "Q3", []) == "Q3"


def test_a_chat_has_examples_as_turns() -> None:
    class Template:
        def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool) -> Any:
            assert (tokenize, add_generation_prompt) == (False, True)
            return [(message["role"], message["content"]) for message in messages]

    method = all_methods()["prompting"](instruction="Do.", chat=True, separator=" ")
    method._write(Template(), [("Q1", " a")], "Q2", [])
    turns: Any = method._write(Template(), [("Q1", " a")], "Q2", [])
    assert turns == str([("user", "Do. Q1"), ("assistant", "a"), ("user", "Q2")])


def cell(project: Path, folder: Path, label: str, task: str = "colours") -> CellResult:
    plan = plan_of(project, SUITE.format(label=label, task=task))
    made = run_here(plan, next(one for one in plan.cells if one.label == "x"), folder / "results" / "attempts" / "x")
    assert made.status == "done", made.reason
    return made


def values(result: CellResult, metric: str) -> float:
    return next(score.value for score in result.scores if score.metric == metric)


def test_a_cell_with_examples_has_a_size_and_a_seed_and_trains_nothing(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label="{method: prompting}", task="colours"))
    base = run_here(plan, cell_named(plan, "base/tiny/colours"), tmp_path / "results" / "attempts" / "base")
    made = cell(project, tmp_path, "{method: prompting}")
    assert (made.cell.key, made.cell.seed) == ("x/tiny/colours/n9/s0", 0)
    assert [phase.phase for phase in made.phases] == ["load", "train", "evaluate", "compare", "save", "infer"]
    assert {fact.name: fact.value for fact in made.facts}["trainable_params"] == 0
    assert values(made, "log_likelihood_per_word") == values(base, "log_likelihood_per_word")
    assert values(made, "kl_to_base") == 0.0  # running text is put to the model as it is
    assert values(made, "choice_cross_entropy") != values(base, "choice_cross_entropy")


def test_without_examples_it_has_neither(project: Path, tmp_path: Path) -> None:
    made = cell(project, tmp_path, "{method: prompting, examples: 0}")
    assert (made.cell.key, made.cell.seed, made.cell.n_train) == ("x/tiny/colours", None, 0)
    assert [phase.phase for phase in made.phases] == ["load", "evaluate", "compare", "save", "infer"]


def test_generated_answers_too(project: Path, tmp_path: Path) -> None:
    made = cell(project, tmp_path, "{method: prompting, instruction: 'Name it.'}", "names")
    assert {score.metric for score in made.scores} >= {"exact_match"}


def answers(work: CellContext) -> list[tuple[float, bool]]:
    """What the predictor says of the first test questions."""
    from harness.data.tasks import load_task

    (path,) = (Path(path) for name, path in work.job.tasks.items() if name == work.task)
    task = load_task(path)
    asked = [
        asking(work.task, task.doc_to_text(document), f" {choice}")
        for document in list(task.test_docs())[:3]
        for choice in ("red", "blue", "green")
    ]
    lm = work.method.predictor(work.load_model(), work)
    return lm.loglikelihood(asked)


def test_what_it_saves_is_restored(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE.format(label="{method: prompting}", task="colours"))
    work = context_of(plan, cell_named(plan, "x/tiny/colours/n9/s0"), tmp_path / "attempts" / "x")
    model = work.method.fit(work.method.load(work), work)
    said = answers(work)
    work.method.save(model, tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["examples.json"]
    other = all_methods()["prompting"](**work.method.settings)
    restored = other.restore(work, tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), restored.parameters(), strict=True))
    work.recipe = replace(work.recipe, method=other)
    assert answers(work) == said


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("{method: prompting, examples: -1}", "examples is -1"),
        ("{method: prompting, examples: 0, instruction: ' '}", "it is the base model"),
        ("{method: prompting, curriculum: single}", "prompting trains nothing"),
        ("{method: prompting, pick: best}", "pick: got 'best'"),
        ("{method: [prompting, rag]}", "both decide how answers are found"),
    ],
)
def test_what_cannot_be(project: Path, label: str, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        plan_of(project, SUITE.format(label=label, task="colours"))


def test_items_keep_the_plain_question(project: Path, tmp_path: Path) -> None:
    """What is stored of an item is the task's question, so that items of all methods are paired."""
    import pyarrow.parquet as pq

    cell(project, tmp_path, "{method: prompting}")
    kept = [
        row["text"]
        for path in (tmp_path / "results" / "documents").iterdir()
        for row in pq.read_table(path).to_pylist()
    ]
    assert kept
    assert not any("Answer with" in text for text in kept)
    assert (tmp_path / "results" / "attempts" / "x" / ITEMS).exists()


def test_what_stands_before_every_question_is_run_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.worker import evaluate

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    shown = "Text: Ada sees the sky\nColour: blue\nText: Ben draws the leaf\nColour: green\n"

    def lm(constant: bool) -> Any:
        inner = evaluate.TunedLM(model, AutoTokenizer.from_pretrained(tiny_model), 4)
        return prompted_lm(
            inner,
            "mine",
            lambda asked: [[]] * len(asked),
            lambda kept, question, _: shown + question,
            str,
            (),
            constant,
        )

    questions = ["Text: Eva likes the rose\nColour:", "Text: Gus buys the ink\nColour:", "Cleo wants the moss:"]
    asked = [asking("mine", question, word) for question in questions for word in (" red", " blue and green")]
    plain, cached = lm(False), lm(True)
    ones = [value for value, _ in plain.loglikelihood(asked)]
    runs = []
    once = evaluate.text_run_once
    monkeypatch.setattr(evaluate, "text_run_once", lambda *given: runs.append(given) or once(*given))
    assert [value for value, _ in cached.loglikelihood(asked)] == pytest.approx(ones, rel=1e-4)
    with cached.ready():
        for place in (0, 2, 4):
            alone = [value for value, _ in cached.loglikelihood(asked[place : place + 2])]
            assert alone == pytest.approx(ones[place : place + 2], rel=1e-4)
    assert len(runs) == 1
    assert cached.scored_tokens < plain.scored_tokens
    odd = asking("other", "Ada", " sees")  # begins with something else
    assert cached.loglikelihood([odd])[0][0] == pytest.approx(plain.loglikelihood([odd])[0][0], rel=1e-4)
