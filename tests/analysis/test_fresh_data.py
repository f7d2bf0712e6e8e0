"""A score on fresh data is compared with the stored one, and a stated rule says whether to train again."""

from __future__ import annotations

import math

import pytest

from harness.analysis.fresh_data import advise, rows_to_settle, score_change, unpaired

STORED = {f"i{n}": float(n % 5 != 0) for n in range(200)}  # 0.8


def fresh(right: int, wrong: int, name: str = "new") -> list[tuple[str, float]]:
    return [(f"{name}{n}", float(n < right)) for n in range(right + wrong)]


def test_newcombes_interval_is_the_published_one() -> None:
    """Newcombe 1998, table II, case (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    found = unpaired([1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_a_shown_loss_pays_and_an_unshown_one_is_open() -> None:
    worse = score_change(STORED, fresh(80, 120))
    assert (worse.is_paired, advise(worse, 0.02)) == (False, "retrain")
    same = score_change(STORED, fresh(160, 40))
    assert advise(same, 0.02) == "open"
    assert advise(score_change(STORED, fresh(199, 1)), 0.02) == "keep"
    assert advise(None, 0.02) == "no labels"


def test_items_that_repeat_are_compared_pair_by_pair() -> None:
    repeated = list(STORED.items())
    change = score_change(STORED, repeated)
    assert change.is_paired
    assert (change.difference.low, change.difference.high) == (0.0, 0.0)
    assert advise(change, 0.02) == "keep"
    lost = [(name, 0.0 if place < 40 else value) for place, (name, value) in enumerate(STORED.items())]
    assert advise(score_change(STORED, lost), 0.02) == "retrain"
    few = score_change(STORED, [*repeated[:10], *fresh(40, 20)])
    assert not few.is_paired


def test_where_lower_is_better_the_sign_is_turned() -> None:
    stored = {f"i{n}": 2.0 + n % 3 for n in range(90)}
    worse = score_change(stored, [(f"n{n}", 5.0 + n % 3) for n in range(90)], higher_is_better=False)
    assert worse.difference.value == pytest.approx(-3.0)
    assert advise(worse, 0.02) == "retrain"


def test_the_rows_that_would_settle_it() -> None:
    change = score_change(STORED, fresh(21, 9))  # 0.7 of 30
    needed = rows_to_settle(change, 0.02)
    assert needed is None or needed > 30
    paired = score_change(STORED, [(name, 0.0 if n < 3 else value) for n, (name, value) in enumerate(STORED.items())])
    assert rows_to_settle(paired, 0.02) is not None
    exactly = score_change(dict.fromkeys(map(str, range(50)), 1.0), [(str(n), 1.0) for n in range(50)])
    assert rows_to_settle(exactly, 0.0) is None
    with pytest.raises(ValueError, match="needs items"):
        score_change({}, fresh(1, 1))
    assert math.isinf(score_change({"a": 0.3}, [("b", 0.4)]).difference.high)
