"""The common parts of the readers of published benchmarks: queries and candidates as plain data, and rows of JSONL and
Parquet files.

A benchmark is whole or it is not measured: the first wrong row ends the reading with its file, line and what is wrong.
No torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import InvalidInput
from model.records.local_file import read_local

_DATA = (".jsonl", ".parquet", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Entry:
    """One query or candidate as published: its text as it is to be embedded, and its image's path as it is written."""

    id: str
    text: str | None
    image: str | None


@dataclass(frozen=True, slots=True)
class Query(Entry):
    """`positives` are ids of right candidates; `answers`, where the set has them, are strings that a right passage may
    hold."""

    positives: frozenset[str]
    answers: tuple[str, ...] = ()


# Candidates are read from their file each time they are needed: a pool of millions is never held.
Entries = Callable[[], Iterator[Entry]]


def first(limit: int, entries: Entries, required: frozenset[str]) -> Entries:
    """Keep the first `limit` entries and the `required` ones, in order: a pool for a quick look, easier than the whole
    one."""

    def read() -> Iterator[Entry]:
        return (entry for place, entry in enumerate(entries()) if place < limit or entry.id in required)

    return read


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file, and where it stands for messages: `oven_test.jsonl line 3`."""

    where: str
    fields: Mapping[str, Any]

    def wrong(self, reason: str) -> InvalidInput:
        return InvalidInput(f"{self.where}: {reason}")

    def text(self, name: str) -> str | None:
        """Return a string, or None if the field is absent, null, NaN (as pandas writes it) or empty."""
        value = self.fields.get(name)
        if _absent(value):
            return None
        if not isinstance(value, str):
            raise self.wrong(f"{name} is {_shown(value)}, expected text")
        return value if value.strip() else None

    def id(self, name: str) -> str:
        ids = self.ids(name)
        if len(ids) != 1:
            raise self.wrong(f"{name} is {_shown(self.fields.get(name))}, expected one id")
        return ids[0]

    def ids(self, name: str) -> tuple[str, ...]:
        """Return a scalar or a list of scalars as strings, because published code compares ids as strings. An empty
        list has no ids."""
        value = self.fields.get(name)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in values):
            raise self.wrong(f"{name} is {_shown(value)}, expected an id or a list of ids")
        return tuple(str(value) for value in values)

    def has(self, name: str) -> bool:
        return not _absent(self.fields.get(name))


def rows(path: Path) -> Iterator[Row]:
    """Records of a JSONL or Parquet file. Raises `InvalidInput` where the file or a record cannot be read."""
    for record in read_local(path):
        if isinstance(record.fields, InvalidInput):
            raise record.fields
        yield Row(record.where, record.fields)


def data_files(folder: Path) -> list[Path]:
    """Return every file of rows under `folder`, sorted. Folders with `image` in their name hold millions of other files
    and are not entered."""
    if not folder.is_dir():
        raise InvalidInput(f"no folder {str(folder)!r}")
    files = []
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if "image" not in name.lower() and not name.startswith(".")]
        files += [Path(place, name) for name in names if Path(name).suffix in _DATA]
    return sorted(files)


def only(files: Sequence[Path], description: str) -> Path | None:
    """Return the single file, or None if there is none. Raises `InvalidInput` if there are two, because either could be
    meant."""
    if len(files) > 1:
        raise InvalidInput(
            f"{description} is there more than once: {files[0]} and {files[1]}; name a folder that has one"
        )
    return files[0] if files else None


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: Any) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
