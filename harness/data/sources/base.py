"""The base of every kind of source, and what all kinds share: the cache, checksums, being offline.

A kind is one class in one file of this folder; nothing else needs to change. An entry of the cache is prepared aside
and appears with one rename, so whoever sees it sees all of it.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from harness.errors import OfflineError

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in all or 0 if unknown)


@dataclass(frozen=True)
class Source:
    """Where a model or a data set comes from.

    `kind` names the class that knows how to get it; `name` is the package, repository or path; `version` the version or
    revision ("" if none); `inside` a path inside the package ("" for all of it); `sha256` the expected digest of the
    downloaded archive or of the content, "" if unknown. `text` is the form that a suite or a task gives it in.
    `is_data`: it is a data set, not a model; of a Hub's name both may exist, and only data may be a pattern of files.
    """

    kind: str
    name: str
    version: str = ""
    inside: str = ""
    sha256: str = ""
    text: str = field(default="", compare=False)
    is_data: bool = False

    def __str__(self) -> str:
        return self.text


class SourceKind(ABC):
    """A kind of source: one way to name where models and data come from, written as `name:` and what follows it.

    `form` is how messages show it. A kind that downloads implements `entry`, `cached` and `fetch`; a kind whose content
    is on this machine already has `local` True, is found by `cached` and is never copied.
    """

    name: ClassVar[str] = ""
    form: ClassVar[str] = ""
    local: ClassVar[bool] = False

    @abstractmethod
    def parse(self, rest: str, sha256: str) -> Source:
        """Return the source that the text after `name:` stands for; `sha256` is its expected digest, "" where none is
        given. Raises ValueError with what is wrong with it."""

    @abstractmethod
    def cached(self, source: Source, base: Path) -> Path | None:
        """Return the local path of a source that is complete and needs no look at the network, or None.

        `base` is the folder that relative paths start at. Raises SourceError for a local source that is not there.
        """

    @abstractmethod
    def fingerprint(self, source: Source, path: Path) -> str:
        """Return the SHA-256 (64 hex digits) that identifies the content at `path`."""

    def entry(self, source: Source) -> Path:
        """Return the source's folder in the cache, whether it is there or not. A local kind has none."""
        raise NotImplementedError

    def fetch(self, source: Source, report: Progress) -> Path:
        """Download a source that is not cached into its cache entry, and return its local path. `report` is called with
        the progress. Raises SourceError where that fails."""
        raise NotImplementedError

    def size(self, source: Source) -> int | None:
        """Return the bytes that fetching a source downloads, None where they are not known beforehand. It is asked for
        to tell the user, so it waits for nothing long and raises nothing."""
        return None

    def offline_error(self, source: Source, why: str) -> OfflineError:
        """Return the error that says that a source is not cached and cannot be fetched, for the reason `why`, and what
        to do."""
        return OfflineError(
            f"{source} is not in the cache at {self.entry(source)}, and the network cannot be reached ({why}). "
            "Run `tunebench fetch SUITE` while online, or name a copy on this machine: file:PATH."
        )


def cache_root() -> Path:
    """Return the cache folder: $TUNEBENCH_CACHE, or ~/.cache/tunebench. It is not created here."""
    return Path(os.environ.get("TUNEBENCH_CACHE") or "~/.cache/tunebench").expanduser().absolute()


def is_offline() -> bool:
    """Return whether the user has asked for no network (`offline_by`)."""
    return bool(offline_by())


def offline_by() -> str:
    """Return the name of the variable that asks for no network, such as HF_HUB_OFFLINE, "" where none does."""
    names = ("TUNEBENCH_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")), "")


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 (64 hex digits) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def matching(path: Path) -> list[Path]:
    """Return the files and folders that a pattern of paths stands for, in the order of their names; of a path without
    *, ? or [, the path itself."""
    if not is_pattern(path.as_posix()):
        return [path]
    root = pattern_root(path)
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in path.relative_to(root).parts]
    if parts[-1] == "**":
        parts.append("*")  # files too
    # Not by the module glob, whose ** follows links to folders: two that lead back are walked 2^40 times.
    found = root.glob("/".join(parts))
    return sorted(match for match in found if "/." in path.as_posix() or not is_hidden(match.relative_to(root)))


def is_hidden(path: Path) -> bool:
    """Return whether a file, or a folder that it is in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def is_pattern(text: str) -> bool:
    """Return whether a path stands for several, such as shards/*.parquet."""
    return any(mark in text for mark in "*?[")


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, or -1 where there is none."""
    with suppress(OSError):  # asked once, not "is it there" first: pip removes files while we look
        return path.stat().st_size
    return -1


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a folder's sorted relative names and bytes; of a pattern, as if what
    it stands for were a folder."""
    if path.is_file():
        with path.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    digest = hashlib.sha256()
    if is_pattern(path.as_posix()) and not path.exists():
        path, found = pattern_root(path), matching(path)
        inside = {file for match in found for file in (match.rglob("*") if match.is_dir() else [match])}
    else:
        inside = {*path.rglob("*")}
    files = (file for file in inside if file.is_file())
    for name, file in sorted((os.fsencode(file.relative_to(path).as_posix()), file) for file in files):
        # A name holds no NUL and a digest has one length, so different folders never feed the same bytes.
        digest.update(name + b"\0" + bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def pattern_root(path: Path) -> Path:
    """Return the folder that holds everything that a pattern of paths stands for."""
    parts = path.parts
    first = next((place for place, part in enumerate(parts) if is_pattern(part)), len(parts))
    return Path(*parts[:first])
