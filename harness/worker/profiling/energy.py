"""Energy in joules, read from the hardware's own counters; absent where there is no counter, never estimated.

On an NVIDIA GPU: NVML's total of the board that this process uses (`nvmlDeviceGetTotalEnergyConsumption`, Volta and
later, package nvidia-ml-py), without the processor beside it. On a CPU: RAPL's packages (Linux powercap,
https://docs.kernel.org/power/powercap/powercap.html), without memory and the rest of the machine; most systems let
root alone read it (CVE-2020-8694). Both count the whole device: whatever else runs there is counted too, so a cell
that shared its machine has no energy (`cell.finish`). Work that is not tunebench's cannot be seen here.

NVML renews its total some ten to fifty times a second, RAPL a thousand times: figures of shorter phases say little.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
PACKAGE = re.compile(r"intel-rapl:\d+")  # AMD's processors stand under this name too; below it are parts of packages
# RAPL's counters wrap around, some at 65 kJ: in 160 seconds at 400 W. They are read more often than that.
KEEP_UP_SECONDS = 30.0


class Counter(Protocol):
    """Protocol of an energy counter: `read` returns the joules since some moment, so only differences mean something;
    None where it is not known."""

    def read(self) -> float | None: ...


class Absent:
    """Energy counter of a device that has none: always reads None."""

    def read(self) -> float | None:
        return None


def energy_counter() -> Counter:
    """Returns the energy counter of the device that this process computes on, without starting CUDA."""
    import torch

    return gpu_counter(os.environ) if torch.cuda.is_available() else cpu_counter(POWERCAP)


# --- a GPU ---


class Board:
    """Energy counter of one GPU, by NVML; `handle` is NVML's for it. Reads None where NVML gives no total."""

    def __init__(self, nvml: ModuleType, handle: object) -> None:
        self.nvml, self.handle = nvml, handle

    def read(self) -> float | None:
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1000  # of millijoules
        except self.nvml.NVMLError:
            return None


def gpu_counter(environ: Mapping[str, str]) -> Counter:
    """Returns the energy counter of the GPU that CUDA gives a process with the environment variables `environ` (each of
    several ranks has its own); `Absent` where that is not known."""
    try:
        import pynvml as nvml
    except ImportError:
        return Absent()
    try:
        nvml.nvmlInit()
        handle = board_of(nvml, environ)
    except nvml.NVMLError:
        return Absent()
    return Absent() if handle is None else Board(nvml, handle)


def board_of(nvml: ModuleType, environ: Mapping[str, str]) -> object | None:
    """Returns NVML's handle of the GPU that CUDA takes as current under the environment variables `environ`, by CUDA's
    rules for CUDA_VISIBLE_DEVICES. None where the rules do not settle it, or where the GPU is shared out (MIG), as its
    counter covers all shares.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars
    """
    boards = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(nvml.nvmlDeviceGetCount())]
    names = environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(len(boards))))).split(",")
    rank = int(environ.get("LOCAL_RANK", "0"))
    name = names[rank].strip() if rank < len(names) else ""
    if name.isdigit():
        # Numbers are NVML's only if CUDA counts as the bus does; by default it puts the fastest first.
        alike = len({text(nvml.nvmlDeviceGetName(board)) for board in boards}) == 1
        counted = alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        matching = [boards[int(name)]] if counted and int(name) < len(boards) else []
    else:
        matching = [board for board in boards if name and text(nvml.nvmlDeviceGetUUID(board)).startswith(name)]
    return matching[0] if len(matching) == 1 and not is_shared_out(nvml, matching[0]) else None


def is_shared_out(nvml: ModuleType, board: object) -> bool:
    """Returns whether a GPU, by its NVML handle, is divided into several (MIG)."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(board)[0])
    except nvml.NVMLError:
        return False  # a board that cannot be


def text(name: str | bytes) -> str:
    """Returns a name of NVML as text; its older versions give bytes."""
    return name.decode() if isinstance(name, bytes) else name


# --- a processor ---


class Packages:
    """Energy counter of all processor packages of the machine together, by RAPL. `folders` are the packages' powercap
    folders. Reads None where one can no longer be read."""

    def __init__(self, folders: list[Path]) -> None:
        self.ranges = {folder / "energy_uj": int((folder / "max_energy_range_uj").read_text()) for folder in folders}
        self.last = {file: int(file.read_text()) for file in self.ranges}
        self.total = 0  # microjoules
        self.lock = threading.Lock()

    def read(self) -> float | None:
        with self.lock:
            try:
                for file, last in self.last.items():
                    self.last[file] = now = int(file.read_text())
                    self.total += now - last if now >= last else now - last + self.ranges[file]
            except (OSError, ValueError):
                return None
            return self.total / 1e6

    def keep_up(self) -> None:
        """Read the counter every 30 seconds for as long as the process lives, so that no wrap-around is missed."""
        pause = threading.Event()
        while not pause.wait(KEEP_UP_SECONDS):
            self.read()


def cpu_counter(root: Path) -> Counter:
    """Returns the energy counter of this machine's processor packages; `Absent` where there are none that can be read.
    `root` is the powercap folder."""
    try:
        zones = [folder for folder in sorted(root.iterdir()) if PACKAGE.fullmatch(folder.name)]
        # A zone "psys" is the platform, with the packages in it.
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        counter = Packages(packages)
    except (OSError, ValueError):
        return Absent()
    if not packages:
        return Absent()
    threading.Thread(target=counter.keep_up, daemon=True).start()
    return counter
