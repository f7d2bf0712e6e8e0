"""A task's own answer, as it is taught, scores best; or the task is refused with what to change."""

from pathlib import Path

import pytest

from harness.data import answers, code_of, sampling, tasks, trust
from harness.data.catalog import load_catalog
from harness.errors import SuiteError

NAMES = {
    "task": "written",
    "custom_dataset": "!function harness.data.splits.documents",
    "dataset_kwargs": "{source: 'file:colours.csv', label: colour, unique: [text], test: 30, validation: 30}",
    "training_split": "train",
    "validation_split": "validation",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": '"Text: {{text}}\\nColour:"',
    "doc_to_target": "colour",
    "generation_kwargs": '{until: ["\\n"], max_gen_toks: 4}',
    "metric_list": "[{metric: exact_match, aggregation: mean, higher_is_better: true}]",
}
FUNCTIONS = """
def other_form(doc, results):
    return {"points": float(results[0] == doc["colour"].upper())}

def graded(doc, results):
    return {"points": 3.0 * (results[0] == doc["colour"]) + 2.0}

def errors(doc, results):
    return {"errors": float(results[0] != doc["colour"].upper())}

def pieces(doc, results):
    return {"other": 0.0, "points": float(results[0] == doc["colour"])}
"""


def points(function: str, metric: str = "points", higher: str = "true") -> dict[str, str]:
    return {
        "process_results": f"!function written.{function}",
        "metric_list": f"[{{metric: {metric}, aggregation: mean, higher_is_better: {higher}}}]",
    }


def written(project: Path, **lines: str) -> Path:
    """A task of generated text whose YAML has these lines in place of the usual ones."""
    path = project / "suites" / "tasks" / "written.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**NAMES, **lines}.items()))
    path.with_suffix(".py").write_text(FUNCTIONS)
    trust.grant([code_of(path)])
    return path


def reason(project: Path, **lines: str) -> str:
    written(project, **lines)
    return tasks.prepare(load_catalog(project), "written").unlearnable


GOOD = {
    "the default delimiter": {},
    "no delimiter": {"target_delimiter": '""'},
    "another blank": {"target_delimiter": '"\\n"', "generation_kwargs": '{until: ["\\n\\n"]}'},
    "a sign": {"target_delimiter": '" => "'},
    "a filter": {"filter_list": "[{name: low, filter: [{function: lowercase}, {function: take_first}]}]"},
    "several answers": {
        "repeats": "2",
        "filter_list": "[{name: two, filter: [{function: take_first_k, k: 2}, {function: majority_vote}, "
        "{function: take_first}]}]",
    },
    "a value for all together": {"metric_list": "[{metric: chrf}]"},
    "a metric with a scale of its own": points("graded"),
    "a metric that is not handed over first": points("pieces"),
    "a number of a choice": {"doc_to_choice": "[red, blue]", "doc_to_target": "\"{{1 if colour == 'blue' else 0}}\""},
}  # fmt: skip
BAD = {
    "the delimiter stops it": (
        {"target_delimiter": '"\\n"'},
        r"in 750 of 750 .*is taught '\\n(red|blue|green)'; scoring got '' and wanted '(red|blue|green)', which gives "
        r"exact_match 0 where the best is 1.*holds the stop sequence '\\n'",
    ),
    "it holds a stop": ({"generation_kwargs": '{until: ["e"]}'}, r"holds the stop sequence 'e'"),
    "a filter misses it": (
        {
            "filter_list": "[{name: n, filter: [{function: regex, regex_pattern: '(\\d+)'}, {function: take_first}]}]"
        },
        r"scoring got '\[invalid\]' and wanted .*mend filter_list",
    ),
    "the metric wants another form": (points("other_form"), r"gives points 0 .*wrong answer.*scores 0 too"),
    "errors": (points("errors", "errors", "false"), r"gives errors 1 .*scores 1 too"),
    "all together": (
        {"metric_list": "[{metric: chrf}]", "generation_kwargs": '{until: ["e"]}'},
        r"all taken together, where the best is 100",
    ),
    "a choice by its text": ({"doc_to_choice": "[blue, green, red]"}, r"takes it for the number of a choice"),
}  # fmt: skip


@pytest.mark.parametrize("lines", GOOD.values(), ids=GOOD)
def test_a_task_whose_own_answers_score_best_is_taken(project: Path, lines: dict[str, str]) -> None:
    assert reason(project, **lines) == ""


@pytest.mark.parametrize(("lines", "says"), BAD.values(), ids=BAD)
def test_a_task_whose_own_answers_do_not_is_refused(project: Path, lines: dict[str, str], says: str) -> None:
    import re

    assert re.search(says, reason(project, **lines), re.S)


def test_a_reward_is_what_scoring_gives(project: Path) -> None:
    task = tasks.load_task(written(project))
    for example in sampling.examples(task, n=4):
        assert tasks.mark(task, example, f"{example.target}\nText: and on") == 1
        assert tasks.mark(task, example, example.target.strip()) == 1
        assert tasks.mark(task, example, " yellow") == 0


def test_the_first_metric_is_the_yamls_first(project: Path) -> None:
    task = tasks.load_task(written(project, **points("pieces")))
    document = next(iter(task.eval_docs))
    assert answers.written_score(task, document, f" {document['colour']}", " ") == ("points", 1.0)


def test_check_names_the_line_of_a_task_that_cannot_score_its_own_answers(project: Path) -> None:
    from tools import plan_of

    written(project, target_delimiter='"\\n"')
    text = (project / "suites" / "small.yaml").read_text().replace("learn: colours", "learn: written")
    with pytest.raises(SuiteError, match=r"small\.yaml:\d+: task 'written' cannot be learned: its own right answer"):
        plan_of(project, text)
