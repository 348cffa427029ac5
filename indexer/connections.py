"""A bounded set of connections, each used by one caller at a time, so that nothing queues inside an HTTP library.

httpcore 1.0 loses a connection of its pool for ever when a queued request is cancelled just as its turn comes
(encode/httpcore, `_async/connection_pool.py`, `_assign_requests_to_connections`). Here callers queue before the
library, in a semaphore, and each holds a client of a single connection. A client whose call did not end well is closed
and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar, cast

import httpx

# A connection to a host that does not answer may not answer the goodbye of TLS either.
_CLOSE_S = 1.0


class Closeable(Protocol):
    async def aclose(self) -> None: ...


C = TypeVar("C", bound=Closeable)


class Connections(Generic[C]):
    """At most `count` clients of one connection each.

    For one event loop, many tasks at once; its owner calls `aclose`.
    """

    def __init__(self, make: Callable[[], C], count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._semaphore = asyncio.Semaphore(count)
        self._idle: list[C] = []
        self._busy: set[C] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._last_change = clock()

    @property
    def exhausted_s(self) -> float:
        """How long every connection has been in use without any of them becoming free; 0 while one is free."""
        return self._clock() - self._last_change if self._semaphore.locked() else 0.0

    async def acquire(self, timeout_s: float | None = None) -> C:
        """Return the client that was used last, or a new one. Raises `TimeoutError` if none becomes free in time."""
        async with asyncio.timeout(timeout_s):
            await self._semaphore.acquire()
        # Nothing is awaited from here on: a caller that is cancelled has its place or has none.
        try:
            client = self._idle.pop() if self._idle else self._make()
        except BaseException:
            self._semaphore.release()
            raise
        self._busy.add(client)
        self._last_change = self._clock()
        return client

    def release(self, client: C, *, reusable: bool) -> None:
        """Give the place to the next caller. A client that is not reusable is closed in the background."""
        self._busy.discard(client)
        self._last_change = self._clock()
        if reusable:
            self._idle.append(client)
        else:
            task = asyncio.ensure_future(_close(client))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._semaphore.release()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[C]:
        """Use a client; it is reused only if nothing was raised."""
        client = await self.acquire()
        reusable = False
        try:
            yield client
            reusable = True
        finally:
            self.release(client, reusable=reusable)

    async def aclose(self) -> None:
        clients = [*self._idle, *self._busy]
        self._idle.clear()
        await asyncio.gather(*(_close(client) for client in clients), *self._closing)


async def _close(client: Closeable) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_S):
            await client.aclose()


class BoundedTransport(httpx.AsyncBaseTransport):
    """A transport of httpx over `Connections`. Waiting for a place counts against httpx's `pool` time-out."""

    def __init__(self, count: int, make: Callable[[], httpx.AsyncBaseTransport] | None = None) -> None:
        self.connections = Connections(make or _single_connections(), count)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            client = await self.connections.acquire(request.extensions.get("timeout", {}).get("pool"))
        except TimeoutError as error:
            raise httpx.PoolTimeout("all connections are in use", request=request) from error
        try:
            response = await client.handle_async_request(request)
        except BaseException:
            self.connections.release(client, reusable=False)
            raise
        body = _Body(cast(httpx.AsyncByteStream, response.stream), self.connections, client)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self.connections.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer. Its connection is reused only if the body was read to its end."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        connections: Connections[httpx.AsyncBaseTransport],
        client: httpx.AsyncBaseTransport,
    ) -> None:
        self._stream, self._connections, self._client = stream, connections, client
        self._complete = self._released = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk
        self._complete = True

    async def aclose(self) -> None:
        if self._released:
            return
        self._released = True
        reusable = False
        try:
            await self._stream.aclose()
            reusable = self._complete
        finally:
            self._connections.release(self._client, reusable=reusable)


def _single_connections() -> Callable[[], httpx.AsyncBaseTransport]:
    """Return a factory of transports with one connection each. They share one TLS context, which takes milliseconds to
    make."""
    # SSL_CERT_FILE names an authority of one's own.
    context = httpx.create_ssl_context(trust_env=True)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    return lambda: httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)
