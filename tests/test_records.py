import json

from hypothesis import given
from hypothesis import strategies as st
from samples import CELL, ENVIRONMENT

from harness.records import (
    Cell,
    CellResult,
    Checkpoint,
    Fact,
    Flag,
    Phase,
    Score,
    Status,
    Step,
    canonical,
    digest,
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_digest_does_not_depend_on_key_order(value: object) -> None:
    shuffled = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert digest(value) == digest(shuffled)
    assert json.loads(canonical(value)) == json.loads(json.dumps(value))


def test_digest_is_fixed_for_ever() -> None:
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_result_survives_json() -> None:
    result = CellResult(
        "a1", "r1", CELL, ENVIRONMENT, Status.DONE, "", "2026-01-01T00:00:00+00:00", 1.5, False,
        (Score("t", "task", "acc", 0.5, 0.1, 4, True),), (Phase("train", 1.0, 10, 2),),
        (Step(1, "train", 2.0, 1e-3, 10, 0.1),), (Fact("x", 1.0, "B", None),), (Flag("f", {"p": 0.5}),),
        checkpoints=(Checkpoint(12, "t", "task", "acc", 0.4, None, 4, True),),
    )  # fmt: skip
    assert CellResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    older = {key: value for key, value in result.to_json().items() if key != "checkpoints"}
    assert CellResult.from_json(older).checkpoints == ()


def test_cell_survives_json() -> None:
    assert Cell.from_json(json.loads(json.dumps(CELL.to_json()))) == CELL
