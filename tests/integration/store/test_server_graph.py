"""A real Qdrant node that has built its graph: pages through it, with and without quantization, and `ret2 recall`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models as q
from qdrant_nodes import Node, one_node
from typer.testing import CliRunner

from indexer.domain.collections import Collection
from indexer.domain.points import Point
from indexer.ledger.ledger import Ledger
from indexer.store.base import Quantization, SearchWindow, ServerOptions
from indexer.store.criteria import Nearest
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from indexer.store.server.store import ServerStore
from service.cli.main import app

pytestmark = [pytest.mark.qdrant_server, pytest.mark.timeout(280)]

D, DOCUMENTS, WALK, PAGE, EF = 32, 3_000, 200, 10, 16
WRITE = 500


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with one_node(tmp_path_factory.mktemp("node")) as started:
        yield started


def store_on(node: Node, *, grpc: bool = True) -> ServerStore:
    # Low, so that few documents get a graph.
    collection = CollectionSettings(indexing_threshold_kb=10, hnsw_ef=EF)
    connection: dict[str, Any] = {"prefer_grpc": grpc, "grpc_port": node.grpc_port, "timeout_s": 30}
    return ServerStore(ServerStoreSettings(node.url, collection=collection, **connection))


async def fill(store: ServerStore, name: str, quantization: Quantization) -> None:
    """Write documents in all directions, the hardest for a graph, and wait until they are in it."""
    # A graph with few links, which finds less than all.
    options = ServerOptions(quantization=quantization, hnsw_m=4, hnsw_ef_construct=8)
    await store.create(name, D, options=options)
    graph = q.HnswConfigDiff(full_scan_threshold=10)
    await store.client.update_collection(store.engine_name(name), hnsw_config=graph)
    vectors = np.random.default_rng(0).standard_normal((DOCUMENTS, D)).astype(np.float32)
    written = [Point(f"d{i}", vector, None, None, {}, "") for i, vector in enumerate(vectors)]
    for first in range(0, DOCUMENTS, WRITE):
        await store.points(name).upsert(written[first : first + WRITE])
    calm = 0
    async with asyncio.timeout(120):
        while calm < 5:
            info = await store.client.get_collection(store.engine_name(name))
            # Small segments keep their last documents outside a graph.
            indexed = info.status == "green" and (info.indexed_vectors_count or 0) > DOCUMENTS / 2
            calm = calm + 1 if indexed else 0
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("quantization", ["none", "scalar", "binary"])
async def test_pages_neither_repeat_nor_skip(node: Node, quantization: Quantization) -> None:
    """Far beyond the breadth of one search, and alike by both transports."""
    store = store_on(node)
    await fill(store, quantization, quantization)
    by_rest = store_on(node, grpc=False)
    approximate = 0
    for query in np.random.default_rng(1).standard_normal((4, D)).astype(np.float32):

        async def ids(asked: ServerStore, limit: int, offset: int = 0, *, exact: bool = False) -> list[str]:
            window = SearchWindow(limit, offset, exact=exact)
            hits = await asked.points(quantization).search(Nearest(query), window)  # noqa: B023
            return [hit.document_id for hit in hits]

        whole = await ids(store, WALK)
        pages = [await ids(store, PAGE, offset) for offset in range(0, WALK, PAGE)]
        assert [document for page in pages for document in page] == whole
        assert len(set(whole)) == WALK
        assert await ids(by_rest, PAGE, WALK - PAGE) == whole[-PAGE:]
        approximate += whole != await ids(store, WALK, exact=True)
    # Else there is no graph, and nothing was shown.
    assert approximate
    for opened in (store, by_rest):
        await opened.drop(quantization)
        await opened.close()


def test_recall_names_the_breadth_that_a_collection_needs(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare() -> None:
        store = store_on(node)
        await fill(store, "c", "none")
        await store.close()

    asyncio.run(prepare())
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}", exclusive=True)
    ledger.collections.create.blocking(Collection("c", "fingerprint", "model", D, time.time()))
    ledger.close()
    monkeypatch.setenv("RET2_QDRANT_URL", node.url)
    monkeypatch.setenv("RET2_QDRANT_GRPC_PORT", str(node.grpc_port))
    monkeypatch.setenv("RET2_QDRANT_HNSW_EF", str(EF))
    measured = CliRunner().invoke(app, ["recall", "c", "--queries", "20", "--data-dir", str(tmp_path)])
    assert measured.exit_code == 0, measured.output
    # The graph is random: it may have no links to a document, and then no breadth reaches it.
    kinds = "near a document|between two documents|in a random direction"
    advice = re.findall(rf"({kinds}): (no ef up to 4096|ef \d+) reaches 0.99", measured.output)
    assert [kind for kind, _ in advice] == kinds.split("|")
    assert "ef 16" not in dict(advice).values()
    assert f"Searches that name no ef have {EF}: PATCH the collection" in measured.output
