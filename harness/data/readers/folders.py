"""Reads a folder with one subfolder for each class."""

from __future__ import annotations

from collections.abc import Iterator

from harness.data.readers.base import Row
from harness.data.readers.opening import DataFile
from harness.data.readers.text import TextReader
from harness.errors import TaskError


class Folders(TextReader):
    """Folders: a document {label, title, body} for each .txt file of a folder with one subfolder for each class.

    The subfolder's name is the label, the file's first line the title, the rest the body with single spaces.
    """

    name = "folders"
    reads_folders = True

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield {label, title, body} for each text file. Raises TaskError where there is none."""
        found = False
        for path in sorted(file.path.glob("*/*.txt")):
            found = True
            name = path.relative_to(file.path).as_posix()
            text = "".join(self.lines(DataFile(path, name))).replace("\r\n", "\n").replace("\r", "\n")
            title, _, body = text.strip().partition("\n")
            yield name, {"label": path.parent.name, "title": title.strip(), "body": " ".join(body.split())}
        if not found:
            raise TaskError(f"{file.name} holds no text files in subfolders (class/text.txt).")
