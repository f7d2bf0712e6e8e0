"""Energy: which counter is read, what its wrap-around means, and that nothing is said where nothing is known."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.records import Phase
from harness.worker.profiling import energy
from harness.worker.profiling.energy import Absent, Board, cpu_counter, energy_counter, gpu_counter
from harness.worker.profiling.meter import Meter


class Ticks:
    """A counter that has these readings."""

    def __init__(self, *values: float | None) -> None:
        self.values = iter(values)

    def read(self) -> float | None:
        return next(self.values)


# --- the meter ---


def test_a_phase_has_the_energy_between_its_ends() -> None:
    meter = Meter(Ticks(10.0, 17.5, 20.0, 20.0))
    for name in ("load", "train"):
        with meter.phase(name):
            pass
    assert [(phase.phase, phase.energy_j) for phase in meter.phases] == [("load", 7.5), ("train", 0.0)]


def test_the_energy_of_an_inner_phase_is_its_own() -> None:
    meter = Meter(Ticks(0.0, 1.0, 1.0, 11.0, 11.0, 14.0))
    with meter.phase("train"), meter.phase("score_stages"):
        pass
    assert {phase.phase: phase.energy_j for phase in meter.phases} == {"train": 4.0, "score_stages": 10.0}


@pytest.mark.parametrize("readings", [(None, None), (1.0, None), (None, 1.0)])
def test_what_is_not_known_at_both_ends_is_absent(readings: tuple[float | None, ...]) -> None:
    meter = Meter(Ticks(*readings))
    with meter.phase("train"):
        pass
    assert meter.phases[0].energy_j is None


def test_energy_missed_in_one_stretch_is_missing_in_the_phase() -> None:
    meter = Meter(Ticks(0.0, 2.0, 2.0, None, None, None))
    with meter.phase("train"), meter.phase("score_stages"):
        pass
    assert {phase.phase: phase.energy_j for phase in meter.phases} == {"train": None, "score_stages": None}


# --- RAPL ---


def zone(root: Path, name: str, joules: float, kind: str = "package-0", most: float = 100.0) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text(f"{round(most * 1e6)}\n")
    put(folder, joules)
    return folder


def put(folder: Path, joules: float) -> None:
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    one, two = zone(tmp_path, "intel-rapl:0", 5), zone(tmp_path, "intel-rapl:1", 50, "package-1")
    core = zone(tmp_path, "intel-rapl:0:0", 1, "core")
    platform = zone(tmp_path, "intel-rapl:2", 1, "psys")
    double = zone(tmp_path, "intel-rapl-mmio:0", 5)
    counter = cpu_counter(tmp_path)
    before = counter.read()
    for folder, joules in ((one, 7), (two, 53), (core, 90), (platform, 90), (double, 90)):
        put(folder, joules)
    after = counter.read()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(5.0)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 98)
    counter = cpu_counter(tmp_path)
    for joules in (99, 3, 60, 1):
        put(folder, joules)
        last = counter.read()
    assert last == pytest.approx(1 + 4 + 57 + 41)


@pytest.mark.parametrize("what", ["no folder", "no package", "no range", "no number"])
def test_without_a_readable_counter_there_is_none(what: str, tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    if what != "no folder":
        folder = zone(root, "intel-rapl:0" if what != "no package" else "intel-rapl:0:0", 5)
    if what == "no range":
        (folder / "max_energy_range_uj").unlink()
    if what == "no number":
        (folder / "energy_uj").write_text("")
    assert isinstance(cpu_counter(root), Absent)
    assert cpu_counter(root).read() is None


def test_a_counter_that_goes_away_says_nothing_more(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 5)
    counter = cpu_counter(tmp_path)
    (folder / "energy_uj").unlink()
    assert counter.read() is None


# --- NVML ---


class NVMLError(Exception):
    pass


class Nvml(ModuleType):
    """Three boards, whose totals are 1000, 2000 and 3000 mJ."""

    NVMLError = NVMLError

    def __init__(self, names: tuple[str, ...] = ("H200",) * 3, mig: int = 0, old: bool = False, driver: bool = True):
        super().__init__("pynvml")
        self.names, self.mig, self.old, self.driver = names, mig, old, driver

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:
        return place

    def nvmlDeviceGetName(self, board: int) -> str:
        return self.names[board]

    def nvmlDeviceGetUUID(self, board: int) -> bytes:
        return f"GPU-{'abc'[board]}123".encode()

    def nvmlDeviceGetMigMode(self, board: int) -> list[int]:
        if self.mig < 0:
            raise NVMLError("not supported")
        return [self.mig, self.mig]

    def nvmlDeviceGetTotalEnergyConsumption(self, board: int) -> int:
        if self.old:
            raise NVMLError("not supported")
        return 1000 * (board + 1)


def joules(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], **board: Any) -> float | None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(**board))
    return gpu_counter(environ).read()


MIXED = ("H200", "A10", "H200")
BOARDS: list[tuple[dict[str, str], dict[str, Any], float | None]] = [
    ({}, {}, 1.0),
    ({"CUDA_VISIBLE_DEVICES": "2"}, {}, 3.0),
    ({"CUDA_VISIBLE_DEVICES": "2, 1", "LOCAL_RANK": "1"}, {}, 2.0),
    ({"CUDA_VISIBLE_DEVICES": "GPU-b12"}, {"names": MIXED}, 2.0),
    ({"CUDA_VISIBLE_DEVICES": "1"}, {"names": MIXED}, None),  # CUDA's number 1 may be another board than NVML's
    ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, {"names": MIXED}, 2.0),
    ({"CUDA_VISIBLE_DEVICES": "GPU-"}, {}, None),  # of several boards
    ({"CUDA_VISIBLE_DEVICES": "MIG-a123"}, {}, None),
    ({"CUDA_VISIBLE_DEVICES": ""}, {}, None),
    ({"CUDA_VISIBLE_DEVICES": "7"}, {}, None),
    ({"CUDA_VISIBLE_DEVICES": "0", "LOCAL_RANK": "1"}, {}, None),
    ({}, {"mig": 1}, None),
    ({}, {"mig": -1}, 1.0),
    ({}, {"old": True}, None),
    ({}, {"driver": False}, None),
]


@pytest.mark.parametrize(("environ", "board", "wanted"), BOARDS)
def test_the_board_is_the_one_that_cuda_gives(
    environ: dict[str, str], board: dict[str, Any], wanted: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert joules(monkeypatch, environ, **board) == wanted


def test_without_the_package_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert isinstance(gpu_counter({}), Absent)


def test_a_process_reads_the_counter_of_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    zone(tmp_path, "intel-rapl:0", 5)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert energy_counter().read() == 0.0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(energy_counter(), Board)


# --- several processes, and shared machines ---


@pytest.mark.parametrize(
    ("phases", "wanted"),
    [
        ([Phase("train", 1.0, device_bytes=9, energy_j=5.0), Phase("train", 1.0, device_bytes=9, energy_j=7.0)], 12.0),
        ([Phase("train", 1.0, device_bytes=9, energy_j=5.0), Phase("train", 1.0, device_bytes=9)], None),
        ([Phase("train", 1.0, energy_j=5.0), Phase("train", 1.0, energy_j=5.5)], 5.0),  # both saw the whole machine
    ],
)
def test_ranks_have_a_gpu_each_and_a_machine_together(phases: list[Phase], wanted: float | None) -> None:
    from types import SimpleNamespace

    from harness.worker.multi_device import joint

    results: Any = {rank: SimpleNamespace(phases=(phase,)) for rank, phase in enumerate(phases)}
    assert joint(phases[0], results).energy_j == wanted


def test_a_cell_that_shared_its_machine_has_no_energy(tmp_path: Path) -> None:
    import json

    from samples import CELL, ENVIRONMENT

    from harness.records import CellResult, Status
    from harness.worker import cell as worker

    result = CellResult(
        "a",
        "r",
        CELL,
        ENVIRONMENT,
        Status.DONE,
        "",
        "2026-01-01T00:00:00+00:00",
        phases=(Phase("train", 1.0, energy_j=5.0, rss_bytes=3),),
    )
    kept = []
    for _ in range(2):
        worker.finish(tmp_path, result, "cpu")
        read = CellResult.from_json(json.loads((tmp_path / "result.json").read_text()))
        kept.append([(phase.energy_j, phase.rss_bytes) for phase in read.phases])
        (tmp_path / "beside.txt").write_text("another\n")
    assert kept == [[(5.0, 3)], [(None, 3)]]
