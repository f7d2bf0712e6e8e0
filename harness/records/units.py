"""Formats numbers by their unit: the one place that does so, for the report, the commands and messages alike."""

from __future__ import annotations

import math
from collections.abc import Callable

UNKNOWN = "n/a"
MINUS = "−"
SHARES = ("share", "share of the matmul peak")
SCALED = frozenset(["B", "J", "FLOP", "FLOP/s", *SHARES])
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(value: float | None, unit: str) -> str:
    """Format a number with its unit for people.

    Examples: "1.5 GiB" for bytes, "12 ms", "1.2 kJ", "28%" for a share, "134 515 008 parameters". An unknown unit
    follows the number as it is. None and NaN give "n/a".
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    shown = FORMATS[unit](value) if unit in FORMATS else f"{plain(value)} {unit}".strip()
    return shown.replace("-", MINUS) if value < 0 else shown


def bare_quantity(value: float | None, unit: str) -> str:
    """Format a number as `quantity` does but without its unit, for a column whose header names the unit. A unit that
    depends on the size of the number (bytes, joules, FLOP, FLOP/s, shares) stays."""
    shown = quantity(value, unit)
    return shown if scales(unit) else shown.removesuffix(f" {unit}")


def scales(unit: str) -> bool:
    """Return whether numbers of this unit are shown with a prefix or sign that depends on their size, so that a
    column's header cannot name it."""
    return unit in SCALED


def plain(value: float) -> str:
    """Format a number without a unit: whole numbers, and others from a thousand on, in full with blanks between groups
    of three digits ("12 345"); the rest with four significant digits."""
    whole = math.isfinite(value) and value == int(value)
    if abs(value) < 1e15 and (whole or abs(value) >= 1000):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.4g}"


def time(value: float) -> str:
    """Format a number of seconds or milliseconds, without the unit: one decimal below ten, none from ten on."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def size(value: float) -> str:
    """Format bytes in binary units: "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def energy(value: float) -> str:
    """Format joules: "12 J", from a thousand on as "1.2 kJ"."""
    return f"{value:.3g} J" if value < 1000 else f"{value / 1000:,.1f} kJ".replace(",", " ")


def share(value: float) -> str:
    """Format a fraction as a percentage with two significant digits: 0.123 as "12%", 0.0123 as "1.2%"."""
    percent = 100 * value
    if percent == 0 or percent >= 10:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if percent >= 1 else f"{percent:.2g}%"


def operations(value: float) -> str:
    """Format a number of floating-point operations with a prefix: "1.2 PFLOP"."""
    for factor, prefix in PREFIXES:
        if value >= factor:
            return f"{value / factor:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"


FORMATS: dict[str, Callable[[float], str]] = {
    "B": size,
    "J": energy,
    "s": lambda value: f"{time(value)} s",
    "ms": lambda value: f"{time(value)} ms",
    "FLOP": operations,
    "FLOP/s": lambda value: f"{operations(value)}/s",
    **dict.fromkeys(SHARES, share),
}
