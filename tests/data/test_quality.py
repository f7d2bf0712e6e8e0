"""Training data of other quality: what is drawn, what is spoilt in it, and what is left alone."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import cell_named, plan_of, run_here

from harness.data import sampling, tasks
from harness.data.quality import (
    CLEAN,
    Corruption,
    Quality,
    flipped,
    hardest,
    imbalanced,
    marked,
    repeated,
    rounded,
    spread,
    truncated,
    turns,
)
from harness.errors import TaskError
from harness.store.files import ITEMS
from harness.worker.context import CellContext

seeds = st.integers(0, 99)
shares = st.decimals(0, 1, places=2).map(float)
below_one = st.decimals(0, "0.99", places=2).map(float)
qualities = st.builds(
    Quality,
    st.builds(Corruption, labels=shares, duplicates=below_one, truncate=below_one, imbalance=st.floats(1, 100)),
    st.sampled_from(["random", "balanced", "diverse", "hard"]),
)


# --- the pure parts ---


@given(st.integers(0, 200), shares, seeds)
def test_as_many_places_are_marked_as_the_share_says(n: int, share: float, seed: int) -> None:
    places = marked(n, share, str(seed))
    assert len(places) == rounded(share, n) == math.floor(share * n + 0.5 + 1e-9)
    assert places == sorted(set(places))
    assert all(0 <= place < n for place in places)
    assert places == marked(n, share, str(seed))


@given(st.integers(0, 100), st.integers(0, 100), shares, seeds)
def test_what_is_marked_in_a_smaller_slice_is_marked_in_a_larger_one(
    n: int, more: int, share: float, seed: int
) -> None:
    small = marked(n, share, str(seed))
    assert marked(n + more, share, str(seed))[: len(small)] == small


def test_every_place_is_marked_alike() -> None:
    counts = Counter(place for seed in range(2000) for place in marked(40, 0.2, str(seed)) if 3 <= place < 38)
    assert 300 < min(counts.values()) <= max(counts.values()) < 500  # 400 expected


@given(st.lists(st.tuples(st.integers(0, 3), st.just(4)), max_size=60), shares, seeds)
def test_flipped_labels_are_wrong_and_exactly_as_many(answers: list[tuple[int, int]], share: float, seed: int) -> None:
    wrong = flipped(answers, share, seed)
    assert len(wrong) == rounded(share, len(answers))
    assert all(0 <= choice < 4 and choice != answers[place][0] for place, choice in wrong.items())
    assert flipped(answers[:20], share, seed).items() <= wrong.items()


def test_flipped_labels_go_to_every_other_class() -> None:
    wrong = Counter(flipped([(1, 4)] * 900, 1.0, 0).values())
    assert wrong.keys() == {0, 2, 3}
    assert min(wrong.values()) > 250


@given(st.integers(1, 150), below_one, seeds)
def test_repeats_are_exactly_as_many_and_evenly_spread(n: int, share: float, seed: int) -> None:
    numbers = repeated(n, share, seed)
    distinct = len(set(numbers))
    assert n - distinct == min(rounded(share, n), n - 1) == Quality(Corruption(duplicates=share)).repeats(n)
    assert set(numbers) == set(range(distinct))  # the first documents of the order, each at least once
    assert list(dict.fromkeys(numbers)) == sorted(set(numbers))
    assert set(numbers) <= set(repeated(n + 9, share, seed))
    assert repeated(n, 0.0, seed) == list(range(n))


@given(st.integers(5, 300), st.integers(2, 6), st.floats(1, 50), seeds)
def test_classes_come_in_their_shares_at_every_size(n: int, kinds: int, ratio: float, seed: int) -> None:
    names = [f"class {place}" for place in range(kinds)]
    dealt = turns(n, names, ratio, seed)
    assert len(dealt) == n
    assert turns(n + 7, names, ratio, seed)[:n] == dealt
    weights = sorted((ratio ** (-place / (kinds - 1)) for place in range(kinds)), reverse=True)
    counts = sorted((Counter(dealt)[name] for name in names), reverse=True)
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - n * weight / sum(weights)) < kinds / 2 + 1


def test_the_ratio_is_that_of_the_most_to_the_least_frequent_class() -> None:
    counts = Counter(turns(128, list("abcde"), 10, 0))
    assert sorted(counts.values(), reverse=True) == [59, 33, 19, 11, 6]
    assert (
        len({max(Counter(turns(128, list("abcde"), 10, seed)).items(), key=lambda x: x[1])[0] for seed in range(20)})
        > 2
    )


def test_a_class_that_runs_out_leaves_fewer() -> None:
    classes = ["a", "b"] * 10
    assert len(imbalanced(range(20), classes, 11, 9, 0)) == 11
    assert len(imbalanced(range(20), classes, 20, 9, 0)) < 20


def ask(document: dict[str, Any]) -> tuple[str, str]:
    return f"{document['title']}: {' '.join(document['text'].split()[:10])}", document["label"]


def test_only_the_words_that_are_shown_count_and_the_answer_is_left_whole() -> None:
    document = {
        "title": "one",
        "text": " ".join(map(str, range(50))),
        "label": "two words",
        "other": "not shown at all",
    }
    cut, gone = truncated(document, 0.3, ask)
    assert gone == 3
    assert cut == {**document, "text": "0 1 2 3 4 5 6"}
    assert truncated(document, 0.0, ask) == (document, 0)


@given(st.lists(st.sampled_from(["a", "bb", "c\n", "d  "]), min_size=1, max_size=12), below_one)
def test_a_word_stays_of_every_text(words: list[str], share: float) -> None:
    document = {"title": "t", "text": " ".join(words), "label": "x"}
    cut, gone = truncated(document, share, lambda d: (d["text"], d["label"]))
    assert document["text"].startswith(cut["text"])
    assert len(cut["text"].split()) == len(words) - gone
    assert gone == min(rounded(share, len(words)), len(words) - 1)


def test_diverse_texts_are_far_from_each_other_and_nested() -> None:
    texts = ["red rose", "red rose red", "blue sky", "blue sky sky", "green leaf", "red rose rose"]
    assert spread(texts, 3) == [0, 2, 4]
    assert spread(texts, 6)[:3] == spread(texts, 3)
    assert sorted(spread(texts, 6)) == list(range(6))


def test_the_hardest_come_first_and_noise_of_a_device_does_not_count() -> None:
    assert hardest([0.1, 2.0, 1.00001, 1.00002, 3.0]) == [4, 1, 2, 3, 0]


@given(qualities)
def test_a_quality_is_read_back_from_a_cell(quality: Quality) -> None:
    assert Quality.of(quality.data) == quality
    assert bool(quality.data) == (quality != CLEAN) == bool(quality.suffix) == bool(quality.condition)


def test_a_quality_has_a_name_for_keys_and_words_for_reports() -> None:
    quality = Quality(Corruption(labels=0.2, imbalance=10), "hard")
    assert quality.data == {"corrupt": {"labels": 0.2, "imbalance": 10}, "select": "hard"}
    assert quality.suffix == "/labels0.2+imbalance10/hard"
    assert quality.condition == "labels 0.2 and imbalance 10, select hard"
    assert Quality(Corruption(), "random").suffix == "/random"


# --- drawn from a task ---


@pytest.fixture(scope="module")
def colours(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The colours task, loaded once."""
    from tiny import make_project

    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("colours")
        make_project(root, tiny_model)
        patch.setenv("TUNEBENCH_CACHE", str(root / "cache"))
        return tasks.load_task(root / "suites" / "tasks" / "colours.yaml")


def drawn(
    task: Any, n: int, seed: int = 0, select: str = "balanced", **corrupt: float
) -> tuple[list[Any], dict[str, float]]:
    quality = Quality(Corruption(**corrupt), select)
    return sampling.draw(task, n, seed, quality, lambda found: [float(len(one.context)) for one in found])


@pytest.mark.parametrize("n", [10, 33])
def test_clean_balanced_data_is_what_it_was(colours: Any, n: int) -> None:
    assert drawn(colours, n) == (sampling.examples(colours, n=n), {})


def test_labels_change_and_nothing_else_does(colours: Any) -> None:
    clean, noisy = sampling.examples(colours, n=40), drawn(colours, 40, labels=0.25)
    changed = [(one, other) for one, other in zip(clean, noisy[0], strict=True) if one != other]
    assert len(changed) == 10 == noisy[1]["flipped_labels"]
    assert all(one.context == other.context and one.target != other.target for one, other in changed)
    assert sum(count for name, count in noisy[1].items() if name.startswith("class:")) == 40


def test_a_larger_slice_holds_a_smaller_one_whatever_is_spoilt(colours: Any) -> None:
    every = {"duplicates": 0.4, "truncate": 0.3, "imbalance": 4}
    for select in ("random", "balanced", "diverse"):
        small, large = (set(drawn(colours, n, 3, select, **every)[0]) for n in (13, 40))
        assert small < large
    noisier = drawn(colours, 40, 3, labels=0.4)[0]
    for n in (10, 13, 22):
        noisy = drawn(colours, n, 3, labels=0.4)[0]
        assert [one.context for one in noisy] == [one.context for one in noisier[:n]]
        assert sum(one != other for one, other in zip(noisy, noisier, strict=False)) <= 1


def test_seeds_draw_apart_and_each_its_own_again(colours: Any) -> None:
    every = {"labels": 0.3, "duplicates": 0.4, "truncate": 0.3, "imbalance": 4}
    for select in ("balanced", "diverse", "hard"):
        assert drawn(colours, 20, 0, select, **every) == drawn(colours, 20, 0, select, **every)
        assert drawn(colours, 20, 0, select, **every)[0] != drawn(colours, 20, 1, select, **every)[0]


def test_random_knows_no_classes(colours: Any) -> None:
    by_seed = [Counter(one.target for one in drawn(colours, 30, seed, "random")[0]) for seed in range(3)]
    assert any(set(counts.values()) != {10} for counts in by_seed)
    assert len({one.context for one in drawn(colours, 30, 0, "random")[0]}) == 30


def test_imbalance_is_recorded(colours: Any) -> None:
    found, record = drawn(colours, 35, imbalance=4)
    counts = Counter(one.target.strip() for one in found)
    assert sorted(counts.values(), reverse=True) == [20, 10, 5]
    assert record == {f"class:{name}": count for name, count in counts.items()}
    with pytest.raises(TaskError, match="imbalance 50: task 'colours' has too few examples of its most frequent class"):
        drawn(colours, 600, imbalance=50)


def test_hard_ones_are_the_hardest_of_eight_times_as_many(colours: Any) -> None:
    asked: list[Any] = []

    def judge(found: list[Any]) -> list[float]:
        asked.extend(found)
        return [float(len(one.context)) for one in found]

    found, _ = sampling.draw(colours, 5, 0, Quality(select="hard"), judge)
    assert asked == sampling.examples(colours, n=40)
    assert [len(one.context) for one in found] == sorted((len(one.context) for one in asked), reverse=True)[:5]


def test_cut_texts_keep_question_and_answer(colours: Any) -> None:
    clean, (cut, record) = sampling.examples(colours, n=12), drawn(colours, 12, truncate=0.5)
    assert record["truncated_words"] == 24
    for one, other in zip(clean, cut, strict=True):
        words = one.context.removesuffix("\nColour:").split()
        assert other.context == " ".join(words[:3]) + "\nColour:"  # "Text:" and two of four words
        assert other.target == one.target


def test_a_share_that_cuts_nothing_is_no_silent_clean_data(colours: Any) -> None:
    with pytest.raises(TaskError, match="truncate 0.05: no text of 'colours' lost a word"):
        drawn(colours, 12, truncate=0.05)


# --- in a cell ---

SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [16]}
methods:
  full: {learning_rate: 1e-2}
corrupt: [{}, {labels: 0.5}, {duplicates: 0.5, labels: 0.25}]
select: [balanced, hard]
train: {steps: 4, batch_size: 4, eval_every: 2}
"""


def facts_of(result: Any) -> dict[str, float]:
    return {fact.name: fact.value for fact in result.facts}


def test_a_cell_learns_from_spoilt_data_and_is_scored_on_clean(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE)
    keys = [f"full/tiny/colours/n16/s0{suffix}" for suffix in ("", "/labels0.25+duplicates0.5", "/hard")]
    folders = [tmp_path / "attempts" / str(place) for place in range(len(keys))]
    clean, both, hard = (
        run_here(plan, cell_named(plan, key), folder) for key, folder in zip(keys, folders, strict=True)
    )
    assert {result.status for result in (clean, both, hard)} == {"done"}
    assert not any(name.startswith(("class:", "flipped")) for name in facts_of(clean))
    assert (facts_of(both)["flipped_labels"], facts_of(both)["duplicate_examples"]) == (4, 8)
    assert facts_of(hard)["selection_seconds"] > 0
    import pyarrow.parquet as pq

    asked = []
    for folder in folders:
        rows = pq.read_table(folder / ITEMS).to_pylist()
        asked.append({(row["doc_id"], row["target"]) for row in rows if row["metric"] == "acc"})
    assert asked[0] == asked[1] == asked[2]
    trained = [[step.loss for step in result.steps if step.split == "train"] for result in (clean, both, hard)]
    assert trained[0] != trained[1] != trained[2] != trained[0]


def work_of(plan: Any, key: str, folder: Path) -> CellContext:
    from tools import context_of

    return context_of(plan, cell_named(plan, key), folder)


def test_validation_is_clean_and_hard_is_judged_by_the_untouched_model(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE)
    clean = work_of(plan, "full/tiny/colours/n16/s0", tmp_path / "attempts" / "a")
    hard = work_of(plan, "full/tiny/colours/n16/s0/labels0.5/hard", tmp_path / "attempts" / "b")
    assert hard.examples("validation") == clean.examples("validation")
    pool = clean.examples(n=128)
    losses = hard.data.base_losses(pool)
    model = hard.load_model()
    rows = clean.rows(model, pool)
    import torch

    for row, loss in list(zip(rows, losses, strict=True))[:5]:
        out = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
        assert float(out.loss.detach()) == pytest.approx(loss, abs=1e-4)
    chosen = {one.context for one in hard.examples()}
    worst = sorted(zip(losses, pool, strict=True), key=lambda pair: -pair[0])[:16]
    assert chosen == {one.context for _, one in worst}


def test_other_tasks_that_are_only_read_stay_clean(project: Path, tmp_path: Path) -> None:
    plan = plan_of(project, SUITE)
    work = work_of(plan, "full/tiny/colours/n16/s0/labels0.5", tmp_path / "attempts" / "a")
    work.data.tasks["names"] = tasks.load_task(project / "suites" / "tasks" / "names.yaml")
    assert work.examples(task="names", n=6) == sampling.examples(work.data.tasks["names"], n=6)
    assert work.examples() != sampling.examples(work.data.tasks["colours"], n=16)
