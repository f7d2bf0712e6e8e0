"""Digests that identify things: SHA-256 of canonical JSON, never Python's salted `hash()`."""

from __future__ import annotations

import hashlib
import json

# Raised by hand when our own code changes what a cell's result would be.
RESULT_VERSION = 3


def canonical(value: object) -> str:
    """Return a value as JSON with sorted keys and no spaces: equal values give equal text. What JSON has no form for
    stands as its `str`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def digest(value: object) -> str:
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
