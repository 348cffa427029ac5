"""Opened files, their parts (spans) and records: what every format reads and returns."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from model.errors import InvalidInput

MAX_LINE_BYTES = 64 * 2**20  # a document at the default bounds: a 20 MiB image in base64 and 100,000 characters of text


MAX_IMAGE_BYTES = 64 * 2**20  # of a file named by a document; the service has its own, lower bound


Wanted = Callable[[str], bool]  # whether a field of this name is used; what is not need not be read


def everything(_name: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Cut:
    """When a part of a file is large enough to be a unit of work."""

    rows: int = 1000  # about a minute of a GPU's work, so a restart repeats little and the ledger holds little
    size_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Span:
    """`count` records from `start` to `end`: bytes of the file, or rows of Parquet row group `group`.

    `number` is the line, row or sample that the first is in the file, from 1, for messages.
    """

    start: int
    end: int
    count: int
    number: int = 1
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or why it cannot be read. `where` is for messages: `pairs.jsonl line 3`."""

    where: str
    fields: dict[str, Any] | InvalidInput


_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))


_BUFFER_BYTES = 2**20


@dataclass(slots=True)
class Opened:
    """A file to read records from. `whole`: it is compressed, so it can be read from its beginning only."""

    file: BinaryIO
    name: str
    size_bytes: int
    whole: bool = False

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(raw: BinaryIO, name: str, size_bytes: int) -> Opened:
    """The file decompressed where its first bytes say that it is compressed, whatever its name says."""
    start = raw.read(4)
    raw.seek(0)
    codec = next((codec for magic, codec in _MAGIC if start.startswith(magic)), None)
    if codec is None:
        return Opened(raw, name, size_bytes)
    inner = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    return Opened(
        cast("BinaryIO", io.BufferedReader(_Inflated(inner, name), _BUFFER_BYTES)), name, size_bytes, whole=True
    )


class _Inflated(io.RawIOBase):
    """What is inside a compressed file, once, from its beginning; seeking forward reads."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name = stream, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:  # the file's own errors are ours already
            raise InvalidInput(f"{self._name} is not a readable compressed file: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            super().close()
