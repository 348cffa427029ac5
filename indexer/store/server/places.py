"""A bounded number of calls of the Qdrant client at a time, over gRPC and REST alike.

gRPC has no bound of its own: calls beyond the streams that a server allows wait inside the library, where nobody sees
them. Here they wait for a place, with a deadline, and readiness and liveness see places that nobody gives back.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from model.errors import DependencyUnavailable

# A call that is asked twice, and its wait for a place, end within two time-outs; twice that without any place becoming
# free is no load.
_CALL_TIMEOUTS, _STUCK_TIMEOUTS = 2.0, 4.0


class BoundedClient:
    """The methods of `AsyncQdrantClient`, at most `count` of them at a time. For one event loop."""

    def __init__(
        self,
        client: Any,
        count: int,
        timeout_s: float,
        longest_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout_s` bounds the wait for a place; `longest_s` is the longest time-out of a call, unset: the same."""
        self._client, self._count, self._timeout_s, self._clock = client, count, timeout_s, clock
        self._longest_s = longest_s or timeout_s
        self._places = asyncio.Semaphore(count)
        self._last_change = clock()

    @property
    def alive(self) -> bool:
        """Whether places become free: each call ends in time, so places that are all in use for longer are lost."""
        exhausted_s = self._clock() - self._last_change if self._places.locked() else 0.0
        return exhausted_s < _STUCK_TIMEOUTS * self._longest_s

    def __getattr__(self, name: str) -> Any:
        """Return a method that waits for a place first. Raises `DependencyUnavailable` when none becomes free."""
        method = getattr(self._client, name)
        if not inspect.iscoroutinefunction(method) or name == "close":
            return method

        @wraps(method)
        async def bounded(*args: Any, **kwargs: Any) -> Any:
            async with asyncio.timeout(_CALL_TIMEOUTS * self._longest_s):
                await self._acquire()
                try:
                    return await method(*args, **kwargs)
                finally:
                    self._last_change = self._clock()
                    self._places.release()

        return bounded

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise DependencyUnavailable(
                f"Qdrant is busy: all {self._count} calls to it are in use, and none ended within {self._timeout_s:g} s"
            ) from error
        self._last_change = self._clock()
