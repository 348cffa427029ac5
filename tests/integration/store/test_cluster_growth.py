"""A real Qdrant node that is restarted, joined by two others, gets copies there, and is replaced by a fourth: the manual's
steps (docs/qdrant-faults.md, "Set up, grow and upgrade a cluster") with a deployment that stays as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_nodes import Cluster, Node, one_node, wait_until
from serve_process import free_port

from indexer.domain.points import Point
from indexer.store.base import SearchWindow
from indexer.store.criteria import Nearest
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.errors import DependencyUnavailable

pytestmark = [pytest.mark.qdrant_server, pytest.mark.timeout(280)]

D, DOCUMENTS, SHARDS = 16, 600, 2
ENGINE_NAME = "ret2~~c"


def point(number: int) -> Point:
    vector = np.random.default_rng(number).standard_normal(D).astype(np.float32)
    return Point(f"d{number}", vector, f"text of {number}", None, {"n": number}, f"{number}")


@asynccontextmanager
async def store_on(*nodes: Node) -> AsyncIterator[ServerStore]:
    urls = ",".join(node.url for node in nodes)
    settings = ServerStoreSettings(
        urls, grpc_port=nodes[0].grpc_port, timeout_s=5, collection=CollectionSettings(shards=SHARDS)
    )
    store = ServerStore(settings)
    try:
        yield store
    finally:
        await store.close()


async def require_documents(*nodes: Node) -> None:
    """Each node alone answers as all do, and takes a write."""
    for node in nodes:
        async with store_on(node) as store:
            points = store.points("c")
            assert await points.count() == DOCUMENTS
            assert len(await points.search(Nearest(point(1).vector), SearchWindow(50, exact=True))) == 50
            await points.upsert([point(0)])


async def write_through(store: ServerStore) -> None:
    """Repeat the first write after a node was lost, as a worker does."""
    async with asyncio.timeout(40):
        while True:
            with suppress(DependencyUnavailable):
                return await store.points("c").upsert([point(number) for number in range(DOCUMENTS)])
            await asyncio.sleep(0.2)


def change(node: Node, method: str, path: str, **body: Any) -> None:
    answer = httpx.request(method, f"{node.url}{path}", json=body or None, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text


def peer_of(node: Node) -> int:
    return int(node.get("/cluster").json()["result"]["peer_id"])


def shards_of(node: Node) -> list[int]:
    described = node.get(f"/collections/{ENGINE_NAME}/cluster").json()["result"]
    return sorted(shard["shard_id"] for shard in described["local_shards"])


def send_shard(step: str, shard: int, source: Node, target: Node) -> None:
    """`step` is replicate_shard or move_shard. Returns when it is done."""
    peers = {"from_peer_id": peer_of(source), "to_peer_id": peer_of(target)}
    change(target, "POST", f"/collections/{ENGINE_NAME}/cluster", **{step: {"shard_id": shard, **peers}})

    def arrived() -> bool:
        described = target.get(f"/collections/{ENGINE_NAME}/cluster").json()["result"]
        here = [local for local in described["local_shards"] if local["shard_id"] == shard]
        return bool(here) and here[0]["state"] == "Active" and not described["shard_transfers"]

    wait_until(arrived, 60, f"shard {shard} does not arrive")


async def test_one_node_grows_to_three_a_dead_one_is_replaced_and_a_living_one_leaves(tmp_path: Path) -> None:
    with one_node(tmp_path / "node1") as first:
        async with store_on(first) as store:
            await store.create("c", D)
            await store.points("c").upsert([point(number) for number in range(DOCUMENTS)])
        # As for an upgrade: the same files, another process.
        first.stop()
        first.start()
        first.wait_until_ready()
        await require_documents(first)
        # From one node to three. Its files become those of the first node of a cluster.
        first.stop()
        ports = (*first.ports[:2], free_port())
        others = [Node(tmp_path / f"node{n}", f"127.0.0.{n}", ports, {}) for n in (2, 3, 4)]
        first.join(None)
        second, third, fourth = others
        cluster = Cluster([first])
        try:
            first.start()
            first.wait_until_ready()
            await require_documents(first)
            assert first.gate is not None
            for node in (second, third):
                node.join(first.gate.url)
                node.start()
                node.wait_until_ready()
                cluster.nodes.append(node)
            cluster.wait_until_calm()
            await require_documents(first, second, third)
            # Copies on the two others, and then without the first.
            change(first, "PATCH", f"/collections/{ENGINE_NAME}", params={"replication_factor": 2})
            for node in (second, third):
                for shard in range(SHARDS):
                    await asyncio.to_thread(send_shard, "replicate_shard", shard, first, node)
            async with store_on(*cluster.nodes) as store:
                assert not [difference async for difference in store.differences("c")]
            # A dead node is replaced by a fourth.
            gone = peer_of(second)
            second.kill()
            cluster.nodes.remove(second)
            async with store_on(first, third) as store:
                await write_through(store)
            # What the alert on copies reads.
            assert "collection_dead_replicas 2" in first.get("/metrics").text.splitlines()
            fourth.join(first.gate.url)
            fourth.start()
            fourth.wait_until_ready()
            await asyncio.to_thread(send_shard, "move_shard", 0, third, fourth)
            await asyncio.to_thread(send_shard, "replicate_shard", 1, third, fourth)
            change(first, "DELETE", f"/cluster/peer/{gone}?force=true")
            cluster.nodes.append(fourth)
            await asyncio.to_thread(cluster.wait_until_calm)
            await require_documents(*cluster.nodes)
            # A living node leaves when it has no shard.
            assert [shards_of(node) for node in (first, third, fourth)] == [[0, 1], [1], [0, 1]]
            leaving = peer_of(third)
            drop = {"shard_id": 1, "peer_id": leaving}
            change(first, "POST", f"/collections/{ENGINE_NAME}/cluster", drop_replica=drop)
            change(first, "DELETE", f"/cluster/peer/{leaving}")
            third.kill()
            cluster.nodes.remove(third)
            await asyncio.to_thread(cluster.wait_until_calm)
            await require_documents(*cluster.nodes)
            async with store_on(*cluster.nodes) as store:
                assert not [difference async for difference in store.differences("c")]
        finally:
            for node in others:
                node.end()
