"""A TCP proxy on loopback whose other side a test can take away: refused, silent, cut off in the middle, or answering that it is busy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator
from enum import StrEnum
from typing import Any

_CUT_AFTER_BYTES = 64  # of an answer: its head begins to arrive, the rest does not
_CHUNK_BYTES = 65536
_ANSWER = b"HTTP/1.1 %s\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Fault(StrEnum):
    NONE = "none"
    REFUSED = "refused"  # connections are closed, old and new
    SILENT = "silent"  # connections stand, nothing comes through
    CUT = "cut"  # connections are closed in the middle of an answer
    UNAVAILABLE = "unavailable"  # HTTP alone: the proxy itself answers each request, with 503
    BUSY = "busy"  # the same with 429
    BAD_GATEWAY = "bad gateway"  # the same with 502, as a mesh says of what it does not reach


_ANSWERS = {
    Fault.UNAVAILABLE: b"503 Service Unavailable",
    Fault.BUSY: b"429 Too Many Requests",
    Fault.BAD_GATEWAY: b"502 Bad Gateway",
}


class FaultProxy:
    """Stands before `port` of this machine, in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._fault = Fault.NONE
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def set(self, fault: Fault) -> None:
        """From here on, for connections that stand too."""
        self._call(self._set(fault))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listening.close()
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.SILENT:
            self._passing.clear()
        else:
            self._passing.set()
        if fault is Fault.REFUSED:
            for writer in list(self._writers):
                writer.transport.abort()

    async def _end(self) -> None:
        """Nothing of it is left open: a socket that was would be found, as a warning, in the midst of some later test."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._set(Fault.REFUSED)
            await asyncio.wait(others, timeout=0.1)
        await asyncio.sleep(0)  # the last transports that were aborted are closed

    def _accept(self) -> None:
        # In a thread: asyncio's own server cannot be closed while it accepts without leaving that connection open.
        with contextlib.suppress(OSError):  # the end
            while True:
                connection, _ = self._listening.accept()
                asyncio.run_coroutine_threadsafe(self._serve(connection), self._loop)

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        if self._fault is Fault.REFUSED:
            writer.transport.abort()
            return
        self._writers.add(writer)
        behind: asyncio.StreamWriter | None = None
        try:
            answers, behind = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(behind)
            await asyncio.gather(self._pump(reader, behind), self._pump(answers, writer, answer=True))
        except OSError:
            pass
        finally:
            for each in (writer, behind):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answer: bool = False) -> None:
        while data := await source.read(_CHUNK_BYTES):
            await self._passing.wait()
            if answer and (said := _ANSWERS.get(self._fault)):
                sink.write(_ANSWER % said)
                await sink.drain()
                raise ConnectionAbortedError("it has answered")
            if answer and self._fault is Fault.CUT:
                sink.write(data[:_CUT_AFTER_BYTES])
                await sink.drain()
                raise ConnectionAbortedError("as if it had died in the middle")
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof()


@contextlib.contextmanager
def proxy_of(port: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
