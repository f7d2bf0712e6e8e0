"""On which side of a difference a combination of packages is."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis import Toggled, noisy_sides
from harness.analysis.ends import side
from harness.analysis.regression import Change, Difference, MetricChanges, Pattern, Regression, differences
from harness.records import Probe


def vectors(*values: float) -> list[np.ndarray]:
    return [np.array([value]) for value in values]


@pytest.mark.parametrize(
    ("between", "answer"),
    [
        ([0.01, -0.02, 0.03], Toggled.OLD),
        ([0.19, 0.2, 0.16], Toggled.NEW),
        ([0.0, 0.2, 0.19], Toggled.NEW),  # a value that is off decides nothing
        ([0.1, 0.09, 0.11], Toggled.UNRESOLVED),
        ([-0.3], Toggled.OLD),
        ([0.9], Toggled.NEW),
        ([], Toggled.UNRESOLVED),
        ([float("nan")], Toggled.UNRESOLVED),
    ],
)
def test_a_cost_is_where_the_median_of_its_repeats_is(between: list[float], answer: Toggled) -> None:
    assert side(vectors(0, 0.01, -0.01), vectors(*between), vectors(0.2, 0.19, 0.21)) is answer


def test_items_are_projected_on_the_way_between_the_ends() -> None:
    old, new = np.array([1.0, 1, 1, 0, 0, 1]), np.array([0.0, 0, 1, 0, 1, 1])
    other = np.array([1.0, 1, 0, 1, 0, 1])  # moved, but not as the new environment did
    assert side([old], [other], [new]) is Toggled.OLD
    assert side([old], [new], [new]) is Toggled.NEW
    assert side([old], [old], [old]) is Toggled.UNRESOLVED, "the ends do not differ"
    assert side([old], [old[:3]], [new]) is Toggled.UNRESOLVED


def change(level: str, name: str, metric: str, answer: str, p: float, label: str = "", **rest: object) -> Change:
    spec = f"spec-{name}" if level == "cell" else ""
    return Change(level, name, metric, answer, 0.05, label, spec_digest=spec, p_alone=p, **rest)  # type: ignore[arg-type]


def test_each_label_that_moved_is_shown_by_its_clearest_cell() -> None:
    cells = (
        change("cell", "lora/8", "train_seconds", "cannot tell", 0.2, "lora"),
        change("cell", "lora/64", "train_seconds", "different", 0.001, "lora"),
        change("cell", "full/8", "train_seconds", "same", 0.9, "full"),
    )
    labels = (
        change("label", "lora", "train_seconds", "different", 0.001),
        change("label", "full", "train_seconds", "same", 0.9),
    )
    pattern = Pattern("only", "only lora moved", ("lora",))
    metric = MetricChanges("train_seconds", "cost", 0.05, pattern, cells, labels, None, timed=True)
    assert differences(Regression("a", "b", (metric,))) == [
        Difference("lora", "train_seconds", ("spec-lora/64",), cost=True, timed=True)
    ]


def test_what_moved_everything_is_shown_by_one_label() -> None:
    labels = tuple(change("label", name, "acc", "different", p) for name, p in (("lora", 0.02), ("full", 0.01)))
    cells = tuple(change("cell", f"{one.name}/8", "acc", "different", one.p_alone, one.name) for one in labels)
    everything = change("everything", "", "acc", "different", 0.001)
    metric = MetricChanges("acc", "task", 0.01, Pattern("everything", "all moved"), cells, labels, everything)
    assert [one.key for one in differences(Regression("a", "b", (metric,)))] == [("full", "acc")]


def test_a_cell_that_cannot_run_is_a_difference_once() -> None:
    cells = tuple(
        change("cell", f"qlora/{n}", "acc", "cannot run there", 1.0, "qlora", missing=missing)
        for n, missing in ((8, "new"), (64, "new"), (16, "both"))
    )
    metric = MetricChanges("acc", "task", 0.01, Pattern("cannot tell", ""), cells)
    assert differences(Regression("a", "b", (metric,))) == [
        Difference("qlora", "ends well", ("spec-qlora/8",), failure=True)
    ]


def test_readings_that_vary_are_at_the_nearer_end() -> None:
    """A package that is not guilty gives another reading each time, too: the tolerance alone would blame it."""
    key = ("qlora", "packed layer")
    old, clean, guilty, new = ([Probe(*key, (value,), "times"), Probe("x", "y", (1.0,), "nats")]
                               for value in (7.0, 4.9, 2.9, 2.6))  # fmt: skip
    keys = [key, ("x", "y")]
    assert noisy_sides(old, clean, new, keys) == {key: Toggled.OLD}
    assert noisy_sides(old, guilty, new, keys) == {key: Toggled.NEW}
    assert noisy_sides(old, [Probe(*key, (4.3,), "times")], new, keys) == {key: Toggled.UNRESOLVED}
    assert noisy_sides(old, [Probe(*key, reason="ImportError")], new, keys) == {}
