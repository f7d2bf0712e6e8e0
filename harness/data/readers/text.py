"""What readers of text share: their options, and documents of plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from harness.data.readers.base import Reader, Row
from harness.data.readers.opening import DataFile, lines


class TextReader(Reader):
    """A reader of text in some encoding."""

    encoding: str = Field(
        default="", description="the encoding, such as latin-1 (default: UTF-8, or what a byte order mark says)"
    )
    encoding_errors: Literal["strict", "replace", "ignore"] = Field(
        default="strict",
        description="what becomes of bytes that are no text: strict (an error), replace (by �), ignore",
    )

    def lines(self, file: DataFile) -> Iterator[str]:
        """Yield the lines of a file, decoded as the options say."""
        return lines(file, self.encoding, self.encoding_errors)


class PlainText(TextReader):
    """Plain text: a document {text} for each line that is not blank."""

    name = "text"
    endings = (".txt", ".text")

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield {text} for each line that is not blank."""
        for number, line in enumerate(self.lines(file), start=1):
            if text := line.strip():
                yield f"{file.name}:{number}", {"text": text}
