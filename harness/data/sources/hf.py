"""`hf:org/name[@revision]`: a repository of the Hugging Face Hub, in the Hub library's own cache layout."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.data.sources.base import Progress, Source, SourceKind, cache_root, is_offline, sha256_of_text, size_of
from harness.errors import SourceError

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)
LONGEST_NAME, LONGEST_REVISION = 96, 250  # characters; the revision is also a file's name in the cache
COMMIT = re.compile(r"[0-9a-f]{40}")


def kind_of_repository(source: Source) -> str:
    """Return what the Hub calls the kind of a source's repository: its data sets and models have names of their own."""
    return "dataset" if source.is_data else "model"


class HubRepository(SourceKind):
    """A repository of the Hugging Face Hub; its fingerprint is a digest of its name and of the commit that the revision
    meant."""

    name = "hf"
    form = "hf:org/name[@revision]"

    def parse(self, rest: str, sha256: str) -> Source:
        """Return the source for org/name[@revision]. Raises ValueError for anything else, and for a `sha256`, which a
        repository does not have."""
        match = NAME.fullmatch(rest)
        # What the Hub's library refuses as a name, so that its ValueError never gets as far as the caller.
        if not match or ".." in rest or re.search(r"--|[-.](/|$)|\.git$", match[1]):
            raise ValueError("give org/name, and pin it with @ and a revision (best: a full commit hash)")
        if len(match[1]) > LONGEST_NAME:
            raise ValueError(f"org/name has {len(match[1])} characters, and the Hub takes {LONGEST_NAME}")
        if len(match[2] or "") > LONGEST_REVISION:
            raise ValueError(f"the revision has {len(match[2])} characters, and git takes {LONGEST_REVISION}")
        if sha256:
            raise ValueError("a repository has no sha256; pin it with @ and a full commit hash")
        return Source(self.name, match[1], match[2] or "", text=f"hf:{rest}")

    def entry(self, source: Source) -> Path:
        """Return the repository's folder in the cache, which holds all its snapshots."""
        return cache_root() / "hf" / f"{kind_of_repository(source)}s--{source.name.replace('/', '--')}"

    def cached(self, source: Source, base: Path) -> Path | None:
        """Return the path of a complete snapshot in the cache, or None. A branch moves, so while there is a network
        only a full commit hash is taken from the cache."""
        return self.snapshot(source) if COMMIT.fullmatch(source.version) or is_offline() else None

    def fingerprint(self, source: Source, path: Path) -> str:
        """Return the SHA-256 of the repository's name and of its commit, which is the name of the folder `path`."""
        return sha256_of_text(f"hf:{source.name}@{path.name}")

    def snapshot(self, source: Source) -> Path | None:
        """Return the path of the snapshot in the cache if every file of the commit's listing is there at its size, else
        None."""
        from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

        where = {
            "revision": source.version or None,
            "cache_dir": cache_root() / "hf",
            "repo_type": kind_of_repository(source),
        }
        try:
            path = Path(snapshot_download(source.name, local_files_only=True, **where))
            tree = get_cached_repo_tree(source.name, **where)
        except (errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
            return None
        return path if all(size_of(path / file.path) == file.size for file in tree) else None

    def fetch(self, source: Source, report: Progress) -> Path:
        """Download a snapshot into the cache, and return its path. `report` is called with the bytes downloaded. Raises
        SourceError, and OfflineError where the network cannot be reached."""
        from huggingface_hub import errors, snapshot_download
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        class Bars(tqdm):  # type: ignore[misc]
            """A progress bar that draws nothing and reports the bytes downloaded."""

            def __init__(self, *args: object, **options: object):
                self.counts_bytes = options.get("unit") == "B"
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                self.n += n or 0
                if self.counts_bytes and self.n:
                    report(f"downloading {source.name}", int(self.n), int(self.total or 0))

        try:
            for force in (False, True):  # the library looks at names only: a truncated file takes force
                snapshot_download(
                    source.name,
                    repo_type=kind_of_repository(source),
                    revision=source.version or None,
                    cache_dir=cache_root() / "hf",
                    endpoint=os.environ.get("HF_ENDPOINT") or None,  # the library reads it only when imported
                    force_download=force,
                    tqdm_class=Bars,
                )
                if (path := self.snapshot(source)) is not None:
                    return path
        except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:
            if not isinstance(error, errors.HfHubHTTPError):
                raise self.offline_error(source, str(error.__cause__ or error).strip().partition("\n")[0]) from error
            reasons = {
                errors.RevisionNotFoundError: "the repository has no such revision",
                errors.GatedRepoError: "it is gated: accept its terms, then run `hf auth login`",
                errors.RepositoryNotFoundError: f"no such {'data set' if source.is_data else 'model'} repository, or a "
                "private one (then run `hf auth login`)",
            }
            why = next((why for kind, why in reasons.items() if isinstance(error, kind)), str(error).splitlines()[0])
            raise SourceError(f"cannot fetch {source}: {why}. Check the name and the revision.") from error
        raise SourceError(f"{source} is still incomplete in {self.entry(source)}: delete that folder and run again.")
