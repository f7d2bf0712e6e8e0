"""Packs files for the nodes of a Ray cluster that share no disk: put into Ray's store once, unpacked where needed.

They travel in pieces of 32 MiB, so that a folder of weights is never whole in the memory of a process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CellError
from harness.execute.signing import check_signature, signature_of
from harness.records import digest

if TYPE_CHECKING:
    from ray import ObjectRef

PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Parcel:
    """Packed files: (name, bytes, SHA-256) of each file, and the bytes of all, one after another, cut into pieces.
    `signature` is that of the list of files, under the run's key."""

    files: tuple[tuple[str, int, str], ...]
    pieces: tuple[ObjectRef[bytes], ...]  # references into Ray's object store
    signature: str = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of the files' names and content."""
        return digest([(name, sha256) for name, _, sha256 in self.files])

    def lies_in(self, folder: Path) -> bool:
        """Returns whether the folder holds these files with this content (it may hold others too)."""
        return all((folder / name).is_file() and sha256_of(folder / name) == sha256 for name, _, sha256 in self.files)

    def unpack(self, folder: Path, get: Callable[[ObjectRef[bytes]], bytes], key: bytes) -> None:
        """Write the files into a folder. `get` turns a reference into its bytes. Raises CellError where the list of
        files was not signed with `key`, or a file is not what the list says; that file is then removed."""
        check_signature(key, listing(self.files), self.signature, "a parcel")
        pieces, piece = iter(self.pieces), memoryview(b"")
        for name, size, expected in self.files:
            if not is_inside(name):
                raise CellError(f"a parcel has a file {name!r}, which lies outside its folder; it was not unpacked.")
            path, sha256 = folder / name, hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                while size:
                    if not piece:
                        if (reference := next(pieces, None)) is None:
                            break
                        piece = memoryview(get(reference))
                    written = file.write(piece[:size])
                    sha256.update(piece[:written])
                    piece, size = piece[written:], size - written
            if size or sha256.hexdigest() != expected:
                path.unlink()
                raise CellError(f"{name} of a parcel is not what was sent: its SHA-256 is another. It was not used.")


def listing(files: tuple[tuple[str, int, str], ...]) -> bytes:
    """Returns the list of a parcel's files as the bytes that are signed."""
    return json.dumps(files).encode()


def is_inside(name: str) -> bool:
    """Returns whether a file's name, relative to a folder, stays inside that folder."""
    return bool(name) and not name.startswith("/") and "\0" not in name and ".." not in name.split("/")


def pack(files: Mapping[str, Path], put: Callable[[bytes], ObjectRef[bytes]], key: bytes) -> Parcel:
    """Returns a parcel of files (name -> path), signed with `key`. `put` stores bytes and returns a reference to
    them."""
    listed, pieces, waiting = [], [], bytearray()
    for name, path in files.items():
        sha256, size = hashlib.sha256(), 0
        for block in blocks(path):
            sha256.update(block)
            size += len(block)
            waiting += block
            while len(waiting) >= PIECE_BYTES:
                pieces.append(put(bytes(waiting[:PIECE_BYTES])))
                del waiting[:PIECE_BYTES]
        listed.append((name, size, sha256.hexdigest()))
    if waiting:
        pieces.append(put(bytes(waiting)))
    return Parcel(tuple(listed), tuple(pieces), signature_of(key, listing(tuple(listed))))


def files_in(folder: Path) -> dict[str, Path]:
    """Returns name inside the folder -> path, for every file of a folder and its subfolders."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def blocks(path: Path) -> Iterator[bytes]:
    """Yields a file's bytes in blocks of 32 MiB at most; one empty block for an empty file."""
    with path.open("rb") as file:
        yield file.read(PIECE_BYTES)
        while block := file.read(PIECE_BYTES):
            yield block


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
