"""Finds the JSON files of a folder, a zip or a git directory: of git every version of each file, over all commits."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError

MOST_BYTES = 32 * 2**20  # of one file: published results have some kilobytes
MOST_FILES = 100_000
# Nothing of a stranger's repository is run: neither a pager nor a monitor of its files.
GIT = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


@dataclass(frozen=True)
class FileVersion:
    """The content of a JSON file. `where` names the file, and the commit where it comes from git."""

    where: str
    content: bytes


def file_versions(path: Path) -> Iterator[FileVersion]:
    """Yields the JSON files at `path`, the oldest version first: of a zip, of a git directory (or a folder in a work
    tree) with its history, or of a plain folder or file. Raises UserError for what cannot be read."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder. Give a folder, a zip, or a git directory.")
    if path.is_file():
        yield from of_zip(path) if zipfile.is_zipfile(path) else of_files([path])
        return
    found = False
    for version in of_git(path):
        found = True
        yield version
    if not is_bare(path):  # files that are not committed, or were changed since, are the newest
        yield from of_files(sorted(path.rglob("*.json")))
    elif not found:
        raise UserError(f"{path}: the git directory has no JSON file in any commit.")


def of_files(paths: list[Path]) -> Iterator[FileVersion]:
    """Yields files of the disk. Raises UserError for one that cannot be read, or is too large for a result."""
    if len(paths) > MOST_FILES:
        raise UserError(f"{len(paths):,} JSON files are too many ({MOST_FILES:,} at most). Name a folder within.")
    for path in paths:
        try:
            if path.stat().st_size > MOST_BYTES:
                yield FileVersion(str(path), b"")
                continue
            yield FileVersion(str(path), path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from error


def of_zip(path: Path) -> Iterator[FileVersion]:
    """Yields the JSON files in a zip, none of which is unpacked to the disk. Raises UserError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted((info for info in archive.infolist() if info.filename.endswith(".json")), key=name_of)
            if len(members) > MOST_FILES:
                raise UserError(f"{path}: {len(members):,} JSON files are too many ({MOST_FILES:,} at most).")
            for info in members:
                content = b""
                if info.file_size <= MOST_BYTES:
                    with archive.open(info) as file:
                        content = file.read(MOST_BYTES)
                yield FileVersion(f"{path}:{info.filename}", content)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path}: is a damaged or encrypted zip ({error}).") from error


def name_of(info: zipfile.ZipInfo) -> str:
    """Returns the name of a member of a zip."""
    return info.filename


def is_bare(path: Path) -> bool:
    """Whether a folder is itself a git directory, without a work tree."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir()


def of_git(path: Path) -> Iterator[FileVersion]:
    """Yields every version of every JSON file in the history of a git directory, or below a folder of a work tree, the
    oldest commit first; nothing where `path` is not under git. Raises UserError where git fails on a git directory."""
    bare = is_bare(path)
    place = [f"--git-dir={path}"] if bare else ["-C", str(path)]
    listing = git(
        *place, "log", "--reverse", "--format=%x00%H", "--raw", "--no-abbrev", "--no-renames", "--diff-filter=AM",
        "--no-ext-diff", "--", ":(glob)**/*.json", must=bare,
    )  # fmt: skip
    wanted: dict[tuple[str, str], str] = {}
    commit = ""
    for line in listing.decode("utf-8", "replace").splitlines():
        if line.startswith("\0"):
            commit = line[1:11]
        elif line.startswith(":"):
            meta, _, name = line.partition("\t")
            blob = meta.split()[3]
            wanted.setdefault((name, blob), f"{name} at {commit}")
    if len(wanted) > MOST_FILES:
        raise UserError(f"{path}: {len(wanted):,} versions of JSON files are too many ({MOST_FILES:,} at most).")
    if wanted:
        blobs = [blob for _, blob in wanted]
        contents = blobs_of(place, list(dict.fromkeys(blobs)))
        for (_, blob), where in wanted.items():
            if blob in contents:
                yield FileVersion(where, contents[blob])


def blobs_of(place: list[str], blobs: list[str]) -> dict[str, bytes]:
    """Returns blob -> its content; blobs that a partial copy lacks are left out, and those too large are empty."""
    sizes = git(*place, "cat-file", "--batch-check", given="\n".join(blobs).encode() + b"\n").decode().splitlines()
    known = [line.split() for line in sizes]
    small = [words[0] for words in known if len(words) == 3 and words[1] == "blob" and int(words[2]) <= MOST_BYTES]
    contents = {words[0]: b"" for words in known if len(words) == 3 and words[0] not in set(small)}
    out = git(*place, "cat-file", "--batch", given="\n".join(small).encode() + b"\n") if small else b""
    at = 0
    for _ in small:
        end = out.index(b"\n", at)
        blob, _, size = out[at:end].decode().split()
        contents[blob] = out[end + 1 : end + 1 + int(size)]
        at = end + 2 + int(size)
    return contents


def git(*arguments: str, given: bytes = b"", must: bool = True) -> bytes:
    """Returns what git prints; b"" where it fails and need not succeed. Raises UserError where it must."""
    try:
        done = subprocess.run([*GIT, *arguments], input=given, capture_output=True, check=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        if not must:
            return b""
        said = getattr(error, "stderr", b"") or str(error).encode()
        raise UserError(f"git cannot read it: {said.decode('utf-8', 'replace').strip().splitlines()[-1:]}") from error
    return done.stdout
