"""JSONL and CSV: a record a line, or a few lines where a cell has line breaks. Parts are ranges of bytes that end where a record does."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import orjson

from indexer.imports.formats.base import MAX_LINE_BYTES, Cut, Opened, Record, Span, Wanted, everything
from model.errors import InvalidInput, TooLarge

_BOM = b"\xef\xbb\xbf"
Loads = Callable[[bytes], Any]


def json_spans(opened: Opened, cut: Cut) -> Iterator[Span]:
    ends = ((number, end) for number, end, line in _lines(opened.file) if line is None or _stripped(line))
    yield from _cut(ends, 0, 1, opened, cut)


def json_records(
    opened: Opened, span: Span | None = None, wanted: Wanted = everything, *, loads: Loads = orjson.loads
) -> Iterator[Record]:
    """Strict JSON, every field of it. `loads=lenient` takes the NaN that pandas writes."""
    del wanted
    for number, _, line in _lines(opened.file, *_bounds(opened, span)):
        where = f"{opened.name} line {number}"
        if line is None:
            yield Record(where, TooLarge(f"{where} is over {MAX_LINE_BYTES} bytes", limit=MAX_LINE_BYTES))
        elif stripped := _stripped(line):
            yield Record(where, _parsed(stripped, where, loads))


def lenient(line: bytes) -> Any:
    return json.loads(line)


def csv_spans(opened: Opened, cut: Cut) -> Iterator[Span]:
    source = _Csv(opened)
    header = source.header()
    ends = ((source.number, source.offset) for _ in source.rows())
    yield from _cut(ends, header.end, header.number, opened, cut)


def csv_records(opened: Opened, span: Span | None = None, wanted: Wanted = everything) -> Iterator[Record]:
    """The first row names the columns. An empty cell is an absent one."""
    del wanted
    source = _Csv(opened)
    header = source.header()
    if span is not None and not opened.whole:
        source.go_to(span)
    for number, row in source.rows():
        where = f"{opened.name} line {number}"
        if isinstance(row, InvalidInput):
            yield Record(where, InvalidInput(f"{where} {row.detail}"))
        elif len(row) != len(header.columns):
            yield Record(where, InvalidInput(f"{where} has {len(row)} cells, the header has {len(header.columns)}"))
        else:
            yield Record(where, {name: cell for name, cell in zip(header.columns, row, strict=True) if cell})


def columns_of(opened: Opened) -> list[str]:
    """The header of a CSV."""
    return _Csv(opened).header().columns


class _Header:
    def __init__(self, columns: list[str], end: int, number: int) -> None:
        self.columns, self.end, self.number = columns, end, number


class _Csv:
    """Rows of a CSV, and where each ends. Rows are split by the csv module, which asks for the next line while a quote is open."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.offset, self.number, self._end = 0, 0, _END
        self._reader = csv.reader(self._text())

    def header(self) -> _Header:
        for _, row in self.rows():
            if isinstance(row, InvalidInput):
                raise InvalidInput(f"{self._opened.name} line {self.number} {row.detail}")
            if len(set(row)) < len(row) or "" in row:
                raise InvalidInput(
                    f"{self._opened.name} has a header with columns of the same or no name: {row!r:.200}"
                )
            return _Header(row, self.offset, self.number + 1)
        raise InvalidInput(f"{self._opened.name} is empty: its first line must name the columns")

    def go_to(self, span: Span) -> None:
        self._opened.file.seek(span.start)
        self.offset, self.number, self._end = span.start, span.number - 1, span.end

    def rows(self) -> Iterator[tuple[int, list[str] | InvalidInput]]:
        """(number of the row's first line, cells). Blank lines are not rows. One at a time: `offset` belongs to the last."""
        while True:
            first = self.number + 1
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield first, InvalidInput(f"is not CSV: {error}")
                continue
            if any(_SURROGATES.intersection(cell) for cell in row if not cell.isascii()):
                yield first, InvalidInput("is not UTF-8")
            elif row:
                yield first, row

    def _text(self) -> Iterator[str]:
        """Lines that are not UTF-8 come with their odd bytes marked, so that they harm their row alone."""
        while self.offset < self._end and (line := self._opened.file.readline(MAX_LINE_BYTES)):
            self.offset += len(line)
            self.number += 1
            yield (line.removeprefix(_BOM) if self.number == 1 else line).decode("utf-8", "surrogateescape")


_END = 2**63
_SURROGATES = frozenset(map(chr, range(0xDC80, 0xDD00)))


def _cut(ends: Iterator[tuple[int, int]], start: int, number: int, opened: Opened, cut: Cut) -> Iterator[Span]:
    """`ends`: of each record its last line and where it ends. A file that can be read from its beginning only is one span."""
    count, end = 0, start
    for last, end in ends:
        count += 1
        if not opened.whole and (count >= cut.rows or end - start >= cut.size_bytes):
            yield Span(start, end, count, number)
            start, number, count = end, last + 1, 0
    if count:
        yield Span(start, end, count, number)


def _bounds(opened: Opened, span: Span | None) -> tuple[int, int, int]:
    return (0, 1, _END) if span is None or opened.whole else (span.start, span.number, span.end)


def _lines(file: BinaryIO, start: int = 0, number: int = 1, end: int = _END) -> Iterator[tuple[int, int, bytes | None]]:
    """(number of the line, where it ends, the line); None for a line that is longer than may be held, which is skipped over."""
    if start:
        file.seek(start)
    offset, number = start, number - 1
    while offset < end and (line := file.readline(MAX_LINE_BYTES + 1)):
        number += 1
        offset += len(line)
        if len(line) <= MAX_LINE_BYTES:
            yield number, offset, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
            offset += len(line)
        yield number, offset, None


def _stripped(line: bytes) -> bytes:
    return line.removeprefix(_BOM).strip()


def _parsed(line: bytes, where: str, loads: Loads) -> dict[str, Any] | InvalidInput:
    try:
        record = loads(line)
    except (ValueError, RecursionError) as error:
        return InvalidInput(f"{where} is not JSON: {error}")
    if not isinstance(record, dict):
        return InvalidInput(f"{where} is a JSON {type(record).__name__}, a document is an object")
    return record
