"""Which readings of two environments differ, and in which direction."""

import pytest

from harness.analysis.probed import moved_sentence, probe_changes
from harness.records import LIBRARIES, Probe


def only(before: Probe, after: Probe) -> list[str]:
    return [f"{one.subject}: {one.before} → {one.after} {one.better}" for one in probe_changes([before], [after])]


@pytest.mark.parametrize(
    ("unit", "before", "after", "differs"),
    [
        ("nats", 1.0, 1.00001, False),
        ("nats", 1.0, 1.001, True),
        ("bytes", 64.0, 65.0, True),
        ("parameters", 6400.0, 7744.0, True),
        ("ratio", 1.0, 1.0001, False),
        ("ratio", 2.0, 1.0, True),
        ("nats", float("nan"), float("nan"), False),
        ("nats", 1.0, float("nan"), True),
        ("resident bytes", 6e8, 6.1e8, False),
        ("resident bytes", 6e8, 8e8, True),
    ],
)
def test_rounding_is_no_change(unit: str, before: float, after: float, differs: bool) -> None:
    found = only(Probe("lora", "x", (before,), unit), Probe("lora", "x", (after,), unit))
    assert bool(found) == differs


def test_more_bytes_are_worse_and_other_losses_are_neither() -> None:
    buffers = [Probe("full", "bytes of buffers", (size,), "bytes") for size in (8 * 2**20, 512 * 2**20)]
    assert only(buffers[0], buffers[1]) == ["full: 8 MiB → 512 MiB False"]
    assert only(buffers[1], buffers[0]) == ["full: 512 MiB → 8 MiB True"]
    losses = [Probe("full", "losses", values, "nats") for values in ((5.0, 4.0), (5.0, 4.1))]
    assert only(*losses) == ["full: 4 nats → 4.1 nats (value 2 of 2) None"]


def test_settings_differ_by_field_and_one_that_is_new_and_off_does_not() -> None:
    before = Probe(LIBRARIES, "defaults", fields={"beta": "0.04", "kept": "1"})
    after = Probe(LIBRARIES, "defaults", fields={"beta": "0.0", "kept": "1", "added": "None"})
    (change,) = probe_changes([before], [after])
    assert change.settings == (("beta", "0.04", "0.0"),)
    (added,) = probe_changes([after], [Probe(LIBRARIES, "defaults", fields={**after.fields, "more": "8"})])
    assert added.settings == (("more", "(no such setting)", "8"),)


def test_what_can_be_read_on_one_side_alone_differs() -> None:
    works = Probe("qlora", "losses", (1.0,), "nats")
    fails = Probe("qlora", "losses", reason="RuntimeError: no")
    assert only(works, fails) == ["qlora: 1 nats → cannot be read: RuntimeError: no False"]
    assert only(fails, works) == ["qlora: cannot be read: RuntimeError: no → 1 nats True"]
    assert only(fails, fails) == []


def test_a_method_that_fails_before_anything_is_read_differs_once() -> None:
    works = [Probe("qlora", "trained parameters", (8.0,), "parameters"), Probe("qlora", "losses", (1.0,), "nats")]
    fails = [Probe("qlora", "attaching", reason="RuntimeError: no")]
    (change,) = probe_changes(works, fails)
    assert (change.name, change.better) == ("attaching", False)
    (change,) = probe_changes(fails, works)
    assert (change.name, change.better) == ("attaching", True)


def test_what_moved_is_said_in_a_sentence() -> None:
    def changed(*subjects: str) -> str:
        before = [Probe(subject, "x", (1.0,), "nats") for subject in subjects]
        after = [Probe(subject, "x", (2.0,), "nats") for subject in subjects]
        return moved_sentence(probe_changes(before, after), ["lora", "full", "svd"])

    assert changed() == "Nothing that was probed differs."
    assert changed("svd") == "Only svd moved; 2 others did not."
    assert changed("lora", "full", "svd") == "Every method moved: the axis, not the methods."
    assert changed(LIBRARIES).startswith("No method moved by itself")


def test_each_setting_is_a_reading_of_its_own() -> None:
    old = Probe("libraries", "defaults", fields={"loss": "a", "rate": "1", "same": "x"})
    new = Probe("libraries", "defaults", fields={"loss": "b", "rate": "2", "same": "x"})
    (change,) = probe_changes([old], [new])
    assert change.keys == [("libraries", "defaults: loss"), ("libraries", "defaults: rate")]
