"""Compressed request bodies: gzip, deflate and zstd are expanded as they arrive, anything else is refused.

The layer stands around `RequestLimits`, so that every bound is one on the expanded body.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import zstandard
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import InvalidInput, UnsupportedMediaType
from service.http.problems import problem_of

_PIECE_BYTES = 256 * 1024
# A zstd block of 4 bytes expands to at most 128 KiB, so no more than 4 MiB come of one step.
_ZSTD_STEP_BYTES = 128
_MAX_WINDOW_BYTES = 8 * 2**20
_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii"})


class Decoder(Protocol):
    """Expands one body, piece by piece, in bounded memory."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def finished(self) -> bool:
        """Whether the compressed data has its end."""
        ...


class _Zlib:
    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(window_bits)
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._fed = self._fed or bool(data)
        while data:
            if self._stream.eof:
                self._stream = zlib.decompressobj(self._window_bits)
            yield self._stream.decompress(data, _PIECE_BYTES)
            data = self._stream.unconsumed_tail or self._stream.unused_data

    @property
    def finished(self) -> bool:
        return self._stream.eof or not self._fed


class _Deflate(_Zlib):
    """With the header of zlib, as RFC 9110 wants it, or without, as some clients send it."""

    def __init__(self) -> None:
        super().__init__(zlib.MAX_WBITS)

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._fed and data and (data[0] & 0x0F) != 8:
            self._window_bits = -zlib.MAX_WBITS
            self._stream = zlib.decompressobj(self._window_bits)
        yield from super().feed(data)


class _Zstd:
    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._stream = self._context.decompressobj()
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        steps = deque(data[start : start + _ZSTD_STEP_BYTES] for start in range(0, len(data), _ZSTD_STEP_BYTES))
        while steps:
            self._fed = True
            if self._stream.eof:
                self._stream = self._context.decompressobj()
            yield self._stream.decompress(steps.popleft())
            if self._stream.eof and self._stream.unused_data:
                steps.appendleft(self._stream.unused_data)

    @property
    def finished(self) -> bool:
        return self._stream.eof or not self._fed


_DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": _Deflate,
    "zstd": _Zstd,
}


class ContentEncoding:
    """Hands on plain UTF-8 bodies only: expands what it can, and answers 415 to other codings and character sets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        coding = headers.get("content-encoding", "identity").strip().lower()
        charset = _charset(headers.get("content-type", ""))
        error: InvalidInput
        if "transfer-encoding" in headers and "content-length" in headers:
            # RFC 9112, section 6.3: a proxy that reads the other of the two takes a part of the body for a request.
            error = InvalidInput("the body has a length and comes in chunks: send content-length or transfer-encoding")
        elif coding not in _DECODERS and coding != "identity":
            error = UnsupportedMediaType(
                f"content-encoding {coding!r:.100} is not supported: send gzip, deflate, zstd or none",
                field="content-encoding",
                value=coding,
                limit="gzip, deflate, zstd",
            )
        elif charset not in _UTF8:
            error = UnsupportedMediaType(
                f"charset {charset!r:.100} is not supported: send the body as UTF-8",
                field="content-type",
                value=charset,
                limit="utf-8",
            )
        elif coding == "identity":
            await self._app(scope, receive, send)
            return
        else:
            plain = {b"content-encoding", b"content-length"}
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in plain]
            await self._app(scope, _Expanded(receive, _DECODERS[coding](), coding), send)
            return
        answer = problem_of(error, scope["state"]["request_id"])
        answer.headers["connection"] = "close"
        await answer(scope, receive, send)


class _Expanded:
    """`receive` for the expanded body; afterwards it is the connection's own."""

    def __init__(self, receive: Receive, decoder: Decoder, coding: str) -> None:
        self._receive, self._decoder, self._coding = receive, decoder, coding
        self._messages = self._expand()

    async def __call__(self) -> Message:
        try:
            message = await anext(self._messages, None)
        except (zlib.error, zstandard.ZstdError) as error:
            raise InvalidInput(f"the body is not {self._coding}: {error}", field="body") from error
        return await self._receive() if message is None else message

    async def _expand(self) -> AsyncIterator[Message]:
        has_more = True
        while has_more:
            message = await self._receive()
            if message["type"] != "http.request":
                yield message
                return
            has_more = message.get("more_body", False)
            for piece in self._decoder.feed(message.get("body", b"")):
                if piece:
                    yield {"type": "http.request", "body": piece, "more_body": True}
        if not self._decoder.finished:
            raise InvalidInput(f"the body breaks off before the end of its {self._coding} data", field="body")
        yield {"type": "http.request", "body": b"", "more_body": False}


def _charset(content_type: str) -> str:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip(" \"'").lower()
    return ""
