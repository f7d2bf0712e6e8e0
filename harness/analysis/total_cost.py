"""Computes what a method costs over its life: making it, answering with it, and keeping it up to date. Pure.

Only the time of the device is counted, at a price an hour: nothing else of a computer has a figure here. Not covered:
people's time, storage, traffic, and a device that waits (each request is charged its share of a full batch's time).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HOUR = 3600.0
CURRENCY = "USD"
# Assumed prices of an hour, in USD, where nobody gives one: about what clouds asked on demand in 2025. They are no
# measurement: `--price` takes their place. The first name that stands in the device's own is its price.
HOURLY = {"H200": 4.00, "H100": 3.00, "A100": 1.80, "L40": 1.00, "A10": 0.80, "L4": 0.70, "T4": 0.40}
OTHER_HOURLY = 2.00  # USD an hour of an accelerator that is not in the list
CORE_HOURLY = 0.05  # USD an hour of one CPU core
# Assumed volume, where nobody gives one.
REQUESTS, MONTHS, UPDATES = 100_000.0, 12.0, 12.0


@dataclass(frozen=True)
class Prices:
    """The prices and volumes of a cost of ownership: the price of an hour of the device, requests a month, months in
    use, and updates with new examples a year. `assumed` names those of the four that nobody gave; `of` says what device
    the price is of."""

    hour: float
    currency: str = CURRENCY
    requests: float = REQUESTS
    months: float = MONTHS
    updates: float = UPDATES
    assumed: tuple[str, ...] = ()
    of: str = ""


@dataclass(frozen=True)
class Workload:
    """The seconds that a method takes of a device: to `make` it once, to `search` for its settings, to answer a
    `request`, and for an `update` with new examples. `devices` is how many devices making it takes. None is unknown."""

    make: float | None
    search: float = 0.0
    request: float | None = None
    update: float | None = None
    devices: int = 1


@dataclass(frozen=True)
class Cost:
    """The cost of ownership, in the currency of the prices: `making` (with the search for settings), `answering`,
    `updating`."""

    making: float
    answering: float
    updating: float
    update: float  # cost of one update

    @property
    def total(self) -> float:
        """The sum of making, answering and updating."""
        return self.making + self.answering + self.updating


def hourly(cpu: str, accelerator: str = "") -> tuple[float, str]:
    """Returns the assumed price of an hour of the device, in USD, and in words what it is the price of. `cpu` is the
    environment's text, "…, 2 cores": a CPU is priced by its cores."""
    if accelerator:
        name = next((name for name in HOURLY if name in accelerator), "")
        return HOURLY.get(name, OTHER_HOURLY), f"an {name}" if name else f"a {accelerator}"
    found = re.search(r"(\d+) cores?$", cpu)
    cores = int(found[1]) if found else 1
    return cores * CORE_HOURLY, f"{cores} CPU core{'s' if cores > 1 else ''} at {CORE_HOURLY:g} {CURRENCY}"


def ownership(work: Workload, prices: Prices) -> Cost | None:
    """Computes the total cost of ownership of a method over the months of `prices`; None where the seconds of making, a
    request or an update are unknown."""
    if work.make is None or work.request is None or work.update is None:
        return None
    making = work.devices * prices.hour / HOUR
    update = work.update * making
    return Cost(
        making=(work.make + work.search) * making,
        answering=work.request * prices.requests * prices.months * prices.hour / HOUR,
        updating=update * prices.updates * prices.months / 12,
        update=update,
    )
