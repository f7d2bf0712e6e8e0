"""tunebench: which way of adapting a language model should I use?

Data flows one way: suite -> plan -> execute -> worker -> store -> analysis -> report.
Importing this package loads nothing, and the names of `__all__` nothing heavy; torch is only ever loaded in a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.cli import Results, results, run
    from harness.suite import Suite

__all__ = ["Results", "Suite", "__version__", "results", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Returns a name of `__all__` from the room that has it, which is imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("harness.suite" if name == "Suite" else "harness.cli"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
