"""Compressed files: gzip, zstd, bzip2 and xz, every member and frame of them, with a bounded piece unpacked at a time.

What stands behind the last member is reported: NULs, as tapes and block devices leave them, are padding; anything else
is an error, because it may be records that were damaged.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import Any, BinaryIO, Protocol

import zstandard

from model.errors import InvalidInput

_INPUT_BYTES = 2**16
_OUTPUT_BYTES = 2**20
# zstd unpacks 1 byte to as many as 32,768 and offers no bound of its own.
_ZSTD_PIECE_BYTES = 1024
_LZMA_MEMORY_BYTES = 256 * 2**20
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
)
# After "BZh" and the level: the magic number of a block, or of the end of an empty file.
_BZIP2_BLOCKS = (b"1AY&", b"\x17rE8")
_SKIPPABLE_HEADER_BYTES = 8
_LONGEST_MAGIC_BYTES = 8
_BROKEN = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError)


def codec_of(start: bytes) -> str | None:
    """Return how a file that begins with these bytes is compressed, whatever its name says; None where it is not."""
    if _is_skippable(start):
        return "zstd"
    if start.startswith(b"BZh") and start[4:8] in _BZIP2_BLOCKS:
        return "bzip2"
    return next((codec for magic, codec in _MAGIC if start.startswith(magic)), None)


class _Decoder(Protocol):
    """One member or frame. `decompress` returns what is unpacked so far, and needs more input where that is nothing."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes) -> bytes: ...


class Decompressed(io.RawIOBase):
    """The content of a compressed file, once, from its beginning.

    Raises `InvalidInput` for damage, after all that was unpacked before it has been handed out.
    """

    def __init__(self, raw: BinaryIO, codec: str, name: str) -> None:
        self._raw, self._codec, self._name = raw, codec, name
        self._input, self._input_ended = b"", False
        self._output = memoryview(b"")
        self._decoder: _Decoder | None = None
        self._ended = False
        self.trailing: str | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output and not self._ended:
            self._output = memoryview(self._next_piece())
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def _next_piece(self) -> bytes:
        if self._decoder is None:
            self._begin_member()
            return b""
        try:
            data = self._decoder.decompress(self._input)
        except _BROKEN as error:
            raise InvalidInput(f"{self._name} is not a readable compressed file ({self._codec}): {error}") from error
        self._input = b""
        if self._decoder.eof:
            self._input, self._decoder = self._decoder.unused_data, None
        elif not data and not self._fill():
            raise InvalidInput(
                f"{self._name} is not a readable compressed file ({self._codec}): it ends in the middle; it was cut off"
            )
        return data

    def _begin_member(self) -> None:
        """Find the next member, or the end of the file."""
        while len(self._input) < _LONGEST_MAGIC_BYTES and self._fill():
            pass
        if _is_skippable(self._input) and self._codec == "zstd":
            self._skip(_SKIPPABLE_HEADER_BYTES + int.from_bytes(self._input[4:8], "little"))
        elif codec_of(self._input) == self._codec:
            self._decoder = _decoder(self._codec)
        else:
            self._end()

    def _end(self) -> None:
        """Take NULs before another member or the end of the file for padding, and refuse anything else."""
        padding = 0
        while True:
            content = self._input.lstrip(b"\0")
            padding += len(self._input) - len(content)
            self._input = content
            if content or not self._fill():
                break
        while len(self._input) < _LONGEST_MAGIC_BYTES and self._fill():
            pass
        if self._input and codec_of(self._input) == self._codec:
            return
        self._ended = True
        if self._input:
            raise InvalidInput(
                f"{self._name} goes on after its compressed data with bytes that are not {self._codec}; "
                "they were not read, and the file may be damaged"
            )
        if padding:
            self.trailing = f"the padding behind the compressed data: {padding} NUL bytes"

    def _skip(self, size_bytes: int) -> None:
        while len(self._input) < size_bytes:
            size_bytes -= len(self._input)
            self._input = b""
            if not self._fill():
                raise InvalidInput(
                    f"{self._name} is not a readable compressed file ({self._codec}): it was cut off in a skipped frame"
                )
        self._input = self._input[size_bytes:]

    def _fill(self) -> bool:
        if not self._input_ended:
            data = self._raw.read(_INPUT_BYTES)
            self._input_ended = not data
            self._input += data
        return not self._input_ended


def _decoder(codec: str) -> _Decoder:
    if codec == "gzip":
        return _Gzip()
    if codec == "zstd":
        return _Zstd()
    return _Bounded(bz2.BZ2Decompressor() if codec == "bzip2" else lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES))


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, _OUTPUT_BYTES)


class _Bounded:
    """bzip2 and xz, which keep the input that they have not used."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes) -> bytes:
        return bytes(self._inner.decompress(data, _OUTPUT_BYTES))


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor().decompressobj()
        self._pending = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + self._pending

    def decompress(self, data: bytes) -> bytes:
        """Unpack piece after piece until there is something."""
        pending = memoryview(self._pending + data)
        while pending and not self._inner.eof:
            unpacked = self._inner.decompress(bytes(pending[:_ZSTD_PIECE_BYTES]))
            pending = pending[_ZSTD_PIECE_BYTES:]
            if unpacked:
                self._pending = bytes(pending)
                return unpacked
        self._pending = bytes(pending)
        return b""


def _is_skippable(start: bytes) -> bool:
    """Return whether a zstd frame without data begins here; pzstd writes one before each of its own frames."""
    return len(start) >= 4 and start[0] & 0xF0 == 0x50 and start[1:4] == b"\x2a\x4d\x18"
