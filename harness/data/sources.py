"""Turns a source (`pypi:`, `hf:`, `file:`) into a local path: verified, cached, safe to ask for twice.

An entry of the cache is prepared aside and appears with one rename, so whoever sees it sees all of it. Later
readers compare file sizes with the manifest, which heals truncation for free.

What is not covered: nothing is installed (but pip asks the build backend of an sdist for its metadata; a
wheel runs no code), and bytes altered at an equal size go unnoticed after the fetch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import OfflineError, SourceError, unknown

Progress = Callable[[str, int, int], None]

FORMS = "Allowed: pypi:package==version[/path/inside], hf:org/name[@revision], file:path."
MANIFEST_VERSION = 1
STALE_SECONDS = 24 * 3600  # a temporary folder this old belongs to a process that was killed
PYPI = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==([A-Za-z0-9][\w.!+-]*)(?:/(.+))?", re.ASCII)
HF = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)
# pip says "Could not find a version" both without a network and of a package that does not exist: these tell.
UNREACHABLE = re.compile(
    r"connection broken by|Failed to establish|Max retries|Temporary failure in name resolution|ProxyError"
    r"|Connection(Error| refused| reset| aborted| timed out)|[Rr]ead timed out|Network is unreachable"
)


@dataclass(frozen=True)
class Source:
    """Where a model or a data set comes from.

    `kind` is "pypi", "hf" or "file"; `name` the package, repository or path; `version` the pypi version or hf
    revision ("" if none); `inside` a path inside the package ("" for all of it); `sha256` the expected digest
    of the downloaded archive (pypi) or of the content (file), "" if unknown.
    """

    kind: str
    name: str
    version: str
    inside: str
    sha256: str = ""

    def __str__(self) -> str:
        version = ("==" if self.kind == "pypi" else "@") + self.version if self.version else ""
        return f"{self.kind}:{self.name}{version}" + (f"/{self.inside}" if self.inside else "")


def parse(text: str, sha256: str = "") -> Source:
    """Read a source's text form (what `str` gives); SourceError says what was got and what is allowed."""
    kind, _, rest = text.strip().partition(":")

    def malformed(why: str) -> SourceError:
        return SourceError(f"malformed source {text!r}: {why}. {FORMS}")

    if kind not in ("pypi", "hf", "file"):
        raise SourceError(unknown("kind of source in", text, ["pypi:", "hf:", "file:"], FORMS))
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise malformed(f"its sha256 is {sha256!r}, and must be 64 hex digits")
    if kind == "file":
        if not rest or "\0" in rest:
            raise malformed("give a path, absolute or relative to the file that names it")
        return Source(kind, rest, "", "", sha256.lower())
    match = (PYPI if kind == "pypi" else HF).fullmatch(rest)
    if kind == "hf":
        # What the Hub's library refuses as a name, so that its ValueError never gets as far as the caller.
        if not match or ".." in rest or re.search(r"--|[-.](/|$)|\.git$", match[1]):
            raise malformed("give org/name, and pin it with @ and a revision (best: a full commit hash)")
        if sha256:
            raise malformed("a repository has no sha256; pin it with @ and a full commit hash")
        return Source(kind, match[1], match[2] or "", "")
    if not match:
        raise malformed("pin an exact version with ==, as in pypi:package==1.0.0")
    inside = match[3] or ""
    if inside and (_unsafe(inside) or str(PurePosixPath(inside)) != inside):
        raise malformed(f"the path inside is {inside!r}; write it without '..', '//', '\\' or a '/' at its end")
    return Source(kind, match[1], match[2], inside, sha256.lower())


def cache_root() -> Path:
    """$TUNEBENCH_CACHE, or ~/.cache/tunebench; not created here."""
    return Path(os.environ.get("TUNEBENCH_CACHE") or "~/.cache/tunebench").expanduser().absolute()


def fetch(source: Source, *, base: Path | None = None, progress: Progress | None = None) -> Path:
    """The local path (a file or a folder) of a source, downloaded first if the cache lacks it.

    `file:` is relative to `base` (else the working folder) and never copied. `progress` is called with (what,
    bytes done, bytes in all or 0 if unknown). Raises SourceError, and OfflineError if a network is needed.
    """
    if source.kind == "file":
        return _local_file(source, base or Path.cwd())
    if (found := _cached(source)) is not None:
        return found
    entry, report = _entry(source), progress or (lambda what, done, total: None)
    try:
        from filelock import FileLock

        (cache_root() / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(cache_root() / "locks" / f"{source.kind}-{_hex(str(entry))[:12]}.lock"):
            # Whoever held the lock before us may have fetched it.
            if (found := _cached(source)) is not None:
                return found
            if _offline():
                raise _offline_error(source, "TUNEBENCH_OFFLINE or HF_HUB_OFFLINE is set")
            return _fetch_pypi(source, report) if source.kind == "pypi" else _fetch_hf(source, report)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise SourceError(
            f"cannot fetch {source}: {error}. Run again; if {cache_root()} is full or not yours, "
            "set TUNEBENCH_CACHE to another folder."
        ) from error


def is_cached(source: Source, *, base: Path | None = None) -> bool:
    """Whether `fetch` can do without a network. (With one, it still asks whether a branch has moved.)"""
    if source.kind == "file":
        return ((base or Path.cwd()) / Path(source.name).expanduser()).exists()
    return (_hf_snapshot(source) if source.kind == "hf" else _cached(source)) is not None


def fingerprint(source: Source, path: Path) -> str:
    """SHA-256 (64 hex digits) of what the content *is*; `path` is what `fetch` returned.

    pypi: of the archive's SHA-256 and `inside`; hf: of the repository and the commit that the revision stood
    for; file: of the file's bytes, or of a folder's sorted relative names and bytes.
    """
    if source.kind == "file":
        return _sha256_of(path)
    if source.kind == "hf":
        return _hex(f"hf:{source.name}@{path.name}")
    manifest = _manifest(path.parents[len(PurePosixPath(source.inside).parts)])
    if manifest is None:
        raise SourceError(f"{path} is no entry of the cache for {source}; run `tunebench fetch SUITE`.")
    return _hex(f"{manifest['sha256']}/{source.inside}")


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(source: Source) -> Path:
    """The folder of a source in the cache. Names that the index holds to be equal share one (PEP 503)."""
    if source.kind == "hf":
        return cache_root() / "hf" / f"models--{source.name.replace('/', '--')}"
    name = re.sub(r"[-_.]+", "-", source.name).lower()
    return cache_root() / "sources" / "pypi" / f"{name}-{source.version}-{_hex(source.inside)[:12]}"


def _cached(source: Source) -> Path | None:
    """The path of a whole entry that needs no look at the network, or None."""
    if source.kind == "hf":  # a branch moves, so it is looked up again while it can be; a commit never changes
        fixed = re.fullmatch(r"[0-9a-f]{40}", source.version)
        return _hf_snapshot(source) if fixed or _offline() else None
    files, manifest = _entry(source) / "files", _manifest(_entry(source))
    if manifest is None or source.sha256 not in ("", manifest["sha256"]):
        return None
    whole = all(_size(files / file["path"]) == file["size"] for file in manifest["files"])
    return files / source.inside if whole else None


def _manifest(entry: Path) -> dict[str, Any] | None:
    # Missing, damaged, or of another version: all are mended by fetching again.
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads((entry / "source.json").read_text("utf-8"))
        return manifest if manifest["version"] == MANIFEST_VERSION else None
    return None


def _size(path: Path) -> int:
    with suppress(OSError):  # asked once, not "is it there" first: pip removes files while we look
        return path.stat().st_size
    return -1


def _offline() -> bool:
    names = ("TUNEBENCH_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


def _offline_error(source: Source, why: str) -> OfflineError:
    return OfflineError(
        f"{source} is not in the cache at {_entry(source)}, and the network cannot be reached ({why}). "
        "Run `tunebench fetch SUITE` while online."
    )


def _local_file(source: Source, base: Path) -> Path:
    path = missing = (base / Path(source.name).expanduser()).absolute()
    if not path.exists():
        while not missing.parent.exists():
            missing = missing.parent
        near = os.listdir(missing.parent) if missing.parent.is_dir() else []
        hint = f"Looked in {missing.parent} for {source}; relative paths start at {base.absolute()}."
        raise SourceError(unknown("file or folder", missing.name, near, hint))
    if source.sha256 and (got := _sha256_of(path)) != source.sha256:
        raise SourceError(
            f"{path} is not what was recorded: got sha256 {got}, expected {source.sha256}. "
            "Restore it, or correct the sha256 beside its source."
        )
    return path


def _sha256_of(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    digest = hashlib.sha256()
    files = (file for file in path.rglob("*") if file.is_file())
    for name, file in sorted((os.fsencode(file.relative_to(path).as_posix()), file) for file in files):
        # A name holds no NUL and a digest has one length, so different folders never feed the same bytes.
        digest.update(name + b"\0" + bytes.fromhex(_sha256_of(file)))
    return digest.hexdigest()


def _fetch_pypi(source: Source, report: Progress) -> Path:
    entry, parent = _entry(source), cache_root() / "tmp"  # one disk, so that the rename is atomic
    entry.parent.mkdir(parents=True, exist_ok=True)
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        with suppress(OSError):  # its owner may be removing it just now
            if old.stat().st_mtime < time.time() - STALE_SECONDS:
                shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        archive = _pip_download(source, folder, report)
        got = _sha256_of(archive)
        if source.sha256 not in ("", got):
            raise SourceError(
                f"damaged download: got {got}, expected {source.sha256} for {source}; nothing was unpacked; "
                "delete pip's own copy (`python -m pip cache purge`) and run again. If it comes back, "
                "the index serves another file than the one recorded."
            )
        files = _unpack(archive, folder / "entry" / "files", source, report)
        manifest = {"version": MANIFEST_VERSION, "source": str(source), "sha256": got, "files": files}
        (folder / "entry" / "source.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        if entry.exists():
            entry.rename(folder / "replaced")  # no rename onto a folder that holds something
        (folder / "entry").rename(entry)
    return entry / "files" / source.inside


def _pip_download(source: Source, folder: Path, report: Progress) -> Path:
    """Have pip put the archive into `folder`: pip, because the user's mirrors and credentials then apply."""
    target, partial, what = folder / "download", folder / "partial", f"downloading {source.name}"
    partial.mkdir()
    options = "-q --no-deps --no-input --disable-pip-version-check --retries 2 --timeout 30 -d"
    command = [sys.executable, "-m", "pip", "download", *options.split(), str(target)]
    command.append(f"{source.name}=={source.version}")
    # pip downloads into TMPDIR and copies at the end: ours shows how far it is, and goes if pip is killed.
    environment = {**os.environ, "TMPDIR": str(partial), "PYTHONIOENCODING": "utf-8"}
    with (folder / "pip.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while process.poll() is None:
                report(what, _partial_size(partial), 0)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        finally:
            process.kill()  # does nothing to one that has ended
            process.wait()
    if process.returncode:
        raise _pip_error(source, (folder / "pip.log").read_text("utf-8", "replace"))
    (archive,) = target.iterdir()
    report(what, _size(archive), _size(archive))
    return archive


def _partial_size(folder: Path) -> int:
    """Bytes in pip's own temporary folders, which may vanish while they are being listed."""
    with suppress(OSError):
        return sum(max(0, _size(path)) for path in folder.glob("pip-*/*.*"))
    return 0


def _pip_error(source: Source, output: str) -> SourceError:
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR:")]
    reason = (errors or output.strip().splitlines()[-1:] or ["no reason given"])[0]
    if "No module named pip" in output:
        return SourceError(f"{source} needs pip, which this Python lacks: run `python -m ensurepip`.")
    # A retry that succeeded also leaves a warning, so warnings alone do not make an error a network error.
    if UNREACHABLE.search(output if "Could not find a version" in output else " ".join(errors)):
        return _offline_error(source, f"pip: {reason}")
    hint = "Check its name and version, and the index that pip uses (`python -m pip config list`)."
    return SourceError(f"pip cannot download {source}: {reason}. {hint}")


def _unsafe(name: str) -> bool:
    """Whether an archive's member would land outside the folder that it is unpacked into, on any system."""
    return name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":" or ".." in name.split("/")


def _unpack(archive: Path, folder: Path, source: Source, report: Progress) -> list[dict[str, Any]]:
    """Unpack what is `inside`; returns [{"path", "size", "sha256"}]. Links and devices are left out."""
    box: Any = (zipfile.ZipFile if archive.suffix in (".whl", ".zip") else tarfile.open)(archive)
    with box:
        if isinstance(box, zipfile.ZipFile):
            sizes = {info.filename: info.file_size for info in box.infolist() if not info.is_dir()}
        else:
            sizes = {info.name: info.size for info in box if info.isreg()}
        if bad := [name for name in sizes if _unsafe(name)]:
            raise SourceError(f"{archive.name} of {source} is refused: {bad[0]!r} points outside the archive.")
        # An sdist keeps all in one folder, name-version/, which a wheel of the same package does not have.
        tops = {name.partition("/")[0] for name in sizes} if archive.suffix != ".whl" else set()
        members = {name.removeprefix(f"{next(iter(tops))}/") if len(tops) == 1 else name: name for name in sizes}
        inside, done, files = source.inside, 0, []
        wanted = sorted(name for name in members if not inside or f"{name}/".startswith(f"{inside}/"))
        if not wanted:
            raise SourceError(unknown(f"path in {archive.name}", inside, members, f"The source is {source}."))
        total = sum(sizes[members[name]] for name in wanted)
        for name in wanted:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            read = box.open if isinstance(box, zipfile.ZipFile) else box.extractfile
            with read(members[name]) as data, path.open("wb") as out:
                while chunk := data.read(1 << 20):
                    done += out.write(chunk)
                    report(f"unpacking {source.name}", done, total)
            files.append({"path": name, "size": _size(path), "sha256": _sha256_of(path)})
    return files


def _hf_snapshot(source: Source) -> Path | None:
    """The snapshot in the cache if every file of the commit's listing is there at its size, or None."""
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    where: dict[str, Any] = {"revision": source.version or None, "cache_dir": cache_root() / "hf"}
    try:
        path = Path(snapshot_download(source.name, local_files_only=True, **where))
        tree = get_cached_repo_tree(source.name, **where)
    except (errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
        return None
    return path if all(_size(path / file.path) == file.size for file in tree) else None


def _fetch_hf(source: Source, report: Progress) -> Path:
    from huggingface_hub import errors, snapshot_download
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bars(tqdm):
        """Draws nothing; reports the bars that count bytes."""

        def __init__(self, *args: Any, **options: Any):
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
                revision=source.version or None,
                cache_dir=cache_root() / "hf",
                endpoint=os.environ.get("HF_ENDPOINT") or None,  # the library reads it only when imported
                force_download=force,
                tqdm_class=Bars,
            )
            if (path := _hf_snapshot(source)) is not None:
                return path
    except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:
        if not isinstance(error, errors.HfHubHTTPError):
            raise _offline_error(source, str(error.__cause__ or error).strip().partition("\n")[0]) from error
        reasons = {
            errors.RevisionNotFoundError: "the repository has no such revision",
            errors.GatedRepoError: "it is gated: accept its terms, then run `hf auth login`",
            errors.RepositoryNotFoundError: "no such repository, or a private one (then run `hf auth login`)",
        }
        why = next((why for kind, why in reasons.items() if isinstance(error, kind)), str(error).splitlines()[0])
        raise SourceError(f"cannot fetch {source}: {why}. Check the name and the revision.") from error
    raise SourceError(f"{source} is still incomplete in {_entry(source)}: delete that folder and run again.")
