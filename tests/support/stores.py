"""The stores that one contract is run over. A real server is asked too where RET2_TEST_QDRANT_URL is set."""

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fake_store import FakeStore

from indexer.store.base import Store
from indexer.store.edge.client import EdgeStore
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore

# Those that have a server of their own.
SERVERS = [
    "rest",
    pytest.param("server by gRPC", marks=pytest.mark.qdrant_server),
    pytest.param("server by REST", marks=pytest.mark.qdrant_server),
]
STORES = ["edge", "edge in slices", "fake", "memory", *SERVERS]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "edge":
            opened: Store = EdgeStore(tmp_path / "index")
        case "edge in slices":
            opened = EdgeStore(tmp_path / "index", reads_per_call=20)
        case "fake":
            opened = FakeStore()
        case "memory":
            opened = ServerStore(ServerStoreSettings(":memory:"))
        case "rest":
            stand_in = request.getfixturevalue("qdrant")
            opened = _on_a_server(stand_in.url, api_key=stand_in.api_key, prefer_grpc=False)
        case kind:
            url = os.environ.get("RET2_TEST_QDRANT_URL")
            if url is None:
                pytest.skip("needs a Qdrant server: RET2_TEST_QDRANT_URL is not set")
            opened = _on_a_server(url, prefer_grpc=kind.endswith("gRPC"))
    yield opened
    if isinstance(opened, ServerStore):
        await _drop_all(opened)
    await opened.close()


def _on_a_server(url: str, **options: Any) -> ServerStore:
    prefix = f"ret2-test-{uuid.uuid4().hex[:8]}-"
    return ServerStore(ServerStoreSettings(url, timeout_s=60, collection_prefix=prefix, **options))


async def _drop_all(opened: ServerStore) -> None:
    for collection in (await opened.client.get_collections()).collections:
        if collection.name.startswith(opened.engine_name("")):
            await opened.client.delete_collection(collection.name)
