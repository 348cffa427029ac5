"""Parquet: a part is a row group, or a piece of one that is huge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.imports.formats.base import Cut, Opened, Record, Span, Wanted, everything
from model.errors import InvalidInput

_ROWS_PER_BATCH = 64  # rows decoded at once: 64 photographs are some hundred MB at most
_BUFFER_BYTES = 2**20  # of each column; without it a column of a row group is read as a whole
# Rows of a group can be skipped only by decoding them, so its last piece costs the whole group. Sixteen pieces cost eight times the
# group in all, of text some seconds for a million rows.
_PIECES_MAX = 16


def spans(opened: Opened, cut: Cut) -> Iterator[Span]:
    with _parquet(opened) as file:
        number = 1
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            size_bytes = file.metadata.row_group(group).total_byte_size
            pieces = min(_PIECES_MAX, max(-(-rows // cut.rows), -(-size_bytes // cut.size_bytes)), max(1, rows))
            for piece in range(pieces):
                start, end = rows * piece // pieces, rows * (piece + 1) // pieces
                if end > start:
                    yield Span(start, end, end - start, number + start, group)
            number += rows


def records(opened: Opened, span: Span | None = None, wanted: Wanted = everything) -> Iterator[Record]:
    """The fields of a row are its columns by name. A damaged page ends the reading with `InvalidInput`."""
    with _parquet(opened) as file:
        groups = None if span is None or span.group is None else [span.group]
        start, end = (0, None) if span is None else (span.start, span.end)
        columns = [name for name in file.schema_arrow.names if wanted(name)]
        position, number = 0, 1 if span is None else span.number - span.start
        for batch in file.iter_batches(_ROWS_PER_BATCH, row_groups=groups, columns=columns, use_threads=False):
            rows = batch.slice(max(0, start - position)) if position < start else batch
            first = position + len(batch) - len(rows)
            position += len(batch)
            for place, row in enumerate(_rows(rows), first):
                if end is not None and place >= end:
                    return
                where = f"{opened.name} row {number + place - 1}"  # from 0, as positions are
                yield Record(where, InvalidInput(f"{where} {row.detail}") if isinstance(row, InvalidInput) else row)


def _rows(batch: Any) -> list[dict[str, Any] | InvalidInput]:
    """A row that Python has no values for, a string that is not UTF-8 or a date after the year 9999, harms itself alone."""
    try:
        rows: list[dict[str, Any] | InvalidInput] = batch.to_pylist() if len(batch) else []
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [InvalidInput(f"has a value that cannot be read: {error}")]
        return [row for place in range(len(batch)) for row in _rows(batch.slice(place, 1))]
    return rows


def columns_of(opened: Opened) -> list[str]:
    with _parquet(opened) as file:
        return list(file.schema_arrow.names)


def count(opened: Opened) -> int:
    with _parquet(opened) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _parquet(opened: Opened) -> Iterator[Any]:
    if opened.whole:
        raise InvalidInput(f"{opened.name} is compressed as a whole; a Parquet file is compressed inside")
    try:
        with pq.ParquetFile(
            opened.file, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{opened.name} is not a readable Parquet file: {error}") from error
