"""Differences that no probe shows are traced to their package by cells: end to end, by pip, in Pythons of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import plan_of
from wheels import doctored

from harness.analysis.regression import Difference
from harness.execute.attribution import Bisection
from harness.execute.cell_reading import CellReader
from harness.execute.environments import Between, make_environment
from harness.suite import parse_request

SUITE = """\
version: 1
models: [tiny]
tasks: [{learn: colours, sizes: [8]}]
methods: {lora: {learning_rate: 1e-2}}
train: {steps: 12, batch_size: 4}
"""
LAYER = "peft/tuners/lora/layer.py"
FORWARD = "            result = self.base_layer(x, *args, **kwargs)\n            torch_result_dtype"
SLOW = FORWARD.replace("            torch", "            __import__('time').sleep(0.004)\n            torch")
ABSENT = "        self.scaling[adapter_name] = lora_alpha / r\n"
FAILS = "        raise RuntimeError('this release trains nothing')\n"


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("old", "new", "metric"), [(FORWARD, SLOW, "train_seconds"), (ABSENT, FAILS, "ends well")], ids=["slower", "fails"]
)
def test_the_guilty_package_is_named(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, metric: str
) -> None:
    plan = plan_of(project, SUITE)
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    wheels = [doctored(tmp_path, "peft", "0.99.0", LAYER, old, new)]
    wheels += [doctored(tmp_path, name, "99.0", "", "", "") for name in ("rouge_score", "sacrebleu")]
    ends = [make_environment(parse_request(text), 1) for text in ("current", ",".join(map(str, wheels)))]
    (spec,) = (cell.spec_digest for cell in plan.cells if cell.label == "lora")
    timed = metric == "train_seconds"
    difference = Difference("lora", metric, (spec,), cost=timed, timed=timed, failure=not timed)
    tried: list[str] = []
    with CellReader(*ends, [difference], plan, project, 1) as reader:
        (found,) = Bisection(Between(*ends, 1), reader, tried.append).attribute()
    assert found.cause.changes == ("peft",)
    assert set(found.cause.cleared) == {"rouge-score", "sacrebleu"}
    assert found.keys == (("lora", metric),)
    assert tried == ["trying peft"]
    assert not (project / "results" / "attempts").exists(), "what was tried is thrown away"
