"""The whole application over real parts and a fake model: real queue, ledger, worker and images, everything under a temporary folder."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from checked_answers import checking
from fastapi import FastAPI
from s3_server import bucket, s3, s3_process  # noqa: F401 - fixtures

from indexer.store.base import Store
from service.api.app import create_app
from service.components import Parts
from service.settings import Settings
from service.wiring import build


class Served:
    """A running application and a client for it."""

    def __init__(self, app: FastAPI, parts: Parts, client: httpx.AsyncClient) -> None:
        self.app = app
        self.parts = parts
        self.client = client

    async def load(self, *documents: dict[str, Any], collection: str = "flags", **query: Any) -> dict[str, Any]:
        await self.client.put(f"/collections/{collection}")
        response = await self.client.post(
            f"/collections/{collection}/documents", params={"wait": True, **query}, json=list(documents)
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def search(self, text: str = "red", collection: str = "flags", **options: Any) -> dict[str, Any]:
        body = {"collection": collection, "query": {"text": text}, **options}
        response = await self.client.post("/search", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture
async def serve(runtime: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    async with AsyncExitStack() as stack:

        async def start(*, store: Store | None = None, **settings: Any) -> Served:
            parts = build(Settings(data_dir=tmp_path, **settings), runtime, store=store)
            app = create_app(parts)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            client = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://test", event_hooks=checking(app))
            )
            return Served(app, parts, client)

        yield start
        runtime.gate.set()
        await asyncio.sleep(0)


@pytest.fixture
async def served(serve: Callable[..., Awaitable[Served]]) -> Served:
    return await serve()
