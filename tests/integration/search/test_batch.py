"""Searches of one call reach the embedded index in one message."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from indexer.store.edge.calls import Request


async def test_the_searches_of_a_batch_go_to_the_index_together(
    serve: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serve()
    await served.load(*({"id": f"d{i}", "text": f"red {i}"} for i in range(20)))
    calls, turn, messages = served.parts.store._calls, threading.Event(), []
    ask = calls._ask

    def noted(requests: Sequence[Request]) -> Iterator[Any]:
        messages.append([method for method, _ in requests])
        yield from ask(requests)

    monkeypatch.setattr(calls, "_ask", noted)
    calls._thread.submit(turn.wait)
    searches = [{"collection": "flags", "query": {"text": f"red {i}"}, "limit": 1} for i in range(8)]
    answering = asyncio.create_task(served.client.post("/search/batch", json={"searches": searches}))
    while len(calls._waiting) < len(searches):
        await asyncio.sleep(0.01)
        assert not answering.done()
    turn.set()
    results = (await answering).json()["results"]
    assert [len(result["hits"]) for result in results] == [1] * 8
    assert messages == [["search"] * 8]
