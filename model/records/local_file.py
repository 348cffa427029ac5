"""Records of a local file in JSONL or Parquet, for training and benchmarks.

A file in JSONL may be compressed, be one JSON array, begin with a byte order mark and have NaN, as pandas writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from model.errors import InvalidInput
from model.records import jsonl, parquet
from model.records.base import Record, Refused
from model.records.opened_file import OpenedFile

_JSONL, _PARQUET = (".jsonl", ".ndjson"), ".parquet"
_PACKED = (".gz", ".zst", ".bz2", ".xz")


def open_local(path: Path) -> OpenedFile:
    """Raise `InvalidInput` for what is no file or cannot be read."""
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file")
    try:
        raw = path.open("rb", buffering=0)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or type(error).__name__}") from error
    return OpenedFile(raw, path.name, path.stat().st_size, path.resolve().parent.name)


def read_local(path: Path) -> Iterator[Record]:
    """Read every record, in order; a wrong one stands in its place as its error.

    A value that JSON cannot hold is the error of its record. Raise `InvalidInput` where the file cannot be read from
    here on.
    """
    name = path.name.lower()
    if name.endswith(_PARQUET):
        read = parquet.records
    elif name.endswith(tuple(suffix + packed for suffix in _JSONL for packed in ("", *_PACKED))):
        read = partial(jsonl.records, loads=jsonl.lenient)
    else:
        raise InvalidInput(f"{path.name} is of type {path.suffix!r}, readable are {', '.join((*_JSONL, _PARQUET))}")
    try:
        with open_local(path) as opened:
            yield from map(_without_refused, read(opened))
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from error


def _without_refused(record: Record) -> Record:
    if isinstance(record.fields, InvalidInput):
        return record
    for name, value in record.fields.items():
        # The readers put it in place of a whole list or object.
        if isinstance(value, Refused):
            return Record(record.where, InvalidInput(f"{record.where}: {name} is {value.reason}", field=name))
    return record
