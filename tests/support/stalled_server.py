"""An HTTP server on loopback that can be told to stop answering, and to go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest


class StalledServer:
    """Answers each request with `body` while `answers` is set; takes connections and requests all the while."""

    def __init__(self, body: bytes, content_type: str = "application/json") -> None:
        self.answers = asyncio.Event()
        self.url = ""
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._answer = head.encode() + body
        self._writers: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                await self.answers.wait()
                writer.write(self._answer)
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        """Close every connection, so that no socket outlives the event loop of its test."""
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def stalled_server(body: bytes, content_type: str = "application/json") -> AsyncIterator[StalledServer]:
    server = StalledServer(body, content_type)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        server.answers.set()
        listener.close()
        await server.close()


async def leave_together(calls: list[asyncio.Task[object]], within_s: float) -> None:
    """Cancel all callers in one turn of the loop, as the time-outs of a burst do."""
    await asyncio.sleep(within_s)
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    if unexpected := [result for result in results if not isinstance(result, asyncio.CancelledError)]:
        pytest.fail(f"a caller had an answer of a server that gives none: {unexpected[0]!r}")
