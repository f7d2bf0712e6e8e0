"""Reads the .tab files of Orange: lines of names, types and roles, then rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator

from pydantic import Field

from harness.data.readers.base import Row, require
from harness.data.readers.opening import DataFile
from harness.data.readers.text import TextReader
from harness.errors import TaskError


class Orange(TextReader):
    """Orange: a document for each row of a .tab file (lines of names, types and roles, then rows); cells are texts."""

    name = "orange"
    endings = (".tab",)

    words: int = Field(
        default=0, description="keep this many words of `text`, and leave out rows with fewer (0: the whole text)"
    )
    skip_words: int = Field(default=0, description="words of `text` to pass over first")

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield {column: text} for each row that is not empty; cells beyond the header are dropped."""
        csv.field_size_limit(sys.maxsize)
        reader = csv.reader(self.lines(file), delimiter="\t", quoting=csv.QUOTE_MINIMAL)
        try:
            head = [cells for _, cells in zip(range(3), reader, strict=False)]
            if len(head) < 3:
                raise TaskError(f"{file.name} is no Orange file: it has no lines of names, types and roles.")
            for cells in reader:
                if any(cells):
                    yield f"{file.name}:{reader.line_num}", dict(zip(head[0], cells, strict=False))
        except csv.Error as error:
            raise TaskError(f"{file.name}:{reader.line_num}: {error}.") from error

    def documents(self, file: DataFile) -> Iterator[Row]:
        """Yield the rows with the columns that are kept, and of `text` the words that are kept."""
        for place, document in super().documents(file):
            if self.words:
                require(place, document, ["text"])
                kept = document["text"].split()[self.skip_words : self.skip_words + self.words]
                if len(kept) < self.words:
                    continue
                document["text"] = " ".join(kept)
            yield place, document
