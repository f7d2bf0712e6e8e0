"""In: the name of a source (`pypi:…`, `hf:…`, `file:…`). Out: a local path, verified, cached, safe to ask for twice.

Kinds of sources are found by walking this folder: adding a file adds a kind.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from harness.data.sources.base import Progress, Source, SourceKind, cache_root, is_offline, offline_by, sha256_of_text
from harness.errors import SourceError, unknown
from harness.plugin import find_classes

__all__ = [
    "Progress",
    "Source",
    "SourceKind",
    "all_kinds",
    "at_revision",
    "cache_root",
    "fetch",
    "fingerprint",
    "is_offline",
    "kind_of",
    "parse",
]


@cache
def all_kinds() -> dict[str, SourceKind]:
    """Return {prefix: kind} for every kind of source, such as "hf"."""
    return {name: kind() for name, kind in find_classes(__name__, __path__, SourceKind).items()}  # type: ignore[type-abstract]


def kind_of(source: Source) -> SourceKind:
    """Return the object that can fetch a source of its kind."""
    return all_kinds()[source.kind]


def parse(text: str, sha256: str = "", is_data: bool = False) -> Source:
    """Turn a source's text, such as hf:org/name, into a Source; `sha256` is its expected digest, if one is known, and
    `is_data` says that it is a data set and no model. Raises SourceError with what was got and what is allowed."""
    prefix, _, rest = text.strip().partition(":")
    allowed = f"Allowed: {', '.join(kind.form for kind in all_kinds().values())}."
    if prefix not in all_kinds():
        raise SourceError(unknown("kind of source in", text, [f"{name}:" for name in all_kinds()], allowed))
    try:
        if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise ValueError(f"its sha256 is {sha256!r}, and must be 64 hex digits")
        return replace(all_kinds()[prefix].parse(rest, sha256.lower()), is_data=is_data)
    except ValueError as error:
        raise SourceError(f"malformed source {text!r}: {error}. {allowed}") from error


def fetch(source: Source, *, base: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the local path (a file or a folder) of a source, downloaded first if the cache lacks it.

    `base` is the folder that a relative `file:` starts at (else the working folder). `progress` is called with (what,
    bytes done, bytes in all or 0 if unknown). Raises SourceError where it cannot be had, and of that OfflineError where
    only the network is missing.
    """
    kind, base = kind_of(source), base or Path.cwd()
    if (path := kind.cached(source, base)) is not None:
        return path
    entry, report = kind.entry(source), progress or (lambda what, done, total: None)
    try:
        from filelock import FileLock

        (cache_root() / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(cache_root() / "locks" / f"{kind.name}-{sha256_of_text(str(entry))[:12]}.lock"):
            # Whoever held the lock before us may have fetched it.
            if (path := kind.cached(source, base)) is not None:
                return path
            if variable := offline_by():
                raise kind.offline_error(source, f"{variable} is set")
            return kind.fetch(source, report)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise SourceError(
            f"cannot fetch {source}: {error}. Run again; if {cache_root()} is full or not yours, "
            "set TUNEBENCH_CACHE to another folder."
        ) from error


def at_revision(source: Source, revision: str) -> Source:
    """Return a source at another revision, such as the commit that its branch was at when a suite was planned."""
    return replace(source, version=revision)


def fingerprint(source: Source, path: Path) -> str:
    """Return the SHA-256 (64 hex digits) that identifies a source's content; `path` is what `fetch` returned."""
    return kind_of(source).fingerprint(source, path)
