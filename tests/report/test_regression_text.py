"""The comparison of environments in words, as Markdown and as JUnit XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.analysis import Cause, ProbeChange, Toggled, Turn
from harness.analysis.regression import Attribution, EnvironmentFindings, PairFindings, RegressionFindings
from harness.cli.regression import exit_code
from harness.report import markdown_summary, regression_sentences, write_junit

SIZE = ProbeChange("svd", "merge: size", "1", "0.5", None)
BYTES = ProbeChange("full", "bytes of buffers", "8 MiB", "512 MiB", False)
SETTINGS = ProbeChange("libraries", "defaults", "", "", None, tuple((f"field{n}", "a", "b") for n in range(9)))
CAUSE = Attribution(
    (("svd", "merge: size"),),
    Cause(("peft",), ("torch", "trl")),
    ("peft 0.20.0 → 0.21.2",),
    Turn("0.20.0", "0.21.0", (), (("0.20.0", Toggled.OLD), ("0.21.0", Toggled.NEW))),
    "https://github.com/huggingface/peft/releases?q=0.21.0",
)
OLD, NEW = EnvironmentFindings("peft==0.20.0", "a"), EnvironmentFindings("current", "b")


def findings(*changes: ProbeChange, environments: tuple[EnvironmentFindings, ...] = (OLD, NEW)) -> RegressionFindings:
    pair = PairFindings(
        "peft==0.20.0", "current", ("peft 0.20.0 → 0.21.2",), changes, (CAUSE,) if SIZE in changes else ()
    )
    return RegressionFindings("demo", ("svd", "full", "lora"), environments, (pair,))


def test_the_guilty_package_comes_first() -> None:
    found = findings(SIZE)
    assert list(regression_sentences(found.pairs[0], found.labels)) == [
        "peft 0.20.0 → 0.21.2 changed merge: size of svd. Since peft 0.21.0 (not in 0.20.0). "
        "Its notes: https://github.com/huggingface/peft/releases?q=0.21.0. Cleared: torch, trl.",
        "Probes: Only svd moved; 2 others did not.",
    ]


@pytest.mark.parametrize(
    ("changes", "gate", "strict", "code"),
    [
        ((), True, True, 0),
        ((SIZE,), False, False, 0),
        ((SIZE,), True, False, 0),
        ((SIZE,), True, True, 4),
        ((BYTES,), False, False, 0),
        ((BYTES,), True, False, 3),
        ((SIZE, BYTES), True, True, 3),
    ],
)
def test_the_gate(changes: tuple[ProbeChange, ...], gate: bool, strict: bool, code: int) -> None:
    assert exit_code(findings(*changes), gate, strict) == code


def test_an_environment_that_no_longer_runs_is_worse_and_one_that_never_did_is_not() -> None:
    broken = EnvironmentFindings("current", cannot="ImportError: no")
    assert findings(environments=(OLD, broken)).worse
    assert not findings(environments=(broken, OLD)).worse
    assert exit_code(findings(environments=(OLD, broken)), True, False) == 3
    assert exit_code(findings(environments=(broken, OLD)), True, False) == 1
    assert exit_code(findings(environments=(broken, OLD)), True, True) == 4


def test_markdown_shows_stored_text_as_text() -> None:
    hostile = ProbeChange("a|b<script>", "*x*\n## y", "[z](w)", "`q`", None)
    text = markdown_summary(findings(hostile, SETTINGS))
    assert "<script>" not in text
    assert "\n## y" not in text
    assert "a\\|b\\<script\\>" in text
    assert text.count("| field") == 0
    assert "defaults: 3 more" in text, "of nine settings six are shown"
    assert text.startswith("## demo: open")
    assert markdown_summary(findings(BYTES)).startswith("## demo: worse")
    assert markdown_summary(findings()).startswith("## demo: nothing moved")


def test_junit_counts_what_is_worse_as_failed_and_what_is_open_as_skipped(tmp_path: Path) -> None:
    broken = EnvironmentFindings("x\x00y", cannot="ImportError: \x1b[31m")
    write_junit(findings(SIZE, BYTES, environments=(OLD, NEW, broken)), tmp_path / "junit.xml")
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    pair = suites["peft==0.20.0 → current"]
    assert (pair.get("tests"), pair.get("failures"), pair.get("skipped")) == ("3", "1", "1")
    outcomes = {case.get("name"): [child.tag for child in case] for case in pair}
    assert outcomes == {"svd": ["skipped"], "full": ["failure"], "lora": []}
    assert suites["x\\x00y"].get("errors") == "1"
