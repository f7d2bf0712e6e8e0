"""Opens data files: unpacks what is compressed, decodes text, and says where and why either fails.

UTF-8 is the rule, and a byte order mark decides by itself (UTF-8, UTF-16, UTF-32). Anything else is named by
`encoding:`; it is never guessed, for a wrong guess reads every file and garbles some, but the guess is offered.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from harness.errors import TaskError, counted, unknown

PIECE = 1 << 20
MOST_RATIO = 1000  # unpacked bytes for each packed one; nothing that people write is packed more tightly
FREE_OF_RATIO = 64 * 2**20  # bytes; so little does no harm, however it is packed
SAMPLE = 1 << 16  # bytes that are looked at to name an encoding
MARKS = (  # the longer ones first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BYTE_ORDER_MARK = "\ufeff"
WESTERN = ("latin-1", "cp1252")  # the first where it can be, for it is the better known name
IN_A_WORD = re.compile(
    r"(?<=[^\W\d_])[\u0080-\u009f¡-©«-±´¶-¸»-¿×÷¹²³\u20ac-\u20ff](?=[^\W\d_])"
)  # no sign of a western word
ENCODINGS = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "ascii", "latin-1", "iso8859-15", "iso8859-2", "cp1252",
    "cp1250", "cp1251", "cp1253", "cp1254", "cp1256", "koi8-r", "mac-roman", "shift-jis", "euc-kr", "gb18030", "big5",
)  # fmt: skip
KINDS = {  # first bytes of files that are no text, with what to do
    b"PK\x03\x04": "an Excel or zip file: name it .xlsx or .zip",
    b"\xd0\xcf\x11\xe0": "an Excel file: name it .xls",
    b"PAR1": "a Parquet file: name it .parquet, or add reader: parquet",
    b"ARROW1": "an Arrow file: name it .arrow, or add reader: arrow",
    b"SQLite format 3": "a SQLite database: export its table as CSV",
    b"%PDF": "a PDF: extract its text first",
    b"\x1f\x8b": "packed twice, with gzip inside: unpack it once",
    b"BZh": "packed with bzip2: name it .bz2, or unpack it",
    b"\xfd7zXZ\x00": "packed twice, with xz inside: unpack it once",
    b"\x28\xb5\x2f\xfd": "packed twice, with zstd inside: unpack it once",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull` where it comes from",
}
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
DAMAGED = (  # what the libraries raise for what is no such archive, or a damaged one
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error,
    IndexError,
)  # fmt: skip


@dataclass(frozen=True)
class DataFile:
    """One file of data, or a folder for readers of folders. `name` is how messages call it."""

    path: Path
    name: str

    @property
    def ending(self) -> str:
        """The ending that names the format, in lower case, without that of a packing: .csv of a.csv.gz."""
        name = self.path.name.lower()
        if name.endswith(".zip") and Path(name.removesuffix(".zip")).suffix == "" and self.path.is_file():
            name = member_of(self).lower()  # the file in it tells
        for packing in PACKINGS:
            name = name.removesuffix(packing)
        return Path(name).suffix

    @property
    def packing(self) -> str:
        """How the file is packed: .gz, .bz2, .xz, .zst, .zip or ""."""
        with self.path.open("rb") as data:
            start = data.read(6)
        marks = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
        found = next((packing for mark, packing in marks.items() if start.startswith(mark)), "")
        return found or next((packing for packing in (".bz2", ".zip") if self.path.name.lower().endswith(packing)), "")


@contextmanager
def opened(file: DataFile) -> Iterator[IO[bytes]]:
    """Give the bytes of a file, unpacked, as a stream that can be read once. Raises TaskError where it cannot be read
    or is damaged, also while it is read."""
    try:
        with unpacked(file) as data:
            yield data
    except DAMAGED as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise TaskError(
            f"{file.name} cannot be read to its end: {reason or type(error).__name__}. Fetch or save it again."
        ) from error


def unpacked(file: DataFile) -> IO[bytes]:
    """Return the bytes of a file as a stream, unpacked; the caller closes it."""
    packing = file.packing
    if not packing:
        return file.path.open("rb")
    if packing == ".zip":
        name = member_of(file)
        return cast("IO[bytes]", io.BufferedReader(Counted(zipfile.ZipFile(file.path).open(name), file)))
    if packing == ".zst":
        import pyarrow as pa

        return cast("IO[bytes]", io.BufferedReader(Counted(pa.input_stream(str(file.path), compression="zstd"), file)))
    open_packed = cast("Callable[[Path], IO[bytes]]", {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[packing])
    return cast("IO[bytes]", io.BufferedReader(Counted(open_packed(file.path), file)))


class Counted(io.RawIOBase):
    """A stream that ends with TaskError where a packed file gives far more bytes than any data does."""

    def __init__(self, data: IO[bytes], file: DataFile):
        self.data, self.file, self.done = data, file, 0
        self.packed = file.path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self.data.read(len(buffer))
        buffer[: len(piece)] = piece
        self.done += len(piece)
        if self.done > max(FREE_OF_RATIO, MOST_RATIO * self.packed):
            raise TaskError(
                f"{self.file.name} is refused: its {self.packed:,} bytes unpack to more than {MOST_RATIO} times as "
                "many, which no data does."
            )
        return len(piece)

    def close(self) -> None:
        self.data.close()
        super().close()


def member_of(file: DataFile) -> str:
    """Return the name of the one file in a zip. Raises TaskError where it holds none or several."""
    try:
        with zipfile.ZipFile(file.path) as box:
            names = [info.filename for info in box.infolist() if not info.is_dir()]
    except (*DAMAGED, ValueError) as error:
        raise TaskError(f"{file.name} is no zip file that can be read: {error}. Fetch or save it again.") from error
    names = [name for name in names if not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")]
    if len(names) != 1:
        raise TaskError(
            f"{file.name} holds {len(names)} files ({', '.join(names[:5])}). Unpack it, and name the folder."
        )
    return names[0]


def codec(encoding: str) -> str:
    """Return the name by which Python decodes an encoding; of UTF-8 the one that drops a byte order mark. Raises
    TaskError, with the nearest name, for one that it does not know."""
    try:
        found = codecs.lookup(encoding)
        "".encode(found.name)  # a codec that does not make text of bytes, such as base64, says so here
    except (LookupError, UnicodeError, ValueError):
        raise TaskError(unknown("encoding", encoding, ENCODINGS, "Python's other encodings work too.")) from None
    return "utf-8-sig" if found.name == "utf-8" else found.name


def lines(file: DataFile, encoding: str, errors: str) -> Iterator[str]:
    """Yield the lines of a text file with their ends, in whatever form. `encoding` "" stands for UTF-8, or what a byte
    order mark says; `errors` is "strict", "replace" or "ignore". Raises TaskError, with the line, for bytes that are no
    text in that encoding, and for null bytes."""
    chosen = codec(encoding) if encoding else ""
    with opened(file) as data:
        start = data.read(SAMPLE)
        if not encoding:
            kind = next((kind for first, kind in KINDS.items() if start.startswith(first)), "")
            if kind:
                raise TaskError(f"{file.name} is {kind}.")
            chosen = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8")
            refuse_wide(file, start, chosen)
        number = 0
        text = io.TextIOWrapper(cast("IO[bytes]", Joined(start, data)), encoding=chosen, errors=errors, newline="")
        try:
            for number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise TaskError(
                        f"{file.name}:{number}: there is a null byte in this line. Save the file as plain text."
                    )
                # It has no meaning; one stands in the middle where files were put together.
                yield line.lstrip(BYTE_ORDER_MARK)
        except UnicodeError as error:
            raise undecodable(file, chosen, error) from error


class Joined(io.BufferedIOBase):
    """A stream of some bytes that were read ahead, and then of the rest."""

    def __init__(self, start: bytes, rest: IO[bytes]):
        self.start, self.rest = start, rest

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        piece, self.start = self.start, b""
        return piece or self.rest.read(PIECE)

    def read(self, size: int | None = -1) -> bytes:
        return self.read1() if size is not None and size >= 0 else self.read1() + self.rest.read()


def refuse_wide(file: DataFile, start: bytes, chosen: str) -> None:
    """Raise TaskError where the first bytes look like UTF-16 or UTF-32 without a byte order mark: every other one is
    null, or three of four."""
    if chosen != "utf-8" or len(start) < 4:
        return
    for places, name in (((1, 2, 3), "utf-32-le"), ((0, 1, 2), "utf-32-be")):
        (own,) = {0, 1, 2, 3} - set(places)
        mostly = all(start[place::4].count(0) > 0.9 * len(start[place::4]) for place in places)
        if mostly and start[own::4].count(0) == 0:
            raise TaskError(f"{file.name} is not UTF-8 but looks like {name.upper()}: add encoding: {name}.")
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if start[first::2].count(0) > 0.3 * len(start[first::2]) and start[1 - first :: 2].count(0) == 0:
            raise TaskError(f"{file.name} is not UTF-8 but looks like {name.upper()}: add encoding: {name}.")


def undecodable(file: DataFile, chosen: str, error: UnicodeError) -> TaskError:
    """Return the error for a file with bytes that are no text in the encoding `chosen`: the byte, its line, and the
    encoding that fits."""
    named = "UTF-8" if chosen.startswith("utf-8") else chosen.upper()
    if not chosen.startswith("utf-8"):
        why = f"{error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
        return TaskError(f"{file.name} is not {named} ({why}): correct encoding:, or save it as UTF-8.")
    first: tuple[int, bytes, int] | None = None  # (number, line, place of the byte)
    wrong = right = 0
    with opened(file) as data:
        for number, line in enumerate(data, start=1):
            if line.isascii():
                continue
            try:
                line.decode()
                right += 1
            except UnicodeDecodeError as error_in_line:
                wrong += 1
                first = first or (number, line, error_in_line.start)
    if first is None:
        return TaskError(f"{file.name} is not UTF-8 ({error}): add encoding:, or save it as UTF-8.")
    number, line, place = first
    begins = f"{file.name}:{number}: it is not UTF-8 (byte 0x{line[place]:02x})"
    if right > wrong:
        return TaskError(
            f"{begins}, though {counted(right, 'line')} with other than ASCII {'is' if right == 1 else 'are'}: correct "
            f"{'this line' if wrong == 1 else f'this line and {wrong - 1} more'}, or add encoding_errors: replace."
        )
    fitting = fitting_encoding(file, line)
    if not fitting:
        return TaskError(f"{begins}, and no encoding that fits was found: add encoding:, or save it as UTF-8.")
    shown = line[max(0, place - 20) : place + 20].decode(fitting, "replace").strip()
    return TaskError(f"{begins}: add encoding: {fitting}, with which it reads {shown!r}, or save it as UTF-8.")


def fitting_encoding(file: DataFile, line: bytes) -> str:
    """Return the encoding that a file which is not UTF-8 is likely in, "" where there is none. `line` is one that is
    not UTF-8.

    In western texts bytes beyond ASCII stand alone among others, and charset-normalizer takes them for Chinese where
    they are few; so it is asked only where they are many, or where they make no letters.
    """
    from charset_normalizer import from_bytes

    wrong = [line]
    with opened(file) as data:
        for other in data:
            if not other.isascii():
                wrong.append(other)
            if sum(map(len, wrong)) > SAMPLE:
                break
    sample = b"".join(wrong)
    high = sum(byte > 0x7F for byte in sample)
    western = ""
    # Bytes from 0x80 to 0x9f are signs in cp1252, and nothing that is written in latin-1.
    for name in WESTERN[::-1] if any(0x80 <= byte <= 0x9F for byte in sample) else WESTERN:
        with suppress(UnicodeDecodeError):
            western = western or (name if IN_A_WORD.sub("", sample.decode(name)) == sample.decode(name) else "")
    if western and high * 3 < len(sample):
        return western
    best = from_bytes(sample).best()
    return best.encoding.replace("_", "-") if best else western
