"""A Qdrant server that others use too: nothing that this deployment did not make is read, changed or removed."""

import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as q
from qdrant_server import QdrantServer, qdrant  # noqa: F401 - a fixture

from indexer.domain.points import Point
from indexer.filters import Equals
from indexer.store.base import SearchWindow
from indexer.store.criteria import Nearest
from indexer.store.server.connection import connect
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import Conflict, NotFound

D = 4
Deploy = Callable[[str], ServerStore]


@pytest.fixture(
    params=[
        "memory",
        "rest",
        pytest.param("server by gRPC", marks=pytest.mark.qdrant_server),
        pytest.param("server by REST", marks=pytest.mark.qdrant_server),
    ]
)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncQdrantClient]:
    """The client of another application. What a test made is removed from the server afterwards."""
    settings = ServerStoreSettings(":memory:", timeout_s=60)
    if request.param == "rest":
        stand_in: QdrantServer = request.getfixturevalue("qdrant")
        settings = replace(settings, url=stand_in.url, api_key=stand_in.api_key, prefer_grpc=False)
    elif request.param != "memory":
        if "RET2_TEST_QDRANT_URL" not in os.environ:
            pytest.skip("needs a Qdrant server: RET2_TEST_QDRANT_URL is not set")
        by_grpc = request.param.endswith("gRPC")
        settings = replace(settings, url=os.environ["RET2_TEST_QDRANT_URL"], prefer_grpc=by_grpc)
    opened = connect(settings)
    before = {collection.name for collection in (await opened.get_collections()).collections}
    yield opened
    for collection in (await opened.get_collections()).collections:
        if collection.name not in before:
            await opened.delete_collection(collection.name)
    await opened.close()


@pytest.fixture
def unique() -> str:
    return uuid.uuid4().hex[:8]


@pytest.fixture
def deploy(client: AsyncQdrantClient) -> Deploy:
    return lambda prefix: ServerStore(
        ServerStoreSettings("http://unused", timeout_s=60, collection_prefix=prefix), client
    )


def point(document_id: str) -> Point:
    return Point(document_id, np.ones(D, np.float32), "text", None, {}, "hash")


async def fill(client: AsyncQdrantClient, name: str, size: int, metadata: dict[str, Any] | None = None) -> None:
    """Make another application's collection of three points."""
    vectors = q.VectorParams(size=size, distance=q.Distance.COSINE)
    await client.create_collection(name, vectors, metadata=metadata)
    written = [q.PointStruct(id=number, vector=[1.0] * size, payload={"owner": "another"}) for number in range(3)]
    await client.upsert(name, written, wait=True)


async def test_another_application_s_collection_of_the_same_name_stays(
    client: AsyncQdrantClient, deploy: Deploy, unique: str
) -> None:
    name = f"products-{unique}"
    await fill(client, name, D)
    store = deploy("")
    await store.create(name, D)
    await store.points(name).upsert([point("a")])
    await store.drop(name)
    assert (await client.count(name)).count == 3


@pytest.mark.parametrize("size", [D, 16])
@pytest.mark.parametrize("metadata", [None, {"ret2": {"prefix": "another", "collection": "c"}}])
async def test_a_collection_of_our_very_name_without_our_mark_is_refused_by_every_operation(
    client: AsyncQdrantClient, deploy: Deploy, unique: str, size: int, metadata: dict[str, Any] | None
) -> None:
    """Whether or not it has the layout that would be made."""
    store = deploy(unique)
    name = store.engine_name("c")
    await fill(client, name, size, metadata)
    points, window = store.points("c"), SearchWindow(3, condition=Equals("x", 1))
    for operation in (
        lambda: store.create("c", D),
        lambda: store.drop("c"),
        lambda: store.defer_indexing("c", True),
        lambda: points.upsert([point("a")]),
        lambda: points.delete(["a"]),
        lambda: points.fetch(["a"]),
        lambda: points.search(Nearest(np.ones(D, np.float32)), window),
        lambda: points.count(),
        lambda: points.page(None, 10),
        lambda: points.images(None, 10),
    ):
        with pytest.raises(Conflict, match=rf"'{name}' that this deployment did not make \(3 points of {size} dim"):
            await operation()
    assert (await client.count(name)).count == 3
    info = await client.get_collection(name)
    assert (info.config.metadata or None, info.payload_schema) == (metadata, {})


async def test_deployments_whose_prefixes_overlap_have_collections_of_their_own(
    client: AsyncQdrantClient, deploy: Deploy, unique: str
) -> None:
    """`a-` and `b-x` would be `a-b-` and `x`, and a collection's second generation that of a prefix."""
    deployments = [(deploy(f"{unique}-"), "b-x"), (deploy(f"{unique}-b-"), "x"), (deploy(unique), "1")]
    deployments.append((deploy(""), f"{unique}~1"))
    for number, (store, name) in enumerate(deployments):
        await store.create(name, D)
        await store.points(name).upsert([point(f"d{each}") for each in range(number + 1)])
    assert [await store.points(name).count() for store, name in deployments] == [1, 2, 3, 4]
    first, first_name = deployments[0]
    await first.drop(first_name)
    with pytest.raises(NotFound):
        await first.points(first_name).count()
    assert [await store.points(name).count() for store, name in deployments[1:]] == [2, 3, 4]
