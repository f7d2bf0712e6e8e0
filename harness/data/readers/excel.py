"""Reads Excel workbooks (and OpenDocument sheets) with calamine, which reads .xls and .xlsb too."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from harness.data.readers.base import Reader, Row, Value, column_names
from harness.data.readers.opening import DAMAGED, FREE_OF_RATIO, MOST_RATIO, DataFile, opened
from harness.errors import TaskError, unknown

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

# A formula without a value: the workbook was written by a program, and no spreadsheet has computed it.
NOT_COMPUTED = re.compile(rb'<c r="([A-Z]+[0-9]+)"[^>]*><f[^>]*(?:/>|>[^<]*</f>)(?:<v ?/>|<v></v>)?</c>')
EXACT = 2**53  # up to here a workbook's numbers, which are all floats, are exact integers


class Excel(Reader):
    """Excel: a document for each row of a sheet, whose first row names the columns. Values keep their types: whole
    numbers are integers, dates are text, an empty cell is null. Empty rows are passed over."""

    name = "excel"
    endings = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")

    sheet: str | int = Field(
        default="", description="the sheet, by name or by number from 1 (default: the only one with rows)"
    )

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield {column: value} for each row of the sheet. Raises TaskError where the workbook cannot be read, where
        several sheets hold rows and none is named, and for rows with more cells than the header."""
        from python_calamine import CalamineError

        with opened(file) as data:
            content = data.read()
        try:
            refuse_bomb(file, content)
            refuse_formulas(file, content)
            with_sheets: CalamineWorkbook = self.workbook(content)
            sheet = self.chosen_sheet(file, with_sheets)
            names: list[str] = []
            found = False
            first = (sheet.start or (0, 0))[0] + 1
            for number, cells in enumerate(sheet.iter_rows(), start=first):
                values = [typed(cell) for cell in cells]
                if all(value is None for value in values):
                    continue
                place = f"{file.name}, {sheet.name}, row {number}"
                if not names:
                    while values and values[-1] is None:
                        values.pop()
                    names = column_names(values, place)
                    continue
                if any(value is not None for value in values[len(names) :]):
                    raise TaskError(
                        f"{place}: the row has more cells than the header names columns ({len(names)}). Name them all."
                    )
                found = True
                yield place, dict(zip(names, values, strict=False))
        except CalamineError as error:
            raise TaskError(
                f"{file.name} is no workbook that can be read ({error}). Save it again, without a password."
            ) from error
        if not found:
            raise TaskError(
                f"{file.name}, {sheet.name} holds a header and no rows." if names else f"{file.name} is empty."
            )

    def workbook(self, content: bytes) -> CalamineWorkbook:
        """Return the workbook of a file's bytes."""
        from python_calamine import CalamineWorkbook

        return CalamineWorkbook.from_filelike(io.BytesIO(content))

    def chosen_sheet(self, file: DataFile, workbook: CalamineWorkbook) -> CalamineSheet:
        """Return the sheet that `sheet` names, or the only one with rows."""
        names = workbook.sheet_names
        if isinstance(self.sheet, int):
            if not 1 <= self.sheet <= len(names):
                raise TaskError(f"{file.name}: sheet: {self.sheet}, and it has {len(names)}: {', '.join(names)}.")
            return workbook.get_sheet_by_index(self.sheet - 1)
        if self.sheet:
            if self.sheet not in names:
                raise TaskError(f"{file.name}: {unknown('sheet', self.sheet, names)}")
            return workbook.get_sheet_by_name(self.sheet)
        sheets = [workbook.get_sheet_by_name(name) for name in names]
        filled = [sheet for sheet in sheets if sheet.start is not None]
        if len(filled) > 1:
            listed = ", ".join(sheet.name for sheet in filled)
            raise TaskError(
                f"{file.name} has several sheets with rows: {listed}. Say which one: sheet: {filled[0].name}."
            )
        if not filled:
            raise TaskError(f"{file.name} is empty.")
        return filled[0]


def typed(cell: Value) -> Value:
    """Return a cell's value: whole numbers as integers, an empty cell as None."""
    if cell == "" or cell is None:
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) <= EXACT:
        return int(cell)
    return cell


def refuse_bomb(file: DataFile, content: bytes) -> None:
    """Raise TaskError where a workbook, which is a zip, says that it unpacks to far more than any workbook does."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as box:
            size = sum(info.file_size for info in box.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return  # an older format; or damaged, which the reader says
    if size > max(FREE_OF_RATIO, MOST_RATIO * len(content)):
        raise TaskError(f"{file.name} is refused: it would unpack to {size:,} bytes, over {MOST_RATIO} times its size.")


def refuse_formulas(file: DataFile, content: bytes) -> None:
    """Raise TaskError where a workbook has a formula that was never computed: its cell would be read as empty."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as box:
            sheets = [name for name in box.namelist() if name.startswith("xl/worksheets/") and name.endswith(".xml")]
            for name in sheets:
                if cell := NOT_COMPUTED.search(box.read(name)):
                    raise TaskError(
                        f"{file.name}: the formula in {cell[1].decode()} was never computed. Open the workbook in a "
                        "spreadsheet program and save it there."
                    )
    except (*DAMAGED, ValueError):
        return  # which the reader says
