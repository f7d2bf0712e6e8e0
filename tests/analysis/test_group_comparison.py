"""Two runs, two environments, two cells: from stored results to verdicts, and as a user asks for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from results_factory import Results, cell, environment, items, scores
from samples import answers
from typer.testing import CliRunner

from harness.analysis.comparisons import Request, compare_cells, compare_environments, compare_runs, kind_of_names
from harness.analysis.group_comparison import SAME, cells_by_score, environment_changes
from harness.analysis.stats.intervals import paired
from harness.analysis.verdicts import Side
from harness.cli import application
from harness.errors import UserError
from harness.store.database import Store

OLD = environment()
NEW = environment(packages={**OLD.packages, "peft": "0.22.0", "right-pad": "1.0"})


def add(results: Results, label: str, skill: float, first: int, **more: Any) -> None:
    for seed in range(3):
        values = answers(skill, first + seed)
        results.add(cell(label, 32, seed), scores(sum(values) / 200), items=items("topic", "acc", values), **more)


def upgraded(folder: Path) -> Store:
    """`full` came out the same in the new environment, `lora` far better, and `dora` was done in the old one alone."""
    old = Results(folder, run_id="20260101T000000-aaaaaa", environment=OLD)
    new = Results(folder, run_id="20260102T000000-bbbbbb", environment=NEW, started="2026-01-03T10:00:00.000+00:00")
    for results, skill in ((old, 0.4), (new, 0.8)):
        add(results, "full", 0.6, 10, train_seconds=50.0)
        add(results, "lora", skill, 20, train_seconds=60.0)
    add(old, "dora", 0.6, 30)
    old.store()
    return new.store()


def test_environments_are_paired_by_seed_and_item(tmp_path: Path) -> None:
    with upgraded(tmp_path).open(read_only=True) as connection:
        found = compare_environments(connection, NEW.env_digest[:6], OLD.env_digest[:6], Request())
        costs = compare_environments(connection, NEW.env_digest[:6], OLD.env_digest, Request(metric="artifact_bytes"))
    verdicts = {one.label: one.verdict for one in found.verdicts.matched}
    assert {label: one.verdict for label, one in verdicts.items()} == {"full": "tied", "lora": "better"}
    assert verdicts["full"].reason == SAME
    assert found.verdicts.only_a == ()
    assert found.verdicts.only_b == tuple(f"dora/tiny/topic/n32/s{seed}" for seed in range(3))
    assert found.changes.packages == {"peft": ("0.22.0", "0.21.0"), "right-pad": ("1.0", "")}
    assert found.changes.decisive == ("peft",)
    assert {one.verdict.verdict for one in costs.verdicts.matched} == {"tied"}


def test_runs_are_compared_label_by_label_and_shared_attempts_are_not(tmp_path: Path) -> None:
    one = Results(tmp_path, run_id="run-one")
    add(one, "lora", 0.4, 20)
    add(one, "same", 0.6, 40)
    add(one, "gone", 0.6, 50)
    one.store()
    two = Results(tmp_path, run_id="run-two", started="2026-01-03T10:00:00.000+00:00", margin=0.3)
    for seed in range(3):
        two.member(cell("same", 32, seed))
        values = answers(0.8, 60 + seed)
        of = replace(cell("lora", 32, seed), spec_digest=f"{seed}" * 64)  # other settings under the same label
        two.add(of, scores(0.8), items=items("topic", "acc", values))
    with two.store().open(read_only=True) as connection:
        found = compare_runs(connection, "run-one", "run-two", Request())
        turned = compare_runs(connection, "run-two", "run-one", Request(margin=0.01))
        with pytest.raises(UserError, match="stands for 2 runs: run-two, run-one"):
            compare_runs(connection, "run-", "run-two", Request())
    ((lora,),) = [found.verdicts.matched]
    assert (lora.label, lora.verdict.verdict, found.margin) == ("lora", "worse", 0.3)
    assert (turned.verdicts.matched[0].verdict.verdict, turned.margin) == ("better", 0.01)
    assert found.verdicts.shared == ("same: topic, tiny, 32 examples",)
    assert found.verdicts.only_a == ("gone: topic, tiny, 32 examples",)


def test_a_run_with_more_seeds_of_the_same_cells_is_no_other_run(tmp_path: Path) -> None:
    for number, seeds in ((1, 1), (2, 3)):
        results = Results(tmp_path, run_id=f"run-{number}", started=f"2026-01-0{number}T10:00:00.000+00:00")
        for seed in range(seeds):
            values = answers(0.6, seed)
            of = results.member(cell("full", 32, seed))
            if number == 1 or seed:
                results.add(of, scores(0.6), items=items("topic", "acc", values))
        store = results.store()
    with store.open(read_only=True) as connection:
        found = compare_runs(connection, "run-1", "run-2", Request()).verdicts
    assert (found.matched, found.shared) == ((), ("full: topic, tiny, 32 examples",))


def test_cells_are_compared_exactly_and_for_themselves_alone(tmp_path: Path) -> None:
    with upgraded(tmp_path).open(read_only=True) as connection:
        verdict, exact = compare_cells(connection, "lora/tiny/topic/n32/s0", "full/tiny/topic/n32/s0", Request())
        again, _ = compare_cells(connection, cell("lora", 32, 0).spec_digest[:6], "full/tiny/topic/n32/s0", Request())
        alone, none = compare_cells(
            connection, "lora/tiny/topic/n32/s0", "full/tiny/topic/n32/s0", Request(metric="train_seconds")
        )
        with pytest.raises(UserError, match="the same cell"):
            compare_cells(connection, "lora/tiny/topic/n32/s0", "lora/tiny/topic/n32/s0", Request())
    expected = paired(answers(0.8, 20), answers(0.6, 10))
    assert exact
    assert (exact.p, exact.wins, exact.losses, exact.test) == (expected.p, expected.wins, expected.losses, "mcnemar")
    assert exact.difference.low == pytest.approx(expected.difference.low, abs=0.01)  # resampled in another order
    assert verdict.decision
    assert (verdict.verdict, verdict.decision.p, verdict.decision.interval) == ("better", exact.p, exact.difference)
    assert again == verdict
    assert (alone.verdict, none) == ("underpowered", None)  # a repeat each


RIGHT = some.lists(some.booleans(), min_size=12, max_size=40)


@given(RIGHT, some.randoms())
def test_a_pair_of_cells_turned_over_says_the_reverse(first: list[bool], random: Any) -> None:
    second = [value if random.random() < 0.7 else not value for value in first]
    docs = tuple(map(str, range(len(first))))
    a, b = (Side(name, "acc", True, docs, (tuple(map(float, row)),)) for name, row in (("a", first), ("b", second)))
    (one, exact), (other, _) = cells_by_score(a, b), cells_by_score(b, a)
    reverse = {"better": "worse", "worse": "better"}
    assert exact
    assert one.verdict == reverse.get(other.verdict, other.verdict)
    assert one.decision
    assert other.decision
    assert one.decision.effect == pytest.approx(-other.decision.effect)
    assert not (one.decision.to_tie and one.decision.to_tie.seeds), "more seeds are other models"


def test_environments_without_a_visible_difference_say_so() -> None:
    record = {"packages": {"torch": "2"}, "cpu": "x", "accelerator": ""}
    assert environment_changes({**record, "env_digest": "a"}, {**record, "env_digest": "b"}).unexplained
    assert not environment_changes({**record, "env_digest": "a"}, {**record, "env_digest": "a"}).unexplained
    changed = environment_changes(
        {**record, "env_digest": "a"}, {**record, "env_digest": "b", "packages": {"torch": "3"}}
    )
    assert (changed.decisive, changed.unexplained) == (("torch",), False)


def test_what_names_stand_for(tmp_path: Path) -> None:
    with upgraded(tmp_path).open(read_only=True) as connection:
        assert kind_of_names(connection, "lora", "full") == "label"
        assert kind_of_names(connection, "lora/tiny/topic/n32/s0", "full/tiny/topic/n32/s1") == "cell"
        assert kind_of_names(connection, "20260101", "20260102") == "run"
        assert kind_of_names(connection, OLD.env_digest[:6], NEW.env_digest) == "environment"
        with pytest.raises(UserError, match="20260101 is a run, lora a label: two of a kind are compared"):
            kind_of_names(connection, "20260101", "lora")
        with pytest.raises(UserError, match="unknown label, cell, run or environment 'lorra'. Did you mean 'lora'"):
            kind_of_names(connection, "lora", "lorra")


def test_the_command_tells_all_four_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    upgraded(tmp_path / "results")

    def told(*names: str) -> str:
        done = CliRunner().invoke(application(), ["compare", *names])
        assert done.exit_code == 0, done.output
        return done.output

    assert "lora is better than full (acc +0." in told("lora", "full")
    assert "It holds for these two trained models alone" in told("lora/tiny/topic/n32/s0", "full/tiny/topic/n32/s0")
    shown = told(NEW.env_digest[:8], OLD.env_digest[:8])
    assert "packages that differ: peft: 0.21.0 → 0.22.0" not in shown
    assert "packages that differ: peft: 0.22.0 → 0.21.0; right-pad: 1.0 → none" in shown
    assert "1 tied, 1 better" in shown or "1 better, 1 tied" in shown
    assert "only in " in shown
    assert "run 20260102T000000-bbbbbb (demo of 2026-01-03 10:00) beside run" in told("20260102", "20260101")
    for names in (["20260102", "20260101"], [NEW.env_digest[:8], OLD.env_digest[:8]]):
        found = json.loads(told(*names, "--json"))
        assert {one["label"]: one["verdict"] for one in found["verdicts"]}["lora"] == "better"
    assert json.loads(told("lora/tiny/topic/n32/s0", "full/tiny/topic/n32/s0", "--json"))["paired"]["test"] == "mcnemar"
    narrowed = json.loads(told("lora", "full", "--size", "32", "--task", "topic", "--json"))
    assert [one["n_train"] for one in narrowed] == [32]
    refused = CliRunner().invoke(application(), ["compare", "lora", "full", "--size", "64"])
    assert isinstance(refused.exception, UserError)
