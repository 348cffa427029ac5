"""A file that records are read from: decompressed, buffered, and stopped from outside between two reads."""

from __future__ import annotations

import io
import threading
from typing import Any, BinaryIO, cast

from model.records.base import ReadingStopped
from model.records.compression import Decompressed, codec_of

BUFFER_BYTES = 2**19


class OpenedFile:
    """A file to read records from; whoever opened it closes it.

    `whole`: it can be read from its beginning only, because it is compressed or converted. `folder` is the name of the
    folder that it is in. Reading raises `ReadingStopped` once `stop` is set, at the latest after one more buffer.
    """

    def __init__(
        self, raw: BinaryIO, name: str, size_bytes: int, folder: str = "", stop: threading.Event | None = None
    ) -> None:
        self.name, self.size_bytes, self.folder = name, size_bytes, folder
        self._raw, self._stop = raw, stop or threading.Event()
        self._codec = codec_of(_first_bytes(raw))
        self._decompressed: Decompressed | None = None
        self.whole = self._codec is not None
        self.file = self._buffered()

    def restart(self) -> None:
        """Begin again at the first byte, also of a file that cannot be entered in the middle."""
        self._raw.seek(0)
        self.file = self._buffered()

    def convert(self, file: io.RawIOBase) -> None:
        """Read `file`, which reads this one in another form, from here on."""
        self.whole = True
        self.file = cast("BinaryIO", io.BufferedReader(_Stoppable(cast("BinaryIO", file), self._stop), BUFFER_BYTES))

    def beginning(self, size_bytes: int = 2**16) -> bytes:
        """Return the first bytes, decompressed, without moving. Call it before anything else was read."""
        return cast("io.BufferedReader", self.file).peek(size_bytes)[:size_bytes]

    @property
    def trailing(self) -> str | None:
        """What stands behind the compressed data and was passed over, once they are read to their end; None where
        nothing does."""
        return None if self._decompressed is None else self._decompressed.trailing

    def close(self) -> None:
        self._raw.close()

    def __enter__(self) -> OpenedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _buffered(self) -> BinaryIO:
        source: BinaryIO = self._raw
        if self._codec is not None:
            self._decompressed = Decompressed(self._raw, self._codec, self.name)
            source = cast("BinaryIO", self._decompressed)
        return cast("BinaryIO", io.BufferedReader(_Stoppable(source, self._stop), BUFFER_BYTES))


class _Stoppable(io.RawIOBase):
    """A file of which each read looks first whether the reading is to stop. Closing it leaves the file open."""

    def __init__(self, file: BinaryIO, stop: threading.Event) -> None:
        self._file, self._stop = file, stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def readinto(self, buffer: Any) -> int:
        if self._stop.is_set():
            raise ReadingStopped
        return int(self._file.readinto(buffer))  # type: ignore[attr-defined]  # every raw file has it

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _first_bytes(raw: BinaryIO) -> bytes:
    start = raw.read(8)
    raw.seek(0)
    return start
