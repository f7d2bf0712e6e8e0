"""Refuses what is no plain file before it is read: devices, pipes and the kernel's own files may never end, or hang;
and data that no memory can hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
KERNEL = (Path("/proc"), Path("/sys"), Path("/dev"))
SHARED_MEMORY = Path("/dev/shm")  # plain files, in spite of its place
MOST_FILES = 200_000
LARGEST_TEXT = 8_000_000  # bytes of a file that people write, such as a YAML


def strange(path: Path) -> str:
    """Return what a path is where it is neither a plain file nor a folder of such: a sentence without its subject; ""
    for a plain file, a folder, and where nothing is there."""
    try:
        mode, real = path.stat().st_mode, Path(os.path.realpath(path))
    except (OSError, ValueError):
        return ""
    if kind := KINDS.get(stat.S_IFMT(mode)):
        return f"is {kind}, and only plain files and folders are read"
    if any(real.is_relative_to(place) for place in KERNEL) and not real.is_relative_to(SHARED_MEMORY):
        return "is the kernel's own, and only plain files and folders are read"
    return ""


def too_much(paths: Iterable[Path]) -> str:
    """Return why some data (files, or folders of them) are too much to be read; "" where they are not. Data are held in
    memory, so more bytes than the machine has memory are refused, and more than 200,000 files."""
    import psutil

    most = int(psutil.virtual_memory().total)
    size = 0
    for number, file in enumerate(file for path in paths for file in files_in(path)):
        if number >= MOST_FILES:
            return f"holds more than {MOST_FILES:,} files"
        size += file
        if size > most:
            return f"holds {size / 2**30:,.0f} GiB or more, and this machine's memory is {most / 2**30:,.1f} GiB"
    return ""


def files_in(path: Path) -> Iterator[int]:
    """Yield the size in bytes of a file, or of each file in a folder and those in it; symbolic links to folders are not
    followed, as where the files are read."""
    if not path.is_dir():
        yield size_of(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield size_of(Path(folder, name))


def size_of(file: Path) -> int:
    """Return a file's size in bytes; 0 for one that cannot be read."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def read_text_file(path: Path) -> bytes:
    """Return the bytes of a file that people write. Raises ValueError, with the path, for what is no plain file and for
    more than 8 MB; OSError for what cannot be read."""
    if kind := strange(path):
        raise ValueError(f"{path} {kind}")
    with path.open("rb") as file:
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"{path} has more than {LARGEST_TEXT:,} bytes")
    return content
