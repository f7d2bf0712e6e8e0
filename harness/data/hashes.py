"""Tells documents apart by digests of their columns. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from harness.data.lm_eval_task import Document

NUMBERS = frozenset({"idx", "index", "id", "_id", "guid", "uid", "doc_id", "ind"})


def document_hash(document: Document) -> str:
    """Return the SHA-256 (64 hex digits) of a document's columns."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(document: Document) -> str:
    """Return a document's SHA-256 without its id columns (`idx`, `id`, `guid`, …), so that the same text under two ids
    counts as a repeat."""
    return document_hash({key: value for key, value in document.items() if key.lower() not in NUMBERS})


def fresh(documents: Iterable[Document], taken: set[str]) -> dict[str, Document]:
    """Return {content hash: document}, each document once; those whose hash is in `taken` are left out."""
    by_hash = {content_hash(document): document for document in documents}
    return {key: document for key, document in by_hash.items() if key not in taken}
