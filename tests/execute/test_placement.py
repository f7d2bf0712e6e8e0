"""Room on devices: what is predicted to fit, what is refused and why."""

from results_factory import cell

from harness.execute.placement import GIB, Device, Placement, too_large


def placement(devices: list[Device], need: int | None, wanted: int = 1) -> Placement:
    return Placement(devices, lambda found: need, lambda found: wanted)


def test_cells_share_a_device_as_far_as_its_memory_goes() -> None:
    device = Device("cpu", 10 * GIB, slots=3)
    room = placement([device], 4 * GIB)
    first, second, third = (cell(name) for name in "abc")
    assert room.place(first) == (device,)
    assert room.place(second) == (device,)
    assert room.place(third) is None  # 12 of 10 GiB
    room.release(first)
    assert room.place(third) == (device,)


def test_slots_bound_what_runs_also_where_nothing_is_predicted() -> None:
    device = Device("cpu", 10 * GIB, slots=2)
    room = placement([device], None)
    assert room.place(cell("a"))
    assert room.place(cell("b"))
    assert device.held == {cell("a").spec_digest: 5 * GIB, cell("b").spec_digest: 5 * GIB}
    assert room.place(cell("c")) is None


def test_the_emptiest_device_is_taken_and_several_when_asked() -> None:
    devices = [Device("0", 80 * GIB), Device("1", 80 * GIB), Device("2", 80 * GIB)]
    assert [device.name for device in placement(devices, GIB).place(cell("a")) or ()] == ["0"]
    assert [device.name for device in placement(devices, GIB, wanted=2).place(cell("b")) or ()] == ["1", "2"]
    assert placement(devices, GIB).place(cell("c")) is None


def test_what_can_never_fit_is_refused_with_the_figures() -> None:
    device = Device("cuda:0", 24 * GIB)
    reason = too_large([device], 31 * GIB) or ""
    assert reason.startswith("is predicted to need 31.0 GiB; cuda:0 has 24.0 GiB. Lower batch_size")
    assert too_large([device], 27 * GIB) is None  # within the prediction's error
    assert too_large([device], None) is None
    assert too_large([Device("0", 0)], 31 * GIB) is None  # of unknown size
    two = [device, Device("cuda:1", 80 * GIB)]
    assert too_large(two, 60 * GIB) is None
    assert "24.0 GiB" in (too_large(two, 60 * GIB, count=2) or "")
    assert too_large(two, GIB, count=3) == "needs 3 devices, and there are 2. Lower `devices`, or take a larger machine"


def test_a_cell_larger_than_its_device_within_the_error_runs_alone() -> None:
    device = Device("cpu", 10 * GIB, slots=2)
    room = placement([device], 11 * GIB)
    assert room.place(cell("a")) == (device,)
    assert room.place(cell("b")) is None
