"""Where a cell may run on this machine: devices with room for what it is predicted to need.

A device takes a number of cells at a time, and as much predicted memory as it has. A cell of which nothing is
predicted is taken to need a slot's share. Not covered: what a cell really takes (`watchdog.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.records import Cell

GIB = 2**30
ERROR = 0.15  # of the prediction: a cell is only refused when it would not fit even if it needed that much less


@dataclass
class Device:
    """The CPU with the machine's memory, or one GPU with its own. `held` maps cells on it to predicted bytes."""

    name: str  # "cpu", or as CUDA_VISIBLE_DEVICES names it
    capacity: int  # bytes; 0 where it is not known: then memory is no reason to refuse
    slots: int = 1
    held: dict[str, int] = field(default_factory=dict)

    def fits(self, predicted: int) -> bool:
        if len(self.held) >= self.slots:
            return False
        return not self.held or not self.capacity or sum(self.held.values()) + predicted <= self.capacity

    def share(self) -> int:
        return self.capacity // self.slots


class Placement:
    """Gives cells their devices, and takes them back. `predict` says how many bytes a cell needs on each device."""

    def __init__(self, devices: list[Device], predict: Callable[[Cell], int | None], wanted: Callable[[Cell], int]):
        self.devices, self.predict, self.wanted = devices, predict, wanted

    def place(self, cell: Cell) -> tuple[Device, ...] | None:
        """The emptiest devices that have room for a cell; None when there are not enough at present."""
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
        for device in self.devices:
            device.held.pop(cell.spec_digest, None)


def too_large(devices: list[Device], predicted: int | None, count: int = 1) -> str | None:
    """Why a cell that needs so many bytes on each of `count` devices fits on none of these, or None."""
    largest = sorted((device.capacity for device in devices), reverse=True)[count - 1]
    if not predicted or not largest or predicted * (1 - ERROR) <= largest:
        return None
    each = " on each device" if count > 1 else ""
    return (
        f"is predicted to need {predicted / GIB:.1f} GiB{each}; {devices[0].name} has {largest / GIB:.1f} GiB. "
        "Lower batch_size, turn on gradient_checkpointing or take a cheaper method; --memory overrides"
    )
