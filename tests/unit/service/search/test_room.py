"""Hits that searches may hold at once."""

import asyncio
from contextlib import suppress

from service.search.room import HitRoom


async def test_a_search_waits_until_there_is_room_for_its_hits() -> None:
    room = HitRoom(10)
    order: list[str] = []
    leave = asyncio.Event()

    async def search(name: str, hits: int) -> None:
        async with room.taken(hits):
            order.append(name)
            await leave.wait()

    tasks = [asyncio.create_task(search(name, hits)) for name, hits in (("a", 6), ("large", 5), ("small", 1))]
    await asyncio.sleep(0)
    assert order == ["a"], "the large one waits, and the small one behind it, or the large one might wait for ever"
    leave.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "large", "small"]


async def test_more_than_the_limit_has_all_of_it() -> None:
    room = HitRoom(10)
    async with room.taken(5_000):
        waiting = asyncio.create_task(_take(room, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_who_leaves_holds_nothing() -> None:
    """Whether it was still waiting, or had its turn at that very moment."""
    room = HitRoom(10)
    for leaves_after_its_turn in (False, True):
        async with room.taken(10):
            waiting = [asyncio.create_task(_take(room, 10)), asyncio.create_task(_take(room, 1))]
            await asyncio.sleep(0)
            if not leaves_after_its_turn:
                waiting[0].cancel()
                await asyncio.sleep(0)
        if leaves_after_its_turn:
            waiting[0].cancel()
        async with asyncio.timeout(1):
            with suppress(asyncio.CancelledError):
                await waiting[0]
            await waiting[1]
            await _take(room, 10)


async def _take(room: HitRoom, hits: int) -> None:
    async with room.taken(hits):
        pass
