"""Rows of a user's file: which are kept in which split, which are dropped, and what is said of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness.data import splits
from harness.data.counts import Counts
from harness.data.division import Division, Wanted, divide
from harness.errors import TaskError

Row = dict[str, object]
PEOPLE = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jon"]
THINGS = ["roof", "lamp", "pump", "door", "clock", "shelf", "stove", "screen"]


def rows(number: int, label: str, start: int = 0) -> list[Row]:
    """Different short texts of one class."""
    return [
        {"text": f"{PEOPLE[n % 10]} lost {THINGS[n % 8]} {n}", "label": label} for n in range(start, start + number)
    ]


def made(found: list[Row], **wanted: object) -> Division:
    return divide({"": found}, Wanted((("text",),), "label", **{"test": 40, "validation": 20, **wanted}))  # type: ignore[arg-type]


def sizes(division: Division) -> dict[str, dict[str, int]]:
    return {
        split: dict(sorted(Counter(str(one["label"]) for one in part).items()))
        for split, part in division.splits.items()
    }


def balance(counts: Counts, division: Division) -> int:
    """Rows of which nobody knows what became."""
    return sum(counts.read.values()) - sum(counts.dropped.values()) - sum(map(len, division.splits.values()))


def test_a_rare_class_is_in_every_split_and_train_keeps_half_of_it() -> None:
    division = made(rows(190, "a") + rows(10, "b", 200))
    assert sizes(division) == {
        "train": {"a": 135, "b": 5},
        "validation": {"a": 19, "b": 1},
        "test": {"a": 36, "b": 4},
    }
    assert division.counts.dropped == {}


def test_a_large_test_split_leaves_every_class_its_share_of_train_and_is_remarked_on() -> None:
    division = made(rows(321, "a") + rows(300, "b", 400), test=500, validation=100)
    assert sizes(division)["train"] == {"a": 11, "b": 10}
    assert sizes(division)["test"] == {"a": 250, "b": 250}
    assert division.counts.remarks == [
        "train has 21 of 621 rows: lower `test` (500) and `validation` (100) to learn from more"
    ]


def test_without_balance_classes_stay_as_frequent_as_they_are() -> None:
    division = made(rows(190, "a") + rows(10, "b", 200), balanced=False)
    shares = {split: part["b"] / sum(part.values()) for split, part in sizes(division).items()}
    assert all(0 < share < 0.12 for share in shares.values())


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (rows(100, "a") + rows(2, "b", 200), {}, "1 class of 2 cannot be in test, validation, train alike.*'b' 2"),
        (rows(100, "a") * 2 + rows(2, "b", 200), {}, r"202 rows, 102 left \(100 repeats\): 1 class of 2 cannot be in"),
        (rows(60, "a") + rows(60, "b", 200), {"test": 1}, "`test: 1` has no room for one row of each of 2 classes"),
        (rows(30, "a") + rows(31, "b", 200), {}, "61 rows, 61 left: they cannot give 40 test and 20 validation items"),
        (rows(30, "a") * 9, {}, r"270 rows, 30 left \(240 repeats\): they cannot give 40 .* look at `unique`"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_counts(
    found: list[Row], wanted: dict[str, object], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        made(found, **wanted)


def test_too_rare_a_class_can_be_left_out() -> None:
    division = made(rows(100, "a") + rows(90, "b", 200) + rows(2, "c", 400), drop_rare=True)
    assert division.counts.dropped == {"of classes too rare": 2}
    assert "c" not in sizes(division)["train"]
    assert balance(division.counts, division) == 0


@pytest.mark.parametrize(
    ("conflicts", "kept", "dropped"),
    [
        ("majority", {"a": 52, "b": 50}, {"contradicting labels": 4, "repeats": 2}),
        ("drop", {"a": 50, "b": 50}, {"contradicting labels": 8}),
    ],
)
def test_contradicting_labels_are_settled_counted_and_shown(
    conflicts: str, kept: dict[str, int], dropped: dict[str, int]
) -> None:
    twice: list[Row] = [{"text": "one way", "label": "a"}, {"text": "One  way", "label": "b"}]
    thrice: list[Row] = [{"text": f"{word} ways", "label": label} for word in ("two", "three") for label in "aab"]
    found = rows(50, "a") + rows(50, "b", 100) + twice + thrice
    division = made(found, test=10, validation=10, conflicts=conflicts)
    assert Counter(str(one["label"]) for part in division.splits.values() for one in part) == kept
    assert division.counts.dropped == dropped
    (remark,) = division.counts.remarks
    assert remark.startswith("3 texts have contradicting labels, such as 'one way' (a 1, b 1); 'three ways' (a 2, b 1)")
    assert f"`conflicts: {conflicts}`" in remark
    assert balance(division.counts, division) == 0


def test_contradicting_labels_may_be_refused() -> None:
    found: list[Row] = [{"text": "one", "label": "a"}, {"text": "one", "label": "b"}, *rows(90, "a")]
    with pytest.raises(TaskError, match="1 text has contradicting labels, such as 'one'.*let `conflicts` be majority"):
        made(found, conflicts="refuse")


def test_an_empty_label_is_refused_with_its_row_and_may_be_dropped() -> None:
    found = rows(60, "a") + rows(60, "b", 100)
    for place, empty in ((6, ""), (16, "NaN"), (26, None), (36, float("nan"))):
        found[place] = {**found[place], "label": empty}
    with pytest.raises(
        TaskError, match=r"4 rows of 120 without a label in .*'label': rows 7, 17, 27, 37.*drop_empty: t"
    ):
        made(found)
    division = made(found, drop_empty=True)
    assert division.counts.dropped == {"without label": 4}
    assert balance(division.counts, division) == 0


def test_unique_names_columns_that_may_not_repeat_together() -> None:
    asked: list[Row] = [
        {"instruction": f"do {n % 4}", "input": "" if n % 8 < 4 else f"with {n % 5}", "label": "a"} for n in range(40)
    ]
    pairs = {(row["instruction"], row["input"]) for row in asked}
    wanted = {"label": "", "test": 2, "validation": 2}
    together = divide({"": asked}, Wanted((("instruction", "input"),), **wanted))  # type: ignore[arg-type]
    assert sum(map(len, together.splits.values())) == len(pairs) == 24
    assert together.counts.dropped == {"repeats": 16}
    with pytest.raises(TaskError, match=r"40 rows, 4 left \(20 without text, 16 repeats\)"):
        divide({"": asked}, Wanted((("instruction",), ("input",)), **wanted))  # type: ignore[arg-type]
    assert splits.keys_of(["a", "b"]) == (("a", "b"),)
    assert splits.keys_of([["a"], ["b"]]) == (("a",), ("b",))
    for odd in ([], ["a", ["b"]], [[]]):
        with pytest.raises(TaskError, match="unique: got"):
            splits.keys_of(odd)  # type: ignore[arg-type]


def test_near_copies_of_test_items_are_dropped_only_with_the_same_label() -> None:
    found: list[Row] = []
    for number in range(40):
        text = f"report {number}: " + " ".join(f"w{number}x{word}" for word in range(15))
        found += [{"text": f"{text} 👍", "label": "a"}, {"text": f"{text} 👎", "label": "b"}]
    division = made(found, test=20, validation=10)
    assert sum(map(len, division.splits.values())) == 80
    copied: list[Row] = [{**row, "text": f"{row['text']} indeed"} for row in found]
    both = made(found + copied, test=20, validation=10)
    assert both.counts.dropped["near copies of test items"] > 0
    assert balance(both.counts, both) == 0


def test_rows_of_published_splits_are_all_accounted_for() -> None:
    raw = {
        "train": rows(60, "a") + rows(60, "b", 100) + rows(5, "c", 300),
        "test": rows(50, "a", 400) + rows(50, "b", 500),
    }
    division = divide(raw, Wanted((("text",),), "label", test=20, validation=10))
    assert division.counts.dropped == {"test rows beyond `test`": 80}
    assert sizes(division)["test"] == {"a": 10, "b": 10}
    assert set(sizes(division)["validation"]) == set(sizes(division)["train"]) == {"a", "b", "c"}
    assert balance(division.counts, division) == 0


def write(folder: Path, text: str) -> str:
    (folder / "d.csv").write_text(text)
    return str(folder)


def test_keys_of_another_type_are_another_name(project: Path) -> None:
    base = write(project, "text,label\n" + "".join(f"{row['text']},{n % 2}\n" for n, row in enumerate(rows(60, ""))))
    options = {"label": "label", "test": 10, "validation": 10, "base": base}
    plain = splits.documents("file:d.csv", **options)  # type: ignore[arg-type]
    assert set(plain["test"]["label"]) == {"0", "1"}
    for names in ({0: "no", 1: "yes"}, {"0": "no", "1": "yes"}, {0.0: "no", "1": "yes"}):
        named = splits.documents("file:d.csv", rename=names, **options)  # type: ignore[arg-type]
        assert set(named["train"]["label"]) == {"no", "yes"}
    with pytest.raises(TaskError, match="rename: unknown label '7'. .*Known: 0, 1"):
        splits.documents("file:d.csv", rename={7: "no"}, **options)  # type: ignore[arg-type]


def test_options_of_another_form_are_refused_together() -> None:
    with pytest.raises(TaskError, match=r"test: got 'x'.*validation: got -1.*label: got \['a'\].*rename: got \['b'\]"):
        splits.documents("file:d.csv", test="x", validation=-1, label=["a"], rename=["b"])  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="conflicts: unknown rule 'majorty'. Did you mean 'majority'"):
        splits.documents("file:d.csv", conflicts="majorty")


def test_counts_are_kept_beside_the_splits(project: Path) -> None:
    base = write(
        project, "text,label\n" + "".join(f"{row['text']},{n % 2}\n" for n, row in enumerate(rows(60, ""))) * 2
    )
    for _ in range(2):  # made, then read
        found = splits.documents("file:d.csv", label="label", test=10, validation=10, base=base)
        counts = splits.counts_of(found)
        assert counts is not None
        assert (counts.read, counts.dropped) == ({"": 120}, {"repeats": 60})
        assert counts.classes["test"] == {"0": 5, "1": 5}
