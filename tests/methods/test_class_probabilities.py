"""What gives class probabilities has no texts of choices to divide by the length of."""

import math
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tools import plan_of, run_here

from harness.data.tasks import load_task
from harness.methods.predictors import classifier_lm, prompted_lm
from harness.worker.evaluate import evaluate

NAMED = "blue, a very long name of a colour that is seldom right"
SUITE = """\
version: 1
models: [tiny]
tasks: [{{learn: colours, sizes: [8]}}]
methods: {{x: {label}}}
train: {{steps: 2, batch_size: 4}}
"""
LABELS = [
    "{method: linear_probe}",
    "{method: classifier}",
    "{method: setfit, encoder: tiny-encoder}",
    "{method: prompting, examples: 2}",
]


@pytest.fixture
def normed(encoding_project: Path) -> Path:
    """The project's colours, one of which has a long name, scored by length as well."""
    path = encoding_project / "suites" / "tasks" / "colours.yaml"
    text = path.read_text().replace("aggregation: mean, higher_is_better: true}", "aggregation: mean}")
    text = text.replace("doc_to_choice: [blue,", f'doc_to_choice: ["{NAMED}",')
    text = text.replace(
        "doc_to_target: colour", f"doc_to_target: \"{{{{'{NAMED}' if colour == 'blue' else colour}}}}\""
    )
    path.write_text(text + "  - {metric: acc_norm, aggregation: mean}\n  - {metric: acc_bytes, aggregation: mean}\n")
    return encoding_project


class Even(LM):
    """A language model that dislikes any answer, and a long one a little more."""

    max_length = 10_000

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-5 - 0.05 * len(request.args[1]), False) for request in requests]

    def tok_encode(self, text: str) -> list[int]:
        return [*map(ord, text)]

    loglikelihood_rolling = generate_until = loglikelihood


def scored(project: Path, lm: Any) -> dict[str, list[float]]:
    """metric -> the value of each item."""
    task = load_task(project / "suites" / "tasks" / "colours.yaml")
    scores, items, _ = evaluate(lm, {"colours": task}, {"colours": "task"})
    values = {name: [item.value for item in items if item.metric == name] for name in ("acc", "acc_norm", "acc_bytes")}
    for score in scores:
        if score.metric in values:
            assert sum(values[score.metric]) / score.n == pytest.approx(score.value)
    return values


def test_a_classifier_is_not_divided_by_the_length_of_a_name(normed: Path) -> None:
    def sure(texts: list[str]) -> list[list[float]]:
        things = {"sky": 0, "sea": 0, "ink": 0, "jeans": 0, "leaf": 1, "moss": 1}
        right = [things.get(text.split("\n")[0].split()[-1], 2) for text in texts]
        return [[0.8 if place == one else 0.1 for place in range(3)] for one in right]

    values = scored(normed, classifier_lm([NAMED, "green", "red"], sure))
    assert values["acc"] == values["acc_norm"] == values["acc_bytes"] == [1] * 30


def test_a_language_model_is(normed: Path) -> None:
    values = scored(normed, Even())
    assert values["acc"] != values["acc_norm"]


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_prompted_model_is_not_where_it_is_calibrated(normed: Path, calibrated: bool) -> None:
    references = ["Text: Ada\nColour:", "Text: Ben sees\nColour:"] if calibrated else []
    lm = prompted_lm(Even(), "colours", lambda asked: [[]] * len(asked), lambda kept, text, _: text, str, references)
    values = scored(normed, lm)
    assert (values["acc"] == values["acc_norm"] == values["acc_bytes"]) is calibrated


@pytest.mark.parametrize("label", LABELS)
def test_as_a_cell(normed: Path, tmp_path: Path, label: str) -> None:
    plan = plan_of(normed, SUITE.format(label=label))
    result = run_here(plan, next(cell for cell in plan.cells if cell.label == "x"), tmp_path / "results" / "a" / "x")
    assert result.status == "done", result.reason
    values = {score.metric: score.value for score in result.scores}
    assert values["acc"] == values["acc_norm"] == values["acc_bytes"]
    assert math.isfinite(values["choice_cross_entropy"])
