"""Where a cell may run on this machine: devices with room for what it is predicted to need.

A device takes a limited number of cells (slots) at a time, and as much predicted memory as it has. A cell without a
prediction counts as needing a slot's share of the memory. Not covered: what a cell really takes (`watchdog.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.records import Cell

GIB = 2**30
ERROR = 0.15  # of the prediction: a cell is only refused when it would not fit even if it needed that much less


@dataclass
class Device:
    """One device: the CPU with the machine's memory, or one GPU with its own. `slots` is the number of cells that it
    takes at a time; `held` maps the spec digests of cells on it to their predicted bytes."""

    name: str  # "cpu", or as CUDA_VISIBLE_DEVICES names it
    capacity: int  # bytes; 0 where it is not known: then memory is no reason to refuse
    slots: int = 1
    held: dict[str, int] = field(default_factory=dict)

    def fits(self, predicted: int) -> bool:
        """Returns whether a cell of `predicted` bytes has room now. A device without cells takes one of any size."""
        if len(self.held) >= self.slots:
            return False
        return not self.held or not self.capacity or sum(self.held.values()) + predicted <= self.capacity

    def share(self) -> int:
        """Returns one slot's share of the device's memory in bytes: what a cell without a prediction counts as."""
        return self.capacity // self.slots


class Placement:
    """Gives cells their devices, and takes them back. `predict` returns the bytes that a cell needs on each of its
    devices (None where unknown), `wanted` the number of devices that it asks for."""

    def __init__(self, devices: list[Device], predict: Callable[[Cell], int | None], wanted: Callable[[Cell], int]):
        self.devices, self.predict, self.wanted = devices, predict, wanted

    def place(self, cell: Cell) -> tuple[Device, ...] | None:
        """Reserve the emptiest devices that have room for a cell, as many as it wants, and return them; None when there
        are not enough at present."""
        need = self.predict(cell)
        room = [device for device in self.devices if device.fits(device.share() if need is None else need)]
        count = self.wanted(cell)
        if len(room) < count:
            return None
        chosen = sorted(room, key=lambda device: (len(device.held), sum(device.held.values())))[:count]
        for device in chosen:
            device.held[cell.spec_digest] = device.share() if need is None else need
        return tuple(chosen)

    def release(self, cell: Cell) -> None:
        """Give back the devices of a cell."""
        for device in self.devices:
            device.held.pop(cell.spec_digest, None)


def too_large(devices: list[Device], predicted: int | None, count: int = 1) -> str | None:
    """Returns why a cell that needs `predicted` bytes on each of `count` devices can never fit on `devices`; None where
    it can, or where the bytes or the memory are not known. A cell is only refused where even 85% of the prediction
    would not fit."""
    if count > len(devices):
        return f"needs {count} devices, and there are {len(devices)}. Lower `devices`, or take a larger machine"
    largest = sorted((device.capacity for device in devices), reverse=True)[count - 1]
    if not predicted or not largest or predicted * (1 - ERROR) <= largest:
        return None
    each = " on each device" if count > 1 else ""
    return (
        f"is predicted to need {predicted / GIB:.1f} GiB{each}; {devices[0].name} has {largest / GIB:.1f} GiB. "
        "Lower batch_size, turn on gradient_checkpointing or take a cheaper method; --memory overrides"
    )
