"""Says what a cell *is*: the one place that lists which of its fields its `spec_digest` covers.

Labels, keys and suites are not among them, so two suites that ask for the same thing share one cell. Settings that were
added to tunebench later are left out at their defaults, and empty fields are left out, so that earlier results are
still found. Pure.
"""

from __future__ import annotations

from harness.methods import Method, make_method
from harness.records import Cell, JsonObject, digest


def spec_digest(cell: Cell, method: Method | None = None) -> str:
    """Return the SHA-256 of a cell's identifying fields. `method` is the cell's method, if it has been made already, to
    save time."""
    return digest(identifying_fields(cell, method))


def identifying_fields(cell: Cell, method: Method | None = None) -> JsonObject:
    """Return the fields that `spec_digest` covers, as {name: JSON value}."""
    prints = cell.fingerprints
    return {
        "method": cell.method,
        "settings": (method or make_method(cell.method, cell.settings)).identity,
        "train": cell.train.identity,
        "fingerprints": [
            prints["model"],
            *([name, prints[name]] for name in (*cell.learn, *cell.retain, *cell.reads)),
            *(prints[f"model:{name}"] for name in cell.borrows),
        ],
        "learn": cell.learn,
        "retain": cell.retain,
        "n_train": cell.n_train,
        "seed": cell.seed,
        "needs": cell.needs,
        **({"objectives": cell.objectives} if cell.objectives else {}),
        **({"curriculum": cell.curriculum} if cell.curriculum else {}),
        **({} if cell.draw is None else {"draw": cell.draw}),
        **({"data": cell.data} if cell.data else {}),
        **({"study": cell.study} if cell.study else {}),
        **({"trial": cell.trial} if cell.trial else {}),
    }
