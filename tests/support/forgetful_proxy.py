"""A TCP proxy on loopback that forgets connections, as a firewall does: nothing more comes through, and nobody is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ForgetfulProxy:
    """Stands before `port` of this machine. New connections work."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.accepted = 0
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Let nothing more through on the connections that stand."""
        self._generation += 1

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        generation = self._generation
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._target)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    if generation == self._generation:
                        sink.write(data)
                        await sink.drain()

        pumps = [asyncio.create_task(pump(reader, onward_writer)), asyncio.create_task(pump(onward_reader, writer))]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, onward_writer):
            end.transport.abort()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def forgetful_proxy(port: int) -> AsyncIterator[ForgetfulProxy]:
    proxy = ForgetfulProxy(port)
    listener = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        proxy.close()
        await asyncio.sleep(0.05)
