"""The client for asyncio: all calls of the other one, and many of them at once."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from typing import Any

import httpx
import pytest
from service_answers import answer

from model.errors import NotFound
from service.client.async_client import AsyncClient
from service.client.client import Client
from service.schemas.hits import DocumentOut

IDS = [f"d{number}" for number in range(250)]


def document(key: str) -> dict[str, Any]:
    return answer(DocumentOut, id=key, text=key, metadata={}, image_url=None, thumbnail_url=None)


def client_of(serve: Any) -> AsyncClient:
    return AsyncClient(transport=httpx.MockTransport(serve), sleep=lambda _: None)


def test_it_has_every_call_of_the_client() -> None:
    calls = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert calls <= set(vars(AsyncClient))
    for name in calls - {"close"}:
        assert getattr(AsyncClient, name).__doc__ == getattr(Client, name).__doc__


async def test_documents_come_page_by_page_and_the_loop_goes_round() -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        start = int(json.loads(request.content).get("cursor", 0))
        cursor = str(start + 90) if start + 90 < len(IDS) else None
        page = [document(key) for key in IDS[start : start + 90]]
        return httpx.Response(200, json={"documents": page, "cursor": cursor})

    async with client_of(serve) as client:
        assert [one.id async for one in client.scroll("c")] == IDS
        async for one in client.scroll("c"):
            assert one.id == "d0"
            break


async def test_calls_run_side_by_side_and_raise_our_errors() -> None:
    side_by_side = threading.Barrier(5, timeout=10)

    def serve(request: httpx.Request) -> httpx.Response:
        side_by_side.wait()
        if request.url.path.startswith("/collections/none"):
            return httpx.Response(404, json={"code": "not_found", "detail": "no collection 'none'"})
        return httpx.Response(200, json={"count": 3})

    async with client_of(serve) as client:
        names = ("a", "b", "c", "d", "none")
        counts = await asyncio.gather(*(client.count(name) for name in names), return_exceptions=True)
    assert counts[:4] == [3, 3, 3, 3]
    assert isinstance(counts[4], NotFound)


async def test_a_task_that_is_cancelled_harms_no_other() -> None:
    entered, going_on = threading.Event(), threading.Event()

    def serve(request: httpx.Request) -> httpx.Response:
        if "slow" in request.url.path:
            entered.set()
            going_on.wait(10)
        return httpx.Response(200, json={"count": 3})

    async with client_of(serve) as client:
        slow = asyncio.ensure_future(client.count("slow"))
        await asyncio.to_thread(entered.wait, 10)
        slow.cancel()
        assert await client.count("c") == 3
        going_on.set()
        with pytest.raises(asyncio.CancelledError):
            await slow
