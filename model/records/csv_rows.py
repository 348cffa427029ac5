"""CSV: a record a row, which may take several lines where a quoted cell has line breaks. Parts are ranges of bytes.

Quoting is strict: a quoted cell ends before a delimiter or the end of the line. A row in which a quote opens that does
not close so is a failure of its first line alone; the lines that the quote swallowed are read again, as rows of their
own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from model.errors import InvalidInput, TooLarge
from model.records.base import MAX_RECORD_BYTES, Cut, FieldFilter, Record, Span, every_field
from model.records.csv_dialect import find_dialect
from model.records.jsonl import BOM, NO_END, cut_spans, skip_line
from model.records.opened_file import OpenedFile

_READ_BYTES = 2**18
# Cells of one row; a list of more empty ones is many times as large as their line.
_MAX_CELLS = 1_000_000
_SURROGATES = frozenset(map(chr, [*range(0xDC80, 0xDD00), *range(0xD800, 0xDC00)]))


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """The dialect that the mapping names; None is detected."""

    delimiter: str | None = None
    encoding: str | None = None


def spans(opened: OpenedFile, cut: Cut, options: CsvOptions = CsvOptions()) -> Iterator[Span]:
    """Cut the file into parts, each of which begins with a row."""
    source = _Csv(opened, options)
    source.read_header()
    start, number = source.offset, source.number + 1
    ends = ((source.number, source.offset) for _ in source.rows())
    yield from cut_spans(ends, start, number, opened, cut)


def records(
    opened: OpenedFile,
    span: Span | None = None,
    is_used: FieldFilter = every_field,
    options: CsvOptions = CsvOptions(),
) -> Iterator[Record]:
    """Read rows, whose cells are named by the first one. An empty cell is an absent one."""
    del is_used
    source = _Csv(opened, options)
    columns = source.read_header()
    if span is not None and not opened.whole:
        source.go_to(span)
    for number, row in source.rows():
        where = f"{opened.name} line {number}"
        if isinstance(row, InvalidInput):
            yield Record(where, type(row)(f"{where} {row.detail}"))
        elif len(row) != len(columns):
            yield Record(where, InvalidInput(f"{where} has {len(row)} cells, the header has {len(columns)}"))
        else:
            yield Record(where, {name: cell for name, cell in zip(columns, row, strict=True) if cell})


def columns_of(opened: OpenedFile, options: CsvOptions = CsvOptions()) -> list[str]:
    """Return the names in the header."""
    return _Csv(opened, options).read_header()


class _Csv:
    """The rows of a CSV; `offset` and `number` say where the last of them ended and in which line."""

    def __init__(self, opened: OpenedFile, options: CsvOptions) -> None:
        self._name = opened.name
        self._dialect = find_dialect(opened, options.delimiter, options.encoding)
        self._lines = _Lines(opened.file, self._dialect.delimiter)
        # The limit is one of the process; 131,072 characters by default.
        csv.field_size_limit(MAX_RECORD_BYTES)

    @property
    def offset(self) -> int:
        return self._lines.offset

    @property
    def number(self) -> int:
        return self._lines.number

    def read_header(self) -> list[str]:
        for _ in range(self._dialect.skip_lines):
            self._lines.begin_row()
            next(self._lines, None)
        for number, row in self.rows():
            if isinstance(row, InvalidInput):
                raise InvalidInput(f"{self._name} line {number} {row.detail}")
            if len(set(row)) < len(row) or "" in row:
                raise InvalidInput(f"{self._name} has a header with columns of the same or no name: {row!r:.200}")
            return row
        raise InvalidInput(f"{self._name} is empty: its first line must name the columns")

    def go_to(self, span: Span) -> None:
        self._lines.go_to(span.start, span.number, span.end)

    def rows(self) -> Iterator[tuple[int, list[str] | InvalidInput]]:
        """Yield (number of its first line, cells) of each row. Blank lines are not rows."""
        reader = self._reader()
        while True:
            self._lines.begin_row()
            first = self.number + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield first, self._broken_row(first, error)
                reader = self._reader()
            except TooLarge as error:
                self._lines.end_row_after_first_line()
                yield first, error
                reader = self._reader()
            else:
                if any(_SURROGATES.intersection(cell) for cell in row if not cell.isascii()):
                    yield first, InvalidInput("is not UTF-8; name the encoding of the file with mapping.encoding")
                elif row:
                    yield first, row

    def _broken_row(self, first: int, error: csv.Error) -> InvalidInput:
        last = self.number
        self._lines.end_row_after_first_line()
        if "new-line character" in str(error):
            return InvalidInput("is not CSV: a carriage return stands inside a cell that is not quoted")
        if "expected after" not in str(error) and "unexpected end" not in str(error):
            return InvalidInput(f"is not CSV: {error}")
        reason = "is not CSV: a quote opens in it that is not closed before a delimiter or the end of a line"
        if last == first + 1:
            return InvalidInput(f"{reason}; line {last}, which it swallowed, was read as a row of its own")
        if last > first:
            return InvalidInput(
                f"{reason}; lines {first + 1} to {last}, which it swallowed, were read as rows of their own"
            )
        return InvalidInput(reason)

    def _reader(self) -> Iterator[list[str]]:
        delimiter, skip_space = self._dialect.delimiter, self._dialect.skip_space
        return csv.reader(self._lines, strict=True, delimiter=delimiter, skipinitialspace=skip_space)


class _Lines:
    """Lines of a file as text, with the way back to the second line of the row that is being read.

    Of a row no more than `MAX_RECORD_BYTES` are held; for more of it `TooLarge` is raised. Bytes that are not UTF-8
    become surrogates.
    """

    def __init__(self, file: BinaryIO, delimiter: str) -> None:
        self._file, self._delimiter = file, delimiter.encode()
        self._buffer = bytearray()
        self._cursor = 0
        self._end = NO_END
        self._second = (0, 0)
        self._row_bytes = self._row_cells = self._row_lines = 0
        self.offset, self.number = 0, 0

    def go_to(self, offset: int, number: int, end: int) -> None:
        self._file.seek(offset)
        self._buffer.clear()
        self._cursor, self._end = 0, end
        self.offset, self.number = offset, number - 1

    def begin_row(self) -> None:
        """Forget what was read before."""
        if self._cursor > max(_READ_BYTES, len(self._buffer) // 2):
            del self._buffer[: self._cursor]
            self._cursor = 0
        self._row_bytes = self._row_cells = self._row_lines = 0

    def end_row_after_first_line(self) -> None:
        """Go back to where the second line of the row begins."""
        offset, number = self._second
        self._cursor -= self.offset - offset
        self.offset, self.number = offset, number

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._next_line() if self.offset < self._end else b""
        if not line:
            raise StopIteration
        self._row_bytes += len(line)
        self._row_cells += line.count(self._delimiter)
        if self._row_bytes > MAX_RECORD_BYTES:
            raise TooLarge(f"is in a row of over {MAX_RECORD_BYTES} bytes", limit=MAX_RECORD_BYTES)
        if self._row_cells > _MAX_CELLS:
            raise TooLarge(f"is in a row of over {_MAX_CELLS} cells", limit=_MAX_CELLS)
        if self.number == 1:
            line = line.removeprefix(BOM)
        return line.decode("utf-8", "surrogateescape")

    def _next_line(self) -> bytes:
        searched = self._cursor
        while (end := self._buffer.find(b"\n", searched)) < 0:
            if self._row_bytes + len(self._buffer) - self._cursor > MAX_RECORD_BYTES:
                self._refuse_long_line()
            searched = len(self._buffer)
            data = self._file.read(_READ_BYTES)
            if not data:
                end = len(self._buffer) - 1
                break
            self._buffer += data
        line = bytes(self._buffer[self._cursor : end + 1])
        self._advance(len(line), len(line))
        return line

    def _refuse_long_line(self) -> None:
        """Raise `TooLarge` for a line that is longer than a record may be, skipping it if its row begins with it."""
        if self._row_lines:
            raise TooLarge(f"is in a row of over {MAX_RECORD_BYTES} bytes", limit=MAX_RECORD_BYTES)
        skipped = skip_line(self._file, b"-")
        pending = len(self._buffer) - self._cursor
        self._advance(pending, pending + skipped)
        raise TooLarge(f"is over {MAX_RECORD_BYTES} bytes", limit=MAX_RECORD_BYTES)

    def _advance(self, held_bytes: int, line_bytes: int) -> None:
        if not line_bytes:
            return
        self._cursor += held_bytes
        self.offset += line_bytes
        self.number += 1
        self._row_lines += 1
        if self._row_lines == 1:
            self._second = (self.offset, self.number)
