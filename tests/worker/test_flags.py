from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import Item, Score, Step
from harness.worker.cell import write_items
from harness.worker.flags import forgot, learned_nothing, of_answers, overfitted, p_of_gain, underfitted


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
        assert flags[0].evidence["t"]["n"] == 20
        assert flags[0].evidence["t"]["p_acc"] > 0.025


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


# --- training curves ---


def curve(losses: list[float], validation: dict[int, float] | None = None) -> list[Step]:
    """Training losses of steps 1, 2, …, and validation losses by step."""
    steps = [Step(number, "train", loss, 1e-3, 10, 0.1) for number, loss in enumerate(losses, start=1)]
    return steps + [Step(step, "validation", loss, None, None, None) for step, loss in (validation or {}).items()]


FALLING = [2.0 - 0.05 * step for step in range(30)]
SETTLED = [2.0 * 0.7**step + 0.5 for step in range(30)]


@pytest.mark.parametrize(
    ("losses", "validation", "flagged"),
    [
        (FALLING, {10: 1.0, 20: 0.8, 30: 1.2}, True),
        (FALLING, {10: 1.0, 20: 0.8, 30: 0.82}, False),  # within a twentieth
        (FALLING, {10: 1.0, 20: 0.8, 30: 0.7}, False),
        (FALLING, {10: 1.0, 20: 1.5}, False),  # two passes say nothing
        (FALLING[::-1], {10: 1.0, 20: 0.8, 30: 1.2}, False),  # training got worse too: that is no overfitting
        (FALLING, None, False),
        ([], {1: 1.0, 2: 1.1, 3: 2.0}, False),
    ],
)
def test_overfitting(losses: list[float], validation: dict[int, float] | None, flagged: bool) -> None:
    flags = overfitted(curve(losses, validation))
    assert [flag.name for flag in flags] == ["overfitting"] * flagged
    if flags:
        evidence = flags[0].evidence
        assert (evidence["lowest_step"], evidence["lowest_validation_loss"]) == (20, 0.8)
        assert evidence["gap"] == pytest.approx(1.2 - (FALLING[-1] + FALLING[-2] + FALLING[-3]) / 3)


def test_flags_go_by_the_cross_entropy_of_the_answers() -> None:
    """A penalty that falls on is no training loss that does; and a head's own loss may be compared with itself."""
    validation = {10: 1.0, 20: 0.8, 30: 1.2}
    falling = [replace(step, cross_entropy=1.0 if step.split == "train" else step.loss)
               for step in curve(FALLING, validation)]  # fmt: skip
    assert overfitted(falling)
    assert not overfitted(of_answers(falling))
    assert not underfitted(of_answers(falling))
    without = curve(FALLING, validation)
    assert of_answers(without) == []
    assert [flag.name for flag in overfitted(of_answers(without, head=True))] == ["overfitting"]


@pytest.mark.parametrize(
    ("losses", "flagged"),
    [
        (FALLING, True),
        (SETTLED, False),
        ([1.0] * 30, False),
        ([1.0, 1.3, 0.7] * 10, False),  # noise
        (FALLING[:9], False),  # too few to say
        ([loss / 1000 for loss in FALLING], False),  # learnt by heart: it falls, but there is nothing left to learn
    ],
)
def test_underfitting(losses: list[float], flagged: bool) -> None:
    flags = underfitted(curve(losses))
    assert [flag.name for flag in flags] == ["underfitting"] * flagged
    if flags:
        assert flags[0].evidence["from"] == pytest.approx(FALLING[20])
        assert flags[0].evidence["to"] == pytest.approx(FALLING[29])


PER_WORD = "log_likelihood_per_word"


@pytest.mark.parametrize(
    ("changes", "flagged"),
    [
        ([-0.3, -0.4, -0.2, -0.35], True),
        ([-0.11, -0.5, 0.2, -0.12], False),  # beyond the limit, and not surely
        ([-0.05, -0.04, -0.06, -0.05], False),  # surely, and within the limit
        ([0.3, 0.4, 0.2, 0.3], False),
        ([-0.2] * 4, True),
    ],
)
def test_forgetting(tmp_path: Path, changes: list[float], flagged: bool) -> None:
    def items(values: list[float]) -> list[Item]:
        return [Item("prose", f"d{n}", PER_WORD, value, "", "") for n, value in enumerate(values)]

    write_items(tmp_path / "items.parquet", items([-5.0] * len(changes)))
    scores = [Score("prose", "retain", PER_WORD, 0, 0, len(changes), True)]
    flags = forgot(["prose"], scores, items([-5.0 + change for change in changes]), tmp_path / "items.parquet")
    assert [flag.name for flag in flags] == ["forgetting"] * flagged
    if flags:
        assert flags[0].evidence["prose"]["change"] == pytest.approx(sum(changes) / len(changes))
        assert flags[0].evidence["prose"]["limit"] == -0.1


def test_two_tasks_make_one_flag_with_the_evidence_of_both(tmp_path: Path) -> None:
    """The store and the report know a cell's flags by their names."""

    def items(value: float) -> list[Item]:
        return [Item(task, f"d{n}", PER_WORD, value - 0.01 * n, "", "") for task in ("one", "two") for n in range(4)]

    write_items(tmp_path / "items.parquet", items(-5.0))
    scores = [Score(task, "retain", PER_WORD, 0, 0, 4, True) for task in ("one", "two")]
    (flag,) = forgot(["one", "two"], scores, items(-6.0), tmp_path / "items.parquet")
    assert flag.evidence.keys() == {"one", "two"}
    (flag,) = learned_nothing(["one", "two"], scores, items(-6.0), tmp_path / "items.parquet")
    assert flag.evidence.keys() == {"one", "two"}


def in_clusters(items: list[Item], size: int) -> list[Item]:
    """The items in clusters of that many, in the order of their numbers."""
    return [replace(item, cluster=f"c{int(item.doc_id[1:]) // size}") for item in items]


def test_a_gain_on_one_cluster_alone_is_not_learning(tmp_path: Path) -> None:
    """Five right answers more, all of one passage: as independent items they would be enough."""
    hits, losses = [1] * 10 + [0, 1] * 5, [1.0, 1.2] * 10
    write_items(tmp_path / "items.parquet", cell([0] * 10 + [0, 1] * 5, losses))
    assert learned_nothing(["t"], SCORES, cell(hits, losses), tmp_path / "items.parquet") == []
    clustered = in_clusters(cell(hits, losses), 10)
    (flag,) = learned_nothing(["t"], SCORES, clustered, tmp_path / "items.parquet")
    assert flag.evidence["t"]["p_acc"] == pytest.approx(0.25)


def test_what_one_cluster_forgets_is_not_forgetting(tmp_path: Path) -> None:
    scores = [Score("prose", "retain", "acc", 0.8, 0, 40, True)]
    before = [Item("prose", f"d{n}", "acc", 1.0, "", "") for n in range(40)]
    after = [Item("prose", f"d{n}", "acc", float(n >= 8), "", "") for n in range(40)]
    write_items(tmp_path / "items.parquet", before)
    assert [flag.name for flag in forgot(["prose"], scores, after, tmp_path / "items.parquet")] == ["forgetting"]
    assert forgot(["prose"], scores, in_clusters(after, 8), tmp_path / "items.parquet") == []
