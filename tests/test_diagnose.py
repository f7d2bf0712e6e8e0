from pathlib import Path

import pytest

from harness.diagnose import learned_nothing, p_of_gain
from harness.records import Item, Score
from harness.worker import write_items


def cell(hits: list[int], losses: list[float]) -> list[Item]:
    made = [Item("t", f"d{n}", "acc", float(hit), "", "") for n, hit in enumerate(hits)]
    return made + [Item("t", f"d{n}", "choice_cross_entropy", loss, "", "") for n, loss in enumerate(losses)]


SCORES = [Score("t", "task", "acc", 0, 0, 20, True), Score("t", "task", "choice_cross_entropy", 0, 0, 20, False)]
BASE = cell([0, 1] * 10, [1.0, 1.2] * 10)


@pytest.mark.parametrize(
    ("hits", "losses", "flagged"),
    [
        ([0, 1] * 10, [1.0, 1.2] * 10, True),  # the same
        ([1, 1] * 10, [1.0, 1.2] * 10, False),  # right more often, but not surer
        ([0, 1] * 10, [0.4, 0.7, 0.5, 0.8] * 5, False),  # surer of what is right
        ([0, 0] * 10, [3.0, 3.2] * 10, True),  # worse
    ],
)
def test_learned_nothing(tmp_path: Path, hits: list[int], losses: list[float], flagged: bool) -> None:
    write_items(tmp_path / "items.parquet", BASE)
    flags = learned_nothing(["t"], SCORES, cell(hits, losses), tmp_path / "items.parquet")
    assert [flag.name for flag in flags] == ["learned_nothing"] * flagged
    if flags:
        assert flags[0].evidence["n"] == 20
        assert flags[0].evidence["p_acc"] > 0.025


def test_generated_answers_are_judged_by_their_headline(tmp_path: Path) -> None:
    scores = [Score("g", "task", "rouge_l", 0, 0, 4, True)]
    write_items(tmp_path / "items.parquet", [Item("g", f"d{n}", "rouge_l", 0.1 * n, "", "") for n in range(4)])
    better = [Item("g", f"d{n}", "rouge_l", 0.5 + 0.11 * n, "", "") for n in range(4)]
    assert learned_nothing(["g"], scores, better, tmp_path / "items.parquet") == []
    same = [Item("g", f"d{n}", "rouge_l", 0.1 * n, "", "") for n in range(4)]
    assert len(learned_nothing(["g"], scores, same, tmp_path / "items.parquet")) == 1


def test_p_values() -> None:
    assert p_of_gain([1.0] * 5) == pytest.approx(0.5**5)
    assert p_of_gain([0.0] * 5) == 1.0
    assert p_of_gain([0.3] * 3) == 0.0
    assert p_of_gain([-0.2, -0.3, -0.4]) > 0.9
