"""The methods, found by walking this folder: adding a file adds a method."""

from __future__ import annotations

from functools import cache

from harness.discovery import find_classes
from harness.methods.base import Expert, Footprint, Job, LogFloat, Method, Options

__all__ = ["Expert", "Footprint", "Job", "LogFloat", "Method", "Options", "all_methods"]


@cache
def all_methods() -> dict[str, type[Method]]:
    """Every method by name."""
    return find_classes(__name__, __path__, Method)
