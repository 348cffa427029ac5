"""Parquet: a part is a row group, or a piece of one that is huge. What a row group unpacks to is known before it is
read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import InvalidInput, TooLarge
from model.records.arrow_values import json_values
from model.records.base import MAX_RECORD_BYTES, Cut, FieldFilter, Record, Span, every_field
from model.records.opened_file import OpenedFile
from model.records.parquet_pages import plan_row_group

# Rows decoded at once: 64 photographs are some hundred MB at most.
_ROWS_PER_BATCH = 64
# Of each column; without it a column of a row group is read as a whole.
_BUFFER_BYTES = 2**20
# A batch of more bytes is turned into Python values row by row.
_CONVERTED_BYTES = 16 * 2**20
# Rows of a group can be skipped only by decoding them, so its last piece costs the whole group. Sixteen pieces cost
# eight times the group in all, of text some seconds for a million rows.
_PIECES_MAX = 16


def spans(opened: OpenedFile, cut: Cut) -> Iterator[Span]:
    """Cut the file at its row groups, and those that are huge."""
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


def records(opened: OpenedFile, span: Span | None = None, is_used: FieldFilter = every_field) -> Iterator[Record]:
    """Read rows, whose fields are the columns by name. A damaged page ends the reading with `InvalidInput`.

    Every row of a row group that cannot be read within bounds is a failure.
    """
    with _parquet(opened) as file:
        groups = [span.group] if span is not None and span.group is not None else range(file.metadata.num_row_groups)
        # Row numbers in messages are from 0, as positions are.
        first = 0 if span is None else span.number - span.start - 1
        for group in groups:
            rows = file.metadata.row_group(group).num_rows
            start, end = (0, rows) if span is None else (span.start, span.end)
            for place, fields in _group_rows(opened, file, group, range(start, end), is_used):
                where = f"{opened.name} row {first + place}"
                if isinstance(fields, InvalidInput):
                    fields = type(fields)(f"{where} {fields.detail}")
                yield Record(where, fields)
            first += rows


def _group_rows(
    opened: OpenedFile, file: Any, group: int, places: range, is_used: FieldFilter
) -> Iterator[tuple[int, dict[str, Any] | InvalidInput]]:
    """Yield (place in the group, fields) of the rows at `places`."""
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise InvalidInput(f"{opened.name} has two columns of one name: {', '.join(names):.200}")
    columns = [name for name in names if is_used(name)]
    try:
        plan = plan_row_group(opened.file, file.metadata, group, columns, _ROWS_PER_BATCH)
    except TooLarge as error:
        yield from ((place, TooLarge(f"cannot be read: {error.detail}", limit=error.limit)) for place in places)
        return
    with _parquet(opened, plan.dictionaries) if plan.dictionaries else _same(file) as source:
        position = 0
        for batch in source.iter_batches(plan.rows, row_groups=[group], columns=columns, use_threads=False):
            skipped = min(len(batch), max(0, places.start - position))
            position += skipped
            for fields in _rows(batch.slice(skipped)):
                if position >= places.stop:
                    return
                # The lists of a row may have one large value of a dictionary any number of times.
                is_large = bool(plan.dictionaries) and isinstance(fields, dict) and _is_large(fields)
                yield position, _too_large() if is_large else fields
                position += 1


def _rows(batch: Any) -> Iterator[dict[str, Any] | InvalidInput]:
    if len(batch) > 1 and batch.nbytes > _CONVERTED_BYTES:
        for place in range(len(batch)):
            yield from _rows(batch.slice(place, 1))
        return
    if len(batch) == 1 and _row_bytes(batch) > MAX_RECORD_BYTES:
        yield _too_large()
        return
    names = batch.schema.names
    columns = [json_values(column) for column in batch.columns]
    for place in range(len(batch)):
        yield {name: column[place] for name, column in zip(names, columns, strict=True)}


def _too_large() -> TooLarge:
    return TooLarge(f"has over {MAX_RECORD_BYTES} bytes", limit=MAX_RECORD_BYTES)


def _is_large(fields: dict[str, Any]) -> bool:
    values: list[Any] = [fields]
    total = 0
    while values and total <= MAX_RECORD_BYTES:
        value = values.pop()
        if isinstance(value, str | bytes):
            total += len(value)
        elif isinstance(value, list | dict):
            values += value if isinstance(value, list) else value.values()
    return total > MAX_RECORD_BYTES


def _row_bytes(batch: Any) -> int:
    """Return the bytes of one row; for a dictionary, those of the value that is used."""
    return sum(
        column.dictionary.take(column.indices.drop_null()).nbytes
        if pa.types.is_dictionary(column.type)
        else column.nbytes
        for column in batch.columns
    )


def columns_of(opened: OpenedFile) -> list[str]:
    """Return the names of the columns."""
    with _parquet(opened) as file:
        return list(file.schema_arrow.names)


def count(opened: OpenedFile) -> int:
    """Return the number of rows, which the footer has."""
    with _parquet(opened) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _same(file: Any) -> Iterator[Any]:
    yield file


@contextmanager
def _parquet(opened: OpenedFile, dictionaries: tuple[str, ...] = ()) -> Iterator[Any]:
    if opened.whole:
        raise InvalidInput(f"{opened.name} is compressed as a whole; a Parquet file is compressed inside")
    try:
        with pq.ParquetFile(
            opened.file,
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
            page_checksum_verification=True,
            read_dictionary=list(dictionaries) or None,
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{opened.name} is not a readable Parquet file: {error}") from error
