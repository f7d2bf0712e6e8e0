"""`file:path`: a file or folder on this machine, relative to the file that names it; of data also a pattern of paths.
Never copied."""

from __future__ import annotations

import os
from pathlib import Path

from harness.data.plain_files import strange, too_much
from harness.data.sources.base import Source, SourceKind, is_pattern, matching, pattern_root, sha256_of
from harness.errors import SourceError, unknown

LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes, as Linux takes them (less the folder that a relative path starts at)


class LocalFile(SourceKind):
    """A file or folder on this machine; its fingerprint is the digest of its content."""

    name = "file"
    form = "file:path"
    local = True

    def parse(self, rest: str, sha256: str) -> Source:
        """Return the source for a path. Raises ValueError for an empty one, one that no file system takes, and one that
        begins with the home folder of a user who is not there."""
        if not rest or "\0" in rest:
            raise ValueError("give a path, absolute or relative to the file that names it")
        if len(os.fsencode(rest)) > LONGEST_PATH or any(len(os.fsencode(p)) > LONGEST_NAME for p in rest.split("/")):
            raise ValueError(f"a path has at most {LONGEST_PATH} bytes, and {LONGEST_NAME} between two slashes")
        try:
            Path(rest).expanduser()
        except RuntimeError:
            raise ValueError(f"no home folder is known for {rest.partition('/')[0]}; write the path out") from None
        return Source(self.name, rest, sha256=sha256, text=f"file:{rest}")

    def cached(self, source: Source, base: Path) -> Path:
        """Return the absolute path of a source, which of data may be a pattern (`shards/*.parquet`); a relative one
        starts at `base`. Raises SourceError where nothing is there, where it is no plain file or folder or too much to
        read, and where its content has another digest than the source's."""
        path = missing = (base / Path(source.name).expanduser()).absolute()
        if not path.exists() and not (source.is_data and is_pattern(source.name) and matching(path)):
            if source.is_data and is_pattern(source.name):
                missing = next(part for part in (path, *path.parents) if part.parent == pattern_root(path))
            while not missing.parent.exists():
                missing = missing.parent
            near = os.listdir(missing.parent) if missing.parent.is_dir() else []
            hint = f"Looked in {missing.parent} for {source}; relative paths start at {base.absolute()}."
            raise SourceError(unknown("file or folder", missing.name, near, hint))
        meant = matching(path) if source.is_data and not path.exists() else [path]
        kinds = (kind for one in meant if (kind := strange(one)))
        if reason := next(kinds, "") or (too_much(meant) if source.is_data else ""):
            raise SourceError(
                f"{source} {reason}. Name a file or a folder with {'data' if source.is_data else 'a model'}."
            )
        if source.sha256 and (got := sha256_of(path)) != source.sha256:
            raise SourceError(
                f"{path} is not what was recorded: got sha256 {got}, expected {source.sha256}. "
                "Restore it, or correct the sha256 beside its source."
            )
        return path

    def fingerprint(self, source: Source, path: Path) -> str:
        """Return the SHA-256 of the file or folder at `path`."""
        return sha256_of(path)
