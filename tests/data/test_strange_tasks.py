"""Task YAMLs with mistakes that lm-eval and PyYAML meet with an exception of their own."""

from pathlib import Path

import pytest

from harness.data import tasks
from harness.errors import TaskError


@pytest.mark.parametrize("key", ["training_split", "validation_split", "test_split", "fewshot_split"])
def test_a_split_that_the_data_do_not_have_is_named(project: Path, key: str) -> None:
    path = project / "suites" / "tasks" / "colours.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join([*lines, f"{key}: validations"]) + "\n")
    said = f"'colours'.*{key}: unknown split 'validations'. Did you mean 'validation'. Known: test, train, validation"
    with pytest.raises(TaskError, match=said):
        tasks.load_task(path)


def test_keys_that_are_no_text_are_told_apart(project: Path) -> None:
    path = project / "suites" / "tasks" / "colours.yaml"
    whole = path.read_text()
    found = set()
    for key in ("true", "'true'", "1", "null"):
        path.write_text(f"{whole}\nmetadata: {{version: 1.0}}\ngeneration_kwargs: {{a: 1, {key}: 1}}\n")
        found.add(tasks.fingerprint(path, tasks.load_task(path), ()))
    assert len(found) == 4
