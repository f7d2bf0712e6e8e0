"""Reads Parquet and Arrow (Feather) with pyarrow. Values keep their types."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.data.readers.base import Reader, Row, cut
from harness.data.readers.opening import DataFile, opened
from harness.errors import TaskError

if TYPE_CHECKING:
    import pyarrow as pa

AT_A_TIME = 1000  # rows


class Table(Reader):
    """A reader of tables that pyarrow reads."""

    def batches(self, data: bytes | str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a file, given by its path or its bytes, some at a time."""
        raise NotImplementedError

    def rows(self, file: DataFile) -> Iterator[Row]:
        """Yield {column: value} for each row. Raises TaskError where the file is damaged or holds no rows, or where two
        columns have one name."""
        import pyarrow as pa

        try:
            number = 0
            for batch in self.batches(self.readable(file)):
                batch.validate(full=True)  # offsets of a damaged file would end the process
                names = batch.schema.names
                if twice := next((name for name in names if names.count(name) > 1), ""):
                    raise TaskError(f"{file.name}: two columns are named {cut(twice)!r}. Rename one of them.")
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield f"{file.name}, row {number}", row
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
            reason = cut(str(error).strip().partition("\n")[0])
            raise TaskError(
                f"{file.name} is no {self.name} file that can be read ({reason}). Fetch or save it again."
            ) from error
        if not number:
            raise TaskError(f"{file.name} holds no rows.")

    def readable(self, file: DataFile) -> bytes | str:
        """Return a file's path; of a packed one its unpacked bytes, for tables are read from their end."""
        if not file.packing:
            return str(file.path)
        with opened(file) as data:
            return data.read()


class Parquet(Table):
    """Parquet: a document for each row. A column's values keep their types; dates become text."""

    name = "parquet"
    endings = (".parquet", ".pq")

    def batches(self, data: bytes | str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a Parquet file, 1000 at a time."""
        import pyarrow.parquet

        names = [*(self.columns.values() if isinstance(self.columns, dict) else self.columns or ())] or None
        with pyarrow.parquet.ParquetFile(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            known = set(file.schema_arrow.names)
            kept = names if names and known.issuperset(names) else None  # else the error names the nearest column
            yield from file.iter_batches(batch_size=AT_A_TIME, columns=kept)


class Arrow(Table):
    """Arrow: a file or stream of Arrow's own format, as Feather and `datasets` write it; a document for each row."""

    name = "arrow"
    endings = (".arrow", ".feather", ".ipc")

    def batches(self, data: bytes | str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of an Arrow file, an Arrow stream or a Feather file."""
        import pyarrow as pa
        import pyarrow.feather

        with pa.OSFile(data) if isinstance(data, str) else pa.BufferReader(data) as file:
            start = file.read(6)
            file.seek(0)
            if start.startswith(b"FEA1"):
                yield from pyarrow.feather.read_table(file).to_batches(AT_A_TIME)
                return
            reader = pa.ipc.open_file(file) if start == b"ARROW1" else pa.ipc.open_stream(file)
            if start == b"ARROW1":
                for place in range(reader.num_record_batches):
                    yield reader.get_batch(place)
            else:
                yield from reader
