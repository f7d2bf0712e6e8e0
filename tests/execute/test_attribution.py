"""A doctored release among packages that changed at once is named, and the innocent are cleared: end to end, by pip, in
Pythons of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wheels import doctored

from harness.analysis import probe_changes
from harness.environment import version_of
from harness.execute.attribution import Bisection, ProbeReader
from harness.execute.environments import Between, make_environment
from harness.execute.probing import ProbeRequest, probe, run_probes
from harness.suite import parse_request

LABELS = (("lora", "lora", "{}"), ("full", "full", "{}"))


@pytest.mark.slow
@pytest.mark.process
def test_the_guilty_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    request = ProbeRequest("x", LABELS, (), libraries=False)
    guilty = doctored(
        tmp_path, "peft", "0.99.0", "peft/tuners/lora/layer.py",
        "self.scaling[adapter_name] = lora_alpha / r\n", "self.scaling[adapter_name] = 0.5 * lora_alpha / r\n",
    )  # fmt: skip
    wheels = [guilty, *(doctored(tmp_path, name, "99.0", "", "", "") for name in ("rouge_score", "sacrebleu"))]
    old = make_environment(parse_request("current"), 1)
    new = make_environment(parse_request(",".join(map(str, wheels))), 1)
    between = Between(old, new, 1)
    assert between.differing == ["peft", "rouge-score", "sacrebleu"]
    before = probe(old, request, tmp_path)
    after = probe(new, request, tmp_path)
    changes = probe_changes(before, after)
    assert {change.subject for change in changes} == {"lora"}
    tried: list[str] = []
    bisection = Bisection(between, ProbeReader(request, before, after, changes), tried.append)
    (found,) = bisection.attribute()
    assert found.cause.changes == ("peft",)
    assert set(found.cause.cleared) == {"rouge-score", "sacrebleu"}
    assert found.packages == (f"peft {version_of('peft')} → 0.99.0",)
    assert found.turn is None, "a file has no releases between it and another"
    assert tried == ["trying peft"]
    kept = [json.loads(path.read_text()) for path in (tmp_path / "probes").iterdir()]
    assert {record["env_digest"] for record in kept} == {old.about.env_digest, new.about.env_digest}


@pytest.mark.process
def test_one_environment_read_twice_is_the_same(tmp_path: Path) -> None:
    made = make_environment(parse_request("current"), 1)
    merge = {"how": "svd", "experts": {"method": "lora", "rank": 4, "learn": ["one", "other"]}}
    labels = (*LABELS, ("svd", "adapter_merge", json.dumps(merge)), ("base", "base", "{}"))
    request = ProbeRequest("x", labels, ())
    first, second = run_probes(made, request), run_probes(made, request.only(["lora"]))
    assert [change for change in probe_changes(first, second) if change.name != "most memory of all probes"] == []
    assert {one.subject for one in first} == {"lora", "full", "svd", "libraries"}
    assert [one for one in first if one.reason] == []
    by_name = {(one.subject, one.name): one for one in first}
    assert by_name["lora", "untrained, against the base model"].values == (0.0,)
    size = by_name["svd", "merge of two equal experts: size along the sum of their updates"].values[0]
    assert size == pytest.approx(0.5, abs=1e-3), "weights of 0.5 each: the mean of two equal updates is one of them"
    losses = by_name["full", "losses of 12 steps"].values
    assert losses[-1] < losses[0]
