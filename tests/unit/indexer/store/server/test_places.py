"""Calls of the Qdrant client in a bounded number of places."""

import asyncio
from typing import Any

import pytest

from indexer.store.server.places import BoundedClient
from model.errors import DependencyUnavailable


class Client:
    """Has one call, which ends when `ended` is set."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.running = 0

    async def count(self, number: int) -> int:
        self.running += 1
        try:
            await self.ended.wait()
        finally:
            self.running -= 1
        return number

    async def close(self) -> str:
        return "closed"


def bounded(client: Client, **options: Any) -> BoundedClient:
    return BoundedClient(client, 2, **{"timeout_s": 60.0} | options)  # type: ignore[arg-type]


async def test_no_more_calls_than_places() -> None:
    client = Client()
    calls = [asyncio.ensure_future(bound.count(number)) for bound in [bounded(client)] for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.running == 2
    client.ended.set()
    assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


async def test_a_caller_without_a_place_is_refused_in_time() -> None:
    client = Client()
    bound = bounded(client, timeout_s=0.05)
    calls = [asyncio.ensure_future(bound.count(0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(DependencyUnavailable, match=r"all 2 calls to it are in use, and none ended within 0\.05 s"):
        await bound.count(0)
    assert await asyncio.gather(*calls, return_exceptions=True) != [0, 0]
    assert await bound.close() == "closed"


async def test_a_call_ends_in_time_and_gives_its_place_back() -> None:
    client = Client()
    bound = bounded(client, timeout_s=0.02)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await bound.count(0)
    client.ended.set()
    assert await bound.count(7) == 7


async def test_a_caller_who_leaves_gives_the_place_back() -> None:
    client = Client()
    bound = bounded(client)
    for _ in range(3):
        calls = [asyncio.ensure_future(bound.count(0)) for _ in range(5)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    client.ended.set()
    assert await bound.count(7) == 7


async def test_places_that_nobody_gives_back_are_no_life() -> None:
    client, now = Client(), [0.0]
    bound = bounded(client, timeout_s=10.0, clock=lambda: now[0])
    now[0] = 100.0
    assert bound.alive
    calls = [asyncio.ensure_future(bound.count(0)) for _ in range(2)]
    await asyncio.sleep(0)
    now[0] = 139.0
    assert bound.alive
    now[0] = 140.0
    assert not bound.alive
    client.ended.set()
    await asyncio.gather(*calls)
    assert bound.alive
