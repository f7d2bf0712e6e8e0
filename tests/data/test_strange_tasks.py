"""Task YAMLs with mistakes that lm-eval and PyYAML meet with an exception of their own."""

from pathlib import Path

import pytest
from commands import refused, tunebench

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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{max_gen_toks: [null]}", r"max_gen_toks: got \[None\], wanted a whole number of at least 1"),
        ("{max_gen_toks: 0}", "max_gen_toks: got 0, wanted"),
        ("{until: {a: 1}}", "until: got {'a': 1}, wanted a text or a list of texts"),
        ("{until: [1]}", r"until: got \[1\], wanted"),
        ("{do_sample: maybe}", "do_sample: got 'maybe', wanted true or false"),
        ("{temperature: .nan}", "temperature: got nan, wanted a number of at least 0.0"),
        ("{max_new_tokens: many}", "max_new_tokens: got 'many', wanted a whole number of at least 1"),
        ("{max_gen_toks: 4, max_tokens: 8}", "max_gen_toks: 4 and max_tokens: 8 both say how many tokens"),
        ("{max_length: 40}", "max_length: 40 counts the tokens of the question too.*Give max_gen_toks"),
        ("{max_new_tokens: 4, min_new_tokens: 5}", "min_new_tokens: 5 is more than an answer may have, 4 tokens"),
        ("{max_gen_tok: 4}", "unknown key 'max_gen_tok'. Did you mean 'max_gen_toks'"),
        ("{use_cache: false}", "unknown key 'use_cache'"),
        ("{num_beams: 0}", "num_beams: got 0, wanted a whole number of at least 1"),
        ("{top_p: 1.5}", "top_p: got 1.5, wanted a number from 0.0 to 1.0"),
        (f"{{top_k: {'k' * 400}}}", "top_k: got 'k{99}…, wanted"),
    ],
)
def test_how_to_generate_is_checked_before_anything_is_scored(project: Path, options: str, said: str) -> None:
    path = project / "suites" / "tasks" / "names.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("generation_kwargs:")]
    path.write_text("\n".join([*lines, f"generation_kwargs: {options}"]) + "\n")
    with pytest.raises(TaskError, match=f"'names'.*generation_kwargs: {said}"):
        tasks.load_task(path)


@pytest.mark.parametrize("name", ["doc_to_text", "doc_to_choice", "doc_to_target"])
def test_a_template_that_fails_is_told_with_its_task(project: Path, name: str) -> None:
    path = project / "suites" / "tasks" / "colours.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}:")]
    path.write_text("\n".join([*lines, f"{name}: '{{{{text[colour].x(1)}}}}'"]) + "\n")
    refused(tunebench("fetch", "small"), "task 'colours' (")


def test_what_nobody_could_read_is_cut(project: Path) -> None:
    suite = project / "suites" / "small.yaml"
    suite.write_text(suite.read_text().replace("version: 1", f"version: {'y' * 4000}\n{'k' * 900}: 1"))
    done = tunebench("check", "small")
    refused(done, "version: got 'yyy")
    assert "… (4" in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 1000
