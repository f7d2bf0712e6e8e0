"""Unpacks a downloaded archive, and refuses one that would fill the disk or write outside its folder.

An archive of some megabytes can hold terabytes of zeros. What it says of its sizes is looked at before anything is
written, and a compressed tar is opened only as far as the limits go.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypedDict, cast

from harness.data.sources.base import Progress, Source, sha256_of, size_of
from harness.errors import SourceError, unknown

MOST_BYTES = 64 * 2**30  # unpacked; a model of 16 billion parameters in fp32
MOST_RATIO = 200  # unpacked bytes for each packed one: text has 3 to 20, zeros have 1000
FREE_OF_RATIO = 64 * 2**20  # bytes; so little does no harm, however it is packed
MOST_FILES = 200_000
LEFT_FREE = 2**30  # bytes of the disk that are left to others
PIECE = 1 << 20
PACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open,
}  # fmt: skip


class UnpackedFile(TypedDict):
    """One file of a cache entry; `path` is relative to the entry's folder `files`."""

    path: str
    size: int  # bytes
    sha256: str


def is_unsafe(name: str) -> bool:
    """Return whether a member of an archive would land outside the folder that it is unpacked into, on any system."""
    return name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":" or ".." in name.split("/")


def check_room(size: int, packed: int, files: int, folder: Path, source: Source) -> None:
    """Raise SourceError where an archive of `packed` bytes must not be unpacked: its `files` of `size` bytes in all are
    too many, or too large for the archive, for any model or for the disk of `folder`."""
    gib = f"{size / 2**30:.2f} GiB"
    if files > MOST_FILES:
        raise SourceError(f"{source} is refused: its archive holds more than {MOST_FILES:,} files.")
    if size > FREE_OF_RATIO and size > MOST_RATIO * packed:
        raise SourceError(
            f"{source} is refused: its archive of {packed / 2**20:.1f} MiB would unpack to {gib} or more, over "
            f"{MOST_RATIO} times its size, which no data or weights do. Nothing of it is kept."
        )
    if size > MOST_BYTES:
        raise SourceError(
            f"{source} is refused: it would unpack to {gib}, and {MOST_BYTES / 2**30:.0f} GiB is the most."
        )
    if size > (free := shutil.disk_usage(folder).free - LEFT_FREE):
        raise SourceError(
            f"{source} needs {gib} on the disk of {folder}, and {max(0, free) / 2**30:.2f} GiB can be used (1 GiB is "
            "left to others). Free some space, or set TUNEBENCH_CACHE to another disk."
        )


def opened(archive: Path, folder: Path, source: Source) -> zipfile.ZipFile | tarfile.TarFile:
    """Return an archive, opened. A compressed tar is unpacked to a plain one in `folder` first, as far as `check_room`
    allows, so that nothing in it can be larger than what was counted."""
    if archive.suffix in (".whl", ".zip"):
        return zipfile.ZipFile(archive)
    unpack = PACKED.get(archive.suffix)
    if unpack is None:
        return tarfile.open(archive, "r:")
    packed, done, plain = size_of(archive), 0, folder / "plain.tar"
    with unpack(archive) as data, plain.open("wb") as out:
        while chunk := data.read(PIECE):
            done += len(chunk)
            check_room(done, packed, 0, folder, source)
            out.write(chunk)
    return tarfile.open(plain, "r:")


def sizes_of(box: zipfile.ZipFile | tarfile.TarFile, source: Source, packed: int, folder: Path) -> dict[str, int]:
    """Return {name: bytes} of the files in an archive, without links and devices. Raises SourceError where they are
    too many or too large (`check_room`)."""
    sizes: dict[str, int] = {}
    total = 0
    if isinstance(box, zipfile.ZipFile):
        members = ((info.filename, info.file_size) for info in box.infolist() if not info.is_dir())
    else:
        members = ((info.name, info.size) for info in box if info.isreg())
    for count, (name, size) in enumerate(members, start=1):
        sizes[name] = size
        total += size
        if count % 1000 == 0:
            check_room(total, packed, count, folder, source)
    check_room(total, packed, len(sizes), folder, source)
    return sizes


def unpack(archive: Path, folder: Path, source: Source, report: Progress) -> list[UnpackedFile]:
    """Unpack the part of an archive that the source names with `inside` into `folder`, without links and devices;
    return the unpacked files. `report` is called with the progress. Raises SourceError where that part is missing,
    where a member points outside the archive, or where it would take too much room (`check_room`)."""
    folder.mkdir(parents=True, exist_ok=True)
    with opened(archive, archive.parent, source) as box:
        sizes = sizes_of(box, source, size_of(archive), folder)
        if bad := [name for name in sizes if is_unsafe(name)]:
            raise SourceError(f"{archive.name} of {source} is refused: {bad[0]!r} points outside the archive.")
        # An sdist keeps all in one folder, name-version/, which a wheel of the same package does not have.
        tops = {name.partition("/")[0] for name in sizes} if archive.suffix != ".whl" else set()
        members = {name.removeprefix(f"{next(iter(tops))}/") if len(tops) == 1 else name: name for name in sizes}
        inside, done = source.inside, 0
        files: list[UnpackedFile] = []
        wanted = sorted(name for name in members if not inside or f"{name}/".startswith(f"{inside}/"))
        if not wanted:
            raise SourceError(unknown(f"path in {archive.name}", inside, members, f"The source is {source}."))
        total = sum(sizes[members[name]] for name in wanted)
        for name in wanted:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            read = box.open if isinstance(box, zipfile.ZipFile) else box.extractfile
            with cast("IO[bytes]", read(members[name])) as data, path.open("wb") as out:
                while chunk := data.read(PIECE):
                    done += out.write(chunk)
                    if done > total:
                        raise SourceError(f"{archive.name} of {source} is refused: it holds more than it says.")
                    report(f"unpacking {source.name}", done, total)
            files.append({"path": name, "size": size_of(path), "sha256": sha256_of(path)})
    return files
