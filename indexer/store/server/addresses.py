"""The addresses of a Qdrant cluster: which of them a call goes to, and what happens when its connection is lost.

A call goes to the address with the fewest calls in hand. An address whose connection is lost rests for a while, as long
as another does not, and says its version again before it is used; so does one that was late. A read whose connection
was lost is asked a second time, and one that failed inside a server of several; a write is not, for it may have been
done.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from indexer.store.server.client import Client
from model.errors import DependencyUnavailable

# Older servers count deleted documents in the scores of words.
LEAST_VERSION = (1, 19)

REST_S = 5.0
# For the version. A server that takes longer is left alone as one that is lost.
CHECK_S = 2.0
_READS = frozenset(
    {"query_records", "query_scores", "read_records", "scroll_records", "retrieve", "scroll", "count", "facet"}
    | {"get_collection", "collection_exists", "get_collections", "info", "cluster_status", "collection_cluster_info"}
)
_WRITES = frozenset({"write_points", "delete", "batch_update_points"})
# A server that is gone, that goes, or that has reset the stream.
_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Unreachable(DependencyUnavailable):
    """A server did not say its version, because it could not be reached. Nothing else was sent to it."""


class Unanswered(Unreachable):
    """A server did not say its version in time."""


@dataclass(slots=True)
class Address:
    """One server. Searches and other reads have a client of their own, so that no load of documents is before them."""

    url: str
    reads: Client
    writes: Client
    definitions: Client
    calls: int = 0
    rests_until: float = 0.0
    version: str | None = None
    _check: asyncio.Task[None] | None = field(default=None, repr=False)

    def client_for(self, method: str) -> Client:
        if method in _READS:
            return self.reads
        return self.writes if method in _WRITES else self.definitions

    async def check(self) -> None:
        """Ask for the version once for each connection. Raises `DependencyUnavailable` for what this service cannot
        use."""
        if self.version is not None:
            return
        if self._check is None or self._check.done():
            self._check = asyncio.ensure_future(self._ask_version())
        # A caller who leaves takes the question from nobody else.
        await asyncio.shield(self._check)

    async def _ask_version(self) -> None:
        try:
            async with asyncio.timeout(CHECK_S):
                version = str((await self.reads.info()).version)
        except TimeoutError as error:
            raise Unanswered(f"the Qdrant server at {self.url} does not answer within {CHECK_S:g} s") from error
        except (ValueError, ApiException, grpc.RpcError) as error:
            if is_lost(error):
                raise Unreachable(
                    f"the Qdrant server at {self.url} cannot be reached ({_reason(error)}): look at RET2_QDRANT_URL"
                    f"{' and RET2_QDRANT_GRPC_PORT' if isinstance(error, grpc.RpcError) else ''}, and whether it runs"
                ) from error
            if _is_late(error) or _is_refusal(error):
                raise
            said = f"status {error.status_code}" if isinstance(error, UnexpectedResponse) else _reason(error)
            raise DependencyUnavailable(
                f"{self.url} is no Qdrant server, its answer cannot be read ({said:.100}): look at RET2_QDRANT_URL"
            ) from error
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None:
            raise DependencyUnavailable(f"{self.url} is no Qdrant server: it says version {version!r:.100}")
        if (int(numbers[1]), int(numbers[2])) < LEAST_VERSION:
            least = ".".join(map(str, LEAST_VERSION))
            raise DependencyUnavailable(
                f"the Qdrant server at {self.url} has version {version}, the least is {least}: upgrade it"
            )
        self.version = version

    async def close(self) -> None:
        if self._check is not None:
            self._check.cancel()
        for client in {id(client): client for client in (self.reads, self.writes, self.definitions)}.values():
            await client.close()


class Addresses:
    """The methods of `Client`, over one address or several. For one event loop."""

    def __init__(self, addresses: Sequence[Address], clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses, self._clock = list(addresses), clock

    @property
    def versions(self) -> dict[str, str | None]:
        """The versions of the servers by address; None where none was asked since its connection was lost."""
        return {address.url: address.version for address in self._addresses}

    def __getattr__(self, name: str) -> Any:
        method = getattr(Client, name)

        @wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, lambda client: getattr(client, name)(*args, **kwargs))

        return call

    async def ask_all(self, name: str) -> list[Any]:
        """Return the answers of the addresses that answer a method without arguments."""

        async def ask(address: Address) -> Any:
            await self._reach(address)
            return await self._ask(address, name, lambda client: getattr(client, name)())

        answers = await asyncio.gather(*map(ask, self._addresses), return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def ask_each(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the answer of every address. Raises what any of them raises."""

        async def ask(address: Address) -> Any:
            await self._reach(address)
            return await self._ask(address, name, lambda client: getattr(client, name)(*args, **kwargs))

        answers = await asyncio.gather(*map(ask, self._addresses))
        return {address.url: answer for address, answer in zip(self._addresses, answers, strict=True)}

    async def close(self) -> None:
        for address in self._addresses:
            await address.close()

    async def _call(self, name: str, ask: Callable[[Client], Awaitable[Any]]) -> Any:
        address = self._choose(None)
        try:
            await self._reach(address)
        except Exception as error:
            if not isinstance(error, Unreachable):
                raise
            # A write may go to another server too.
            following = self._choose(address)
            if following is address and isinstance(error, Unanswered):
                # Asked again it would take as long, and a search has waited enough.
                raise
            address = following
            await self._reach(address)
        try:
            return await self._ask(address, name, ask)
        except Exception as error:
            # A node that has just come back knows of a shard before it has it; another one answers.
            again = is_lost(error) or (len(self._addresses) > 1 and _is_internal(error))
            if not again or name not in _READS:
                raise
        address = self._choose(address)
        await self._reach(address)
        return await self._ask(address, name, ask)

    async def _reach(self, address: Address) -> None:
        address.calls += 1
        try:
            await address.check()
        except Exception:
            address.rests_until = self._clock() + REST_S
            raise
        finally:
            address.calls -= 1

    async def _ask(self, address: Address, name: str, ask: Callable[[Client], Awaitable[Any]]) -> Any:
        address.calls += 1
        try:
            return await ask(address.client_for(name))
        except Exception as error:
            if is_lost(error) or _is_late(error):
                address.rests_until = self._clock() + REST_S
                # It says its version before the next call, so that no search waits for a server that hangs.
                address.version = None
            raise
        finally:
            address.calls -= 1

    def _choose(self, lost: Address | None) -> Address:
        """Return the least busy address that does not rest; where all do, the one that has rested longest."""
        now = self._clock()
        return min(
            self._addresses,
            key=lambda address: (max(now, address.rests_until), address is lost, address.calls),
        )


def _is_refusal(error: BaseException) -> bool:
    """Return whether a server refused or failed a call that it knows."""
    if isinstance(error, grpc.aio.AioRpcError):
        return bool(error.code() != grpc.StatusCode.UNIMPLEMENTED)
    return isinstance(error, UnexpectedResponse) and error.status_code != 404


def _reason(error: BaseException) -> str:
    """Return what a library says of a connection that it could not make, without the addresses."""
    said = str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)
    return re.sub(r"^.*ipv[46]:\S+\s", "", said)[:200] or type(error).__name__


def is_lost(error: BaseException) -> bool:
    """Return whether a call got no answer because its connection could not be made, or was closed."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _LOST
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.TransportError) and not _is_timeout(error.source)
    return False


def _is_late(error: BaseException) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return bool(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED)
    return isinstance(error, ResponseHandlingException) and _is_timeout(error.source)


def _is_internal(error: BaseException) -> bool:
    """Return whether a server failed in itself."""
    if isinstance(error, grpc.aio.AioRpcError):
        return bool(error.code() == grpc.StatusCode.INTERNAL)
    return isinstance(error, UnexpectedResponse) and error.status_code == 500


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
