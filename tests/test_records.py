import ast
import hashlib
import inspect
import json
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import CELL, ENVIRONMENT, JOB

from harness.records import (
    Cell,
    CellResult,
    Checkpoint,
    EarlierTrial,
    Fact,
    Flag,
    Job,
    Phase,
    RungScore,
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


def test_job_survives_json() -> None:
    job = replace(
        JOB, tuned={"rank": 4}, baseline=None, predicted_parts={"weights": 3}, bad_instruments=("x (m)",),
        leaks={"t": {"items": 3}},
        earlier=(EarlierTrial(number=0, status="done", merit=0.5,
                              intermediate=[RungScore(rung=1, step=2, value=0.5, merit=0.5)]),),
    )  # fmt: skip
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert Job.from_json(json.loads(json.dumps(JOB.to_json()))) == JOB
    assert job.settled_cell.settings == {"rank": 4}
    assert job.cell == CELL


def test_a_job_of_another_version_says_what_is_wrong_with_it() -> None:
    data = JOB.to_json()
    del data["threads"], data["baseline"]
    data["devices"] = 2
    with pytest.raises(ValueError, match="has no 'baseline', has no 'threads' and has an unknown 'devices'"):
        Job.from_json(data)


def test_the_job_of_a_need_is_its_own_cells() -> None:
    needed = replace(CELL, key="full/m/t/n8/s0", method="full", settings={})
    need = replace(JOB, tuned={"rank": 4}, needed={"expert:t": needed}).of_need("expert:t")
    assert (need.cell, need.settled_cell, need.needs, need.needed, need.baseline) == (needed, needed, {}, {}, None)
    assert (need.models, need.environment) == (JOB.models, JOB.environment)


def test_every_field_of_a_job_is_explained() -> None:
    tree = ast.parse(inspect.getsource(Job))
    body = tree.body[0].body  # type: ignore[attr-defined]
    explained = {
        before.target.id
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    assert explained == {field.name for field in fields(Job)}


RESULT = CellResult(
    "a1", "r1", CELL, ENVIRONMENT, Status.DONE, "", "2026-01-01T00:00:00+00:00", 1.5, False,
    (Score("t", "task", "acc", 0.5, 0.1, 4, True),), (Phase("train", 1.0, 10, 2),),
    (Step(1, "train", 2.0, 1e-3, 10, 0.1),), (Fact("x", 1.0, "B", None),), (Flag("f", {"p": 0.5}),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("scores", 0, "value"), "high", r"scores\[0\].value: got 'high', wanted a number"),
        (("scores", 0, "n"), 2**70, r"scores\[0\].n: got 1180591620717411303424, wanted a whole number of at most 64"),
        (("scores", 0, "role"), "other", r"scores\[0\].role: got 'other', wanted one of task, retain"),
        (("scores", 0), None, r"scores\[0\]: got None, wanted an object"),
        (("scores",), {"a": 1}, r"scores: got \{'a': 1\}, wanted a list"),
        (("cell", "seed"), True, "cell.seed: got True, wanted a whole number"),
        (("cell", "seed"), -1, "cell.seed: got -1, wanted a number of at least 0"),
        (("cell", "train", "steps"), "x", "cell.train.steps: got 'x'"),
        (("cell", "settings", "name"), "\ud800", r"cell.settings.name: got '\\ud800', wanted a text without lone"),
        (("started",), "2026-13-45", "started: got '2026-13-45', wanted a date and time with its zone"),
        (("started",), "2026-01-01T00:00:00", "started: got .* wanted a date and time with its zone"),
        (("environment", "packages"), [], "environment.packages: got "),
        (("status",), "finished", "status: got 'finished', wanted one of done, failed"),
        (("seconds",), float("nan"), "seconds: got nan, wanted a number of seconds"),
        (("facts", 0, "value"), 10**400, r"facts\[0\].value: got 1000.*…, wanted a number"),
        (("facts", 0, "nmae"), "x", r"facts\[0\]: has an unknown field 'nmae', the nearest known one is 'name'"),
    ],
)
def test_a_wrong_field_of_a_result_is_named(path: tuple[str | int, ...], value: object, message: str) -> None:
    data = json.loads(json.dumps(RESULT.to_json()))
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        CellResult.from_json(data)


def test_a_missing_field_of_a_result_is_named() -> None:
    data = json.loads(json.dumps(RESULT.to_json()))
    del data["scores"][0]["value"]
    with pytest.raises(ValueError, match=r"scores\[0\]: has no field 'value'"):
        CellResult.from_json(data)
    with pytest.raises(ValueError, match="the file: got 3, wanted an object"):
        CellResult.from_json(3)  # type: ignore[arg-type]


def test_digests_tell_keys_of_different_types_apart() -> None:
    one, text, true, nested = {1: "a"}, {"1": "a"}, {True: "a"}, [{"x": {1: 2}}]
    assert len({digest(value) for value in (one, text, true, nested, [{"x": {"1": 2}}])}) == 5
    assert digest({1: "a", "b": 2}) == digest({"b": 2, 1: "a"})
    assert digest({"a": (1, 2)}) == digest({"a": [1, 2]})
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
