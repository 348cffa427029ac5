"""Records as documents: what `ret2 load`, imports and their plans read with.

One place knows which format is read how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from indexer.imports.mapping import Columns, Format, document, used_fields
from model.errors import InvalidInput, RetrievalError
from model.records import csv_rows, jsonl, parquet, webdataset
from model.records.base import Cut, FieldFilter, Record, Span
from model.records.csv_rows import CsvOptions
from model.records.opened_file import OpenedFile

PACKED = (".gz", ".zst", ".bz2", ".xz")
BY_NAME: tuple[Format, ...] = ("jsonl", "csv", "parquet", "webdataset")


@dataclass(frozen=True, slots=True)
class FormatReader:
    """The reader of one format. `columns`: where a file says which fields it has."""

    spans: Callable[[OpenedFile, Cut], Iterator[Span]]
    records: Callable[[OpenedFile, Span | None, FieldFilter], Iterator[Record]]
    columns: Callable[[OpenedFile], list[str]] | None = None


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document as its record has it, or why there is none. `left_out` says what of the record is not in it."""

    where: str
    fields: dict[str, Any] | InvalidInput
    left_out: tuple[str, ...] = ()

    @property
    def id(self) -> str | None:
        """The id that it has, for messages."""
        identifier = self.fields.get("id") if isinstance(self.fields, dict) else None
        return identifier[:512] if isinstance(identifier, str) else None


def read_documents(
    opened: OpenedFile, kind: Format, columns: Columns | None, span: Span | None = None
) -> Iterator[ReadDocument]:
    """Read every record of a file or a part of it, in order, each as its document.

    Whatever is wrong with a record harms it alone. Raises `InvalidInput` for a file that cannot be read from here on.
    """
    reader = reader_of(kind, opened.name, columns)
    records = reader.records(opened, span, used_fields(columns, kind))
    try:
        for record in _with_padding(records, opened):
            yield _document(record, kind, columns)
    except InvalidInput as error:
        raise located(opened.name, error) from error


def spans_of(opened: OpenedFile, kind: Format, columns: Columns | None, cut: Cut) -> Iterator[Span]:
    """Cut a file into parts. Raises `InvalidInput`, after those before the damage, for a file that cannot be read to
    its end."""
    try:
        yield from reader_of(kind, opened.name, columns).spans(opened, cut)
    except InvalidInput as error:
        raise located(opened.name, error) from error


def _document(record: Record, kind: Format, columns: Columns | None) -> ReadDocument:
    if isinstance(record.fields, InvalidInput):
        return ReadDocument(record.where, located(record.where, record.fields))
    try:
        mapped = document(record.fields, columns, kind, record.where)
    except InvalidInput as error:
        return ReadDocument(record.where, located(record.where, error))
    except Exception as error:  # noqa: BLE001 - one record harms itself alone, whatever it raises
        return ReadDocument(record.where, InvalidInput(f"{record.where} cannot be read: {type(error).__name__}"))
    return ReadDocument(record.where, mapped.document, (*record.left_out, *mapped.left_out))


def located(where: str, error: RetrievalError) -> InvalidInput:
    """Return an error that says where the record is."""
    if error.detail.startswith(where) and isinstance(error, InvalidInput):
        return error
    kind = type(error) if isinstance(error, InvalidInput) else InvalidInput
    return kind(f"{where}: {error.detail}")


def _with_padding(records: Iterator[Record], opened: OpenedFile) -> Iterator[Record]:
    """Count the padding behind compressed data with the last record."""
    if not opened.whole:
        yield from records
        return
    last: Record | None = None
    try:
        for record in records:
            if last is not None:
                yield last
            last = record
    except InvalidInput:
        if last is not None:
            yield last
        raise
    if last is not None:
        yield last if opened.trailing is None else replace(last, left_out=(*last.left_out, opened.trailing))


# --- formats


def reader_of(kind: Format, uri: str, columns: Columns | None = None) -> FormatReader:
    """Return what reads files of this format and name."""
    lower = uri.lower()
    if kind == "csv" or (kind == "images" and lower.endswith(_packed(".csv"))):
        options = CsvOptions() if columns is None else CsvOptions(columns.delimiter, columns.encoding)
        return FormatReader(
            partial(csv_rows.spans, options=options),
            partial(csv_rows.records, options=options),
            partial(csv_rows.columns_of, options=options),
        )
    if kind == "parquet" or (kind in ("m2kr", "mbeir") and lower.endswith(".parquet")):
        return FormatReader(parquet.spans, parquet.records, parquet.columns_of)
    if kind == "webdataset":
        return FormatReader(webdataset.spans, webdataset.records)
    # Files of the benchmarks were written by pandas, which writes NaN.
    loads = jsonl.lenient if kind in ("m2kr", "mbeir") else jsonl.strict
    return FormatReader(jsonl.spans, partial(jsonl.records, loads=loads))


def suffixes_of(kind: Format) -> tuple[str, ...]:
    """Return how the names of files of this format end."""
    if kind in ("m2kr", "mbeir"):
        return (*_packed(".jsonl"), ".parquet")
    if kind == "images":
        return (*_packed(".csv"), *_packed(".jsonl", ".ndjson"))
    return {
        "photos": (),
        "jsonl": _packed(".jsonl", ".ndjson", ".json"),
        "csv": _packed(".csv", ".tsv"),
        "parquet": (".parquet",),
        "webdataset": (*_packed(".tar"), ".tgz"),
    }[kind]


def format_by_name(name: str) -> Format | None:
    """Return the format that the name of a file tells, None where it tells none."""
    return next((kind for kind in BY_NAME if name.lower().endswith(suffixes_of(kind))), None)


def _packed(*suffixes: str) -> tuple[str, ...]:
    return tuple(suffix + packed for suffix in suffixes for packed in ("", *PACKED))
