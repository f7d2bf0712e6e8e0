"""Signs what travels to other machines with a key of the run, and checks it there before it is used.

What lies between, Ray's object store or a shared disk, then cannot change a cell's job, tasks or weights unseen. The
key goes with the order itself: whoever can submit work to the cluster as this user is trusted (docs/security.md).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from harness.errors import CellError

KEY_BYTES = 32


def new_key() -> bytes:
    """Return a random key, for one run."""
    return secrets.token_bytes(KEY_BYTES)


def signature_of(key: bytes, data: bytes) -> str:
    """Return the signature of some bytes: their HMAC-SHA256 under `key`, 64 hex digits."""
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def check_signature(key: bytes, data: bytes, signature: str, what: str) -> None:
    """Raise CellError where `signature` is not that of these bytes. `what` names them in the message."""
    if not hmac.compare_digest(signature_of(key, data), signature):
        raise CellError(
            f"{what} is not what this run sent: its signature is wrong. Something between the machines changed it; it "
            "was not used."
        )
