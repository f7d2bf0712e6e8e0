"""What a model's chat template demands is found by trying it, not when a cell asks through it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.data.chat_templates import chat_template, demands_system
from harness.data.facts import Facts, ModelFacts, TaskFacts
from harness.plan.feasibility import curriculum_mismatches
from harness.suite.load import load_suite

PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
DEMANDS = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message comes first') }}{% endif %}" + PLAIN
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + PLAIN
BROKEN = "{{ raise_exception('never') }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (PLAIN, ""),
        (DEMANDS, "a system message comes first"),
        (REFUSES, ""),
        (BROKEN, ""),
        ("{% if", ""),
        ("", ""),
        ("{{ strftime_now('%Y') }}{% for m in messages %}{% break %}{% endfor %}{{ tools|tojson }}", ""),
    ],
)
def test_a_system_message_is_demanded_where_nothing_else_will_do(template: str, said: str) -> None:
    assert demands_system(template) == said


def test_the_template_is_found_wherever_a_tokenizer_keeps_it(tmp_path: Path) -> None:
    assert chat_template(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text("[]")
    assert chat_template(tmp_path) == ""
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert chat_template(tmp_path) == "d"
    (tmp_path / "chat_template.jinja").write_text("j")
    assert chat_template(tmp_path) == "j"


@pytest.mark.parametrize("described", [False, True])
def test_a_curriculum_that_chats_is_refused_where_a_system_message_is_missing(tmp_path: Path, described: bool) -> None:
    (tmp_path / "s.yaml").write_text(
        "version: 1\nmodels: [smollm2-135m]\ntasks: [{learn: bbc-topic, sizes: [8]}]\n"
        "methods: {x: {method: lora, curriculum: {instruction: {}}}}\n"
    )
    suite = load_suite(tmp_path / "s.yaml")
    facts = Facts(
        {"smollm2-135m": ModelFacts("smollm2-135m", "f", ".", chat=True, chat_demand="system first")},
        {"bbc-topic": TaskFacts("bbc-topic", "b.yaml", "f", "multiple_choice", 90, 9, 9, described=described)},
    )
    found = [*curriculum_mismatches(suite.labels[-1], "bbc-topic", 8, suite, facts)]
    assert len(found) == (0 if described else 1)
    assert described or "demands a system message (system first), which 'bbc-topic' has none of" in found[0]
