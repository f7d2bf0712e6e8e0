"""Says on how many devices a cell trains, and why a machine may have too few."""

from __future__ import annotations

from importlib.util import find_spec

from harness.methods import make_method
from harness.records import Cell


def devices_of(cell: Cell) -> int:
    """Return the number of devices that a cell trains on; 1 where nothing is trained, or its method only combines
    experts."""
    distributes = cell.n_train > 0 and make_method(cell.method, cell.settings).distributes
    return cell.train.devices if distributes else 1


def devices_missing(cell: Cell, accelerators: int) -> str | None:
    """Return why a machine cannot give a cell the devices that it asks for, or None. `accelerators` is the machine's
    number of GPUs; with 0 a cell's devices are processes on the CPU, which only the strategy deepspeed refuses."""
    wanted = devices_of(cell)
    if wanted == 1:
        return None
    if accelerators and accelerators < wanted:
        return f"devices is {wanted}, and there are {accelerators} here. Lower devices, or show the run more of them."
    if cell.train.strategy == "deepspeed":
        if find_spec("deepspeed") is None:
            return "strategy deepspeed needs the package deepspeed. Install it, or use fsdp or ddp."
        if not accelerators:
            return "strategy deepspeed needs GPUs. On a CPU there are ddp and fsdp."
    return None
