"""Digests that identify things: SHA-256 of canonical JSON, never Python's salted `hash()`."""

from __future__ import annotations

import hashlib
import json

# Raised by hand when our own code changes what a cell's result would be.
RESULT_VERSION = 4
MARK = "\0"  # begins a key that is no text, with its type


def canonical(value: object) -> str:
    """Return a value as JSON with sorted keys and no spaces: equal values give equal text. What JSON has no form for
    stands as its `str`. Keys keep their types: {0: …} and {"0": …} give different texts."""
    return json.dumps(typed_keys(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def typed_keys(value: object) -> object:
    """Return nested mappings and lists with each key that is no text written as its type and value; JSON would make
    text of it, and two different mappings one."""
    if isinstance(value, dict):
        return {typed_key(key): typed_keys(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [typed_keys(inner) for inner in value]
    return value


def typed_key(key: object) -> str:
    """Return a key of a mapping as text: a text as it is, anything else after its type."""
    return key if isinstance(key, str) else f"{MARK}{type(key).__name__} {key}"


def digest(value: object) -> str:
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
