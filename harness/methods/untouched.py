"""The base model as it is: the row that every other row is measured against."""

from __future__ import annotations

from harness.methods.base import Method


class Base(Method):
    """The untouched base model; with `quantize`, what loading it in fewer bits costs."""

    name = "base"
    drafted_for = {"classification": "{}", "generation": "{}", "chat": "{}"}
    family = "no training"
    trains = False
