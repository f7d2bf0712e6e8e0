"""What does not fit into a model's window is refused before anything runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from tools import plan_of

from harness.architecture import SAMPLE
from harness.data import Facts, LengthFacts, ModelFacts, TaskFacts
from harness.data.answer_room import NAMES, answer_tokens
from harness.errors import SuiteError
from harness.methods import all_methods
from harness.plan.windows import misfits

SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
retain: [names]
methods:
  base: {}
  soft: {method: prompt_tuning, init: random, virtual_tokens: 20}
train: {steps: 2}
"""
TASK = TaskFacts("written", "", "", "generate_until", 1, 1, 1)


def said(label: str, settings: dict[str, object], task: TaskFacts, positions: int | None, folder: Path) -> str:
    """What is wrong with a method, on a model of so many positions, for one task."""
    config = dict(SAMPLE.config) | ({"max_position_embeddings": positions} if positions else {})
    model = ModelFacts("small", "", str(folder), network=replace(SAMPLE, config=config))
    lengths = {("small", task.name): LengthFacts("small", task.name, (), 0, (9,), 40, 1)}
    facts = Facts({"small": model}, {task.name: task}, lengths)
    return " ".join(misfits(all_methods()[label](**settings), [task.name], model, facts))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_length_counts(name: str) -> None:
    assert answer_tokens({name: 17, "until": ["x"]}) == 17
    assert answer_tokens({"until": ["x"]}) == 256


def test_an_answer_as_long_as_the_window_is_refused(tmp_path: Path) -> None:
    for label, settings, most in (
        ("base", {}, 255), ("prefix_tuning", {"virtual_tokens": 16}, 239), ("p_tuning", {"virtual_tokens": 100}, 155),
    ):  # fmt: skip
        assert not said(label, settings, replace(TASK, answer_tokens=most), 256, tmp_path)
        message = said(label, settings, replace(TASK, answer_tokens=most + 1), 256, tmp_path)
        assert f"answers of up to {most + 1} tokens" in message
        assert f"of at most {most}," in message
        assert "small holds 256 tokens" in message


def test_a_model_without_a_bound_takes_its_tokenizers(tmp_path: Path) -> None:
    task = replace(TASK, answer_tokens=600)
    assert not said("base", {}, task, None, tmp_path / "none")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    assert "small holds 512 tokens" in said("base", {}, task, None, tmp_path)


def test_a_choice_longer_than_the_window_is_refused(tmp_path: Path) -> None:
    choices = replace(TASK, output_type="multiple_choice")
    assert "an answer to score of 40 tokens" in said("base", {}, choices, 32, tmp_path)
    assert not said("base", {}, choices, 40, tmp_path)


def test_check_decides_it(project: Path) -> None:
    path = project / "suites" / "tasks" / "names.yaml"
    text = path.read_text()
    path.write_text(text.replace("max_gen_toks: 4", "max_new_tokens: 240"))
    with pytest.raises(SuiteError) as caught:
        plan_of(project, SUITE)
    (problem,) = caught.value.problems
    assert "label 'soft': task 'names' wants answers of up to 240 tokens" in problem.message
    assert "20 virtual tokens of prompt_tuning stand before them" in problem.message
    with pytest.raises(SuiteError, match="init_text is .* tokens long, virtual_tokens is 2"):
        plan_of(project, SUITE.replace("init: random, virtual_tokens: 20", "virtual_tokens: 2"))
