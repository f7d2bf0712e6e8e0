"""Reads CSV and TSV. Never fewer rows than were written: whatever does not fit the header is an error with its line.

The standard library's reader does the parsing, in its strict mode; pandas' fills short rows without a word. Strict mode
does not notice a stray quote that a second one happens to close lines later, so cells of several lines are looked at.
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from harness.data.readers.base import Row, column_names, cut
from harness.data.readers.opening import DataFile
from harness.data.readers.text import TextReader
from harness.errors import TaskError, counted

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS = {",": '","', ";": '";"', "\t": "tab", "|": '"|"'}  # with how a YAML writes it
LOOKED_AT = 2000  # lines, to find out which dialect fits a file
MOST_LINES = 5  # of one cell, where each looks like a row
LONGEST_VALUE = 40  # characters of a cell that may be a class
MOST_NAMED = 5  # lines in a message


@dataclass(frozen=True)
class Dialect:
    """How cells are divided and quoted."""

    delimiter: str
    quotechar: str = '"'
    escapechar: str | None = None
    is_quoted: bool = True
    skips_blanks: bool = False


def csv_reader(lines: Iterator[str], dialect: Dialect) -> CsvReader:
    """Return the standard library's reader of lines in a dialect."""
    return csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quotechar=dialect.quotechar if dialect.is_quoted else None,
        escapechar=dialect.escapechar,
        quoting=csv.QUOTE_MINIMAL if dialect.is_quoted else csv.QUOTE_NONE,
        skipinitialspace=dialect.skips_blanks,
        strict=True,
    )


@dataclass
class Checked:
    """What is known of a file's rows while they are read: which do not fit the header, and which have several lines."""

    width: int
    misfits: list[tuple[int, int, str]] = field(default_factory=list)  # (line, cells, text)
    tall: list[tuple[int, list[str]]] = field(default_factory=list)  # (line, its lines)
    values: dict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    rows: int = 0

    def note(self, line: int, cells: list[str], raw: list[str]) -> None:
        """Take note of one row, which begins at `line` and stands in the lines `raw`."""
        self.rows += 1
        if len(cells) != self.width:
            self.misfits.append((line, len(cells), "".join(raw)))
        elif len(raw) > 1:
            self.tall.append((line, raw))
        else:
            for place, cell in enumerate(cells):
                if len(cell) <= LONGEST_VALUE:
                    self.values[place][cell] += 1


class Csv(TextReader):
    """CSV: a document for each row, every cell a text.

    The first line that is not blank names the columns, and every row has as many cells. Blank lines are passed over.
    """

    name = "csv"
    endings = (".csv",)

    delimiter: str = Field(default=",", description='the sign between cells, such as ";"; tab for a tab')
    quoting: Literal["minimal", "none"] = Field(
        default="minimal",
        description="none: quotes are signs as any other, and no cell holds a delimiter or a line break",
    )
    quotechar: str = Field(default='"', description="the sign around cells that hold delimiters, quotes or line breaks")
    escapechar: str = Field(
        default="", description='the sign before a quote in a cell, such as "\\\\" (default: quotes are doubled)'
    )
    skipinitialspace: bool = Field(default=False, description="true: blanks after a delimiter are no part of a cell")
    names: list[str] | None = Field(default=None, description="the columns' names, for a file without a header")
    multiline: bool = Field(
        default=False,
        description="true: cells of several lines are meant, though each line looks like a row of its own",
    )

    @field_validator("delimiter", "quotechar", "escapechar")
    @classmethod
    def one_sign(cls, value: str) -> str:
        """Return the sign, a tab for its names. Raises ValueError for more than one sign."""
        sign = {"tab": "\t", "\\t": "\t", "\\\\": "\\"}.get(value, value)
        if len(sign) > 1 or sign in ("\n", "\r"):
            raise ValueError("it must be one sign")
        return sign

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield {column: text} for each row. Raises TaskError for rows that do not fit the header, and for a quote that
        is never closed or swallows rows; it names the option that fits."""
        csv.field_size_limit(sys.maxsize)
        dialect = self.dialect()
        records = self.records(file, dialect)
        header: list[str] = []
        if self.names is None:
            line, cells, _ = next(records, (0, [], []))
            if not line:
                raise TaskError(f"{file.name} is empty.")
            names = column_names(cells, f"{file.name}:{line}")
            self.check_header(file, cells)
            header = cells
        else:
            names = column_names(self.names, file.name)
        checked = Checked(len(names))
        for line, cells, raw in records:
            checked.note(line, cells, raw)
            if len(header) > 1 and cells == header:
                raise TaskError(
                    f"{file.name}:{line}: the header stands here again, as where files were put together. Take it out, "
                    "or name the files one by one: source: [file:…, file:…]."
                )
            self.check_blanks(file, line, cells)
            if not checked.misfits:
                yield f"{file.name}:{line}", dict(zip(names, cells, strict=True))
        if checked.misfits:
            raise self.misfit(file, names, checked)
        if not checked.rows:
            raise TaskError(f"{file.name} holds a header ({cut(', '.join(names[:MOST_NAMED]))}) and no rows.")
        self.check_tall(file, dialect, checked)

    def dialect(self) -> Dialect:
        """Return the dialect that the options say. Raises TaskError where two of its signs are one."""
        dialect = Dialect(
            self.delimiter,
            self.quotechar or '"',
            self.escapechar or None,
            self.quoting == "minimal",
            self.skipinitialspace,
        )
        if not self.delimiter:
            raise TaskError('delimiter is empty. Give one sign, such as delimiter: ";".')
        signs = [
            dialect.delimiter,
            *([dialect.quotechar] if dialect.is_quoted else []),
            *([dialect.escapechar] * bool(dialect.escapechar)),
        ]
        if len({*signs}) < len(signs):
            raise TaskError(f"delimiter, quotechar and escapechar are {', '.join(map(repr, signs))}: they must differ.")
        return dialect

    def records(self, file: DataFile, dialect: Dialect) -> Iterator[tuple[int, list[str], list[str]]]:
        """Yield (line at which it begins, cells, its lines) for each row that is not blank."""
        raw: list[str] = []

        def kept() -> Iterator[str]:
            for line in self.lines(file):
                raw.append(line)
                yield line

        reader = csv_reader(kept(), dialect)
        begins = 1
        try:
            for cells in reader:
                if cells and (len(cells) > 1 or cells[0].strip() or '"' in raw[0]):
                    yield begins, cells, list(raw)
                begins += len(raw)
                raw.clear()
        except csv.Error as error:
            raise self.broken(file, begins, "".join(raw), error) from error

    def check_header(self, file: DataFile, cells: list[str]) -> None:
        """Raise TaskError where the header is one column with another delimiter in its name."""
        if len(cells) > 1 or "delimiter" in self.model_fields_set:
            return
        for delimiter, written in DELIMITERS.items():
            if delimiter in cells[0] and self.fits(file, replace(self.dialect(), delimiter=delimiter)):
                raise TaskError(
                    f"{file.name}:1: one column named {cut(cells[0])!r}: the delimiter is {delimiter!r}. "
                    f"Add delimiter: {written}."
                )

    def check_blanks(self, file: DataFile, line: int, cells: list[str]) -> None:
        """Raise TaskError where blanks in front of a quote make it a part of the cell, and nobody has said so."""
        quote = self.quotechar if self.quoting == "minimal" and "skipinitialspace" not in self.model_fields_set else ""
        for cell in cells if quote else ():
            if cell.startswith(" ") and cell.lstrip().startswith(quote):
                raise TaskError(
                    f"{file.name}:{line}: there is a blank between a delimiter and a quote: {cut(cell)!r}. Add "
                    "skipinitialspace: true, or false if blanks and quotes are a part of the text."
                )

    def fits(self, file: DataFile, dialect: Dialect) -> int:
        """Return how many cells each of the first rows has in a dialect; 0 where they differ in that, or have one."""
        head = list(itertools.islice(self.lines(file), LOOKED_AT))
        widths: set[int] = set()
        reader = csv_reader(iter(head), dialect)
        ended = 0
        try:
            for cells in reader:
                ended = reader.line_num
                if cells and (len(cells) > 1 or cells[0].strip()):
                    widths.add(len(cells))
        except csv.Error as error:
            # The last row that is looked at may go on, but not for ever.
            if "unexpected end" not in str(error) or len(head) < LOOKED_AT or len(head) - ended > MOST_LINES**2:
                return 0
        return widths.pop() if len(widths) == 1 and widths != {1} else 0

    def remedy(self, file: DataFile) -> str:
        """Return which options make every row fit, in words, or what else to do."""
        now = self.dialect()
        options = [
            (f"delimiter: {written}", replace(now, delimiter=delimiter))
            for delimiter, written in DELIMITERS.items()
            if delimiter != now.delimiter
        ]
        options.append(("skipinitialspace: true", replace(now, skips_blanks=True)))
        options.append(("quoting: none", replace(now, is_quoted=False)))
        if not now.escapechar:
            options.append(('escapechar: "\\\\"', replace(now, escapechar="\\")))
        for words, dialect in options:
            if width := self.fits(file, dialect):
                return f"With {words} every row has {width} cells: add it if that is right."
        return f"Quote cells that hold {now.delimiter!r}, or say how cells are divided: delimiter, quoting, escapechar."

    def misfit(self, file: DataFile, names: list[str], checked: Checked) -> TaskError:
        """Return the error for rows with more or fewer cells than the header."""
        line, cells, text = checked.misfits[0]
        more, number = "", len(checked.misfits)
        if number > 1:
            others = ", ".join(str(other) for other, _, _ in checked.misfits[1 : MOST_NAMED + 1])
            dots = ", …" if number > MOST_NAMED + 1 else ""
            more = f" {number} of {checked.rows} rows do not fit (also line{'s' if number > 2 else ''} {others}{dots})."
        kind = "the header" if self.names is None else "names:"
        return TaskError(
            f"{file.name}:{line}: the row has {counted(cells, 'cell')}, and {kind} names "
            f"{counted(len(names), 'column')} ({cut(', '.join(names[:MOST_NAMED]))}): {cut(text)!r}.{more} "
            f"{self.remedy(file)}"
        )

    def broken(self, file: DataFile, line: int, text: str, error: csv.Error) -> TaskError:
        """Return the error for a row that the standard library's reader refuses: in all cases a quote."""
        if "unexpected end" in str(error):
            what = "a quote is opened in this row and never closed"
        elif "expected after" in str(error):
            what = "a cell goes on after its closing quote"
        else:
            what = f"the row cannot be read ({error})"
        return TaskError(
            f"{file.name}:{line}: {what}: {cut(text)!r}. Double the quotes in a quoted cell, or say how cells are "
            f"quoted. {self.remedy(file)}"
        )

    def check_tall(self, file: DataFile, dialect: Dialect, checked: Checked) -> None:
        """Raise TaskError where a cell of several lines holds what looks like rows: every line has as many cells as the
        header, and has a value that other rows have too, or there are many lines."""
        if self.multiline or not dialect.is_quoted or checked.width < 2:
            return
        classes = [
            (place, {value for value, count in values.items() if count > 1}) for place, values in checked.values.items()
        ]
        plain = replace(dialect, is_quoted=False)
        for line, raw in checked.tall:
            split = list(csv_reader(iter(raw), plain))
            if any(len(cells) != checked.width for cells in split):
                continue
            has_class = any(all(cells[place] in known for cells in split) for place, known in classes)
            if has_class or len(raw) > MOST_LINES:
                raise TaskError(
                    f"{file.name}:{line}: a quote is opened in this row and closed {len(raw) - 1} lines later, and "
                    f"each of these lines looks like a row of its own: {cut(raw[0])!r}. If it is a stray quote, "
                    f"double it in a quoted cell, or add quoting: none; if the cell is meant to hold {len(raw)} lines, "
                    "add multiline: true."
                )


class Tsv(Csv):
    """TSV: as CSV, with tabs between cells."""

    name = "tsv"
    endings = (".tsv",)

    delimiter: str = Field(default="\t", description="the sign between cells")
