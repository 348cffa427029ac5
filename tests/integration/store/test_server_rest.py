"""The server store's refusals over HTTP, and that the stand-in of `qdrant_rest.py` refuses as Qdrant does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from qdrant_client import models as q
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_server import QdrantServer, qdrant  # noqa: F401 - a fixture

from indexer.domain.points import Point
from indexer.filters import FieldType
from indexer.store.payload import path_of
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import DependencyUnavailable, NotFound
from service.api.app import create_app
from service.settings import Settings
from service.wiring import build

D = 4
Connect = Callable[..., ServerStore]


@pytest.fixture
async def connect(qdrant: QdrantServer) -> AsyncIterator[Connect]:  # noqa: F811
    made: list[ServerStore] = []

    def make(api_key: str | None = qdrant.api_key) -> ServerStore:
        made.append(ServerStore(ServerStoreSettings(qdrant.url, api_key=api_key, prefer_grpc=False)))
        return made[-1]

    yield make
    await made[0].client.delete_collection("ret2~~c")
    for store in made:
        await store.close()


@pytest.mark.parametrize("key", [None, "", "wrong"])
async def test_another_key_is_refused(connect: Connect, key: str | None) -> None:
    await connect().create("c", D)
    with pytest.raises(DependencyUnavailable, match="401"):
        await connect(key).ping()
    with pytest.raises(DependencyUnavailable, match="401"):
        await connect(key).points("c").count()


async def test_of_two_that_make_a_collection_one_is_told(connect: Connect) -> None:
    first, second = connect(), connect()
    await first.create("c", D)
    vectors = q.VectorParams(size=D, distance=q.Distance.COSINE)
    with pytest.raises(UnexpectedResponse) as raised:
        await second.client.create_collection("ret2~~c", vectors)
    assert raised.value.status_code == 409
    await second.create("c", D)


async def test_a_collection_that_another_process_dropped(connect: Connect) -> None:
    first, second = connect(), connect()
    await first.create("c", D)
    assert await second.points("c").count() == 0
    await first.drop("c")
    point = Point("d", np.ones(D, np.float32), None, None, {}, "")
    with pytest.raises(NotFound, match="404"):
        await second.points("c").upsert([point])


async def test_indexes_are_seen_by_others(connect: Connect) -> None:
    await connect().create("c", D, {"a b": FieldType.KEYWORD, 'n."x/y?"': FieldType.NUMBER})
    assert set((await connect().describe("c")).indexed.values()) == {FieldType.KEYWORD, FieldType.NUMBER}
    await connect().create("c", D, {"a b": FieldType.NUMBER})  # deleted and made again
    indexed = (await connect().describe("c")).indexed
    assert indexed[path_of("a b")] == indexed[path_of('n."x/y?"')] == FieldType.NUMBER


def test_probes_need_no_key(qdrant: QdrantServer) -> None:  # noqa: F811
    assert httpx.get(f"{qdrant.url}/readyz", trust_env=False).status_code == 200
    assert httpx.get(f"{qdrant.url}/collections", trust_env=False).json()["status"]["error"]


@pytest.mark.parametrize("engine", ["a server", "Edge"])
async def test_whoever_indexes_into_a_server_looks_after_bulk_loads(
    qdrant: QdrantServer,  # noqa: F811
    tmp_path: Path,
    engine: str,
) -> None:
    server = {"qdrant_url": qdrant.url, "qdrant_api_key": qdrant.api_key, "qdrant_prefer_grpc": False}
    settings = Settings(data_dir=tmp_path, encoder_url="http://127.0.0.1:9", **(server if engine == "a server" else {}))
    app = create_app(build(settings))
    async with app.router.lifespan_context(app):
        running = {task.get_name() for task in asyncio.all_tasks()}
    assert "Sweeper" in running
    assert ("BulkLoads" in running) == (engine == "a server")
